"""What was learnt, and does it carry over? Loss, accuracy and margin of training pairs beside those of held-out pairs,
and the step from which the held-out loss rises (figure 4b to d of the Uni-DPO paper)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpref.report.evaluation import number
from mmpref.report.figures.frame import Frame
from mmpref.report.figures.tracks import Track, track_drawing
from mmpref.report.pairs.block import (
    Block,
    Group,
    TextTable,
    difference_text,
    held_out_name,
    signed,
    training_name,
    with_interval,
)
from mmpref.report.pairs.log import PairRun
from mmpref.report.pairs.measures import finite, stretches
from mmpref.report.pairs.scores import MARGINS
from mmpref.statistics import Difference, mean_difference, mean_with_interval

_ACCURACY = "rewards/accuracies"
_PANELS = {
    "loss": ("Loss", "loss", None, None),
    _ACCURACY: ("Reward accuracy", "share of pairs", (0.0, 1.03), 0.5),
    MARGINS: ("Reward margin", "chosen − rejected", None, 0.0),
}


@dataclass(frozen=True, slots=True)
class Onset:
    """The evaluation with the least held-out loss, and how the last one differs from it over the same pairs."""

    step: float
    last: float
    rise: Difference

    @property
    def clear(self) -> bool:
        """Whether the loss has risen by more than the pairs' noise."""
        return self.rise.clear and self.rise.value is not None and self.rise.value > 0


def onset_of(found: PairRun) -> Onset | None:
    """Where the held-out loss is least; None with fewer than two evaluations that have a loss, or when it is the last.

    Only pairs that were in all evaluations are counted.
    """
    by_step = {step: found.held_out.at(step).by_id("loss") for step in found.held_out.evaluations()}
    by_step = {step: losses for step, losses in by_step.items() if losses}
    if len(by_step) < 2:
        return None
    shared = set.intersection(*(set(losses) for losses in by_step.values()))
    if not shared:
        return None
    means = {step: float(np.mean([losses[name] for name in shared])) for step, losses in by_step.items()}
    least, last = min(means, key=lambda step: (means[step], step)), max(means)
    if least == last:
        return None
    ends = [{name: by_step[step][name] for name in shared} for step in (least, last)]
    rise = mean_difference(*ends)
    return None if rise is None else Onset(least, last, rise)


def _train_track(found: PairRun, name: str) -> Track | None:
    if name == "loss":
        lines = [(float(line["step"]), number(line.get("loss"))) for line in found.run.training_lines()]
        steps = np.array([step for step, _ in lines], dtype=np.float64)
        values = np.array([np.nan if value is None else value for _, value in lines], dtype=np.float64)
    else:
        steps, values = found.train.steps, found.train.column(name)
    known = finite(steps, values)
    steps, values = steps[known], values[known]
    parts = stretches(steps)
    if not parts:
        return None
    means = tuple(float(values[part.rows].mean()) for part in parts)
    return Track(training_name(found), found.style, tuple(part.step for part in parts), means, thin=True)


def held_out_track(found: PairRun, name: str, label: str) -> Track | None:
    """Mean of a column at each evaluation, with its interval over the pairs; None where it was not logged."""
    x, y, ends = [], [], []
    for step in found.held_out.evaluations():
        values = list(found.held_out.at(step).by_id(name).values())
        if values:
            mean, interval = mean_with_interval(values, resamples=500)
            x.append(step)
            y.append(mean)
            ends.append(interval or (None, None))
    return Track(label, found.style, tuple(x), tuple(y), tuple(ends)) if x else None


def reward_units(found: PairRun) -> tuple[object, ...]:
    """What the reward of a run is measured in: two runs' margins are compared where these are alike."""
    return tuple(found.loss.get(key) for key in ("base", "beta", "length_normalize", "token_weights"))


def held_out_block(group: Group) -> Block:
    """The three panels, the table of the last evaluation, and where the loss turns."""
    drawings, lead, notes = [], [], []
    for name, (title, y_label, y_range, rule_at) in _PANELS.items():
        tracks: list[Track | None] = []
        for found in group.runs:
            if found.compares:
                tracks += [held_out_track(found, name, held_out_name(found)), _train_track(found, name)]
        drawn = [track for track in tracks if track is not None]
        if drawn:
            frame = Frame(
                key=f"held-out-{name.replace('/', '-')}",
                title=f"{title}, training and held-out",
                caption="With marks and intervals: held-out pairs; thin, without marks: training pairs, means of "
                "tenths of training." + (" Losses of different methods have different scales." * (name == "loss")),
                y_label=y_label,
                y_range=y_range,
                rule_at=rule_at,
            )
            drawings.append(track_drawing(drawn, frame))
    rows = []
    for found in group.runs:
        steps = found.held_out.evaluations()
        if not found.compares:
            continue
        if not steps:
            notes.append(f"{found.label}: no held-out pairs were evaluated; data.held_out=0.05 sets some aside.")
            continue
        last = found.held_out.at(steps[-1])
        cells = []
        for name in _PANELS:
            values = list(last.by_id(name).values())
            cells.append(with_interval(*mean_with_interval(values), 3) if values else "–")
        rows.append((found.label, f"{len(last):,}", f"{steps[-1]:g}", *cells, *_differences(group, found, notes)))
        lead.append(_turn(found, steps))
    tables: tuple[TextTable, ...] = ()
    if rows:
        columns = ("run", "pairs", "step", "loss", "reward accuracy", "reward margin")
        first = group.runs[0].label
        more = (f"accuracy, difference from {first}", f"margin, difference from {first}") if group.several else ()
        short = tuple(row if group.several else row[: len(columns)] for row in rows)
        tables = (
            TextTable("Held-out pairs at the last evaluation, 95 % interval over pairs", (*columns, *more), short),
        )
    return Block(
        key="held-out", title="Training against held-out pairs", lead=tuple(lead), tables=tables,
        drawings=tuple(drawings), notes=tuple(notes),
    )  # fmt: skip


def _turn(found: PairRun, steps: list[float]) -> str:
    if len(steps) < 2:
        return f"{found.label}: one evaluation on held-out pairs, which shows no turn; train.eval_steps=50 makes more."
    onset = onset_of(found)
    if onset is None:
        means = held_out_track(found, "loss", found.label)
        if means is None or len(means.x) < 2:
            return f"{found.label}: the held-out loss of single pairs was not logged."
        return f"{found.label}: the held-out loss is least at the last of {len(steps)} evaluations, step {steps[-1]:g}."
    assert onset.rise.value is not None
    rise = with_interval(onset.rise.value, onset.rise.interval, 4)
    if onset.clear:
        return (
            f"{found.label}: the held-out loss is least at step {onset.step:g} and higher by {rise} at step "
            f"{onset.last:g}: it turns up."
        )
    return (
        f"{found.label}: the held-out loss is least at step {onset.step:g}, and its change to step {onset.last:g} "
        f"({rise}) is within the noise of the pairs."
    )


def _differences(group: Group, found: PairRun, notes: list[str]) -> tuple[str, str]:
    first = group.runs[0]
    if found is first:
        return "–", "–"
    accuracy = difference_text(group.difference(found, "held_out", _ACCURACY))
    if found.label in group.why_not:
        return accuracy, "not compared"
    if reward_units(found) != reward_units(first):
        notes.append(
            f"Reward margins of {found.label} and {first.label} are not compared: their losses measure rewards "
            f"otherwise ({_units(found)}; {_units(first)})."
        )
        return accuracy, "not compared"
    return accuracy, difference_text(group.difference(found, "held_out", MARGINS))


def _units(found: PairRun) -> str:
    kind = "means over tokens" if found.loss.get("length_normalize") else "sums over tokens"
    beta = found.number("beta")
    return f"{found.loss.get('base', 'loss not recorded')}, beta {'?' if beta is None else signed(beta, 3)}, {kind}"
