"""Sampled answers from a transformers model in this process. torch is loaded only when an answerer is built."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpref.errors import ConfigError, DataError, NonFiniteError
from mmpref.generation.contract import NO_MEMORY
from mmpref.generation.in_process import Asked, TransformersAnswerer
from mmpref.generation.model_source import Model
from mmpref.generation.settings import AnswerSettings, SampleSettings
from mmpref.records import Answer, EvalSample, ImageRef

if TYPE_CHECKING:
    from torch import Tensor

    from mmpref.generation.continuations import Continuations
    from mmpref.processing.encoded import EncodedPrompt

logger = logging.getLogger(__name__)

_UNREADABLE, _OVER_LIMIT = "unreadable", "over_limit"
_TOKENS_BEFORE = 8


@dataclass(frozen=True, slots=True)
class _NoMemory:
    """In place of an answer that does not fit in memory alone."""

    why: str


@dataclass(frozen=True, slots=True)
class Row:
    """One answer to be sampled, and the samples that it answers."""

    prompt: EncodedPrompt
    question: int  # rows of one question stand side by side
    seed: int
    samples: Sequence[EvalSample]


class SamplingAnswerer(TransformersAnswerer):
    """Answers in this process with a transformers model, drawn at random by the seed that a sample names.

    A sample has ``seed`` in its ``meta``, an integer, and may have ``response_prefix`` (the beginning of the answer,
    which the model continues and the answer leaves out) and ``template_kwargs`` (what its chat template reads beside
    the conversation). Samples of which all but the seed is the same share one run over the prompt and its images, whose
    cache is repeated for them; where a trial on the first prompts shows that a model's cache cannot be repeated, each
    answer reads the prompt by itself. Rows that ended leave their batch.

    An answer is a function of the model, what it is shown, the settings and the seed: not of the samples beside it,
    their order or the size of batches, but for rounding, which may turn a token where a number falls between two.
    A batch holds ``batch_size`` answers. A prompt that cannot be encoded, or that does not fit in memory alone, gets no
    answer.

    Args:
        model: a path or hub id, a ``ModelSource``, or a model that is loaded already.
        settings: as for ``TransformersAnswerer``; there are no beams.
        sampling: temperature and top_p.
        images_root: relative image paths start here.
        load_image: replaces the reader of images (``ImageRef`` -> RGB image).
        shares_prompts: whether to run a prompt once for all its answers, where that is possible.

    Attributes:
        failures: why samples got no answer, by their id.
        failure_codes: the same in a word.

    Raises:
        ConfigError: beams.
    """

    def __init__(
        self,
        model: Model,
        settings: AnswerSettings | None = None,
        *,
        sampling: SampleSettings | None = None,
        images_root: str | Path | None = None,
        load_image: Callable[[ImageRef], Any] | None = None,
        shares_prompts: bool = True,
    ) -> None:
        settings = settings or AnswerSettings()
        if settings.num_beams != 1:
            raise ConfigError(f"sampled answers have no beams: num_beams must be 1, got {settings.num_beams}")
        self._sampling = sampling or SampleSettings()
        self._obstacles: dict[frozenset[str], str | None] = {}  # names of a prompt's vision inputs -> why not shared
        self._may_share = shares_prompts
        self.failures: dict[str, str] = {}
        self.failure_codes: dict[str, str] = {}
        super().__init__(model, settings, images_root=images_root, load_image=load_image)
        self._batches.instead = _NoMemory

    @property
    def facts(self) -> dict[str, Any]:
        """Whether prompts are run once for all their answers, and if not why, as far as that is known yet."""
        reasons = [reason for reason in self._obstacles.values() if reason is not None]
        if reasons:
            return {"shares_prompts": False, "prompts_not_shared": reasons[0]}
        return {"shares_prompts": True} if self._obstacles else {}

    def _questions(self, samples: Sequence[EvalSample]) -> list[list[EvalSample]]:
        by_images: dict[tuple[ImageRef, ...], dict[Any, list[EvalSample]]] = {}
        for sample in samples:
            if not self._sampling.is_greedy and not isinstance(sample.meta.get("seed"), int):
                raise ConfigError(f"sample '{sample.id}' has no seed: give it an integer in meta['seed']")
            own = json.dumps(sample.meta.get("template_kwargs") or {}, sort_keys=True, default=str)
            question = (sample.prompt, sample.meta.get("response_prefix", ""), own)
            by_images.setdefault(sample.images, {}).setdefault(question, []).append(sample)
        return [alike for questions in by_images.values() for alike in questions.values()]

    def _asked(self, alike: Sequence[EvalSample]) -> Asked | None:
        first = alike[0]
        try:
            prompt = self._encoder.encode_prompt(
                first.id,
                first.prompt,
                first.images,
                self._load_image,
                response_prefix=first.meta.get("response_prefix", ""),
                template_kwargs=first.meta.get("template_kwargs"),
            )
        except DataError as err:
            self._fail(alike, getattr(err, "reason", _UNREADABLE), str(err))
            return None
        places, most_new = self._loaded.family.places, self._settings.max_new_tokens
        if places is not None and len(prompt) + most_new > places:
            wanted = f"{len(prompt)} tokens of the prompt and {most_new} new ones"
            self._fail(alike, _OVER_LIMIT, f"{wanted} are more than the {places} that the model has places for")
            return None
        return Asked(prompt, alike)

    def _fail(self, samples: Sequence[EvalSample], code: str, reason: str) -> None:
        self.failures |= dict.fromkeys((sample.id for sample in samples), reason)
        self.failure_codes |= dict.fromkeys((sample.id for sample in samples), code)

    def _num_rows(self, asked: Asked) -> int:
        return len(self._by_seed(asked.samples))

    def _by_seed(self, samples: Sequence[EvalSample]) -> dict[int, list[EvalSample]]:
        found: dict[int, list[EvalSample]] = {}
        for sample in samples:
            found.setdefault(0 if self._sampling.is_greedy else sample.meta["seed"], []).append(sample)
        return found

    def _answer_window(self, window: list[Asked]) -> Iterator[Answer]:
        rows = [
            Row(asked.prompt, question, seed, samples)
            for question, asked in enumerate(window)
            for seed, samples in self._by_seed(asked.samples).items()
        ]
        answered = self._batches.run(
            sorted(rows, key=lambda row: (-len(row.prompt), row.question)),
            tokens_of=lambda row: len(row.prompt) + self._settings.max_new_tokens,
            work=self._sample_batch,
            too_large=lambda row: (
                f"no memory to answer question '{row.prompt.sample_id}' alone ({len(row.prompt)} prompt tokens); "
                "use a smaller model, smaller images or quantization"
            ),
            group_of=lambda row: row.question,
        )
        for row, found in answered:
            if isinstance(found, _NoMemory):
                self._fail(row.samples, NO_MEMORY, found.why)
                continue
            text, cut = found
            for sample in row.samples:
                yield Answer(id=sample.id, text=text, cut=cut)

    def _sample_batch(self, rows: Sequence[Row]) -> list[tuple[str, bool] | _NoMemory]:
        """(answer, whether the limit of tokens ended it) for each row."""
        of_question = {row.question: row.prompt for row in rows}
        questions = list(of_question)
        found: dict[int, tuple[str, bool] | _NoMemory] = {}
        for alike in self._read_together(list(of_question.values())):
            together = {questions[at] for at in alike}
            places = [place for place, row in enumerate(rows) if row.question in together]
            found |= zip(places, self._sample([rows[place] for place in places]), strict=True)
        return [found[place] for place in range(len(rows))]

    def _sample(self, rows: Sequence[Row]) -> list[tuple[str, bool]]:
        done = self._continued(rows, is_shared=self._shares(rows))
        self._keep(rows, done)
        texts = [self._text(row, tokens) for row, tokens in zip(rows, done.tokens, strict=True)]
        return list(zip(texts, done.cut, strict=True))

    def _keep(self, rows: Sequence[Row], done: Continuations) -> None:
        """For answerers that keep more of an answer than its text."""

    def _text(self, row: Row, tokens: Sequence[int]) -> str:
        """An answer; one that goes on with a given beginning keeps the blank between them, which belongs to neither."""
        if not row.samples[0].meta.get("response_prefix"):
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        # some tokenizers leave the first blank of a text out, so what stands before is decoded too
        given = row.prompt.input_ids[-_TOKENS_BEFORE:].tolist()
        before: str = self._tokenizer.decode(given, skip_special_tokens=True)
        whole: str = self._tokenizer.decode([*given, *tokens], skip_special_tokens=True)
        if not whole.startswith(before):
            whole, before = self._tokenizer.decode(tokens, skip_special_tokens=True), ""
        return whole[len(before) :].rstrip()

    def _continued(self, rows: Sequence[Row], *, is_shared: bool) -> Continuations:
        from mmpref.generation.continuations import continue_prompts
        from mmpref.generation.drawing import draw, number_rows

        count = self._settings.max_new_tokens
        numbers: Tensor | None = None
        if not self._sampling.is_greedy:
            numbers = number_rows([row.prompt.digest() for row in rows], [row.seed for row in rows], count)
            numbers = numbers.to(self._loaded.model.device)

        def pick(logits: Tensor, places: Tensor, step: int) -> Tensor:
            tokens = draw(logits, None if numbers is None else numbers[places, step], self._sampling)
            if bool((tokens < 0).any()):
                row = rows[int(places[(tokens < 0).nonzero()[0, 0]])]
                raise NonFiniteError(
                    f"{self._loaded.path} gives question '{row.prompt.sample_id}' log-probs that are no numbers (token "
                    f"{step + 1} of the answer); load it in another dtype, or check its weights"
                )
            return tokens

        prompts, parents = _distinct(rows) if is_shared else ([row.prompt for row in rows], None)
        with self._naming(prompts[0]):
            return continue_prompts(
                self._loaded.model,
                self._inputs(prompts),
                pick,
                parents=parents,
                max_new_tokens=count,
                pad_token_id=self._encoder.chat.pad_token_id,
            )

    def _shares(self, rows: Sequence[Row]) -> bool:
        """Whether prompts with such inputs are run once for all their answers; found by a trial on the first ones."""
        from mmpref.generation.continuations import sharing_obstacle

        if len(rows) == 1 or not self._may_share:
            return False
        kinds = frozenset(name for row in rows for name in row.prompt.vision)
        if kinds not in self._obstacles:
            first, last = rows[0].prompt, rows[-1].prompt
            prompts, parents = ([first], [0, 0]) if first is last else ([first, last], [0, 0, 1])
            self._obstacles[kinds] = obstacle = sharing_obstacle(
                self._loaded.model,
                self._inputs(prompts),
                self._inputs([prompts[parent] for parent in parents]),
                parents,
                self._encoder.chat.pad_token_id,
            )
            if obstacle is not None:
                logger.info("each answer reads its prompt by itself: %s", obstacle)
        return self._obstacles[kinds] is None


def _distinct(rows: Sequence[Row]) -> tuple[list[EncodedPrompt], list[int]]:
    """The prompts of rows, each once, and which of them each row has."""
    prompts = {row.question: row.prompt for row in rows}
    places = {question: place for place, question in enumerate(prompts)}
    return list(prompts.values()), [places[row.question] for row in rows]
