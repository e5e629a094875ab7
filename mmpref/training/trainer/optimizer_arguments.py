"""What ``train.extra`` says of the optimizer: refused where the optimizer that was chosen does not read it.

transformers hands every optimizer the settings that it takes and leaves the others lying. Which those are is not
written down here: the optimizer is made with another value, and what makes no difference is not read.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from typing import Any

from transformers import Trainer, TrainingArguments

from mmpref.errors import ConfigError
from mmpref.recipe.sections import TrainSection

# settings that keys of the recipe have; transformers would let the key win, or the setting, without a word
_ELSEWHERE = {"weight_decay": "train.weight_decay", "beta1": "train.adam_beta1", "beta2": "train.adam_beta2"}


def refuse_idle_settings(arguments: TrainingArguments, section: TrainSection) -> None:
    """Refuse what the optimizer would not read; one that cannot be made yet (it wants the model) is not asked.

    Raises:
        ConfigError: the names that would do nothing, or that keys of the recipe set.
    """
    epsilon = section.extra.get("adam_epsilon")
    if epsilon is not None and _same(arguments, {}, {"adam_epsilon": 2 * float(epsilon) + 1}):
        raise ConfigError(
            f"'train.extra.adam_epsilon' would do nothing: train.optim {section.optim} reads none; leave "
            "`train.extra.adam_epsilon` out"
        )
    given = section.extra.get("optim_args")
    if not given:
        return
    pairs = [one.partition("=") for one in str(given).replace(" ", "").split(",")]
    if not all(name and separator and value for name, separator, value in pairs):
        raise ConfigError(f"'train.extra.optim_args' must be name=value,name=value, got {given!r}")
    values = {name: value for name, _, value in pairs}
    idle = [name for name in values if name in _ELSEWHERE or _is_idle(arguments, values, name)]
    if not idle:
        return
    says = [
        f"'{name}' in train.extra.optim_args "
        + ("is set elsewhere in the recipe" if name in _ELSEWHERE else f"is nothing that {section.optim} reads")
        for name in idle
    ]
    kept = ",".join(f"{name}={value}" for name, value in values.items() if name not in idle)
    write = [f"{_ELSEWHERE[name]}={values[name]}" for name in idle if name in _ELSEWHERE]
    write += [f"train.extra.optim_args={kept}"] if kept else []
    leave = [] if kept else ["leave `train.extra.optim_args` out"]
    advice = " and ".join([*leave, *([f"write `{shlex.join(write)}`"] if write else [])])
    raise ConfigError(f"{'; '.join(says)}; {advice}")


def _is_idle(arguments: TrainingArguments, values: Mapping[str, str], name: str) -> bool:
    def text(of: Mapping[str, str]) -> dict[str, Any]:
        return {"optim_args": ",".join(f"{key}={value}" for key, value in of.items()) or None}

    without = {key: value for key, value in values.items() if key != name}
    return _same(arguments, {}, text(without)) and _same(arguments, {}, text({**values, name: "no-such-value"}))


def _same(arguments: TrainingArguments, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the optimizer would be made the same with two sets of changes; False where it cannot be made."""
    made = []
    for changes in (one, other):
        changed = copy.copy(arguments)
        for name, value in changes.items():
            setattr(changed, name, value)
        try:
            made.append(Trainer.get_optimizer_cls_and_kwargs(changed, None))
        except Exception:  # a package that is not there, a value that is none
            return False
    return bool(made[0] == made[1])
