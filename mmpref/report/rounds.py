"""What the rounds of ``mmpref sample round`` were made of, and what changed from each to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmpref.report.compare import difference_between
from mmpref.report.html import render
from mmpref.report.rounds_folder import rounds_in
from mmpref.report.runs import Run
from mmpref.statistics import Difference

NOT_KNOWN = "–"


def _number(digits: int, *, percent: bool = False) -> Callable[[Any], str]:
    def text(value: Any) -> str:
        return f"{100 * value:.{digits}f} %" if percent else f"{value:,.{digits}f}"

    return text


_COLUMNS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "prompts": ("prompts", _number(0)),
    "candidates": ("candidates", _number(0)),
    "distinct": ("distinct", _number(1, percent=True)),
    "unscored": ("without score", _number(0)),
    "mean_score": ("mean score", _number(3)),
    "mean_words": ("words", _number(1)),
    "ties": ("ties", _number(1, percent=True)),
    "pairs": ("pairs", _number(0)),
    "words_chosen": ("words chosen", _number(2)),
    "words_rejected": ("words rejected", _number(2)),
    "chosen_longer": ("chosen longer", _number(1, percent=True)),
    "score_chosen": ("score chosen", _number(3)),
    "score_rejected": ("score rejected", _number(3)),
    "eta": ("eta", _number(3)),
    "tau_good": ("tau_good", _number(3)),
}
MEANINGS = (
    "distinct: candidates whose text no earlier one of the prompt has; ties: pairs of distinct candidates of a prompt "
    "with equal scores; chosen longer: of the pairs whose lengths differ; eta and tau_good as the loss had them"
)
_METRICS = {"chair_s": "CHAIR_s", "chair_i": "CHAIR_i", "recall": "recall", "mean_length": "words"}


def facts_table(facts: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: one row for each round that made pairs."""
    rows = [
        [str(entry["round"]), *(_cell(entry.get(key), text) for key, (_, text) in _COLUMNS.items())]
        for entry in facts
        if entry.get("round")
    ]
    return ["round", *(name for name, _ in _COLUMNS.values())], rows


def _cell(value: Any, text: Callable[[Any], str]) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return text(value) if is_number else NOT_KNOWN


def changes_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: how the captions of each run differ from those of the run before, paired by image; no rows where
    nothing was captioned."""
    rows = []
    for before, after in pairwise(runs):
        found = {metric: difference_between(before, after, metric) for metric in _METRICS}
        if any(found.values()):
            cells = [_change(found[metric], percent=metric != "mean_length") for metric in _METRICS]
            rows.append([f"{after.label} less {before.label}", *cells])
    return ["captions (CHAIR)", *_METRICS.values()], rows


def _change(found: Difference | None, *, percent: bool) -> str:
    if found is None or found.value is None:
        return NOT_KNOWN
    scale, unit = (100.0, " points") if percent else (1.0, "")
    text = f"{scale * found.value:+.1f}{unit}"
    if found.interval is None:
        return text
    low, high = found.interval
    return f"{text} [{scale * low:+.1f}, {scale * high:+.1f}]"


def rounds_section(paths: Sequence[Path], runs: Sequence[Run]) -> Markup | None:
    """The section about rounds; None where none of the paths has any."""
    found = [rounds for path in paths if (rounds := rounds_in(path)) is not None]
    if not found:
        return None
    by_path = {run.path: run for run in runs}
    parts = []
    for rounds in found:
        made = facts_table(rounds.facts)
        changed = changes_table([by_path[path] for path in rounds.runs])
        parts.append({"name": rounds.path.name, "tables": [table for table in (made, changed) if table[1]]})
    return render("rounds", parts=parts, meanings=MEANINGS)
