"""Whether a config and the weights beside it are of one model: while it is built, and after it was loaded.

transformers makes up the weights that it does not find, at random, leaves out those it has no place for, and says so
in a table. Training or scoring such a model gives numbers that mean nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from transformers import PretrainedConfig

from mmpref.errors import ConfigError
from mmpref.models.folder.contents import AGAIN, Stored

_MOST_TENSORS = 250_000
"""Of a model without stored weights to compare with; the largest ones with an expert a tensor have some 70,000."""
_MOST_NUMEL = 2**46
_MOST_BUFFER = 2**28
_SLACK = 2_000_000
_PLANES = frozenset({"qwen2_vl", "qwen2_5_vl"})
_USUAL_SECTION = [16, 24, 24]
"""What the code of these models takes where the config says nothing."""
_DERIVED = ("rotary_emb.inv_freq", "position_ids", "masked_bias", "attn.bias", "num_batches_tracked")
"""Names that older releases saved, of tensors that models make themselves."""


@contextmanager
def building_within(where: str, stored: Mapping[str, Stored] | None = None, *, packed: bool = False) -> Iterator[None]:
    """Inside, a model stops being built when it becomes far larger than the weights that are there for it.

    Args:
        where: the config, for the message.
        stored: the weights; None where there are none to compare with.
        packed: they are quantised, so that one stored number stands for several.

    Raises:
        ConfigError: inside, when it does.
    """
    numel, tensors = 0, 0
    most_numel, most_tensors = _MOST_NUMEL, _MOST_TENSORS
    in_files = sum(prod(one.shape) for one in stored.values()) if stored else 0
    if stored:
        # a tied head is made twice, and tied afterwards
        most_numel = in_files * (18 if packed else 2) + in_files // 10 + _SLACK
        most_tensors = 4 * len(stored) + 10_000

    def registered(_module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal numel, tensors
        if parameter is None or not parameter.is_meta:  # what is being filled was counted when it was made
            return
        numel, tensors = numel + parameter.numel(), tensors + 1
        if numel > most_numel or tensors > most_tensors:
            beside = "than a model can have" if stored is None else f"than the {in_files:,} numbers stored beside it"
            raise ConfigError(f"{where} describes a model of far more weights {beside}; {AGAIN}")

    def buffered(_module: nn.Module, name: str, buffer: Tensor | None) -> None:
        if buffer is not None and buffer.numel() > _MOST_BUFFER:
            raise ConfigError(f"{where} describes a model with a table of {buffer.numel():,} numbers ({name}); {AGAIN}")

    removers = [
        hooks.register_module_parameter_registration_hook(registered),
        hooks.register_module_buffer_registration_hook(buffered),
    ]
    try:
        yield
    finally:
        for remover in removers:
            remover.remove()


@contextmanager
def without_table() -> Iterator[None]:
    """Inside, transformers does not print its table of what it did not find: ours is one line, and an error."""
    log = logging.getLogger("transformers.modeling_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    log.addFilter(is_other)
    try:
        yield
    finally:
        log.removeFilter(is_other)


def refuse_positions(config: PretrainedConfig, path: str | Path) -> None:
    """Refuse three-plane positions that do not add up to a head: no weight has their shape.

    Raises:
        ConfigError: they do not.
    """
    text: Any = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    if not isinstance(rope, Mapping):
        return
    section = rope.get("mrope_section", _USUAL_SECTION if config.model_type in _PLANES else None)
    # asked for here only: where layers differ in it, the config refuses to say one number
    heads = None if section is None else getattr(text, "num_attention_heads", None)
    if not heads:
        return
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    head = int(head * rope.get("partial_rotary_factor", 1.0))
    if not isinstance(section, list | tuple) or 2 * sum(section) != head:
        raise ConfigError(
            f"config.json of {path} has mrope_section {section}, whose sum must be {head // 2} for heads of {head}; "
            f"{AGAIN}"
        )


def refuse_misfit(
    model: nn.Module, info: Mapping[str, Any], path: str | Path, *, packed: bool, contradiction: str = ""
) -> None:
    """Refuse a model of which not every weight is the stored one.

    Args:
        info: what ``from_pretrained`` says of the loading.
        packed: the stored weights are quantised, with tensors beside them that belong to no place. Whether they belong
            to no layer either is looked at all the same.
        contradiction: what config.json says against itself, for the message.

    Raises:
        ConfigError: weights are missing, have other shapes than the config says, or are left over.
    """
    correct = f"{contradiction}: write the model_type that the weights are of, or use the files of one model"
    remedy = correct if contradiction else AGAIN
    if mismatched := sorted(info["mismatched_keys"]):
        name, stored, wanted = mismatched[0]
        raise ConfigError(
            f"the weights in {path} do not fit its config.json: {name} is {list(stored)} and the config says "
            f"{list(wanted)}{_more(mismatched)}; {remedy}"
        )
    own = {name for name, _ in model.named_parameters()}
    if missing := sorted(name for name in info["missing_keys"] if name in own):
        raise ConfigError(
            f"the weights in {path} lack {missing[0]}{_more(missing)}, which would be random numbers; {remedy}"
        )
    left = sorted(name for name in info["unexpected_keys"] if not name.endswith(_DERIVED))
    if packed:
        modules = {name for name, _ in model.named_modules()}
        left = [name for name in left if not _layers_of(name) <= modules]
    parts = {_part_of(name) for name in own}
    # of a model most of which is left over, it cannot be said which parts belong to it
    inside = [name for name in left if _part_of(name) in parts or len(left) > len(own)]
    if inside:
        raise ConfigError(
            f"the model that config.json of {path} describes has no place for {inside[0]}{_more(inside)}, which its "
            f"weights hold: it is not the model that was saved; {remedy}"
        )
    if left:
        logging.getLogger(__name__).warning(
            "%s holds %d weights that this model does not use, of parts that it does not have (first %s)",
            path, len(left), left[0],
        )  # fmt: skip


def _part_of(name: str) -> str:
    """The outermost module that a weight lies in; what lies in another one is of a part that the model lacks."""
    return name.removeprefix("model.").partition(".")[0]


def _layers_of(name: str) -> set[str]:
    """The numbered modules that a weight lies in: ``a.layers.1`` of ``a.layers.1.b.weight``."""
    steps = name.split(".")
    return {".".join(steps[: place + 1]) for place, step in enumerate(steps) if step.isdigit()}


def _more(names: Sequence[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
