"""How likely a model finds single answers: what a scorer with a model in this process measures.

Unlike the evaluation of pairs, an answer that cannot be measured ends nothing: it gets the reason in place of numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmpref.errors import DataError
from mmpref.generation.contract import NO_MEMORY
from mmpref.generation.likelihood import LikelihoodAnswerer
from mmpref.records import Answer, EvalSample, PreferencePair

if TYPE_CHECKING:
    from mmpref.processing.encoded import EncodedPair

_UNREADABLE = "unreadable"
_PIXEL_CACHE_BYTES = 256 * 2**20  # questions about one image follow each other, so a few images are enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """What was measured of one sample.

    Args:
        logp: sum of the log-probs of the answer's tokens, in nats; None where there is none, and ``why`` and
            ``detail`` say the reason, in a word and in a sentence.
        tokens: how many tokens that are.
        other: the sum of the second answer, where the sample has two.
    """

    logp: float | None
    tokens: int = 0
    other: float | None = None
    why: str = ""
    detail: str = ""


def likelihood_of(answer: Answer) -> Likelihood:
    """What an :class:`AnswerLikelihood` said of a sample."""
    row = json.loads(answer.text)
    if "why" in row:
        return Likelihood(logp=None, why=row["why"], detail=row["detail"])
    return Likelihood(logp=row["chosen"], tokens=int(row["chosen_len"]), other=row.get("rejected"))


class AnswerLikelihood(LikelihoodAnswerer):
    """Measures a sample whose ``target`` is (answer, None), or (answer, other answer) for all samples.

    Each is answered with JSON that :func:`likelihood_of` reads. The numbers are those of the model as given, adapter
    included. Rows that cannot be encoded, images that cannot be opened and answers that do not fit in memory alone are
    answered with the reason.
    """

    _with_reference = False
    _pixel_cache_bytes = _PIXEL_CACHE_BYTES

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        super()._prepare(template_kwargs)
        self._batches.instead = lambda message: {"why": NO_MEMORY, "detail": message}
        self._refused: list[Answer] = []

    @property
    def no_images(self) -> str:
        """Why the model looks at no images; "" where it does."""
        family = self._loaded.family
        return family.no_images or ("" if family.has_vision else "takes text only")

    def measure(self, samples: Sequence[EvalSample]) -> Iterator[tuple[str, Likelihood]]:
        """Id and numbers of each sample, as their batches are done."""
        for answer in self.answer(samples):
            yield answer.id, likelihood_of(answer)

    def _answer_window(self, window: Sequence[Sequence[PreferencePair]]) -> Iterator[Answer]:
        yield from super()._answer_window(window)
        refused, self._refused = self._refused, []
        yield from refused

    def _encode(self, group: Sequence[PreferencePair]) -> list[EncodedPair]:
        try:
            return super()._encode(group)
        except DataError as err:
            if len(group) > 1:  # the fault may be of one answer, and they are few
                return [found for pair in group for found in self._encode([pair])]
            self._refuse(group[0].id, getattr(err, "reason", "") or _UNREADABLE, str(err))
            return []

    def _refuse(self, sample_id: str, why: str, detail: str) -> None:
        """Answer a sample with the reason why there are no numbers."""
        self._refused.append(Answer(id=sample_id, text=json.dumps({"why": why, "detail": detail})))


class WordLikelihood(AnswerLikelihood):
    """The same of how an answer begins: what ends the turn is not counted.

    So a model that would go on after "Yes" is not taken for one that would not say it.
    """

    def _encode(self, group: Sequence[PreferencePair]) -> list[EncodedPair]:
        return [_without_end(pair) for pair in super()._encode(group)]

    def tokens_of(self, first: str, second: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the two words as they begin an answer, without what ends it.

        Raises:
            ConfigError: the model has no chat template.
            DataError: the template holds no such answers.
        """
        from mmpref.records import user_turn

        encoder = self._collator.encoder
        turns = encoder.chat.encode("words", user_turn("?", num_images=0), [first, second])
        one, other = turns.answers
        return one[:-1], other[:-1]


def _without_end(pair: EncodedPair) -> EncodedPair:
    """Every answer ends with one token that ends the turn."""
    rejected = None if pair.rejected_ids is None else pair.rejected_ids[:-1]
    return replace(pair, chosen_ids=pair.chosen_ids[:-1], rejected_ids=rejected)
