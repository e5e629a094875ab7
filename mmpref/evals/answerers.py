"""Who answers the questions: anything with one method, ``answer``.

This module loads torch and the models room only when a ``TransformersAnswerer`` is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmpref.errors import ConfigError, OutOfMemoryError
from mmpref.records import Answer, EvalSample, ImageRef

if TYPE_CHECKING:
    from mmpref.models.load import LoadedModel
    from mmpref.processing.encode import EncodedPrompt

BATCH_SIZE = 64
_PIXEL_CACHE_BYTES = 256 * 2**20  # questions about one image follow each other, so a few images are enough
_BATCHES_PER_WINDOW = 8  # encoded at once and sorted by length
_WINDOW_BYTES = 2**30  # fewer batches when their pixels would take more


class Answerer(Protocol):
    """Answers questions, each once, in any order, as soon as they are known."""

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]: ...


@dataclass(frozen=True, slots=True)
class ScriptedAnswerer:
    """Gives answers that were written before; for tests and for rehearsing a pipeline.

    Args:
        script: sample id -> answer, or a function of the sample.
    """

    script: Mapping[str, str] | Callable[[EvalSample], str]

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        for sample in samples:
            text = self.script(sample) if callable(self.script) else self.script[sample.id]
            yield Answer(id=sample.id, text=text)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One prompt, and the samples that it answers."""

    prompt: EncodedPrompt
    samples: Sequence[EvalSample]


class TransformersAnswerer:
    """Answers in this process with a transformers model: greedy decoding in batches, left padding, KV cache.

    Questions that are the same (same images, same prompt, as in POPE's splits) are answered once. Questions about one
    image stay near each other, so that its pixels are prepared once; within a window they are sorted by length. A batch
    that does not fit in memory is halved.

    Args:
        model: a path or hub id, or a model that is loaded already.
        images_root: relative image paths start here.
        load_image: replaces the reader of images (``ImageRef`` -> RGB image).
        batch_size: questions generated together.
        max_new_tokens: an answer stops here if it did not end before.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel,
        *,
        images_root: str | Path | None = None,
        load_image: Callable[[ImageRef], Any] | None = None,
        batch_size: int = BATCH_SIZE,
        max_new_tokens: int = 64,
        cpu_threads: int | None = None,
    ) -> None:
        if batch_size < 1 or max_new_tokens < 1:
            raise ConfigError(f"batch_size and max_new_tokens must be >= 1, got {batch_size} and {max_new_tokens}")
        from mmpref.models.load import load
        from mmpref.processing.encode import PairEncoder

        if load_image is None:
            from mmpref.data.images import ImageLoader

            load_image = ImageLoader(images_root).open
        import torch

        if cpu_threads is not None:
            torch.set_num_threads(cpu_threads)
        if isinstance(model, str | Path):
            model = load(model, device="cuda" if torch.cuda.is_available() else None)
        self._loaded = model
        self._encoder = PairEncoder(model.processor, model.family, pixel_cache_bytes=_PIXEL_CACHE_BYTES)
        self._load_image = load_image
        self._batch_size = batch_size
        self._max_new_tokens = max_new_tokens

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        model = self._loaded.model
        was_training = model.training
        model.eval()
        try:
            for window in self._windows(_same_questions(samples)):
                yield from self._answer_window(window)
        finally:
            model.train(was_training)

    def _windows(self, questions: Iterable[list[EvalSample]]) -> Iterator[list[_Asked]]:
        """Encoded questions in portions of a few batches, smaller where images are large."""
        window: list[_Asked] = []
        held: dict[int, int] = {}  # bytes of each pixel tensor; questions about one image share it
        for alike in questions:
            first = alike[0]
            prompt = self._encoder.encode_prompt(first.id, first.prompt, first.images, self._load_image)
            window.append(_Asked(prompt, alike))
            held |= {id(tensor): tensor.nbytes for tensor in prompt.vision.values()}
            full = len(window) >= self._batch_size * _BATCHES_PER_WINDOW
            if full or (sum(held.values()) > _WINDOW_BYTES and len(window) >= self._batch_size):
                yield window
                window, held = [], {}
        if window:
            yield window

    def _answer_window(self, window: list[_Asked]) -> Iterator[Answer]:
        window.sort(key=lambda asked: -len(asked.prompt))
        for start in range(0, len(window), self._batch_size):
            batch = window[start : start + self._batch_size]
            for asked, text in zip(batch, self._generate([asked.prompt for asked in batch]), strict=True):
                for sample in asked.samples:
                    yield Answer(id=sample.id, text=text)

    def _generate(self, prompts: Sequence[EncodedPrompt]) -> list[str]:
        import torch

        try:
            return self._generate_batch(prompts)
        except torch.OutOfMemoryError as err:
            if len(prompts) == 1:
                raise OutOfMemoryError(
                    f"no memory to answer question '{prompts[0].sample_id}' alone "
                    f"({len(prompts[0])} prompt tokens); use a smaller model, smaller images or quantization"
                ) from err
        torch.cuda.empty_cache()
        half = len(prompts) // 2
        return self._generate(prompts[:half]) + self._generate(prompts[half:])

    def _generate_batch(self, prompts: Sequence[EncodedPrompt]) -> list[str]:
        import torch

        from mmpref.processing.collate import collate_prompts

        model, chat = self._loaded.model, self._encoder.chat
        collated = collate_prompts(prompts, chat.pad_token_id, image_token_id=chat.image_token_id)
        inputs = {name: tensor.to(model.device) for name, tensor in collated.items()}
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=chat.pad_token_id,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _same_questions(samples: Iterable[EvalSample]) -> list[list[EvalSample]]:
    """Samples grouped by images and prompt; groups about the same images come after each other."""
    by_images: dict[tuple[ImageRef, ...], dict[Any, list[EvalSample]]] = {}
    for sample in samples:
        by_images.setdefault(sample.images, {}).setdefault(sample.prompt, []).append(sample)
    return [alike for questions in by_images.values() for alike in questions.values()]
