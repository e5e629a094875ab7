"""Answers from a transformers model in this process. torch is loaded only when an answerer is built."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
class _Asked:
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
            for window in _one_ahead(self._windows(same_questions(samples))):
                yield from self._answer_window(window)

    def _windows(self, questions: Iterable[list[EvalSample]]) -> Iterator[list[_Asked]]:
        """Encoded questions in portions of a few batches: of one at first, then of more; smaller where images are
        large.
        """
        window: list[_Asked] = []
        batches = 1
        pixel_bytes: dict[int, int] = {}  # bytes of each pixel tensor; questions about one image share it
        for alike in questions:
            first = alike[0]
            prompt = self._encoder.encode_prompt(first.id, first.prompt, first.images, self._load_image)
            window.append(_Asked(prompt, alike))
            pixel_bytes |= {id(tensor): tensor.nbytes for tensor in prompt.vision.values()}
            full = len(window) >= self._batches.size * batches
            if full or (sum(pixel_bytes.values()) > _WINDOW_BYTES and len(window) >= self._batches.size):
                yield window
                window, pixel_bytes = [], {}
                batches = min(2 * batches, _BATCHES_PER_WINDOW)
        if window:
            yield window

    def _answer_window(self, window: list[_Asked]) -> Iterator[Answer]:
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
        from mmpref.processing.cross_attention import num_images

        rope = self._loaded.family.rope_lengths
        longest = max(map(len, prompts)) + self._settings.max_new_tokens
        if rope is not None and not rope.all_alike(longest):
            return [self._alone(prompt) for prompt in prompts]  # else all are read as the longest one is
        # by cross-attention, a row would also see the empty images that make it as long as the others
        counts = [num_images(prompt.vision) for prompt in prompts]
        found: dict[int, tuple[str, bool]] = {}
        for count in dict.fromkeys(counts):
            alike = [at for at, other in enumerate(counts) if other == count]
            found |= zip(alike, self._generate([prompts[at] for at in alike]), strict=True)
        return [found[at] for at in range(len(prompts))]

    def _alone(self, prompt: EncodedPrompt) -> tuple[str, bool]:
        """As if the model had read nothing before."""
        from mmpref.models.logps.rope_by_sequence import forget_lengths

        forget_lengths(self._loaded.model)
        answer = self._generate([prompt])[0]
        forget_lengths(self._loaded.model)
        return answer

    def _generate(self, prompts: Sequence[EncodedPrompt]) -> list[tuple[str, bool]]:
        import torch

        from mmpref.models.logps.image_inputs import as_lists
        from mmpref.processing.collate import collate_prompts

        model, chat = self._loaded.model, self._encoder.chat
        # pixels are joined where the model is: the host has them once for all questions about an image
        on_device = _vision_on(model.device, prompts)
        collated = collate_prompts(on_device, chat.pad_token_id, image_token_id=chat.image_token_id)
        del on_device
        inputs = {name: tensor.to(model.device) for name, tensor in collated.items()}
        del collated
        cannot = f"{self._loaded.path} cannot answer question '{prompts[0].sample_id}'"
        with torch.inference_mode(), library_errors(ConfigError, cannot, "look at the values in its config.json"):
            out = model.generate(
                **as_lists(model, inputs),
                max_new_tokens=self._settings.max_new_tokens,
                do_sample=False,
                num_beams=self._settings.num_beams,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=chat.pad_token_id,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [(text.strip(), cut) for text, cut in zip(texts, self._cut(new), strict=True)]

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


def _one_ahead(windows: Iterator[list[_Asked]]) -> Iterator[list[_Asked]]:
    """The same, with the next one being made in another thread meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="encode") as pool:
        coming = pool.submit(next, windows, None)
        while (window := coming.result()) is not None:
            coming = pool.submit(next, windows, None)
            yield window
