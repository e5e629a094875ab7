"""``loss.uni.tau_good`` as a quantile of the training scores, turned into its number. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmpref.errors import DataError

_QUANTILE = re.compile(r"q(?!00)([0-9]{2})")


def quantile_share(text: str) -> float | None:
    """The share below the quantile that ``median`` or ``q01`` .. ``q99`` names; None for any other text."""
    if text == "median":
        return 0.5
    found = _QUANTILE.fullmatch(text)
    return int(found[1]) / 100 if found else None


def resolve_tau_good(mapping: Mapping[str, Any], chosen_scores: Sequence[float | None]) -> dict[str, Any]:
    """The ``loss:`` section with a number in the place of ``tau_good: median`` or ``qNN``.

    The number is the quantile of the chosen answers' scores, interpolated between neighbours (so that ``median`` and
    ``q50`` are the usual median). Everything else is handed back as it is, the section itself where there is nothing to
    resolve. The reason to offer it: the Uni-DPO authors' 3.2 is the median chosen score of their text data, as a
    secondary source says.

    Args:
        mapping: the ``loss:`` section, resolved or not.
        chosen_scores: one per training pair; None or NaN where a pair has none, which is left out.

    Raises:
        DataError: there is not one score, or one is infinite.
    """
    uni = mapping.get("uni")
    share = quantile_share(uni["tau_good"]) if isinstance(uni, Mapping) and _is_text(uni.get("tau_good")) else None
    if share is None:
        return dict(mapping)
    assert isinstance(uni, Mapping)
    scores = sorted(float(s) for s in chosen_scores if s is not None and not math.isnan(s))
    if not scores:
        if uni.get("nll_lambda") == 0:
            return dict(mapping)  # nothing reads it
        raise DataError(
            f"loss.uni.tau_good {uni['tau_good']} is a quantile of the chosen answers' scores, and none of the "
            f"{len(chosen_scores)} training pairs has one; write a number (`loss.uni.tau_good=2.5`); or "
            "switch off the term that reads it (`loss.uni.nll_lambda=0`)"
        )
    if math.isinf(scores[0]) or math.isinf(scores[-1]):
        raise DataError(f"loss.uni.tau_good {uni['tau_good']} cannot be taken: a training pair's score is infinite")
    return {**mapping, "uni": {**uni, "tau_good": _quantile(scores, share)}}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the two neighbours of the place ``share (n - 1)``."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
