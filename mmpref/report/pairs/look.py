"""Does the model look at the image? What the log-probs of both answers lose when another image is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from mmpref.report.figures.frame import Frame
from mmpref.report.figures.tracks import Ends, Track, track_drawing
from mmpref.report.html import render
from mmpref.report.pairs.block import (
    Block,
    Group,
    TextTable,
    difference_text,
    group_of,
    legend,
    percent,
    section,
    with_interval,
)
from mmpref.report.pairs.log import PairRun, pair_runs
from mmpref.report.pairs.measures import stretches
from mmpref.report.runs import Run
from mmpref.statistics import Difference, mean_difference, mean_with_interval

_SIDES = {"chosen": ("lift/chosen", "image/lift"), "rejected": ("lift/rejected",)}
"""The columns of each side's lift; the second is what losses with an image term log of the chosen answer."""
HOW = "mmpref train RECIPE train.eval_image_lift=blank measures it at every evaluation on held-out pairs"


@dataclass(frozen=True, slots=True)
class Lift:
    """The lift of one answer of the pairs, nats a token: by step, then by pair. ``source`` names column and pairs."""

    by_step: Mapping[float, Mapping[str, float]]
    column: str
    log: str
    source: str

    @property
    def first(self) -> Mapping[str, float]:
        """At the first step that has some."""
        return self.by_step[min(self.by_step)]

    @property
    def last(self) -> Mapping[str, float]:
        """At the last step."""
        return self.by_step[max(self.by_step)]

    @property
    def change(self) -> Difference | None:
        """Last less first, over the pairs of both; None with one step, and where they share no pair."""
        return mean_difference(self.first, self.last) if len(self.by_step) > 1 else None


def lift_of(found: PairRun, side: str) -> Lift | None:
    """A side's lift: at each evaluation of the held-out pairs, else over the tenths of training; None where neither
    has it."""
    for column in _SIDES[side]:
        log = found.held_out
        by_step = {step: log.at(step).by_id(column) for step in log.evaluations()}
        by_step = {step: values for step, values in by_step.items() if values}
        if by_step:
            return Lift(by_step, column, "held_out", f"{column} of held-out pairs")
    for column in _SIDES[side]:
        if found.train.has(column):
            parts = stretches(found.train.steps)
            by_part = {part.step: found.train.where(part.rows).by_id(column) for part in parts}
            kept = {step: values for step, values in by_part.items() if values}
            return Lift(kept, column, "train", f"{column} of training pairs, by tenths of training")
    return None


def helped(values: Mapping[str, float]) -> dict[str, float]:
    """1 for each pair whose answer is likelier under its image, else 0."""
    return {name: float(value > 0) for name, value in values.items()}


def look_section(runs: Sequence[Run]) -> Markup | None:
    """Lift of chosen and rejected answers over training, for runs that measured it; how to measure it otherwise.

    None where no run trained on pairs.
    """
    found = [run for run in pair_runs(runs) if run.loss.get("base") != "sft"]
    group = group_of(found)
    if not group.runs:
        return None
    with_lift = tuple(run for run in group.runs if lift_of(run, "chosen") is not None)
    if not with_lift:
        lead = [f"Not measured: no run logged what its answers lose under another image. {HOW}."]
        return section("look", "Does it look at the image?", lead, [])
    measured = group_of(with_lift)
    block = lift_block(measured, missing=[run.label for run in group.runs if run not in with_lift])
    return section(
        "look",
        "Does it look at the image?",
        block.lead,
        [render("pair_block", block=replace(block, lead=()), legend=legend(measured.runs, block.drawings))],
    )


def lift_block(group: Group, *, missing: Sequence[str] = ()) -> Block:
    """Lift and the share of pairs that the image helps, over training and as a table.

    Args:
        missing: labels of runs that did not measure it.
    """
    lead, notes, rows, drawings = [], [], [], []
    for found in group.runs:
        chosen = lift_of(found, "chosen")
        assert chosen is not None
        lead.append(_words(found, chosen))
        notes.append(f"{found.label}: read from {chosen.source}.")
        for side in _SIDES:
            lift = lift_of(found, side)
            if lift is None:
                notes.append(f"{found.label}: the lift of {side} answers was not measured; {HOW}.")
                continue
            rows.append(_row(group, found, side, lift))
    if missing:
        notes.append(f"Not measured for {', '.join(missing)}; {HOW}.")
    notes += group.why_not.values()
    for side in _SIDES:
        tracks = [_track(found, lift.by_step) for found in group.runs if (lift := lift_of(found, side)) is not None]
        if tracks:
            drawings.append(
                track_drawing(
                    tracks,
                    Frame(
                        key=f"lift-{side}",
                        title=f"What the image is worth to the {side} answers",
                        caption="Mean log-prob under its image less that under the other one, with 95 % intervals. "
                        "At 0 the model answers as if it saw nothing.",
                        y_label="nats a token",
                        rule_at=0.0,
                    ),
                )
            )
    shares = []
    for found in group.runs:
        lift = lift_of(found, "chosen")
        assert lift is not None
        shares.append(_track(found, {step: helped(values) for step, values in lift.by_step.items()}))
    frame = Frame(
        key="lift-helps",
        title="Pairs that the image helps",
        caption="Chosen answers that are likelier under their image than under the other one.",
        y_label="share of pairs",
        rule_at=0.5,
        y_range=(0.0, 1.03),
    )
    drawings.append(track_drawing(shares, frame))
    columns = ("run", "pairs", "first", "last", "change", "helps, first", "helps, last")
    more = (f"last, difference from {group.runs[0].label}",) if group.several else ()
    table = TextTable("Lift, nats a token, 95 % interval over pairs", (*columns, *more), tuple(rows))
    return Block(
        key="lift", title="Lift of the image", lead=tuple(lead), tables=(table,), drawings=tuple(drawings),
        notes=tuple(notes),
    )  # fmt: skip


def _words(found: PairRun, lift: Lift) -> str:
    mean, interval = mean_with_interval(list(lift.last.values()))
    text = f"{found.label}: chosen answers are worth {with_interval(mean, interval, 3)} nats a token more under their "
    text += f"image at the end, and {percent(_mean(helped(lift.last)))} of pairs are helped by it"
    if interval is not None and interval[0] <= 0 <= interval[1]:
        text += ": no clear sign that the model looks"
    change = lift.change
    if change is None or change.value is None:
        return text + "."
    said = with_interval(change.value, change.interval, 3)
    if not change.clear:
        return f"{text}; no clear change over training ({said})."
    return f"{text}; it looks {'more' if change.value > 0 else 'less'} than at first ({said})."


def _mean(values: Mapping[str, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def _row(group: Group, found: PairRun, side: str, lift: Lift) -> tuple[str, ...]:
    ends = [with_interval(*mean_with_interval(list(values.values())), 3) for values in (lift.first, lift.last)]
    shares = [percent(_mean(helped(values))) for values in (lift.first, lift.last)]
    change = "one step" if len(lift.by_step) == 1 else difference_text(lift.change)
    cells = (f"{found.label}: {side}", f"{len(lift.last):,}", *ends, change, *shares)
    if not group.several:
        return cells
    first = lift_of(group.runs[0], side)
    if found is group.runs[0] or first is None or (first.column, first.log) != (lift.column, lift.log):
        return (*cells, "–" if found is group.runs[0] else "not compared")
    paired = None if found.label in group.why_not else mean_difference(first.last, lift.last)
    return (*cells, difference_text(paired))


def _track(found: PairRun, by_step: Mapping[float, Mapping[str, float]]) -> Track:
    steps = sorted(by_step)
    means, ends = [], list[Ends]()
    for step in steps:
        mean, interval = mean_with_interval(list(by_step[step].values()), resamples=500)
        means.append(mean)
        ends.append(interval or (None, None))
    return Track(found.label, found.style, tuple(steps), tuple(means), tuple(ends))
