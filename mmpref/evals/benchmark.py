"""What one benchmark is to the rest of the room: how its questions are read, how answers are judged, what is counted.

A new benchmark is one file that builds a ``Benchmark`` and one row in ``task.BENCHMARKS``. The steps are kept apart:
``load`` makes samples, ``judge`` turns answers into items (one mapping per question), ``count`` says what an item
adds to which count, and ``ratios`` says which metrics are made of the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from mmpref.evals.metrics import Ratio
from mmpref.evals.rows import Source
from mmpref.records import Answer, EvalSample

Item: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Judged:
    """The answers as they were read and judged, one item each; ``n`` questions were scored."""

    items: tuple[Item, ...]
    n: int
    n_unparsed: int = 0
    notes: tuple[str, ...] = ()


class Judge(Protocol):
    """Reads and judges all answers of one run under one protocol."""

    def __call__(
        self, samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: str, options: Mapping[str, Any]
    ) -> Judged: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One benchmark.

    Args:
        title: its full name, for people.
        paper: where it was published.
        official: the script whose rules the ``official`` protocol follows.
        protocols: names of the scoring rules, the default first.
        max_new_tokens: length limit of an answer when the user gives none.
        options: names of the keyword options with their defaults; any other is refused.
        load: questions and options -> samples.
        load_answers: answer source and options -> answers.
        judge: samples, answers, protocol, options -> items.
        unit: the image or scene an item belongs to; intervals draw units.
        count: what an item adds to each count, under a protocol.
        ratios: the metrics of a protocol.
        groups: a name for parts that are also reported alone (``random/accuracy``); "" when there are no parts.
    """

    name: str
    title: str
    paper: str
    official: str
    protocols: tuple[str, ...]
    max_new_tokens: int
    options: Mapping[str, Any]
    load: Callable[[Source, Mapping[str, Any]], tuple[EvalSample, ...]]
    load_answers: Callable[[Source, Mapping[str, Any]], Sequence[Answer]]
    judge: Judge
    unit: Callable[[Mapping[str, Any]], str]
    count: Callable[[Mapping[str, Any]], Mapping[str, float]]
    counts: tuple[str, ...]
    ratios: Callable[[str], Mapping[str, Ratio]]
    group: Callable[[Mapping[str, Any]], str] = lambda item: ""
