"""Which two answers of a prompt may be a pair, and why the others may not; every answer and every pair is counted."""

from __future__ import annotations

import hashlib
import math
import posixpath
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from mmpref.data.quarantine import RowError
from mmpref.data.row_values import read_answer, says_the_same
from mmpref.data.text_similarity import count_words
from mmpref.errors import ConfigError
from mmpref.records import Candidate, Candidates, ImageRef
from mmpref.sampling.length_balance import PossiblePairs

Choose: TypeAlias = Literal["best_worst", "margin", "top_k"]
Cut: TypeAlias = Literal["rejected", "drop", "keep"]

TIED, MARGIN, SCORE, SAME, CUT, LENGTH, RANK = (
    "tied",
    "below_min_margin",
    "below_min_score",
    "same_text",
    "cut",
    "length_gap",
    "not_top_k",
)
STAGES = (TIED, MARGIN, SCORE, SAME, CUT, LENGTH, RANK)
"""Why two scored answers are no possible pair, in the order in which it is looked at."""
UNSCORED, ONE_ANSWER = "unscored", "one_answer"
_EQUAL = 1e-9
"""Scores closer than this, for their size, are equal: a mean of several scorers has rounding in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """How pairs are made of scored candidates.

    Args:
        choose: ``best_worst``: of each prompt the pair of the highest margin; ``margin``: all pairs of a margin from
            ``min_margin``; ``top_k``: the ``k`` best answers against the ``k`` worst.
        k: for ``top_k``, which takes 2 where it is None; the others have none.
        min_margin: the least difference of the scores; answers of equal score are never a pair.
        min_score: the least score of a chosen answer.
        max_length_gap: the most that the two lengths differ, as a share of the longer one, in words.
        cut: where answers that the limit of tokens ended may stand: ``rejected`` only, nowhere (``drop``), or
            on both sides (``keep``). A model that is trained on them as chosen learns to stop in the middle.
        max_per_prompt: the most pairs of one prompt; ``best_worst`` makes one.
        max_per_image: the most pairs over one image.
        balance_length: make both sides equally long in the mean; see :mod:`mmpref.sampling.length_balance`.
        tau_quantile: of the scores of the chosen answers, for the ``tau_good`` of the data card.
        seed: decides between pairs of the same margin and the same difference of lengths.

    Raises:
        ConfigError: a value that cannot be, or that does not fit ``choose``.
    """

    choose: Choose = "best_worst"
    k: int | None = None
    min_margin: float = 0.0
    min_score: float | None = None
    max_length_gap: float | None = None
    cut: Cut = "rejected"
    max_per_prompt: int | None = None
    max_per_image: int | None = None
    balance_length: bool = False
    tau_quantile: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.choose not in ("best_worst", "margin", "top_k"):
            raise ConfigError(f"choose must be best_worst, margin or top_k, got '{self.choose}'")
        if self.cut not in ("rejected", "drop", "keep"):
            raise ConfigError(f"cut must be rejected, drop or keep, got '{self.cut}'")
        if self.choose != "top_k" and self.k is not None:
            raise ConfigError(f"k says how many answers choose=top_k takes, and choose is {self.choose}")
        for name, value, fits in (
            ("k", self.k, self.k is None or self.k >= 1),
            ("min_margin", self.min_margin, 0 <= self.min_margin < float("inf")),
            ("min_score", self.min_score, self.min_score is None or math.isfinite(self.min_score)),
            ("max_length_gap", self.max_length_gap, self.max_length_gap is None or 0 < self.max_length_gap <= 1),
            ("max_per_prompt", self.max_per_prompt, self.max_per_prompt is None or self.max_per_prompt >= 1),
            ("max_per_image", self.max_per_image, self.max_per_image is None or self.max_per_image >= 1),
            ("tau_quantile", self.tau_quantile, 0 <= self.tau_quantile <= 1),
        ):
            if not fits:
                raise ConfigError(f"{name} cannot be {value}")
        if self.choose == "margin" and self.min_margin == 0:
            raise ConfigError("choose=margin takes all pairs of a margin: say it with min_margin")
        if self.choose == "best_worst" and self.max_per_prompt not in (None, 1):
            raise ConfigError("best_worst makes one pair of a prompt; choose margin or top_k for several")

    @property
    def top(self) -> int | None:
        """How many answers are best, and how many worst; None where all are compared."""
        return (self.k or 2) if self.choose == "top_k" else None

    @property
    def per_prompt(self) -> int | None:
        """The most pairs of one prompt; None: any number."""
        return 1 if self.choose == "best_worst" else self.max_per_prompt


class Sides(NamedTuple):
    """A pair of a prompt: the places of its two answers among the candidates."""

    chosen: int
    rejected: int


@dataclass(slots=True)
class Collected:
    """What all prompts have to choose from.

    Args:
        answers: reason -> answers; ``scored`` are those that are compared.
        compared: reason -> pairs of scored answers of one prompt.
        unused: number of a prompt without a possible pair -> reason and detail.
    """

    pairs: PossiblePairs
    sides: list[Sides]
    ids: list[str]
    answers: Counter[str]
    compared: Counter[str]
    unused: dict[int, tuple[str, str]]


@dataclass(slots=True)
class Collector:
    """Collects the possible pairs, one prompt after another."""

    settings: PairSettings
    _ids: list[str] = field(default_factory=list)
    _sides: list[Sides] = field(default_factory=list)
    _prompt: array[int] = field(default_factory=lambda: array("q"))
    _margin: array[float] = field(default_factory=lambda: array("d"))
    _chosen: array[float] = field(default_factory=lambda: array("d"))
    _rejected: array[float] = field(default_factory=lambda: array("d"))
    _images: list[tuple[object, ...]] = field(default_factory=list)
    _answers: Counter[str] = field(default_factory=Counter)
    _compared: Counter[str] = field(default_factory=Counter)
    _unused: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, found: Candidates) -> None:
        """Take the possible pairs of one prompt."""
        number = len(self._ids)
        self._ids.append(found.prompt.id)
        self._images.append(_images(found.prompt.images) if self.settings.max_per_image is not None else ())
        scored, lacking = self._scored(found.answers)
        if len(scored) < 2:
            self._unused[number] = _too_few(len(scored), lacking)
            return
        possible, reasons = _possible(scored, self.settings)
        self._compared.update(reasons)
        if not possible:
            reason = max(reasons, key=STAGES.index)  # what the last of them failed
            self._unused[number] = reason, _count(reasons, "pairs of its answers")
            return
        ties = {answer.place: _tie(self.settings.seed, found.prompt.id, answer.place) for answer in scored}
        possible.sort(
            key=lambda pair: (abs(pair[0].words - pair[1].words), ties[pair[0].place] ^ ties[pair[1].place] * 3)
        )
        for better, worse in possible:
            self._prompt.append(number)
            self._sides.append(Sides(better.place, worse.place))
            self._margin.append(better.score - worse.score)
            self._chosen.append(better.words)
            self._rejected.append(worse.words)

    def finish(self) -> Collected:
        """Everything that was collected."""
        pairs = PossiblePairs(
            prompt=np.array(self._prompt, dtype=np.int64),
            margin=np.array(self._margin, dtype=np.float64),
            chosen_words=np.array(self._chosen, dtype=np.float64),
            rejected_words=np.array(self._rejected, dtype=np.float64),
            images=self._images,
        )
        return Collected(pairs, self._sides, self._ids, self._answers, self._compared, self._unused)

    def _scored(self, answers: Iterable[Candidate]) -> tuple[list[_Answer], Counter[str]]:
        """The answers that can be compared, and why others cannot."""
        scored: list[_Answer] = []
        lacking: Counter[str] = Counter()
        for place, answer in enumerate(answers):
            try:
                read_answer({"candidate": answer.text}, "candidate")
            except RowError as fault:
                lacking[fault.reason] += 1
                continue
            if answer.score is None:
                lacking[why_unscored(answer)] += 1
                continue
            if answer.cut and self.settings.cut == "drop":
                lacking[CUT] += 1
                continue
            scored.append(_Answer(place, answer.text, answer.score, count_words(answer.text), answer.cut))
        self._answers.update(lacking)
        self._answers["scored"] += len(scored)
        return scored, lacking


class _Answer(NamedTuple):
    place: int
    text: str
    score: float
    words: int
    cut: bool


def why_unscored(answer: Candidate) -> str:
    """Why an answer has no score: ``unscored`` where no scorer was asked, else the scorer and its reason."""
    silent = next((score for score in answer.scores if score.raw is None), None)
    return UNSCORED if silent is None else f"{UNSCORED}: {silent.scorer}: {silent.why or 'no reason'}"


def _possible(scored: list[_Answer], settings: PairSettings) -> tuple[list[tuple[_Answer, _Answer]], Counter[str]]:
    """The possible pairs of a prompt, better answer first, and the reasons of all others."""
    ranked = sorted(scored, key=lambda answer: -answer.score)
    reasons: Counter[str] = Counter()
    possible, top = [], settings.top
    for high, better in enumerate(ranked):
        for low in range(high + 1, len(ranked)):
            worse = ranked[low]
            in_rank = top is None or (high < top and low >= len(ranked) - top)
            reason = _fault(better, worse, settings) or (None if in_rank else RANK)
            if reason is None:
                possible.append((better, worse))
            else:
                reasons[reason] += 1
    return possible, reasons


def _fault(better: _Answer, worse: _Answer, settings: PairSettings) -> str | None:
    margin = better.score - worse.score
    if margin <= _EQUAL * max(1.0, abs(better.score)):
        return TIED
    if margin < settings.min_margin - _EQUAL:
        return MARGIN
    if settings.min_score is not None and better.score < settings.min_score - _EQUAL:
        return SCORE
    if says_the_same(better.text, worse.text):
        return SAME
    if better.cut and settings.cut != "keep":
        return CUT
    gap = abs(better.words - worse.words) / max(better.words, worse.words, 1)
    return LENGTH if settings.max_length_gap is not None and gap > settings.max_length_gap else None


def _too_few(scored: int, lacking: Counter[str]) -> tuple[str, str]:
    if any(reason.startswith(UNSCORED) for reason in lacking):
        return UNSCORED, f"{scored} of its {scored + lacking.total()} answers can be compared ({_count(lacking, '')})"
    detail = f"it has {scored} answer{'' if scored == 1 else 's'} to compare, and a pair needs two"
    return ONE_ANSWER, f"{detail} ({_count(lacking, '')})" if lacking else detail


def _count(reasons: Counter[str], what: str) -> str:
    shown = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
    return f"{what}: {shown}" if what else shown


def _tie(seed: int, prompt_id: str, place: int) -> int:
    """A number that looks random and depends on nothing but what it is of."""
    content = f"{seed} {place} {prompt_id}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _images(images: Iterable[ImageRef]) -> tuple[object, ...]:
    """What images are counted by: their paths, however they are written, or the content of embedded ones."""
    return tuple(
        posixpath.normpath(image.path)
        if image.path is not None
        else hashlib.blake2b(image.data or b"", digest_size=16).digest()
        for image in images
    )
