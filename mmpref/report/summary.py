"""The outcome in sentences, made from the table's numbers: what fell, what it cost, and what is not clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmpref.report.benchmarks import BenchmarkTable, MetricRow
from mmpref.report.cells import NOT_MEASURED, Cell, Line, Table
from mmpref.report.compare import difference_between
from mmpref.report.runs import Run

Tone = Literal["better", "worse", "unclear", "warning"]
SAME_LENGTH = 0.05
_WORDS: dict[Tone, str] = {
    "better": "fewer hallucinations",
    "worse": "more hallucinations",
    "unclear": "no clear change",
    "warning": "look twice",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to say about one run: a verdict in words, sentences, and warnings."""

    label: str
    tone: Tone
    verdict: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    is_overall: bool = False


def summarise(table: Table, runs: Sequence[Run]) -> list[Finding]:
    """One finding per run after the baseline, and one that compares these runs with each other."""
    findings = [_finding(line, table.lines[0]) for line in table.lines[1:]]
    between = _between(table, runs)
    return [*findings, between] if between else findings


def summarise_benchmark(table: BenchmarkTable) -> list[Finding]:
    """One finding per run after the baseline, from the metrics that papers report of this benchmark."""
    findings = []
    for place, label in enumerate(table.labels[1:], 1):
        rows = [row for row in table.headlines() if row.cells[place].value is not None]
        if not rows:
            continue
        sentences = [_moved(row, place) for row in rows]
        flags = dict.fromkeys(flag for row in table.rows for flag in row.cells[place].flags)
        warnings = tuple(dict.fromkeys(f"{flag.sign} {flag.words}: {flag.why}" for flag in flags))
        verdicts = {row.cells[place].verdict for row in rows} & {"better", "worse"}
        tone: Tone = "better" if verdicts == {"better"} else "worse" if verdicts == {"worse"} else "unclear"
        words = {"better": "better", "worse": "worse"}.get(tone, "mixed" if len(verdicts) > 1 else "no clear change")
        if warnings:
            words = f"{words}, but look twice" if tone == "better" else "look twice"
            tone = "warning"
        findings.append(Finding(f"{label} · {table.title}", tone, words, tuple(sentences), warnings))
    return findings


def _moved(row: MetricRow, place: int) -> str:
    before, cell = row.cells[0], row.cells[place]
    sign = " %" if cell.unit == "percent" else ""
    if before.value is None or cell.difference is None:
        return f"{row.name} {cell.text}{sign}, not compared."
    clear = _unclear(cell) if cell.verdict == "unclear" else cell.verdict
    return (
        f"{row.name} {before.text} → {cell.text}{sign}: {clear} ({cell.difference_text}, "
        f"95 % interval {_difference_range(cell)})."
    )


def baseline_sentence(table: Table) -> str:
    """Where the comparison starts."""
    line = table.lines[0]
    chair = line.cells["chair_s"]
    if all(other.cells["chair_s"].text == NOT_MEASURED for other in table.lines):
        return f"{line.label} is the baseline."
    if chair.value is None:
        return f"{line.label} is the baseline; its CHAIR_s is {chair.text}."
    recall, length = line.cells["recall"], line.cells["mean_length"]
    parts = [
        f"{line.label} is the baseline: {chair.text} % of its captions name something that is not there "
        f"(CHAIR_s, 95 % interval {_range(chair)})"
    ]
    if recall.value is not None:
        parts.append(f"and they name {recall.text} % of what is there (recall)")
    if length.value is not None:
        parts.append(f"in {length.text} words")
    return ", ".join(parts) + "."


def _finding(line: Line, baseline: Line) -> Finding:
    chair = line.cells["chair_s"]
    warnings = tuple(dict.fromkeys(f"{flag.sign} {flag.words}: {flag.why}" for flag in line.flags))
    if chair.value is None:
        return _finding_without_chair(line, chair.text, warnings)
    if chair.difference is None:
        text = f"CHAIR_s is {chair.text} %; it could not be paired with the baseline's (see the notes)."
        return Finding(line.label, "unclear", "not compared", (text,), warnings)
    tone: Tone = "better" if chair.verdict == "better" else "worse" if chair.verdict == "worse" else "unclear"
    start = baseline.cells["chair_s"]
    moved = f"{_points(chair)}, 95 % interval {_difference_range(chair)}"
    if tone == "unclear":
        first = f"CHAIR_s {start.text} → {chair.text} %: {_unclear(chair)} ({moved})."
    else:
        verb = "lowers" if tone == "better" else "raises"
        first = f"{verb.capitalize()} CHAIR_s from {start.text} to {chair.text} % ({moved})."
    sentences = [first, _recall(line.cells["recall"]), _length(line, baseline), _pope(line)]
    shown: Tone = "warning" if warnings else tone
    verdict = f"{_WORDS[tone]}, but look twice" if warnings and tone == "better" else _WORDS[shown]
    return Finding(line.label, shown, verdict, tuple(s for s in sentences if s), warnings)


def _finding_without_chair(line: Line, chair: str, warnings: tuple[str, ...]) -> Finding:
    """What POPE says, where it was asked; else that there is nothing to say."""
    if not (said := _pope(line)):
        words = "not compared" if chair == NOT_MEASURED else f"CHAIR {chair}"
        return Finding(line.label, "unclear", words, (), warnings)
    verdicts = {cell.verdict for cell in _pope_accuracies(line).values()}
    tone: Tone = "unclear"
    words = "mixed" if {"better", "worse"} <= verdicts else "no clear change"
    if "better" in verdicts and "worse" not in verdicts:
        tone, words = "better", "answers better"
    elif "worse" in verdicts and "better" not in verdicts:
        tone, words = "worse", "answers worse"
    if warnings:
        words = f"{words}, but look twice" if tone == "better" else _WORDS["warning"]
        tone = "warning"
    return Finding(line.label, tone, words, (said,), warnings)


def _unclear(cell: Cell) -> str:
    return "no clear change" + (f", {cell.caution}" if cell.caution else "")


def _recall(cell: Cell) -> str:
    if cell.difference is None:
        return f"Recall: {cell.text if cell.value is None else f'{cell.text} %, not compared'}."
    moved = f"{_points(cell)}, {_difference_range(cell)}"
    if cell.verdict == "unclear":
        return f"Recall does not clearly change ({moved})."
    verb = "rises" if cell.verdict == "better" else "falls"
    return f"Recall {verb} to {cell.text} % ({moved})."


def _length(line: Line, baseline: Line) -> str:
    now, before = line.cells["mean_length"], baseline.cells["mean_length"]
    if now.value is None or not before.value:
        return f"Length: {NOT_MEASURED}."
    growth = now.value / before.value - 1
    if abs(growth) < SAME_LENGTH:
        return f"Captions are about as long ({now.text} words)."
    return f"Captions are {abs(100 * growth):.0f} % {'longer' if growth > 0 else 'shorter'} ({now.text} words)."


def _pope(line: Line) -> str:
    parts = []
    for split, cell in _pope_accuracies(line).items():
        word = {"better": "better", "worse": "worse"}.get(cell.verdict or "", "not clearly changed")
        where = "" if split == "all" else f" on {split}"
        parts.append(f"{word}{where} ({cell.difference_text} points, 95 % interval {_difference_range(cell)})")
    return f"POPE accuracy: {', '.join(parts)}." if parts else ""


def _pope_accuracies(line: Line) -> dict[str, Cell]:
    """By split, where there is a difference from the baseline."""
    return {
        key.split("/")[1]: cell
        for key, cell in line.cells.items()
        if key.startswith("pope/") and key.endswith("/accuracy") and cell.difference is not None
    }


def _between(table: Table, runs: Sequence[Run]) -> Finding | None:
    """The lowest CHAIR_s among runs without a warning against the other runs, each paired."""
    later = [
        (line, line.cells["chair_s"].value or 0.0, run)
        for line, run in zip(table.lines[1:], runs[1:], strict=True)
        if line.cells["chair_s"].value is not None
    ]
    if len(later) < 2:
        return None
    honest = [entry for entry in later if not entry[0].flags]
    if not honest:
        sentence = "Every run after the baseline carries a warning; no one is called the best."
        return Finding("Between the runs", "warning", "none is clean", (sentence,), is_overall=True)
    best, value, best_run = min(honest, key=lambda entry: entry[1])
    sentences = [f"Lowest CHAIR_s without a warning: {best.label} ({100 * value:.1f} %)."]
    groups: dict[str, list[str]] = {"Clearly lower than": [], "Not clearly lower than": [], "Clearly higher than": []}
    for line, _, run in later:
        if line is best:
            continue
        difference = difference_between(run, best_run, "chair_s")
        if difference is None or difference.value is None:
            groups["Not clearly lower than"].append(f"{line.label} (not compared)")
            continue
        cell = Cell(unit="percent", value=0.0, difference=difference.value, difference_interval=difference.interval)
        why = difference.caution or _difference_range(cell)
        text = f"{line.label} ({cell.difference_text} points, {why})"
        if line.flags:
            text += f", which carries the warning {' and '.join(dict.fromkeys(flag.words for flag in line.flags))}"
        direction = "lower" if difference.value < 0 else "higher"
        groups[f"Clearly {direction} than" if difference.clear else "Not clearly lower than"].append(text)
    sentences += [f"{words} {'; '.join(others)}." for words, others in groups.items() if others]
    return Finding("Between the runs", "unclear", "which is best?", tuple(sentences), is_overall=True)


def _points(cell: Cell) -> str:
    return f"{cell.difference_text} points"


def _range(cell: Cell) -> str:
    return _spoken(cell.interval_text)


def _difference_range(cell: Cell) -> str:
    return _spoken(cell.difference_interval_text)


def _spoken(interval: str) -> str:
    return interval.strip("[]").replace(", ", " to ") if interval else NOT_MEASURED
