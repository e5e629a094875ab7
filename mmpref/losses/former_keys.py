"""Spellings of the ``ada:`` section that meant something else before: refused, with what to write now. No torch here.

Until ``share`` existed, ``form: split`` took c_w = R^alpha_w and c_l = R^-alpha_l with alpha_w + alpha_l = 1. Now the
alphas are exponents of the two probabilities, so the old spelling would run and train another loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mmpref.errors import ConfigError

_NEW_KEYS = (
    "share",
    "target_ratio",
    "length_power",
    "clip_mode",
)  # one of these: whoever wrote it knows the new meaning
_EXPONENTS = "write share: 1 beside alpha_w and alpha_l if you mean the exponents of the two probabilities"


def refuse_former_ada(given: Mapping[str, Any]) -> None:
    """Raise where the ``ada:`` section is written as it was before, and say how its meaning is written now.

    Raises:
        ConfigError: ``form: own`` or ``form: split``; or both alphas, adding up to 1, without a key that is as new as
            their new meaning.
    """
    keys = {key: value for key, value in given.items() if value is not None or key == "clip"}
    form = keys.get("form")
    alphas = tuple(keys[key] for key in ("alpha_w", "alpha_l") if _is_number(keys.get(key)))
    share = float(alphas[0]) if len(alphas) == 2 and math.isclose(sum(alphas), 1.0) else None
    if form == "own":
        raise ConfigError(
            "loss.ada.form own was dropped: its coefficients balance as those of form power do, but scale both answers "
            "down; write form: power and share: 1 in its place (alpha_w and alpha_l may stay)"
        )
    if form == "split":
        raise ConfigError(f"loss.ada.form split is now form: power; {_split(keys, alphas, share)}")
    if share is None or any(key in keys for key in _NEW_KEYS):
        return
    if form == "sum":
        raise ConfigError(
            "loss.ada.alpha_w and alpha_l had no effect with form sum, and are the exponents of the two probabilities "
            f"now; take both out, or {_EXPONENTS}"
        )
    raise ConfigError(
        f"loss.ada.alpha_w and alpha_l no longer share R between the two answers; {_split(keys, alphas, share)}; "
        f"{_EXPONENTS}"
    )


def _split(keys: Mapping[str, Any], alphas: tuple[Any, ...], share: float | None) -> str:
    """What the former split is called now."""
    if "share" in keys:
        return "write form: power"
    if not alphas:
        share = 0.5  # the former default
    if share is None:
        return (
            "how much of R the chosen answer carries is share, from 0 to 1; take alpha_w and alpha_l out, or "
            + _EXPONENTS
        )
    if not 0.0 <= share <= 1.0:
        return f"a share outside [0, 1] such as the {share:g} of alpha_w is no longer offered"
    also = {"use_reference": "false", "clip": "10"}
    beside = [f"{key}: {value}" for key, value in also.items() if key not in keys]
    is_off = "clip" in keys and keys["clip"] is None
    beside += [] if is_off else ["clip_mode: both"]
    same = f" (the loss of before has {', '.join(beside)} beside it)" if beside else ""
    return f"write share: {_short(share)}{' in place of alpha_w and alpha_l' if alphas else ''}{same}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
