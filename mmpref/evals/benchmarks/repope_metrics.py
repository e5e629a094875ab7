"""The scoring rules of RePOPE, and what they make of the items of ``repope``: under its labels, under POPE's, and the
change from these to those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmpref.evals.benchmarks import pope_metrics
from mmpref.evals.benchmarks.contract import Counts, Items, by_name
from mmpref.evals.benchmarks.pope_metrics import PopeProtocol
from mmpref.evals.text.substrings import read_substring
from mmpref.evals.text.yes_no import read_mmpref
from mmpref.statistics import Array, Formula, Metric, Ratio

PROTOCOLS = by_name(
    PopeProtocol(name="mmpref", read=read_mmpref),
    PopeProtocol(
        name="official",
        read=read_substring,
        missed="said_no_to_yes",
        f1_needs_hit=True,
        yes_ratio=("said_yes", "read"),
        of="read",
    ),
)
_FORMER = "pope_"


def count(item: Mapping[str, Any]) -> Counts:
    """What one answer adds, under the label of RePOPE where it has one and under that of POPE where it is known."""
    found: dict[str, float] = {}
    if item.get("label") is not None:
        found |= pope_metrics.count(item)
    if item.get("pope_label") is not None:
        former = pope_metrics.count({**item, "label": item["pope_label"]})
        found |= {_FORMER + name: value for name, value in former.items()}
    return found


def _of_former(metric: Ratio) -> Ratio:
    """The same ratio of the counts under POPE's labels."""
    top, bottom = ({_FORMER + name: weight for name, weight in part.items()} for part in (metric.top, metric.bottom))
    return replace(metric, top=top, bottom=bottom)


def _change(values: Mapping[str, Array]) -> Array:
    return values["new"] - values["former"]


def metrics(protocol: PopeProtocol, part: str, items: Items) -> dict[str, Metric]:
    """POPE's five metrics, and where POPE's labels are known the same under them and the change to the new ones."""
    new = pope_metrics.metrics(protocol, part, items)
    out: dict[str, Metric] = dict(new)
    if not any(item.get("pope_label") is not None for item in items):
        return out
    former = {name: _of_former(metric) for name, metric in new.items()}
    out |= {_FORMER + name: metric for name, metric in former.items()}
    for name, metric in new.items():
        both = {"new": metric, "former": former[name]}
        out[f"change_{name}"] = Formula(parts=both, combine=_change, why_empty=metric.why_empty, proportion=False)
    return out
