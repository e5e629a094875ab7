"""One preference pair, or one question, as tensors: text by the model's own template, images by its own processor.

Shapes: T prompt tokens (image and video tokens counted), C and R answer tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mmpref.processing.chat.conversation import ChatEncoder, Turns
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.errors import EncodeError, fault
from mmpref.processing.family import Family
from mmpref.processing.image_rows import image_row
from mmpref.processing.other_images import OpenedOnce, OtherImages, OtherImageSettings, normal_of, other_refs
from mmpref.processing.pixels import OWN_SIZES, ImageEncoder, ImageSettings, LoadImage, blank
from mmpref.processing.positions import Grid, continued, in_sequence, multimodal
from mmpref.processing.rope_lengths import AS_SHORT, Reading, length_in_positions
from mmpref.processing.token_weights import (
    TokenWeightSettings,
    checked_weight,
    refuse_without_weight,
    token_weights,
)
from mmpref.processing.videos import LoadVideo, Run, VideoEncoder
from mmpref.records import ImageRef, Message, PreferencePair, PromptKey, VideoRef, VideoShape

Prompts: TypeAlias = MutableMapping[Hashable, EncodedPrompt]
"""Encoded prompts by all that they are made of; good for one batch, because they hold its pixels."""

PromptWith: TypeAlias = Callable[[tuple[ImageRef, ...], LoadImage], EncodedPrompt]
"""Encodes a pair's prompt with these images, opened in this way."""


class _Shown(NamedTuple):
    """What a prompt shows, who opens it, and the most pixels of one image or frame, where that is less than usual."""

    images: tuple[ImageRef, ...]
    load_image: LoadImage
    videos: tuple[VideoRef, ...] = ()
    load_video: LoadVideo | None = None
    max_pixels: int | None = None


class PairEncoder:
    """Encodes pairs and questions for one model. It can be pickled, so that loader workers can have it.

    Args:
        processor: the model's processor, or the tokenizer of a text-only model.
        family: the model's row of facts.
        max_length: tokens of prompt + answer at most. Tails of answers are cut to fit, on both sides by the same rule,
            and a cut answer has no end-of-turn token; prompts, image and video tokens are never cut.
        images: resolution and cache of processed images.
        video_max_pixels: the most pixels of one frame of a video; None is the bound of the model's own video settings.
        template_kwargs: what the chat template reads beside the conversation; a pair's own stand over them.
        budgets: prompt -> max_pixels of its images and frames, for pairs that would be too long otherwise
            (``length_plan.plan_fit``).
        other_image: give every pair with images another image in the place of each; None for losses that do not look
            at one.
        token_weights: what each token of an answer counts; None: every one 1, whatever weights rows have.

    Attributes:
        names_images: whether prompts get their ``image_row``; their pixels are hashed for it.
        lift_image: gives every pair with images a ``lift_prompt`` too, whatever the loss looks at.
        epoch: in which pairs are encoded, counted from 0, for images that are made anew in each.

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
        video_max_pixels: int | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        budgets: Mapping[PromptKey, int] | None = None,
        other_image: OtherImageSettings | None = None,
        token_weights: TokenWeightSettings | None = None,
    ) -> None:
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {max_length}")
        self.family = family
        self.max_length = max_length
        self.chat = ChatEncoder(processor, template_kwargs)
        self.budgets = dict(budgets or {})
        self.names_images = False
        self.other_image = other_image
        self.lift_image: OtherImageSettings | None = None
        self.epoch = 0
        self.token_weights = token_weights
        self._processor = processor
        self.images = ImageEncoder(processor, family, images)
        self.videos = VideoEncoder(processor, family, max_pixels=video_max_pixels, cache_bytes=images.cache_bytes)

    def encode_text(self, pair: PreferencePair) -> Turns:
        """The half of :meth:`encode` that needs no image; its result may be kept and handed to ``encode``."""
        self._refuse_images(pair.id, pair.images)
        if pair.videos or any(message.num_videos for message in pair.prompt):
            self.videos.refuse(pair.id)
        answers = [pair.chosen] if pair.rejected is None else [pair.chosen, pair.rejected]
        return self.chat.encode(
            pair.id,
            pair.prompt,
            answers,
            response_prefix=pair.response_prefix,
            template_kwargs=pair.template_kwargs,
        )

    def encode(
        self,
        pair: PreferencePair,
        load_image: LoadImage,
        load_video: LoadVideo | None = None,
        *,
        text: Turns | None = None,
        prompts: Prompts | None = None,
    ) -> EncodedPair:
        """The pair as tensors; each image and video is loaded and processed once.

        Args:
            load_video: gives the frames of a video that are shown; needed by rows with videos.
            prompts: takes each prompt that is encoded, and gives it to pairs that have the same one: they get the very
                same object, and its images are loaded and processed once for all of them.

        Raises:
            EncodeError: the row cannot be used; ``reason`` says why.
            DataError: whatever ``load_image`` and ``load_video`` raise.
        """
        text = text if text is not None else self.encode_text(pair)
        prompts = {} if prompts is None else prompts

        budget = self.budgets.get(pair.prompt_key) if self.budgets else None

        def prompt_with(images: tuple[ImageRef, ...], opens: LoadImage) -> EncodedPrompt:
            # made images are told apart by who makes them
            key: Hashable = (images, opens, pair.videos, text.prompt, text.prefix, text.text, budget)
            if key not in prompts:
                shown = _Shown(images, opens, pair.videos, load_video, budget)
                made = self._prompt(pair.id, pair.prompt, text, shown)
                # a loader worker moves a batch's tensors into memory that it shares with others
                prompts[key] = made.with_own_pixels() if self.images.has_cache else made
            return prompts[key]

        once = None if self.other_image is None and self.lift_image is None else OpenedOnce(load_image)
        other_prompt = lift_prompt = None
        try:
            prompt = prompt_with(pair.images, once or load_image)
            if once is not None and pair.images and self.other_image is not None:
                other_prompt = self._other_prompt(pair, once, prompt_with, self.other_image)
            if once is not None and pair.images and self.lift_image is not None:
                lift_prompt = self._lift_prompt(pair, once, prompt_with, self.lift_image)
            rejected_prompt = None
            if pair.rejected is not None and pair.rejected_images is not None and not pair.has_same_images:
                rejected_prompt = prompt_with(pair.rejected_images, once or load_image)
        finally:
            if once is not None:
                once.forget()  # it stays a part of keys
        # all sides are cut by the same rule, also where their images leave them different space
        longer = max((prompt, rejected_prompt or prompt, other_prompt or prompt), key=len)
        vision = sum(longer.image_tokens) + sum(longer.video_tokens)
        space = self.answer_space(pair.id, len(longer), vision, counts=(len(pair.images), len(pair.videos)))
        if len(text.answers) > 1 and pair.has_same_images:
            self.refuse_identical(pair.id, text.answers, space)
        answers = [torch.tensor(answer[:space], dtype=torch.long) for answer in text.answers]
        chosen, rejected = answers[0], answers[1] if len(answers) > 1 else None
        cut = sum(map(len, text.answers)) - sum(map(len, answers))
        self._refuse_beyond_places(pair.id, len(longer) + max(map(len, answers)))
        mismatched = self._mismatched(pair, prompt, space)
        weights = self.weights(pair, text, space)
        return EncodedPair(
            prompt=prompt,
            chosen_ids=chosen,
            rejected_ids=rejected,
            rejected_prompt=rejected_prompt,
            readings=(self._reading(prompt, chosen), self._reading(rejected_prompt or prompt, answers[-1])),
            score_chosen=pair.score_chosen,
            score_rejected=pair.score_rejected,
            num_cut=cut,
            row_id=pair.id,
            other_prompt=other_prompt,
            other_reading=self._reading(other_prompt or prompt, chosen),
            desirable=pair.label,
            mismatched_ids=mismatched,
            mismatched_reading=AS_SHORT if mismatched is None else self._reading(prompt, mismatched),
            chosen_weights=weights[0],
            rejected_weights=weights[1],
            weight=checked_weight(pair),
            lift_prompt=lift_prompt,
        )

    def _mismatched(self, pair: PreferencePair, prompt: EncodedPrompt, space: int | None) -> Tensor | None:
        """Ids of the mismatched answer, cut where it does not fit: [L]."""
        if pair.mismatched is None:
            return None
        [answer] = self.chat.encode(
            pair.id,
            pair.prompt,
            [pair.mismatched],
            response_prefix=pair.response_prefix,
            template_kwargs=pair.template_kwargs,
        ).answers
        limits = [space, None if self.family.places is None else self.family.places - len(prompt)]
        most = min((limit for limit in limits if limit is not None), default=len(answer))
        return torch.tensor(answer[:most], dtype=torch.long)

    def _other_prompt(
        self,
        pair: PreferencePair,
        load_image: LoadImage,
        prompt_with: PromptWith,
        settings: OtherImageSettings,
    ) -> EncodedPrompt:
        """The prompt of a pair with images, with another image in the place of each."""
        opens = OtherImages.of(pair, settings, load_image, epoch=self.epoch, normal=normal_of(self._processor))
        return prompt_with(other_refs(pair, settings), opens)

    def _lift_prompt(
        self, pair: PreferencePair, load_image: LoadImage, prompt_with: PromptWith, settings: OtherImageSettings
    ) -> EncodedPrompt | None:
        """The same for a look at both answers; None where no other image can be made of one of its own (a blank one
        of an image of one colour): such a pair is trained on all the same, and is left out of what is measured."""
        try:
            return self._other_prompt(pair, load_image, prompt_with, settings)
        except EncodeError as err:
            if err.reason != "other_image":
                raise
            return None

    def weights(self, pair: PreferencePair, text: Turns, space: int | None) -> tuple[Tensor | None, Tensor | None]:
        """What the tokens of the chosen answer [C] and of the rejected one [R] count; None: every one 1.

        Answers are compared whole, and cut to ``space`` tokens afterwards.

        Raises:
            EncodeError: weights that cannot be used, or that leave an answer without a token that counts.
        """
        if self.token_weights is None:
            return None, None
        whole = token_weights(pair, text.answers, self.token_weights, self.chat.decoded)
        chosen, rejected = (None if one is None else one[:space] for one in whole)
        refuse_without_weight(pair, (chosen, rejected), self.token_weights)
        return chosen, rejected

    def _refuse_beyond_places(self, row_id: str, length: int) -> None:
        if (places := self.family.places) is not None and length > places:
            raise fault(
                row_id, "too_long_prompt", f"has {length} tokens with its longer answer, and this model has places for "
                f"{places} only; set processing.max_length to {places}"
            )  # fmt: skip

    def _reading(self, prompt: EncodedPrompt, answer: Tensor) -> Reading:
        """How the model reads the prompt before this answer."""
        rope, places = self.family.rope_lengths, prompt.position_ids
        if rope is None or places is None or not len(answer):
            return AS_SHORT
        return rope.reading(max(length_in_positions(places), length_in_positions(continued(places, len(answer)))))

    def answered(self, row_id: str, prompt: EncodedPrompt, answer: Sequence[int]) -> EncodedPair:
        """A prompt with an answer that a model wrote, given by its token ids, as a demonstration."""
        ids = torch.tensor(answer, dtype=torch.long)
        reading = self._reading(prompt, ids)
        return EncodedPair(prompt=prompt, chosen_ids=ids, rejected_ids=None, readings=(reading, reading), row_id=row_id)

    def encode_prompt(
        self,
        sample_id: str,
        prompt: tuple[Message, ...],
        images: tuple[ImageRef, ...],
        load_image: LoadImage,
        response_prefix: str = "",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> EncodedPrompt:
        """What the model reads before it answers, for generation. Raises as :meth:`encode` does.

        Questions have no videos: one with a place for a video is refused.
        """
        self._refuse_images(sample_id, images)
        if any(message.num_videos for message in prompt):
            raise fault(sample_id, "video", "asks about a video, and questions are answered from images and text only")
        text = self.chat.encode(sample_id, prompt, (), response_prefix=response_prefix, template_kwargs=template_kwargs)
        encoded = self._prompt(sample_id, prompt, text, _Shown(images, load_image))
        self.answer_space(sample_id, len(encoded), sum(encoded.image_tokens), counts=(len(images), 0))
        return encoded

    def prompt_length(
        self,
        pair: PreferencePair,
        text: Turns,
        sizes: Sequence[tuple[int, int]],
        shapes: Sequence[VideoShape] = (),
        *,
        max_pixels: int | None = None,
    ) -> tuple[int, int]:
        """(tokens of the prompt, image and video tokens among them) with images of these sizes (width, height) and
        videos of these shapes.

        By arithmetic where a family repeats one token for an image; else the processor writes the prompt around blank
        images of the same sizes (it may put more than images into it: Janus a system prompt), and image tokens are not
        counted (0).

        Args:
            max_pixels: a smaller bound of each image and frame.

        Raises:
            EncodeError: as :meth:`encode`.
        """
        self._check_places(pair.id, pair.prompt, len(sizes), len(shapes))
        written = len(text.prompt) + len(text.prefix)
        if not self.chat.sees_images or (not sizes and not shapes and self.family.repeats_image_token):
            return written, 0
        if self.family.repeats_image_token:
            self._check_written(pair.id, text, len(sizes), len(shapes))
            images = sum(self.images.count(pair.id, sizes, max_pixels=max_pixels)) if sizes else 0
            runs = [run for video in self.videos.runs(pair.id, shapes, max_pixels=max_pixels) for run in video]
            videos = sum(run.num_tokens for run in runs)
            between = sum(len(ids) for run in runs for ids in self._around(run))
            places = len(sizes) + len(shapes)
            return written - places + images + videos + between, images + videos
        blanks = [blank(width, height) for width, height in sizes]
        outputs = self._written_by_processor(pair.id, text, blanks, max_pixels)
        return int(outputs["input_ids"].shape[1]) + len(text.prefix), 0

    def answer_space(
        self, row_id: str, prompt: int, vision_tokens: int = 0, *, counts: tuple[int, int] = (0, 0)
    ) -> int | None:
        """Tokens left for an answer after a prompt of this length, at least one; None means no limit.

        Args:
            vision_tokens: those of images and videos among them.
            counts: the row's images and videos, for what is advised where no token is left.

        Raises:
            EncodeError: the prompt leaves none (``too_long_prompt``).
        """
        if self.max_length is None:
            return None
        space = self.max_length - prompt
        if space < 1:
            what = " and ".join(name for name, count in zip(("images", "videos"), counts, strict=True) if count)
            vision = f", {vision_tokens} of them for {what}" if vision_tokens and what else ""
            raise fault(
                row_id, "too_long_prompt", f"has a prompt of {prompt} tokens{vision}, which leaves no space for an "
                f"answer in max_length {self.max_length}; raise processing.max_length{self._shorter(*counts)}"
            )  # fmt: skip
        return space

    def _shorter(self, num_images: int, num_videos: int) -> str:
        """What else makes a prompt with so many images and videos shorter, to go on with."""
        keys = ["max_pixels"] if num_images and self.family.has_pixel_budget else []
        if num_videos:
            # of a video, which keeps a least size and of Qwen3-VL the times of its frames, fewer frames help most
            is_sized = self.family.video is not None and self.family.video.form == "patches"
            keys += ["video_max_frames", *(["video_max_pixels"] if is_sized else [])]
        return " or lower " + " and ".join(f"processing.{key}" for key in keys) if keys else ""

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
        self,
        row_id: str,
        messages: Sequence[Message],
        text: Turns,
        shown: _Shown,
    ) -> EncodedPrompt:
        self._check_places(row_id, messages, len(shown.images), len(shown.videos))
        if self.family.repeats_image_token or not self.chat.sees_images:
            found = self._expanded_here(row_id, text, shown)
        else:
            found = self._expanded_by_processor(row_id, text, shown)
        if self.names_images and shown.images and not shown.videos:
            found = dataclasses.replace(found, image_row=image_row(found.vision))
        return found

    def _expanded_here(self, row_id: str, text: Turns, shown: _Shown) -> EncodedPrompt:
        """Repeat each image and video place as often as it has features."""
        images, load_image, videos, load_video, budget = shown
        self._check_written(row_id, text, len(images), len(videos))
        encoded = self.images.encode(row_id, images, load_image, max_pixels=budget)
        films = self.videos.encode(row_id, videos, load_video, max_pixels=budget)
        sides = iter(self.images.grids(encoded.vision) if self.family.mrope else ())
        counts, runs = iter(encoded.tokens), iter(films.runs)
        expanded: list[int] = []
        grids: list[Grid] = []
        for token in [*text.prompt, *text.prefix]:
            if images and token == self.chat.image_token_id:
                if self.family.mrope:
                    grids.append(Grid(len(expanded), *next(sides)))
                expanded.extend([token] * next(counts))
            elif videos and token == self.chat.video_token_id:
                for run in next(runs):
                    before, after = self._around(run)
                    expanded.extend(before)
                    grids.append(Grid(len(expanded), run.rows, run.columns, run.patches, run.interval))
                    expanded.extend([*[token] * run.num_tokens, *after])
            else:
                expanded.append(token)
        input_ids = torch.tensor(expanded, dtype=torch.long)
        token_types: dict[str, Tensor] = {}
        if self.family.token_types is not None:
            token_types[self.family.token_types] = self._types(input_ids)
            token_types[self.family.token_types][len(expanded) - len(text.prefix) :] = self._answer_type
        return EncodedPrompt(
            sample_id=row_id,
            input_ids=input_ids,
            vision={**encoded.vision, **films.vision},
            image_tokens=encoded.tokens,
            video_tokens=tuple(sum(run.num_tokens for run in video) for video in films.runs),
            video_frames=films.frames,
            token_types=token_types,
            answer_type=self._answer_type,
            position_ids=self._positions(len(expanded), grids),
        )

    def _types(self, prompt: Tensor) -> Tensor:
        """The type that the model is given of each token of a prompt: [T]."""
        if self.family.prefix_lm is not None:
            return torch.full_like(prompt, self.family.prefix_lm[0])
        found = torch.zeros_like(prompt)
        for kind, token in ((1, self.chat.image_token_id), (2, self.chat.video_token_id)):
            if token is not None:
                found[prompt == token] = kind
        return found

    @property
    def _answer_type(self) -> int:
        return 0 if self.family.prefix_lm is None else self.family.prefix_lm[1]

    def _expanded_by_processor(self, row_id: str, text: Turns, shown: _Shown) -> EncodedPrompt:
        """Let the processor write the prompt, for models whose images become more than one repeated token."""
        pixels = [shown.load_image(image) for image in shown.images]
        outputs = self._written_by_processor(row_id, text, pixels, shown.max_pixels)
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
            position_ids=self._positions(ids.shape[1] + len(prefix), ()),
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
    def _check_places(row_id: str, messages: Sequence[Message], num_images: int, num_videos: int) -> None:
        places = sum(message.num_images for message in messages)
        if places != num_images:
            raise fault(row_id, "placeholder_count", f"has {places} image places in its prompt and {num_images} images")
        places = sum(message.num_videos for message in messages)
        if places != num_videos:
            raise fault(row_id, "placeholder_count", f"has {places} video places in its prompt and {num_videos} videos")

    def _check_written(self, row_id: str, text: Turns, num_images: int, num_videos: int) -> None:
        ids = [*text.prompt, *text.prefix]
        kinds = [("images", self.chat.image_token_id, num_images)]
        if num_videos:  # of other rows a token of this name may be plain text
            kinds.append(("videos", self.chat.video_token_id, num_videos))
        for kind, token, count in kinds:
            written = 0 if token is None else ids.count(token)
            if written != count:
                raise fault(
                    row_id, "placeholder_count", f"has {count} {kind}, and the model's chat template wrote {written} "
                    "places for them: this template cannot show them in that position"
                )  # fmt: skip
        if num_videos and self.family.video is not None and self.family.video.time == "text":
            special = self.chat.tokenizer.added_tokens_decoder
            before = [ids[at - 1] for at, token in enumerate(ids) if token == self.chat.video_token_id and at]
            if any(token not in special for token in before):  # the time would be joined with the text before it
                raise fault(
                    row_id, "video", "has a video, and the model's chat template writes no token of its own before the "
                    "place of a video; use the model's own template"
                )  # fmt: skip

    def _around(self, run: Run) -> tuple[list[int], list[int]]:
        """Ids that are written before and after a run of video tokens; none but around one that has its time."""
        if not run.time:
            return [], []
        opening, closing = self._marks_of_a_patch
        return [*self.chat.template.ids(run.time), opening], [closing]

    @cached_property
    def _marks_of_a_patch(self) -> tuple[int, int]:
        return int(self._processor.vision_start_token_id), int(self._processor.vision_end_token_id)

    def _positions(self, length: int, grids: Sequence[Grid]) -> Tensor | None:
        if not (self.family.shared_prefix or self.family.mrope):
            return None
        return multimodal(length, grids) if self.family.mrope else in_sequence(length)
