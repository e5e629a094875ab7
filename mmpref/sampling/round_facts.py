"""What a round made, in numbers: of its candidates, its pairs, and the thresholds that its training used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.files.reading import open_to_read, parse_json
from mmpref.records import Candidates
from mmpref.rundir.folder import RunDir
from mmpref.sampling.candidate_files import read_candidates
from mmpref.sampling.round_commands import Threshold
from mmpref.sampling.steps import CANDIDATES, PAIRS, read_step


def candidate_facts(scored: Path) -> dict[str, Any]:
    """Of the scored candidates of a round.

    Returns:
        ``prompts``; ``candidates`` (samples, equal ones counted); ``distinct`` (share of samples whose text no earlier
        sample of the prompt has); ``unscored`` (samples); ``mean_score`` (over samples, on the declared range; None
        where none has a score); ``ties`` (share of the pairs of distinct answers of a prompt that have equal scores;
        None where there is no such pair); ``mean_words`` (of a sample).

    Raises:
        DataError: the file is missing or damaged.
    """
    total = _Counts()
    for found in read_candidates(scored / CANDIDATES):
        total.add(found)
    return total.facts()


class _Counts:
    def __init__(self) -> None:
        self.prompts = self.samples = self.distinct = self.scored = self.couples = self.ties = self.words = 0
        self.score = 0.0

    def add(self, found: Candidates) -> None:
        self.prompts += 1
        for answer in found.answers:
            self.samples += answer.times
            self.distinct += 1
            self.words += answer.times * len(answer.text.split())
            if answer.score is not None:
                self.scored += answer.times
                self.score += answer.times * answer.score
        scores = [answer.score for answer in found.answers if answer.score is not None]
        for place, score in enumerate(scores):
            self.couples += len(scores) - place - 1
            self.ties += scores[place + 1 :].count(score)

    def facts(self) -> dict[str, Any]:
        return {
            "prompts": self.prompts,
            "candidates": self.samples,
            "distinct": _share(self.distinct, self.samples),
            "unscored": self.samples - self.scored,
            "mean_score": _share(self.score, self.scored),
            "ties": _share(self.ties, self.couples),
            "mean_words": _share(self.words, self.samples),
        }


def pair_facts(pairs: Path) -> dict[str, Any]:
    """Of the pairs of a round.

    Returns:
        ``pairs``; ``words_chosen`` and ``words_rejected`` (means); ``chosen_longer`` (share of the pairs whose lengths
        differ); ``score_chosen`` and ``score_rejected`` (means).

    Raises:
        DataError: the file is missing or damaged.
    """
    chosen, rejected, high, low = [], [], [], []
    file = pairs / PAIRS
    with open_to_read(file, DataError, "pairs") as stream:
        for number, line in enumerate(stream, 1):
            row = parse_json(line.decode("utf-8"), DataError, f"{file}, line {number}")
            chosen.append(len(str(row["chosen"]).split()))
            rejected.append(len(str(row["rejected"]).split()))
            high.append(row.get("score_chosen"))
            low.append(row.get("score_rejected"))
    longer = sum(a > b for a, b in zip(chosen, rejected, strict=True))
    shorter = sum(a < b for a, b in zip(chosen, rejected, strict=True))
    return {
        "pairs": len(chosen),
        "words_chosen": _mean(chosen),
        "words_rejected": _mean(rejected),
        "chosen_longer": _share(longer, longer + shorter),
        "score_chosen": _mean(high),
        "score_rejected": _mean(low),
    }


def threshold_of(pairs: Path) -> Threshold:
    """What the data card beside the pairs says of ``eta`` and ``tau_good``.

    Raises:
        DataError: the folder is no finished step.
    """
    facts = read_step(pairs).facts
    return Threshold(eta=facts.get("eta"), tau_good=facts.get("tau_good"))


def used_thresholds(run: Path) -> dict[str, Any]:
    """``eta`` and ``tau_good`` of the loss of a finished run; None where its loss reads no scores.

    Raises:
        ConfigError: its manifest is missing or damaged.
    """
    uni = (RunDir(run).manifest().get("loss") or {}).get("uni") or {}
    return {"eta": uni.get("eta"), "tau_good": uni.get("tau_good")}


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _share(sum(known), len(known))
