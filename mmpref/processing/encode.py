"""One preference pair, or one question, as tensors: text by the model's own template, images by its own processor.

Shapes: T prompt tokens (image tokens counted), C and R answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpref.processing.chat.conversation import ChatEncoder, Turns
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.errors import fault
from mmpref.processing.family import Family
from mmpref.processing.pixels import OWN_SIZES, ImageEncoder, ImageSettings, LoadImage, blank
from mmpref.processing.positions import in_sequence, multimodal
from mmpref.records import ImageRef, Message, PreferencePair


class PairEncoder:
    """Encodes pairs and questions for one model. It can be pickled, so that loader workers can have it.

    Args:
        processor: the model's processor, or the tokenizer of a text-only model.
        family: the model's row of facts.
        max_length: tokens of prompt + answer at most. Tails of answers are cut to fit, on both sides by the same rule,
            and a cut answer has no end-of-turn token; prompts and image tokens are never cut.
        images: resolution and cache of processed images.
        template_kwargs: what the chat template reads beside the conversation; a pair's own stand over them.
        budgets: pair id -> max_pixels of that pair's images, for pairs that would be too long otherwise
            (``length_plan.plan_fit``).

    Raises:
        ConfigError: no chat template, ``template_kwargs`` that it does not read, or a resolution budget that this
            processor does not have.
    """

    def __init__(
        self,
        processor: Any,
        family: Family,
        *,
        max_length: int | None = None,
        images: ImageSettings = OWN_SIZES,
        template_kwargs: Mapping[str, Any] | None = None,
        budgets: Mapping[str, int] | None = None,
    ) -> None:
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {max_length}")
        self.family = family
        self.max_length = max_length
        self.chat = ChatEncoder(processor, template_kwargs)
        self.budgets = dict(budgets or {})
        self._processor = processor
        self.images = ImageEncoder(processor, family, images)

    def encode_text(self, pair: PreferencePair) -> Turns:
        """The half of :meth:`encode` that needs no image; its result may be kept and handed to ``encode``."""
        self._refuse_images(pair.id, pair.images)
        answers = [pair.chosen] if pair.rejected is None else [pair.chosen, pair.rejected]
        return self.chat.encode(
            pair.id,
            pair.prompt,
            answers,
            response_prefix=pair.response_prefix,
            template_kwargs=pair.template_kwargs,
        )

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
        if self.images.has_cache:  # a loader worker moves a batch's tensors into memory that it shares with others
            prompt = prompt.with_own_pixels()
            rejected_prompt = None if rejected_prompt is None else rejected_prompt.with_own_pixels()
        # both sides are cut by the same rule, also where their images leave them different space
        longer = max((prompt, rejected_prompt or prompt), key=len)
        space = self.answer_space(pair.id, len(longer), sum(longer.image_tokens))
        if len(text.answers) > 1 and rejected_prompt is None:
            self.refuse_identical(pair.id, text.answers, space)
        answers = [torch.tensor(answer[:space], dtype=torch.long) for answer in text.answers]
        chosen, rejected = answers[0], answers[1] if len(answers) > 1 else None
        cut = sum(map(len, text.answers)) - sum(map(len, answers))
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
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> EncodedPrompt:
        """What the model reads before it answers, for generation. Raises as :meth:`encode` does."""
        self._refuse_images(sample_id, images)
        text = self.chat.encode(sample_id, prompt, (), response_prefix=response_prefix, template_kwargs=template_kwargs)
        encoded = self._prompt(sample_id, prompt, images, text, load_image)
        self.answer_space(sample_id, len(encoded), sum(encoded.image_tokens))
        return encoded

    def prompt_length(
        self, pair: PreferencePair, text: Turns, sizes: Sequence[tuple[int, int]], *, max_pixels: int | None = None
    ) -> tuple[int, int]:
        """(tokens of the prompt, image tokens among them) with images of these sizes (width, height).

        By arithmetic where a family repeats one token for an image; else the processor writes the prompt around blank
        images of the same sizes (it may put more than images into it: Janus a system prompt), and image tokens are not
        counted (0).

        Raises:
            EncodeError: as :meth:`encode`.
        """
        self._check_places(pair.id, pair.prompt, len(sizes))
        written = len(text.prompt) + len(text.prefix)
        if not self.chat.sees_images or (not sizes and self.family.repeats_image_token):
            return written, 0
        if self.family.repeats_image_token:
            self._check_written(pair.id, text, len(sizes))
            images = sum(self.images.count(pair.id, sizes, max_pixels=max_pixels))
            return written - len(sizes) + images, images
        blanks = [blank(width, height) for width, height in sizes]
        outputs = self._written_by_processor(pair.id, text, blanks, max_pixels)
        return int(outputs["input_ids"].shape[1]) + len(text.prefix), 0

    def answer_space(self, row_id: str, prompt: int, image_tokens: int = 0) -> int | None:
        """Tokens left for an answer after a prompt of this length, at least one; None means no limit.

        Raises:
            EncodeError: the prompt leaves none (``too_long_prompt``).
        """
        if self.max_length is None:
            return None
        space = self.max_length - prompt
        if space < 1:
            images = f", {image_tokens} of them for images" if image_tokens else ""
            hint = " or lower processing.max_pixels" if self.family.has_pixel_budget and image_tokens else ""
            raise fault(
                row_id, "too_long_prompt", f"has a prompt of {prompt} tokens{images}, which leaves no space for an "
                f"answer in max_length {self.max_length}; raise processing.max_length{hint}"
            )  # fmt: skip
        return space

    def refuse_identical(self, row_id: str, answers: Sequence[tuple[int, ...]], space: int | None) -> None:
        """Raises EncodeError (``identical_pair``) for answers that are one and the same where they are cut."""
        if answers[0][:space] == answers[1][:space]:
            where = "" if space is None else f" up to token {space}, where max_length {self.max_length} cuts them"
            raise fault(row_id, "identical_pair", f"has two answers that are the same tokens{where}; leave it out")

    def _refuse_images(self, row_id: str, images: Sequence[ImageRef]) -> None:
        if images and self.family.no_images:
            raise fault(
                row_id, "images_in_text_model", f"has images, and this model {self.family.no_images}; use another "
                "model, or rows without images"
            )  # fmt: skip

    def _prompt(
        self, row_id: str, messages: Sequence[Message], images: tuple[ImageRef, ...], text: Turns, load_image: LoadImage
    ) -> EncodedPrompt:
        self._check_places(row_id, messages, len(images))
        if self.family.repeats_image_token or not self.chat.sees_images:
            return self._expanded_here(row_id, images, text, load_image)
        return self._expanded_by_processor(row_id, images, text, load_image)

    def _expanded_here(
        self, row_id: str, images: tuple[ImageRef, ...], text: Turns, load_image: LoadImage
    ) -> EncodedPrompt:
        """Repeat each image place as often as its own image has features."""
        image_token = self.chat.image_token_id
        ids = [*text.prompt, *text.prefix]
        self._check_written(row_id, text, len(images))
        encoded = self.images.encode(row_id, images, load_image, max_pixels=self.budgets.get(row_id))
        counts = iter(encoded.tokens)
        expanded: list[int] = []
        starts: list[int] = []
        for token in ids:
            if token == image_token:
                starts.append(len(expanded))
            expanded.extend([token] * next(counts) if token == image_token else [token])
        input_ids = torch.tensor(expanded, dtype=torch.long)
        token_types: dict[str, Tensor] = {}
        if self.family.token_types is not None:
            token_types[self.family.token_types] = self._types(input_ids)
            token_types[self.family.token_types][len(expanded) - len(text.prefix) :] = self._answer_type
        return EncodedPrompt(
            sample_id=row_id,
            input_ids=input_ids,
            vision=encoded.vision,
            image_tokens=encoded.tokens,
            token_types=token_types,
            answer_type=self._answer_type,
            position_ids=self._positions(len(expanded), starts, encoded.vision),
        )

    def _types(self, prompt: Tensor) -> Tensor:
        """The type that the model is given of each token of a prompt: [T]."""
        if self.family.prefix_lm is not None:
            return torch.full_like(prompt, self.family.prefix_lm[0])
        image_token = self.chat.image_token_id
        return prompt.eq(-1 if image_token is None else image_token).long()

    @property
    def _answer_type(self) -> int:
        return 0 if self.family.prefix_lm is None else self.family.prefix_lm[1]

    def _expanded_by_processor(
        self,
        row_id: str,
        images: tuple[ImageRef, ...],
        text: Turns,
        load_image: LoadImage,
    ) -> EncodedPrompt:
        """Let the processor write the prompt, for models whose images become more than one repeated token."""
        pixels = [load_image(image) for image in images]
        outputs = self._written_by_processor(row_id, text, pixels, self.budgets.get(row_id))
        prefix, kind = torch.tensor(text.prefix, dtype=torch.long), self._answer_type
        ids = outputs.pop("input_ids")
        outputs.pop("attention_mask", None)
        outputs.pop("labels", None)  # PaliGemma's processor writes some for every prompt
        # what has the shape of the ids describes tokens, the rest describes images
        planes = {name: value[0] for name, value in outputs.items() if value.shape == ids.shape}
        if (types := self.family.token_types) is not None and types not in planes:
            planes[types] = self._types(ids[0])  # PaliGemma's gives none where control tokens are kept as text
        return EncodedPrompt(
            sample_id=row_id,
            input_ids=torch.cat([ids[0], prefix]),
            vision=self._whole_patches({name: value for name, value in outputs.items() if name not in planes}),
            token_types={name: torch.cat([plane, torch.full_like(prefix, kind)]) for name, plane in planes.items()},
            answer_type=kind,
            position_ids=self._positions(ids.shape[1] + len(prefix), (), {}),
        )

    def _whole_patches(self, vision: dict[str, Tensor]) -> dict[str, Tensor]:
        """Images under a mask without what their tower drops at the right and below, being less than a patch: beside
        larger images of a batch it would make another patch."""
        patch, mask = self.family.patch, vision.get("pixel_attention_mask")
        if patch is None or mask is None or mask.dim() < 3:
            return vision
        height, width = (side // patch * patch for side in mask.shape[-2:])
        return {
            name: value[..., :height, :width] if value.shape[-2:] == mask.shape[-2:] else value
            for name, value in vision.items()
        }

    def _written_by_processor(
        self, row_id: str, text: Turns, pixels: Sequence[Any], max_pixels: int | None
    ) -> dict[str, Tensor]:
        return self.chat.prompt_by_processor(row_id, self._processor, text, pixels, self.images.options(max_pixels))

    @staticmethod
    def _check_places(row_id: str, messages: Sequence[Message], num_images: int) -> None:
        places = sum(message.num_images for message in messages)
        if places != num_images:
            raise fault(row_id, "placeholder_count", f"has {places} image places in its prompt and {num_images} images")

    def _check_written(self, row_id: str, text: Turns, num_images: int) -> None:
        image_token = self.chat.image_token_id
        written = 0 if image_token is None else [*text.prompt, *text.prefix].count(image_token)
        if written != num_images:
            raise fault(
                row_id, "placeholder_count", f"has {num_images} images, and the model's chat template wrote "
                f"{written} places for them: this template cannot show images in that position"
            )  # fmt: skip

    def _positions(self, length: int, starts: Sequence[int], vision: Mapping[str, Tensor]) -> Tensor | None:
        if not (self.family.shared_prefix or self.family.mrope):
            return None
        return multimodal(length, starts, self.images.grids(vision)) if self.family.mrope else in_sequence(length)
