"""What a benchmark is: how its questions are read, how its answers are graded, what is counted.

A new benchmark is one file that builds a ``Benchmark`` and one row in ``benchmarks.BENCHMARKS``. The steps are kept
apart: ``load`` makes samples, ``load_answers`` reads saved answers, ``grade`` turns answers into items (one mapping per
question), ``counts`` says what the items of one unit add to which count, and ``metrics`` says what is made of the sums.
What differs between the scoring rules of a benchmark is in its ``ScoringProtocol`` objects, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeAlias, TypeVar

from mmpref.evals.files.rows import Saved
from mmpref.files.rows import Source
from mmpref.records import Answer, EvalSample
from mmpref.statistics import Metric

Item: TypeAlias = dict[str, Any]
Items: TypeAlias = Sequence[Mapping[str, Any]]
Counts: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringProtocol:
    """One scoring rule of a benchmark. A benchmark whose rules differ adds what they differ in as fields of its own.

    Args:
        name: what users pass as ``protocol``; ``mmpref``, or the tool whose numbers it gives.
        needs: the option without which the rule cannot be followed, "" where there is none.
        scores_unread: whether there are numbers where not one answer could be read, as the named tool prints them;
            otherwise every metric is undefined there.
    """

    name: str
    needs: str = ""
    scores_unread: bool = False


P = TypeVar("P", bound=ScoringProtocol)


def by_name(*protocols: P) -> Mapping[str, P]:
    """The table of a benchmark's protocols, the default first."""
    return MappingProxyType({rules.name: rules for rules in protocols})


def is_unread(item: Mapping[str, Any]) -> bool:
    """Whether nothing was taken from the answer of this item."""
    return item.get("read") == "unparsed" or item.get("counted") is False


@dataclass(frozen=True, slots=True)
class Graded:
    """The answers as they were read and graded, one item each; ``n`` questions were scored.

    ``n_unparsed`` answers could not be read, ``n_missing`` have no verdict of the judge and are in no number.
    """

    items: tuple[Item, ...]
    n: int
    n_unparsed: int = 0
    notes: tuple[str, ...] = ()
    n_missing: int = 0

    @classmethod
    def of(cls, items: Sequence[Item], *, notes: Sequence[str] = (), n_missing: int = 0) -> Graded:
        """Items that are all questions: those that could not be read are counted, those without verdict left out."""
        return cls(tuple(items), len(items) - n_missing, sum(map(is_unread, items)), tuple(notes), n_missing)


Grade: TypeAlias = Callable[[Sequence[EvalSample], Sequence[Answer], P, Mapping[str, Any]], Graded]
"""Reads and grades all answers of one run: samples, answers, protocol, options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """How a setting chooses images: ``num`` of those whose name has ``of`` in it, by Python's ``random.Random(seed)``
    ``.sample`` from the images in the order of their names or, with ``by_name=False``, of the questions."""

    num: int
    seed: int
    of: str = ""
    by_name: bool = True

    @property
    def rule(self) -> str:
        """The rule in words."""
        order = "in the order of their names" if self.by_name else "in the order of the questions"
        those = f"the images with '{self.of}' in their name" if self.of else "the images"
        return f"{self.num} of {those} {order}, random.Random({self.seed}).sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSetting:
    """A way to ask a benchmark that a paper or a repository reports, by a name (``mmpref eval --setting NAME``).

    Args:
        name: what users call it by.
        source: where it is from: repository, commit, file.
        options: the benchmark's options that it sets.
        max_new_tokens: the length limit of an answer; None where the source names none, and the benchmark's own is
            taken.
        draw: the images that are asked about where no file says which; None: a file must.
        num: how many images its own file names, where ``draw`` is None.
        file_option: the option by which a file says which images are asked about.
        left_open: what the source does not say or what cannot be done as there, for the notes of a result.
    """

    name: str
    source: str
    options: Mapping[str, Any]
    max_new_tokens: int | None
    draw: Draw | None
    num: int
    file_option: str
    left_open: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark(Generic[P]):
    """One benchmark.

    Args:
        title: its full name, for people.
        paper: where it was published.
        official: the script whose rules the ``official`` protocol follows.
        protocols: the scoring rules by name, the default first (``by_name``).
        max_new_tokens: length limit of an answer when the user gives none.
        by_likelihood: whether a model answers with the log-probs of given answers instead of writing its own.
        num_beams: beams of the search that makes an answer; 1 is greedy decoding.
        options: names of the keyword options with their defaults; any other is refused.
        load: questions and options -> samples.
        load_answers: answer source, samples and options -> what the source contains.
        grade: samples, answers, protocol, options -> items.
        unit: the image or scene an item belongs to; intervals draw units.
        counts: what the items of one unit add to each count.
        metrics: the metrics of a protocol, for all items ("") or for the part of that name.
        parts: the names of the parts that an item also belongs to (``random/accuracy``); none when nothing is split.
        needs_judge: whether a model judges the answers, whose verdicts come with the option ``verdicts``.
        how_to_get: where the option is from that a protocol ``needs``.
        aliases: further names by which users may call it.
        headline: the metrics of all questions that the table of a paper prints, in that order (``mmpref report --table
            paper``); all of them where none are named.
        together: metrics that mislead alone; a table that shows one of them shows all (CHAIR falls when captions name
            less, which recall and length show).
        lower_is_better: the metrics that get better when they fall.
        settings: ways to ask it that papers report, by name.
        undirected: the metrics of which neither more nor less is better, such as lengths and shares of yes.
    """

    name: str
    title: str
    paper: str
    official: str
    protocols: Mapping[str, P]
    max_new_tokens: int
    options: Mapping[str, Any]
    load: Callable[[Source, Mapping[str, Any]], tuple[EvalSample, ...]]
    load_answers: Callable[[Source, Sequence[EvalSample], Mapping[str, Any]], Saved]
    grade: Grade[P]
    unit: Callable[[Mapping[str, Any]], str]
    counts: Callable[[Items], Counts]
    metrics: Callable[[P, str, Items], Mapping[str, Metric]]
    parts: Callable[[Mapping[str, Any]], Sequence[str]] = lambda item: ()
    needs_judge: bool = False
    num_beams: int = 1
    by_likelihood: bool = False
    how_to_get: str = ""
    aliases: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    lower_is_better: tuple[str, ...] = ()
    undirected: tuple[str, ...] = ()
    settings: tuple[NamedSetting, ...] = ()

    def protocol_of_result(self, name: str) -> P:
        """The protocol that a saved result names; the default for a name that is not known here any more."""
        return self.protocols.get(name) or next(iter(self.protocols.values()))


def each(count: Callable[[Mapping[str, Any]], Counts]) -> Callable[[Items], Counts]:
    """Counts of a unit that are the sums of its items' own."""

    def counts(items: Items) -> Counts:
        total: dict[str, float] = {}
        for item in items:
            for name, value in count(item).items():
                total[name] = total.get(name, 0.0) + value
        return total

    return counts
