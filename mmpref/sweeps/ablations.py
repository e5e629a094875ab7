"""Ready arms that take a method apart: Uni-DPO with each component off, AdaDPO with each of its choices changed.

The arms change a recipe whose loss has the method already, one key each; over any other recipe they first make it
that method (``loss.name=uni_dpo``). A value that the recipe has already, or that does nothing beside its others, is no
arm.

What "off" means here, so that nobody reads more into a difference than it says: without w_qual and without w_perf the
weight is 1, not its mean, so such a step is larger than one of the whole method; ``learning_rate`` as a second axis
shows how much of a difference is that alone. Without length normalisation every score is a sum under the same beta, as
in the authors' code, and w_perf is then 0 or 1 for nearly every pair.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from mmpref.errors import ConfigError
from mmpref.losses import resolve
from mmpref.losses.settings import idle_keys
from mmpref.recipe.sections import Recipe
from mmpref.sweeps.grid import Arm
from mmpref.yaml_text import did_you_mean

ABLATIONS = ("uni_dpo", "adadpo")

_UNI: Sequence[tuple[str, str, Any]] = (
    ("without w_qual", "uni.eta", None),
    ("without w_perf", "uni.perf_mode", "none"),
    ("without c-NLL", "uni.nll_lambda", 0),
    ("without length normalisation", "length_normalize", False),
    ("focal w_perf", "uni.perf_mode", "focal"),
)
"""Name, key below ``loss`` and value of each arm (Uni-DPO paper, table of components, and figure 4)."""
_ADA: Sequence[tuple[str, str, Any]] = (
    *((f"ceiling {value:g}", "ada.clip", value) for value in (1.5, 2.0, 3.0, 5.0, 10.0)),
    ("ratio space", "ada.use_reference", True),
    ("policy space", "ada.use_reference", False),
    ("per token", "ada.granularity", "token"),
    ("geometric mean", "ada.granularity", "geomean"),
    ("whole answers", "ada.granularity", "sequence"),
    *((f"alpha_w {value:g}", "ada.alpha_w", value) for value in (0.5, 1.0, 2.0)),
    *((f"alpha_l {value:g}", "ada.alpha_l", value) for value in (0.5, 1.0, 2.0)),
    *((f"share {value:g}", "ada.share", value) for value in (0.0, 0.5, 1.0)),
    *((f"target ratio {value:g}", "ada.target_ratio", value) for value in (0.5, 1.0, 2.0)),
)
"""The same of AdaDPO: the ceiling of its ratio, what is balanced, and the exponents that its paper leaves open."""


def ablation_arms(name: str, recipe: Recipe, given: Sequence[str]) -> tuple[Arm, ...]:
    """The arms of an ablation, the whole method first.

    Args:
        name: one of ``ABLATIONS``.
        recipe: with the changes that all cells have.
        given: those changes, as ``key=value``.

    Raises:
        ConfigError: there is no such ablation, or the recipe's loss is none with the method.
    """
    if name not in ABLATIONS:
        near = did_you_mean(name, ABLATIONS)
        raise ConfigError(f"--ablation {name}: there is no such ablation{near or '; write uni_dpo or adadpo'}")
    section, label = ("uni", "Uni-DPO") if name == "uni_dpo" else ("ada", "AdaDPO")
    whole = _resolved(recipe.loss.as_mapping())
    first: tuple[str, ...] = ()
    if whole[section] is None:
        first = (f"loss.name={name}", *_threshold(name, given))
        whole = _resolved({"name": name, **({"beta": whole["beta"]} if _says(given, "loss.beta") else {})})
    arms = [Arm(label, first)]
    for said, key, value in _UNI if name == "uni_dpo" else _ADA:
        if not _changes(whole, key, value):
            continue
        kept = first if key != "uni.nll_lambda" else tuple(word for word in first if "tau_good" not in word)
        arms.append(
            Arm(f"{label} {said}", (*kept, f"loss.{key}={value if isinstance(value, str) else json.dumps(value)}"))
        )
    return tuple(arms)


def _threshold(name: str, given: Sequence[str]) -> Iterator[str]:
    """The gate of the calibrated NLL for scores on any scale, where nobody has said one."""
    if name == "uni_dpo" and not _says(given, "loss.uni.tau_good") and not _says(given, "loss.uni"):
        yield "loss.uni.tau_good=median"


def _changes(whole: dict[str, Any], key: str, value: Any) -> bool:
    """Whether a value is another than the method's own, can be, and does something."""
    section, _, last = key.rpartition(".")
    before = whole[section][last] if section else whole[last]
    if before == value and isinstance(before, bool) == isinstance(value, bool):
        return False
    changed = {**whole, section: {**whole[section], last: value}} if section else {**whole, last: value}
    try:
        return key not in idle_keys(_resolved(changed))
    except ConfigError:  # a reference where the base has none
        return False


def _resolved(loss: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training warns
        return resolve(loss)


def _says(given: Sequence[str], key: str) -> bool:
    return any(text.partition("=")[0].strip() == key for text in given)
