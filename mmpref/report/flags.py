"""The ways of looking better without being better, each with its rule, its sign and its words.

A rule compares a run with the baseline; the rules about yes and no also look at a run alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["says_less", "collapse", "one_answer"]

RECALL_DROP = 0.05
LENGTH_DROP = 0.15
LENGTH_GROWTH = 0.5
EMPTY_RISE = 0.05
REPETITION_RISE = 0.10
SAME_ANSWER_SHARE = 0.3
TOKEN_LOGP_FALL = 0.3
ANSWER_LOGP_FALL = 1.0
YES_BOUNDS = (0.2, 0.8)
YES_MOVE = 0.15
_SLACK = 1e-9  # a difference of exactly the threshold counts, whatever the last bit of the subtraction says

WORDS: Mapping[Kind, str] = {"says_less": "says less", "collapse": "collapse", "one_answer": "one answer"}
SIGNS: Mapping[Kind, str] = {"says_less": "▼", "collapse": "✖", "one_answer": "◐"}
RULES: Mapping[Kind, str] = {
    "says_less": (
        f"CHAIR is lower than the baseline's while recall fell by {100 * RECALL_DROP:.0f} points or more, or captions "
        f"became {100 * LENGTH_DROP:.0f} % shorter or more: who says less is wrong less often."
    ),
    "collapse": (
        f"The answers broke: captions {100 * LENGTH_GROWTH:.0f} % longer or more, {100 * EMPTY_RISE:.0f} points more "
        f"empty answers, {100 * REPETITION_RISE:.0f} points more repeated word triples, one and the same caption for "
        f"{100 * SAME_ANSWER_SHARE:.0f} % of the images, or the chosen answers' log-prob down by {TOKEN_LOGP_FALL} "
        f"nats a token or more (where token counts are not logged: by half of itself and {ANSWER_LOGP_FALL:.0f} nat "
        "an answer)."
    ),
    "one_answer": (
        f"Always yes or always no: the share of yes is outside {100 * YES_BOUNDS[0]:.0f} to {100 * YES_BOUNDS[1]:.0f} %"
        f", or moved more than {100 * YES_MOVE:.0f} points further away from the share of yes among the labels."
    ),
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One warning on a cell: which kind, and what was seen, in words."""

    kind: Kind
    why: str

    @property
    def words(self) -> str:
        """The kind in words."""
        return WORDS[self.kind]

    @property
    def sign(self) -> str:
        """The kind as the sign that stands in the cell."""
        return SIGNS[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the rules look at, for one run. None where it was not measured."""

    chair_s: float | None = None
    chair_i: float | None = None
    recall: float | None = None
    mean_length: float | None = None
    empty_share: float | None = None
    repetition: float | None = None
    same_answer: float | None = None
    chosen_per_token: float | None = None
    chosen_change: float | None = None
    chosen_start: float | None = None


def caption_flags(run: Signs, baseline: Signs) -> dict[str, list[Flag]]:
    """Column -> flags of a run's captions against the baseline's."""
    found: dict[str, list[Flag]] = {}
    lowered = [name for name in ("chair_s", "chair_i") if _change(run, baseline, name, 0.0) < 0]
    causes = {}
    recall = _change(run, baseline, "recall", 0.0)
    if recall <= -RECALL_DROP + _SLACK:
        causes["recall"] = f"recall fell by {-100 * recall:.1f} points"
    growth = _growth(run.mean_length, baseline.mean_length)
    if growth <= -LENGTH_DROP + _SLACK:
        causes["mean_length"] = f"captions are {-100 * growth:.0f} % shorter"
    if lowered and causes:
        why = "lower CHAIR while " + " and ".join(causes.values())
        for name in (*lowered, *causes):
            found.setdefault(name, []).append(Flag("says_less", why))
    for column, why in _collapse(run, baseline, growth).items():
        for name in dict.fromkeys((column, *lowered)):
            found.setdefault(name, []).append(Flag("collapse", why))
    return found


def _collapse(run: Signs, baseline: Signs, growth: float) -> dict[str, str]:
    """Column -> what shows that the answers broke."""
    seen: dict[str, list[str]] = {}
    if growth >= LENGTH_GROWTH - _SLACK:
        seen.setdefault("mean_length", []).append(f"captions are {100 * growth:.0f} % longer")
    if _change(run, baseline, "empty_share", 0.0) >= EMPTY_RISE - _SLACK:
        seen.setdefault("mean_length", []).append(f"{100 * (run.empty_share or 0):.0f} % of the captions are empty")
    if _change(run, baseline, "repetition", 0.0) >= REPETITION_RISE - _SLACK:
        seen.setdefault("mean_length", []).append(
            f"{100 * (run.repetition or 0):.0f} % of word triples are repetitions"
        )
    same = run.same_answer or 0.0
    if same >= SAME_ANSWER_SHARE and same >= 2 * (baseline.same_answer or 0.0):
        seen.setdefault("mean_length", []).append(f"{100 * same:.0f} % of the captions are the same")
    if run.chosen_per_token is not None:
        if run.chosen_per_token <= -TOKEN_LOGP_FALL + _SLACK:
            seen["logp_chosen"] = [f"chosen answers lost {-run.chosen_per_token:.2f} nats a token"]
    elif run.chosen_change is not None and run.chosen_start is not None:
        fall = -run.chosen_change
        if fall >= ANSWER_LOGP_FALL - _SLACK and fall >= abs(run.chosen_start) / 2:
            seen["logp_chosen"] = [f"chosen answers lost {fall:.1f} nats of {run.chosen_start:.1f}"]
    return {column: " and ".join(reasons) for column, reasons in seen.items()}


def yes_flag(share: float | None, baseline: float | None, even: float = 0.5) -> Flag | None:
    """The flag of a share of yes; ``even`` is the share of yes among the labels."""
    if share is None:
        return None
    if not YES_BOUNDS[0] <= share <= YES_BOUNDS[1]:
        return Flag("one_answer", f"{100 * share:.0f} % of the answers are yes")
    if baseline is not None:
        moved = share - baseline
        if abs(moved) > YES_MOVE + _SLACK and abs(share - even) > abs(baseline - even):
            towards = "yes" if moved > 0 else "no"
            return Flag("one_answer", f"the share of yes moved {abs(100 * moved):.0f} points towards {towards}")
    return None


def _change(run: Signs, baseline: Signs, name: str, otherwise: float) -> float:
    now, before = getattr(run, name), getattr(baseline, name)
    return otherwise if now is None or before is None else float(now) - float(before)


def _growth(now: float | None, before: float | None) -> float:
    return 0.0 if now is None or not before else now / before - 1
