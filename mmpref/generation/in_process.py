"""Answers from a transformers model in this process. torch is loaded only when an answerer is built."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmpref.errors import ConfigError, library_errors
from mmpref.generation.contract import same_questions
from mmpref.generation.local_model import LocalAnswerer, in_eval_mode
from mmpref.records import Answer, EvalSample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmpref.processing.encoded import EncodedPrompt

_PIXEL_CACHE_BYTES = 256 * 2**20  # questions about one image follow each other, so a few images are enough
_BATCHES_PER_WINDOW = 8  # encoded at once and sorted by length; the first windows are smaller
_WINDOW_BYTES = 2**30  # fewer batches when their pixels would take more


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt, and the samples that it answers."""

    prompt: EncodedPrompt
    samples: Sequence[EvalSample]


class TransformersAnswerer(LocalAnswerer):
    """Answers in this process with a transformers model: no sampling, batches, left padding, KV cache.

    Questions that are the same (same images, same prompt, as in POPE's splits) are answered once. Questions about one
    image stay near each other, so that its pixels are prepared once, and copied to the device once per batch; within a
    window they are sorted by length, and the next window is prepared while this one is answered. The first window is
    one batch, so that the device does not wait for more. Settings of the model's own for generation are not followed
    (see ``model_source.generation_note``). A batch that does not fit in memory is halved, and so are those after it.
    """

    def _prepare(self, template_kwargs: Mapping[str, Any] | None) -> None:
        from mmpref.processing.encode import PairEncoder
        from mmpref.processing.pixels import ImageSettings

        self._encoder = PairEncoder(
            self._loaded.processor,
            self._loaded.family,
            images=ImageSettings(cache_bytes=_PIXEL_CACHE_BYTES),
            template_kwargs=template_kwargs,
        )
        # one tokenizer must not encode and decode in two threads
        self._tokenizer = copy.deepcopy(self._loaded.tokenizer)

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """Answers as their batches are done."""
        with in_eval_mode(self._loaded.model):
            for window in _one_ahead(self._windows(self._questions(samples))):
                yield from self._answer_window(window)

    def _questions(self, samples: Sequence[EvalSample]) -> list[list[EvalSample]]:
        """Samples that are one question, in groups."""
        return same_questions(samples)

    def _asked(self, alike: Sequence[EvalSample]) -> Asked | None:
        """One question, encoded; None where it gets no answer."""
        first = alike[0]
        return Asked(self._encoder.encode_prompt(first.id, first.prompt, first.images, self._load_image), alike)

    def _num_rows(self, asked: Asked) -> int:
        """How many rows of a batch a question takes."""
        return 1

    def _windows(self, questions: Iterable[list[EvalSample]]) -> Iterator[list[Asked]]:
        """Encoded questions in portions of a few batches: of one at first, then of more; smaller where images are
        large.
        """
        window: list[Asked] = []
        batches, rows = 1, 0
        pixel_bytes: dict[int, int] = {}  # bytes of each pixel tensor; questions about one image share it
        for alike in questions:
            if (asked := self._asked(alike)) is None:
                continue
            window.append(asked)
            rows += self._num_rows(asked)
            pixel_bytes |= {id(tensor): tensor.nbytes for tensor in asked.prompt.vision.values()}
            full = rows >= self._batches.size * batches
            if full or (sum(pixel_bytes.values()) > _WINDOW_BYTES and rows >= self._batches.size):
                yield window
                window, rows, pixel_bytes = [], 0, {}
                batches = min(2 * batches, _BATCHES_PER_WINDOW)
        if window:
            yield window

    def _answer_window(self, window: list[Asked]) -> Iterator[Answer]:
        answered = self._batches.run(
            sorted(window, key=lambda asked: -len(asked.prompt)),
            tokens_of=lambda asked: (len(asked.prompt) + self._settings.max_new_tokens) * self._settings.num_beams,
            work=lambda batch: self._generate_batch([asked.prompt for asked in batch]),
            too_large=lambda asked: (
                f"no memory to answer question '{asked.prompt.sample_id}' alone ({len(asked.prompt)} prompt tokens); "
                "use a smaller model, smaller images or quantization"
            ),
        )
        for asked, (text, cut) in answered:
            for sample in asked.samples:
                yield Answer(id=sample.id, text=text, cut=cut)

    def _generate_batch(self, prompts: Sequence[EncodedPrompt]) -> list[tuple[str, bool]]:
        """(answer, whether the limit of tokens ended it) for each prompt."""
        found: dict[int, tuple[str, bool]] = {}
        for alike in self._read_together(prompts):
            found |= zip(alike, self._generate([prompts[at] for at in alike]), strict=True)
        return [found[at] for at in range(len(prompts))]

    def _read_together(self, prompts: Sequence[EncodedPrompt]) -> Iterator[list[int]]:
        """Places of prompts that may stand in one batch, to be run before the next are asked for."""
        from mmpref.models.logps.rope_by_sequence import forget_lengths
        from mmpref.processing.cross_attention import num_images

        rope = self._loaded.family.rope_lengths
        longest = max(map(len, prompts)) + self._settings.max_new_tokens
        if rope is not None and not rope.all_alike(longest):
            for at in range(len(prompts)):  # else all are read as the longest one is
                forget_lengths(self._loaded.model)  # as if the model had read nothing before
                yield [at]
            forget_lengths(self._loaded.model)
            return
        # by cross-attention, a row would also see the empty images that make it as long as the others
        counts = [num_images(prompt.vision) for prompt in prompts]
        for count in dict.fromkeys(counts):
            yield [at for at, other in enumerate(counts) if other == count]

    def _generate(self, prompts: Sequence[EncodedPrompt]) -> list[tuple[str, bool]]:
        import torch

        from mmpref.models.logps.image_inputs import as_lists

        model = self._loaded.model
        inputs = self._inputs(prompts)
        with torch.inference_mode(), self._naming(prompts[0]):
            out = model.generate(
                **as_lists(model, inputs),
                max_new_tokens=self._settings.max_new_tokens,
                do_sample=False,
                num_beams=self._settings.num_beams,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=self._encoder.chat.pad_token_id,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [(text.strip(), cut) for text, cut in zip(texts, self._cut(new), strict=True)]

    def _inputs(self, prompts: Sequence[EncodedPrompt]) -> dict[str, Tensor]:
        """Keyword arguments of the model for a batch, where the model is."""
        from mmpref.processing.collate import collate_prompts

        device, chat = self._loaded.model.device, self._encoder.chat
        # pixels are joined where the model is: the host has them once for all questions about an image
        on_device = _vision_on(device, prompts)
        collated = collate_prompts(on_device, chat.pad_token_id, image_token_id=chat.image_token_id)
        return {name: tensor.to(device) for name, tensor in collated.items()}

    def _naming(self, prompt: EncodedPrompt) -> AbstractContextManager[None]:
        """Inside, what a library raises names the model and the question."""
        cannot = f"{self._loaded.path} cannot answer question '{prompt.sample_id}'"
        return library_errors(ConfigError, cannot, "look at the values in its config.json")

    def _cut(self, new: Tensor) -> list[bool]:
        """Which rows of new tokens [B, T] are as long as allowed and contain no end token."""
        import torch

        if new.shape[1] < self._settings.max_new_tokens:
            return [False] * new.shape[0]
        ends = self._loaded.model.generation_config.eos_token_id
        known = torch.tensor([] if ends is None else ends, dtype=new.dtype, device=new.device).reshape(-1)
        return [not ended for ended in torch.isin(new, known).any(dim=1).tolist()]


def _vision_on(device: torch.device, prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """The same prompts with their vision inputs on the device; a tensor that several of them have is copied once."""
    copies: dict[int, Tensor] = {}
    found = []
    for prompt in prompts:
        for tensor in prompt.vision.values():
            if id(tensor) not in copies:
                copies[id(tensor)] = tensor.to(device)
        found.append(replace(prompt, vision={name: copies[id(tensor)] for name, tensor in prompt.vision.items()}))
    return found


def _one_ahead(windows: Iterator[list[Asked]]) -> Iterator[list[Asked]]:
    """The same, with the next one being made in another thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
        coming = pool.submit(next, windows, None)
        while (window := coming.result()) is not None:
            coming = pool.submit(next, windows, None)
            yield window
