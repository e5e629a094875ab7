"""Answers to the prompts of pairs, with their tokens: what a model that is being trained says on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmpref.generation.in_process import Asked
from mmpref.generation.sampled import Row, SamplingAnswerer
from mmpref.generation.settings import AnswerSettings, SampleSettings
from mmpref.records import EvalSample, PreferencePair

if TYPE_CHECKING:
    from mmpref.generation.continuations import Continuations
    from mmpref.models.loaded import LoadedModel
    from mmpref.processing.collate import PairCollator
    from mmpref.processing.encoded import EncodedPrompt


@dataclass(frozen=True, slots=True)
class Written:
    """One answer as the model wrote it.

    Args:
        text: without special tokens.
        tokens: the answer's ids, the token that ended it included.
        cut: the limit of tokens ended it.
        prompt: what the model was shown.
    """

    text: str
    tokens: tuple[int, ...]
    cut: bool
    prompt: EncodedPrompt


class PromptAnswerer(SamplingAnswerer):
    """Answers the prompts of pairs as the collator of a training encodes them, images and template included.

    Args:
        model: as it is loaded; an adapter may be on it.
        collator: of the training.
        settings: batches and the longest answer.
        sampling: temperature 0 for the likeliest tokens.
    """

    def __init__(
        self, model: LoadedModel, collator: PairCollator, settings: AnswerSettings, sampling: SampleSettings
    ) -> None:
        self._collator = copy.copy(collator)
        self._kept: dict[str, tuple[EncodedPrompt, tuple[int, ...]]] = {}
        super().__init__(model, settings, sampling=sampling, load_image=collator.load_image)

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        self._encoder = self._collator.encoder = copy.copy(self._collator.encoder)
        self._encoder.other_image = self._encoder.token_weights = None  # of losses
        self._tokenizer = copy.deepcopy(self._loaded.tokenizer)

    def write(self, asked: Sequence[tuple[PreferencePair, int]]) -> list[Written | None]:
        """One answer for each prompt and seed, in order; None where a prompt does not fit in memory alone.

        Raises:
            DataError: an image cannot be read any more.
            NonFiniteError: the model's log-probs are no numbers.
        """
        self._kept.clear()
        samples = [
            EvalSample(
                id=str(place),
                images=pair.images,
                prompt=pair.prompt,
                meta={
                    "seed": seed,
                    "pair": pair,
                    "response_prefix": pair.response_prefix,
                    "template_kwargs": pair.template_kwargs,
                },
            )
            for place, (pair, seed) in enumerate(asked)
        ]
        found: list[Written | None] = [None] * len(samples)
        for answer in self.answer(samples):
            prompt, tokens = self._kept.pop(answer.id)
            found[int(answer.id)] = Written(answer.text, tokens, answer.cut, prompt)
        return found

    def _asked(self, alike: Sequence[EvalSample]) -> Asked | None:
        [encoded] = self._collator.encoded([alike[0].meta["pair"]])
        return Asked(encoded.prompt, alike)

    def _keep(self, rows: Sequence[Row], done: Continuations) -> None:
        for row, tokens, end in zip(rows, done.tokens, done.ends, strict=True):
            for sample in row.samples:
                self._kept[sample.id] = (row.prompt, (*tokens, *(() if end is None else (end,))))
