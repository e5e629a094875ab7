"""Agreement of candidates (self-consistency): how much an answer has in common with the model's other samples.

What a model says again and again it more likely knows; what only one of its samples says it more likely made up (Wang
et al. 2022, "Self-Consistency", arXiv:2203.11171; Manakul et al. 2023, "SelfCheckGPT", arXiv:2303.08896, which compares
by unigrams too). The score is the mean, over the prompt's other samples, of the F1 of words: twice the words in common
over the words of both, repeats counted, letters in lower case. A text that was sampled several times agrees with
itself. For answers of one word, yes or no, it is the share of the other samples that say the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.data.text_similarity import words
from mmpref.records import Candidates
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore, ScoreContext, options_of

VERSION = "1"
ONE_SAMPLE = "one_sample"
"""The reason of an answer that was the only sample of its prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """There are none."""


class AgreementScorer:
    """Scores answers by how much the other samples say the same."""

    version = VERSION
    scale = (0.0, 1.0)
    compares_answers = True
    looks_at_images = False

    @property
    def depends_on(self) -> Mapping[str, Any]:
        """Nothing beside the answers."""
        return {}

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        """One score for each answer."""
        for item in items:
            bags = [_bag(answer.text) for answer in item.answers]
            times = [answer.times for answer in item.answers]
            others = sum(times) - 1
            for at, bag in enumerate(bags):
                place = AnswerPlace(item.prompt.id, at)
                if not others:
                    yield RawScore(place=place, value=None, why=ONE_SAMPLE)
                    continue
                total = float(times[at] - 1)
                total += sum(times[other] * f1(bag, bags[other]) for other in range(len(bags)) if other != at)
                yield RawScore(place=place, value=min(1.0, total / others), detail={"other_samples": others})


def f1(left: Counter[str], right: Counter[str]) -> float:
    """Twice the words in common over the words of both, in [0, 1]; 1 for two texts without any."""
    both = left.total() + right.total()
    return 2 * (left & right).total() / both if both else 1.0


def _bag(text: str) -> Counter[str]:
    """The words of a text in lower case; of one without words ("?", an emoji) its characters."""
    return Counter(words(text.casefold()) or text.split())


def build(name: str, options: Mapping[str, Any], context: ScoreContext) -> AgreementScorer:
    """The scorer.

    Raises:
        ConfigError: an option was given.
    """
    options_of(Options, options, name)
    return AgreementScorer()
