"""What every form of the table says in the same words: units, arrows, the legend."""

from __future__ import annotations

from dataclasses import replace

from mmpref.report.cells import Unit
from mmpref.report.paper.table import PaperCell, PaperColumn, PaperTable
from mmpref.statistics import FEWEST_CHANGED, RESAMPLES

UNITS: dict[Unit, str] = {"percent": "%", "words": "words", "nats": "nats", "number": ""}
_LABELS = {
    "chair_s": "CHAIR_s", "chair_i": "CHAIR_i", "f1": "F1", "mean_length": "length", "yes_ratio": "says yes",
    "tnr": "TNR", "tpr": "TPR", "harmonic_mean": "harmonic mean",
    "question_accuracy": "Q-Acc", "image_accuracy": "I-Acc", "group_accuracy": "G-Acc",
    "pair_accuracy": "pair acc.", "paired_accuracy": "paired acc.", "single_accuracy": "single acc.",
    "positive_accuracy": "pos. acc.", "negative_accuracy": "neg. acc.",
}  # fmt: skip
_EXPLAINED = {
    "mean_length": "length: words of an answer",
    "yes_ratio": "says yes: the share of answers that are yes",
    "unparsed": "unparsed: answers that could not be read, counted as the protocol says",
}


def label(column: PaperColumn) -> str:
    """The metric as a column's head names it."""
    part, sign, name = column.metric.rpartition("/")
    return f"{part}{sign}{_LABELS.get(name, name)}"


def legend(table: PaperTable) -> str:
    """How the table is read, in one paragraph."""
    columns = [column for group in table.groups for column in group.columns]
    marks = {cell.mark for column in columns for cell in column.cells}
    words = [f"Below each value its 95 % interval ({RESAMPLES:,} resamples of images)."]
    if any(column.better for column in columns):
        words.append("↑ higher is better, ↓ lower is better.")
    if "best" in marks:
        words.append("Bold: the best of a column.")
    if "not clearly worse" in marks:
        words.append(
            "Italic: not clearly worse than the best, as the 95 % interval of the paired difference on the same "
            f"questions includes zero, or fewer than {FEWEST_CHANGED} images (scenes, sets) differ."
        )
    for name, explained in _EXPLAINED.items():
        if any(column.metric.rpartition("/")[2] == name for column in columns):
            words.append(f"{explained[0].upper()}{explained[1:]}.")
    return " ".join(words)


def why_marked(cell: PaperCell) -> str:
    """The difference from the best in words, for a cell that has one; else its mark."""
    difference = cell.difference
    if difference is None or difference.value is None or cell.mark not in ("not clearly worse", "clearly worse"):
        return cell.mark
    shown = replace(cell.cell, difference=difference.value, difference_interval=difference.interval)
    moved = f"{shown.difference_text} {shown.difference_interval_text}".strip()
    return f"{cell.mark} than the best: {moved}" + (f"; {difference.caution}" if difference.caution else "")
