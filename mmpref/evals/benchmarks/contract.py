"""What a benchmark is: how its questions are read, how its answers are graded, what is counted.

A new benchmark is one file that builds a ``Benchmark`` and one row in ``task.BENCHMARKS``. The steps are kept apart:
``load`` makes samples, ``load_answers`` reads saved answers, ``judge`` turns answers into items (one mapping per
question), ``counts`` says what the items of one unit add to which count, and ``metrics`` says what is made of the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from mmpref.evals.files.rows import Saved
from mmpref.files.rows import Source
from mmpref.records import Answer, EvalSample
from mmpref.statistics import Metric

Item: TypeAlias = dict[str, Any]
Items: TypeAlias = Sequence[Mapping[str, Any]]
Counts: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """The answers as they were read and judged, one item each; ``n`` questions were scored.

    ``n_unparsed`` answers could not be read, ``n_missing`` have no verdict of the judge and are in no number.
    """

    items: tuple[Item, ...]
    n: int
    n_unparsed: int = 0
    notes: tuple[str, ...] = ()
    n_missing: int = 0


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
        by_likelihood: whether a model answers with the log-probs of given answers instead of writing its own.
        num_beams: beams of the search that makes an answer; 1 is greedy decoding.
        options: names of the keyword options with their defaults; any other is refused.
        load: questions and options -> samples.
        load_answers: answer source, samples and options -> what the source holds.
        judge: samples, answers, protocol, options -> items.
        unit: the image or scene an item belongs to; intervals draw units.
        counts: what the items of one unit add to each count.
        metrics: the metrics of a protocol, for all items ("") or for the part of that name.
        parts: the names of the parts that an item also belongs to (``random/accuracy``); none when nothing is split.
        needs: protocol -> the option without which its rules cannot be followed; ``how_to_get`` says where it is from.
        needs_judge: whether an outside judge decides, whose verdicts come with the option ``verdicts``.
    """

    name: str
    title: str
    paper: str
    official: str
    protocols: tuple[str, ...]
    max_new_tokens: int
    options: Mapping[str, Any]
    load: Callable[[Source, Mapping[str, Any]], tuple[EvalSample, ...]]
    load_answers: Callable[[Source, Sequence[EvalSample], Mapping[str, Any]], Saved]
    judge: Judge
    unit: Callable[[Mapping[str, Any]], str]
    counts: Callable[[Items], Counts]
    metrics: Callable[[str, str, Items], Mapping[str, Metric]]
    parts: Callable[[Mapping[str, Any]], Sequence[str]] = lambda item: ()
    needs_judge: bool = False
    num_beams: int = 1
    by_likelihood: bool = False
    needs: Mapping[str, str] = field(default_factory=dict)
    how_to_get: str = ""


def each(count: Callable[[Mapping[str, Any]], Counts]) -> Callable[[Items], Counts]:
    """Counts of a unit that are the sums of its items' own."""

    def counts(items: Items) -> Counts:
        total: dict[str, float] = {}
        for item in items:
            for name, value in count(item).items():
                total[name] = total.get(name, 0.0) + value
        return total

    return counts
