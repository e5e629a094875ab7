"""One result as the report sees it: its numbers, and one row per question where they were kept."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = Mapping[str, Any]
RESULTS = "results.json"
POPE_SPLITS = ("random", "popular", "adversarial")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One folder under ``evals/``, or one file of ``mmpref score``: the results, and one row per question when they
    were kept."""

    name: str
    results: Row
    items: tuple[Row, ...]
    file: Path | None = None
    """The result file."""

    @property
    def benchmark(self) -> str:
        """Its name; empty where the file says none."""
        return str(self.results.get("benchmark", ""))

    @property
    def protocol(self) -> str:
        """By which rules it was scored."""
        return str(self.results.get("protocol", "not recorded"))

    @property
    def model(self) -> str:
        """Which model answered, "" when that is not recorded."""
        settings = self.results.get("settings")
        given = settings if isinstance(settings, Mapping) else {}
        names = (given.get("model") or self.results.get("model"), given.get("adapter"))
        return " with ".join(str(name) for name in names if name)

    def metric(self, name: str) -> float | None:
        """One metric; None where it was not measured or is no number."""
        metrics = self.results.get("metrics")
        return number(metrics.get(name)) if isinstance(metrics, Mapping) else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """The 95 % interval of a metric, in the metric's unit; None where there is none."""
        intervals = self.results.get("intervals")
        pair = intervals.get(name) if isinstance(intervals, Mapping) else None
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            return None
        low, high = number(pair[0]), number(pair[1])
        return None if low is None or high is None else (low, high)

    def why_undefined(self, name: str) -> str | None:
        """The reason that the result gives for a metric without a value."""
        reasons = self.results.get("undefined")
        return str(reasons[name]) if isinstance(reasons, Mapping) and name in reasons else None


def number(value: Any) -> float | None:
    """A finite number, or None: logs of a broken run hold NaN, and files hold anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None  # false for NaN; an int may be any number
