"""Is it healthy? Checks of every run with a verdict, what happened on the way, and the held-out pairs compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mmpref.report.health.checks import checks
from mmpref.report.health.held_out import held_out_table
from mmpref.report.health.verdicts import RULES, SIGNS, Status, Verdict
from mmpref.report.html import render
from mmpref.report.runs import Run
from mmpref.statistics import FEWEST_CHANGED

MOST_EVENTS = 30
_MEANINGS = {
    "alarm/chosen_falls": "the chosen answers become unlikely",
    "alarm/weights_vanish": "hardly any pair is trained on",
    "alarm/margins_explode": "pairs are learned by heart",
    "alarm/image_by_unlearning": "the image term is met by unlearning",
    "alarm/length_drift": "length is what is learned",
    "alarm/updates_swallowed": "half precision loses the updates",
    "updates_swallowed": "updates lost in half precision, few",
}


@dataclass(frozen=True, slots=True)
class _Event:
    label: str
    step: str
    name: str
    message: str


def health_section(runs: Sequence[Run]) -> Markup | None:
    """The section; None where no run was trained here."""
    trained = [run for run in runs if run.manifest]
    if not trained:
        return None
    found = [checks(run) for run in trained]
    rows = [(name, [of_run[name] for of_run in found]) for name in RULES]
    events = [event for run in trained for event in _events(run)]
    return render(
        "health",
        labels=[run.label for run in trained],
        counts=[_counted(list(of_run.values())) for of_run in found],
        rows=rows,
        rules=RULES,
        events=events[:MOST_EVENTS],
        more=len(events) - MOST_EVENTS,
        held_out=held_out_table(runs),
        fewest_changed=FEWEST_CHANGED,
    )


def _counted(verdicts: Sequence[Verdict]) -> str:
    statuses = [verdict.status for verdict in verdicts]
    words: dict[Status, str] = {"bad": "bad", "look": "to look at", "ok": "ok", "unknown": "not recorded"}
    counts = {status: statuses.count(status) for status in words}
    return ", ".join(f"{SIGNS[status]} {count} {words[status]}" for status, count in counts.items() if count)


def _events(run: Run) -> list[_Event]:
    events = [(line.get("event"), line) for line in run.log]
    return [
        _Event(run.label, f"{line['step']}", _MEANINGS.get(name, name), str(line.get("message", "")))
        for name, line in events
        if isinstance(name, str)
    ]
