"""Answers from a transformers model in this process. torch is loaded only when an answerer is built."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmpref.errors import ConfigError, OutOfMemoryError, lacks_memory, library_errors
from mmpref.generation.contract import same_questions
from mmpref.records import Answer, EvalSample, ImageRef

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmpref.models.loaded import LoadedModel
    from mmpref.processing.encoded import EncodedPrompt

BATCH_SIZE = 64
TOKENS_PER_BATCH = 65_536
_PIXEL_CACHE_BYTES = 256 * 2**20  # questions about one image follow each other, so a few images are enough
_BATCHES_PER_WINDOW = 8  # encoded at once and sorted by length; the first windows are smaller
_NAMED = 12  # settings that a note names
_WINDOW_BYTES = 2**30  # fewer batches when their pixels would take more


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which model is to be loaded and how; plain data, so that another process can load it too.

    ``adapter`` is a LoRA folder for it. A ``path`` that is itself an adapter stands for its base model, as its
    ``adapter_config.json`` names it, with the adapter on it.
    """

    path: str
    adapter: Path | None = None
    dtype: str = "auto"
    quantization: Literal["nf4", "int8"] | None = None
    max_pixels: int | None = None
    template_kwargs: Mapping[str, Any] | None = None
    """What the chat template reads beside the conversation, as ``processing.template_kwargs`` of a recipe."""

    def resolved(self) -> ModelSource:
        """The same with the base model and the adapter told apart.

        Raises:
            ConfigError: an adapter that does not say what its base is, or an adapter on an adapter.
        """
        config = Path(self.path) / "adapter_config.json"
        if not config.is_file() or (Path(self.path) / "config.json").is_file():
            return self
        if self.adapter is not None:
            raise ConfigError(f"{self.path} is an adapter itself; give its base model with --adapter")
        from mmpref.models.adapters.saved import adapter_settings

        base = adapter_settings(Path(self.path)).get("base_model_name_or_path")
        if not base:
            raise ConfigError(f"{config} does not name a base model; give it as the model, and this as the adapter")
        return ModelSource(
            path=base,
            adapter=Path(self.path),
            dtype=self.dtype,
            quantization=self.quantization,
            max_pixels=self.max_pixels,
            template_kwargs=self.template_kwargs,
        )

    def load(self, device: str | None = None) -> LoadedModel:
        from mmpref.models.load import LoadSettings, load

        found = self.resolved()
        try:
            return load(
                found.path,
                LoadSettings(
                    dtype=found.dtype, quantization=found.quantization, max_pixels=found.max_pixels, device=device
                ),
                adapter=found.adapter,
            )
        except (MemoryError, RuntimeError) as err:
            import torch

            if not (lacks_memory(err) or isinstance(err, torch.OutOfMemoryError)):
                raise
            raise OutOfMemoryError(
                f"out of memory while loading {found.path}; use a smaller model, or quantization (--quantization nf4)"
            ) from err


@dataclass(frozen=True, slots=True)
class _Asked:
    """One prompt, and the samples that it answers."""

    prompt: EncodedPrompt
    samples: Sequence[EvalSample]


def generation_note(model: str | Path | LoadedModel | ModelSource) -> str | None:
    """What a model's generation_config.json asks for that would change greedy answers, and was not followed; None where
    there is no such thing."""
    from mmpref.models.folder.generation_config import FILE, left_out

    source = ModelSource(path=str(model)) if isinstance(model, str | Path) else model
    names = left_out(source.resolved().path if isinstance(source, ModelSource) else source.path)
    if not names:
        return None
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    shown = ", ".join(names[:_NAMED])
    return f"answers are greedy, and these settings of the model's {FILE} were left out: {shown}{more}"


class TransformersAnswerer:
    """Answers in this process with a transformers model: no sampling, batches, left padding, KV cache.

    Questions that are the same (same images, same prompt, as in POPE's splits) are answered once. Questions about one
    image stay near each other, so that its pixels are prepared once, and copied to the device once per batch; within a
    window they are sorted by length, and the next window is prepared while this one is answered. The first window is
    one batch, so that the device does not wait for more. Settings of the model's own for generation are not followed
    (see :func:`generation_note`). A batch that does not fit in memory is halved, and so are
    those after it.

    Args:
        model: a path or hub id, a ``ModelSource``, or a model that is loaded already.
        images_root: relative image paths start here.
        load_image: replaces the reader of images (``ImageRef`` -> RGB image).
        batch_size: questions generated together, at most.
        tokens_per_batch: (longest prompt + ``max_new_tokens``) x questions x beams of a batch, at most.
        max_new_tokens: an answer stops here if it did not end before.
        num_beams: 1 is greedy decoding.
        device: where the model goes; None takes the first CUDA device if there is one.
        cpu_threads: threads torch may use on the CPU.
    """

    def __init__(
        self,
        model: str | Path | LoadedModel | ModelSource,
        *,
        images_root: str | Path | None = None,
        load_image: Callable[[ImageRef], Any] | None = None,
        batch_size: int = BATCH_SIZE,
        tokens_per_batch: int = TOKENS_PER_BATCH,
        max_new_tokens: int = 64,
        num_beams: int = 1,
        device: str | None = None,
        cpu_threads: int | None = None,
    ) -> None:
        sizes = {
            "batch_size": batch_size,
            "tokens_per_batch": tokens_per_batch,
            "max_new_tokens": max_new_tokens,
            "num_beams": num_beams,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")
        from mmpref.processing.encode import PairEncoder
        from mmpref.processing.pixels import ImageSettings

        if load_image is None:
            from mmpref.data.images.loader import ImageLoader

            load_image = ImageLoader(images_root).open
        import torch

        if cpu_threads is not None:
            torch.set_num_threads(cpu_threads)
        if isinstance(model, str | Path):
            model = ModelSource(path=str(model))
        kwargs = None
        if isinstance(model, ModelSource):
            kwargs = model.template_kwargs
            model = model.load(device or ("cuda" if torch.cuda.is_available() else None))
        self._loaded = model
        self._encoder = PairEncoder(
            model.processor, model.family, images=ImageSettings(cache_bytes=_PIXEL_CACHE_BYTES), template_kwargs=kwargs
        )
        self._tokenizer = copy.deepcopy(model.tokenizer)  # one tokenizer must not encode and decode in two threads
        self._load_image = load_image
        self._batch_size = batch_size
        self._tokens_per_batch = tokens_per_batch
        self._max_new_tokens = max_new_tokens
        self._num_beams = num_beams

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        model = self._loaded.model
        was_training = model.training
        model.eval()
        try:
            for window in _one_ahead(self._windows(same_questions(samples))):
                yield from self._answer_window(window)
        finally:
            model.train(was_training)

    def _windows(self, questions: Iterable[list[EvalSample]]) -> Iterator[list[_Asked]]:
        """Encoded questions in portions of a few batches: of one at first, then of more; smaller where images are
        large.
        """
        window: list[_Asked] = []
        batches = 1
        held: dict[int, int] = {}  # bytes of each pixel tensor; questions about one image share it
        for alike in questions:
            first = alike[0]
            prompt = self._encoder.encode_prompt(first.id, first.prompt, first.images, self._load_image)
            window.append(_Asked(prompt, alike))
            held |= {id(tensor): tensor.nbytes for tensor in prompt.vision.values()}
            full = len(window) >= self._batch_size * batches
            if full or (sum(held.values()) > _WINDOW_BYTES and len(window) >= self._batch_size):
                yield window
                window, held = [], {}
                batches = min(2 * batches, _BATCHES_PER_WINDOW)
        if window:
            yield window

    def _answer_window(self, window: list[_Asked]) -> Iterator[Answer]:
        import torch

        waiting = sorted(window, key=lambda asked: -len(asked.prompt))
        while waiting:
            batch = waiting[: self._fitting(len(waiting[0].prompt))]
            texts: list[tuple[str, bool]] | None = None
            try:
                texts = self._generate_batch([asked.prompt for asked in batch])
            except torch.OutOfMemoryError as err:
                if len(batch) == 1:
                    raise OutOfMemoryError(
                        f"no memory to answer question '{batch[0].prompt.sample_id}' alone "
                        f"({len(batch[0].prompt)} prompt tokens); use a smaller model, smaller images or quantization"
                    ) from err
            if texts is None:  # outside the handler, whose traceback holds the tensors
                torch.cuda.empty_cache()
                self._batch_size = len(batch) // 2
                continue
            waiting = waiting[len(batch) :]
            for asked, (text, cut) in zip(batch, texts, strict=True):
                for sample in asked.samples:
                    yield Answer(id=sample.id, text=text, cut=cut)

    def _fitting(self, longest: int) -> int:
        """How many questions, none with a longer prompt, make one batch."""
        tokens = (longest + self._max_new_tokens) * self._num_beams
        return max(1, min(self._batch_size, self._tokens_per_batch // tokens))

    def _generate_batch(self, prompts: Sequence[EncodedPrompt]) -> list[tuple[str, bool]]:
        """(answer, whether the limit of tokens ended it) for each prompt."""
        import torch

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
                **inputs,
                max_new_tokens=self._max_new_tokens,
                do_sample=False,
                num_beams=self._num_beams,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=chat.pad_token_id,
            )
        new = out[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [(text.strip(), cut) for text, cut in zip(texts, self._cut(new), strict=True)]

    def _cut(self, new: Tensor) -> list[bool]:
        """Which rows of new tokens [B, T] are as long as they may be and hold no end."""
        import torch

        if new.shape[1] < self._max_new_tokens:
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
