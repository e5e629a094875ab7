"""Does the gradient stay balanced? The ratio of its sizes on the two answers, over training (AdaDPO's analysis)."""

from __future__ import annotations

import math
from functools import partial

from mmpref.report.figures.bands import band_drawing
from mmpref.report.figures.frame import Frame
from mmpref.report.pairs.block import Block, Group, TextTable, difference_text, figures, percent
from mmpref.report.pairs.log import PairLog, PairRun
from mmpref.report.pairs.measures import quantile_row, share_within, stretches
from mmpref.report.pairs.weights import bands_of
from mmpref.statistics import Array, mean_difference

_COLUMNS = {
    "grad/ratio": (
        "Gradient ratio",
        "Size of the gradient on the chosen answer over that on the rejected, by probability.",
    ),
    "grad/ratio_to_ref": (
        "Gradient ratio, against the reference",
        "The same by probability over the reference's: 1 at the start, and what AdaDPO with a reference keeps.",
    ),
}
_FACTOR = 1.1


def _read(name: str, log: PairLog) -> Array:
    values = log.column(name)
    return values.clip(min=1e-12) if len(values) else values


def balance_block(group: Group) -> Block:
    """Quantiles of the ratios over training, and the share near 1 in its first and last tenth."""
    drawings, rows, lead = [], [], []
    for name, (title, caption) in _COLUMNS.items():
        bands = []
        for found in group.runs:
            band = bands_of(found, partial(_read, name))
            if band is None:
                continue
            bands.append(band)
            parts = stretches(found.train.steps)
            values = found.train.column(name)
            ends = [
                (share_within(values[part.rows], _FACTOR), quantile_row(values[part.rows]))
                for part in (parts[0], parts[-1])
            ]
            (before, _), (after, last) = ends
            rows.append(
                (
                    f"{found.label}: {title[0].lower() + title[1:]}",
                    percent(before),
                    percent(after),
                    "–" if last is None else f"{figures(last[2])} ({figures(last[0])} to {figures(last[4])})",
                    _difference(group, found, name),
                )
            )
            if last is not None and name == _preferred(group):
                lead.append(
                    f"{found.label}: in the last tenth of training the gradient on the chosen answer is "
                    f"{figures(last[2])} times that on the rejected one in the median"
                    f"{' (against the reference)' if 'ref' in name else ''}, and within a tenth of equal for "
                    f"{percent(after)} of pairs ({percent(before)} in the first tenth)."
                )
        if bands:
            frame = Frame(
                key=name.replace("/", "-").replace("_", "-"),
                title=title,
                caption=f"{caption} Line: median; shades: middle half, and 5 to 95 % with one run. Logarithmic.",
                y_label="chosen / rejected",
                rule_at=1.0,
                log_y=True,
            )
            drawings.append(band_drawing(bands, frame))
    tables: tuple[TextTable, ...] = ()
    if rows:
        near = f"within 1/{_FACTOR:g} to {_FACTOR:g}"
        columns = ("run", f"{near}, first tenth", f"{near}, last tenth", "median (5 to 95 %), last tenth")
        last_column = f"mean |log ratio|, difference from {group.runs[0].label}"
        tables = (
            TextTable(
                "Gradient on the chosen answer over that on the rejected one, training pairs",
                (*columns, *([last_column] if group.several else [])),
                tuple(row if group.several else row[:-1] for row in rows),
            ),
        )
    return Block(
        key="balance", title="Balance of the gradient", lead=tuple(lead), tables=tables, drawings=tuple(drawings)
    )


def _difference(group: Group, found: PairRun, name: str) -> str:
    """How much further from balance the pairs of a run are than those of the first, at their last step."""
    if found is group.runs[0]:
        return "–"
    if found.label in group.why_not:
        return "not compared"
    sides = [run.train.last_of_each().by_id(name) for run in (group.runs[0], found)]
    distances = [{pair: abs(math.log(ratio)) for pair, ratio in side.items() if ratio > 0} for side in sides]
    return difference_text(mean_difference(*distances))


def _preferred(group: Group) -> str:
    """Against the reference where any run has one."""
    to_ref = "grad/ratio_to_ref"
    return to_ref if any(found.train.has(to_ref) for found in group.runs) else "grad/ratio"
