"""One preference pair, or one question, as tensors: text by the model's own template, images by its own processor.

Shapes: P prompt tokens (image tokens counted), C and R answer tokens, T = P.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmpref.processing.chat import ChatEncoder, Turns
from mmpref.processing.family import Family
from mmpref.processing.faults import fault
from mmpref.processing.pixels import ImageEncoder, LoadImage, image_options
from mmpref.records import ImageRef, Message, PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """Everything the model reads before it answers."""

    sample_id: str
    input_ids: Tensor  # [T], image places expanded
    vision: Mapping[str, Tensor] = field(default_factory=dict)  # the processor's outputs for this row's images
    image_tokens: tuple[int, ...] = ()  # tokens that stand for each image; () where only the processor knows
    token_types: Mapping[str, Tensor] = field(default_factory=dict)  # [T] each: mm_token_type_ids and the like

    def __len__(self) -> int:
        return self.input_ids.shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """One prompt, encoded once, and the answers that continue it. Answers end with end-of-turn unless they were cut."""

    prompt: EncodedPrompt
    chosen_ids: Tensor  # [C]
    rejected_ids: Tensor | None  # [R]; None for a demonstration
    rejected_prompt: EncodedPrompt | None = None  # only where the rejected side has images of its own
    score_chosen: float | None = None
    score_rejected: float | None = None
    num_cut: int = 0  # answer tokens that did not fit, both sides together

    @property
    def pair_id(self) -> str:
        return self.prompt.sample_id

    @property
    def prompt_ids(self) -> Tensor:
        return self.prompt.input_ids

    @property
    def vision(self) -> Mapping[str, Tensor]:
        return self.prompt.vision

    @property
    def rejected_vision(self) -> Mapping[str, Tensor] | None:
        return None if self.rejected_prompt is None else self.rejected_prompt.vision

    def sides(self) -> tuple[tuple[EncodedPrompt, Tensor], tuple[EncodedPrompt, Tensor] | None]:
        """(prompt, answer) of the chosen side and, if there is one, of the rejected side."""
        chosen = (self.prompt, self.chosen_ids)
        if self.rejected_ids is None:
            return chosen, None
        return chosen, (self.rejected_prompt or self.prompt, self.rejected_ids)


class PairEncoder:
    """Encodes pairs and questions for one model. It can be pickled, so that loader workers can have it.

    Args:
        processor: the model's processor, or the tokenizer of a text-only model.
        family: the model's row of facts.
        max_length: tokens of prompt + answer at most. Tails of answers are cut to fit, on both sides by the same rule,
            and a cut answer has no end-of-turn token; prompts and image tokens are never cut.
        min_pixels, max_pixels: resolution budget of one image (families with ``has_pixel_budget``).
        pixel_cache_bytes: memory for processed images, per loader worker; for small sets read several times.

    Raises:
        ConfigError: no chat template, or a resolution budget that this processor does not have.
    """

    def __init__(
        self,
        processor: Any,
        family: Family,
        *,
        max_length: int | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        pixel_cache_bytes: int = 0,
    ) -> None:
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {max_length}")
        self.family = family
        self.max_length = max_length
        self.chat = ChatEncoder(processor)
        self._processor = processor
        self._image_options = image_options(processor, family, min_pixels=min_pixels, max_pixels=max_pixels)
        self._images = ImageEncoder(processor, options=self._image_options, cache_bytes=pixel_cache_bytes)

    def encode_text(self, pair: PreferencePair) -> Turns:
        """The half of :meth:`encode` that needs no image; its result may be kept and handed to ``encode``."""
        answers = [pair.chosen] if pair.rejected is None else [pair.chosen, pair.rejected]
        return self.chat.encode(pair.id, pair.prompt, answers, response_prefix=pair.response_prefix)

    def encode(self, pair: PreferencePair, load_image: LoadImage, *, text: Turns | None = None) -> EncodedPair:
        """The pair as tensors; each image is loaded and processed once.

        Raises:
            EncodeError: the row cannot be used; ``reason`` says why.
            DataError: whatever ``load_image`` raises.
        """
        text = text if text is not None else self.encode_text(pair)
        prompt = self._prompt(pair.id, pair.prompt, pair.images, text, load_image)
        rejected_prompt = None
        if pair.rejected is not None and pair.rejected_images is not None:
            rejected_prompt = self._prompt(pair.id, pair.prompt, pair.rejected_images, text, load_image)
        chosen = self._fit(pair.id, prompt, text.answers[0])
        rejected = self._fit(pair.id, rejected_prompt or prompt, text.answers[1]) if len(text.answers) > 1 else None
        cut = sum(map(len, text.answers)) - len(chosen) - (0 if rejected is None else len(rejected))
        return EncodedPair(
            prompt=prompt,
            chosen_ids=chosen,
            rejected_ids=rejected,
            rejected_prompt=rejected_prompt,
            score_chosen=pair.score_chosen,
            score_rejected=pair.score_rejected,
            num_cut=cut,
        )

    def encode_prompt(
        self,
        sample_id: str,
        prompt: tuple[Message, ...],
        images: tuple[ImageRef, ...],
        load_image: LoadImage,
        response_prefix: str = "",
    ) -> EncodedPrompt:
        """What the model reads before it answers, for generation. Raises as :meth:`encode` does."""
        text = self.chat.encode(sample_id, prompt, (), response_prefix=response_prefix)
        encoded = self._prompt(sample_id, prompt, images, text, load_image)
        self._room(sample_id, encoded)
        return encoded

    def _prompt(
        self, row_id: str, messages: Sequence[Message], images: tuple[ImageRef, ...], text: Turns, load_image: LoadImage
    ) -> EncodedPrompt:
        places = sum(message.num_images for message in messages)
        if places != len(images):
            raise fault(
                row_id, "placeholder_count", f"has {places} image places in its prompt and {len(images)} images"
            )
        if self.family.repeats_image_token or not self.chat.sees_images:
            return self._expanded_here(row_id, images, text, load_image)
        return self._expanded_by_processor(row_id, messages, images, text, load_image)

    def _expanded_here(
        self, row_id: str, images: tuple[ImageRef, ...], text: Turns, load_image: LoadImage
    ) -> EncodedPrompt:
        """Repeat each image place as often as its own image has features."""
        image_token = self.chat.image_token_id
        ids = [*text.prompt, *text.prefix]
        written = 0 if image_token is None else ids.count(image_token)
        if written != len(images):
            raise fault(
                row_id, "placeholder_count", f"has {len(images)} images, and the model's chat template wrote "
                f"{written} places for them: this template cannot show images in that position"
            )  # fmt: skip
        encoded = self._images.encode(row_id, images, load_image)
        counts = iter(encoded.tokens)
        expanded: list[int] = []
        for token in ids:
            expanded.extend([token] * next(counts) if token == image_token else [token])
        input_ids = torch.tensor(expanded, dtype=torch.long)
        token_types: dict[str, Tensor] = {}
        if self.family.token_types is not None:
            token_types[self.family.token_types] = input_ids.eq(image_token if image_token is not None else -1).long()
        return EncodedPrompt(
            sample_id=row_id,
            input_ids=input_ids,
            vision=encoded.vision,
            image_tokens=encoded.tokens,
            token_types=token_types,
        )

    def _expanded_by_processor(
        self,
        row_id: str,
        messages: Sequence[Message],
        images: tuple[ImageRef, ...],
        text: Turns,
        load_image: LoadImage,
    ) -> EncodedPrompt:
        """Let the processor write the prompt, for models whose images become more than one repeated token."""
        pixels = iter([load_image(image) for image in images])
        conversation = self.chat.conversation(row_id, messages)
        for part in (part for message in conversation for part in message["content"] if part["type"] == "image"):
            part["image"] = next(pixels)
        outputs = self.chat.prompt_by_processor(row_id, self._processor, conversation, self._image_options)
        ids = outputs.pop("input_ids")
        outputs.pop("attention_mask", None)
        # what has the shape of the ids describes tokens, the rest describes images
        planes = {name: value[0] for name, value in outputs.items() if value.shape == ids.shape}
        prefix = torch.tensor(text.prefix, dtype=torch.long)
        return EncodedPrompt(
            sample_id=row_id,
            input_ids=torch.cat([ids[0], prefix]),
            vision={name: value for name, value in outputs.items() if name not in planes},
            token_types={name: torch.cat([plane, torch.zeros_like(prefix)]) for name, plane in planes.items()},
        )

    def _fit(self, pair_id: str, prompt: EncodedPrompt, answer: tuple[int, ...]) -> Tensor:
        return torch.tensor(answer[: self._room(pair_id, prompt)], dtype=torch.long)

    def _room(self, row_id: str, prompt: EncodedPrompt) -> int | None:
        """Tokens left for an answer, at least one; None means no limit."""
        if self.max_length is None:
            return None
        room = self.max_length - len(prompt)
        if room < 1:
            images = f", {sum(prompt.image_tokens)} of them for images" if prompt.image_tokens else ""
            raise fault(
                row_id, "too_long_prompt", f"has a prompt of {len(prompt)} tokens{images}, which leaves no room for "
                f"an answer in max_length {self.max_length}; raise processing.max_length or lower processing.max_pixels"
            )  # fmt: skip
        return room


def score_or_nan(score: float | None) -> float:
    """Scores in tensors: NaN stands for none."""
    return math.nan if score is None else score
