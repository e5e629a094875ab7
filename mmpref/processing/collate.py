"""Pairs to batches, in loader workers: images are decoded once per prompt, values are checked here, on the host."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmpref.errors import ConfigError, DataError
from mmpref.processing.batch import PairBatch, join_vision, pad_rows
from mmpref.processing.cross_attention import SEEN, num_images, row_by_row
from mmpref.processing.encode import PairEncoder, Prompts
from mmpref.processing.encoded import EncodedPair, EncodedPrompt, answer_keys
from mmpref.processing.errors import EncodeError, fault
from mmpref.processing.image_rows import LoadFeatures
from mmpref.processing.layout import LayoutName, plain_batch, shared_prefix_batch, sides_of
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.pixels import LoadImage
from mmpref.processing.row_parts import parts_of
from mmpref.processing.videos import LoadVideo
from mmpref.records import PreferencePair


class PairCollator:
    """``collate_fn`` of a DataLoader over pairs. It can be pickled when ``load_image`` and ``load_video`` can.

    Args:
        encoder: encodes one pair.
        load_image: opens one image; called in the worker.
        load_video: gives the frames of one video that are shown; needed by pairs with videos.
        layout: ``shared_prefix`` or ``plain``; None takes the first where the family can (``models.choose_layout``
            knows the model as well, and says why).
        pad_token_id: fills up shorter rows (its value is masked everywhere); None takes the tokenizer's own.
        need_rejected: False for losses that read the chosen side only: then no rejected answer is run.
        need_other: True for losses that look at the chosen answer under another image too; ``encoder`` says which.
        need_mismatched: True for losses of single answers: batches get their ``mismatched`` answers.
        row_tokens: the most tokens that the model shall run over at once, for :meth:`rows`; None sets no limit.
        keyed: give batches their ``keys``.

    Raises:
        ConfigError: other images are needed, and the encoder has none.
    """

    def __init__(
        self,
        encoder: PairEncoder,
        load_image: LoadImage,
        load_video: LoadVideo | None = None,
        *,
        layout: LayoutName | None = None,
        pad_token_id: int | None = None,
        need_rejected: bool = True,
        need_other: bool = False,
        need_mismatched: bool = False,
        row_tokens: int | None = None,
        keyed: bool = False,
    ) -> None:
        self.keyed = keyed
        self.filler: PreferencePair | None = None
        self.always_images = False
        self.load_features: LoadFeatures | None = None
        self.encoder = encoder
        self.load_image = load_image
        self.load_video = load_video
        self.layout: LayoutName = layout or ("shared_prefix" if encoder.family.shared_prefix else "plain")
        self.pad_token_id = encoder.chat.pad_token_id if pad_token_id is None else pad_token_id
        self.need_rejected = need_rejected
        self.need_other = need_other
        self.need_mismatched = need_mismatched
        self.row_tokens = row_tokens
        self._refuse_without_other()

    def __call__(self, pairs: Sequence[PreferencePair]) -> PairBatch:
        """All pairs as one batch, in their order; those of one prompt share it and its images."""
        return self._batch(self.encoded(pairs))

    def rows(self, pairs: Sequence[PreferencePair]) -> tuple[PairBatch, ...]:
        """As few batches as ``row_tokens`` allows (``parts_of``); a longer pair has a batch of its own.

        No pairs are one batch of the filler, or none without one.
        """
        return self.rows_of(self.encoded(pairs))

    def encoded(self, pairs: Sequence[PreferencePair]) -> list[EncodedPair]:
        """The pairs as tensors, in order; those of one prompt have the same prompt object.

        Raises:
            DataError: one cannot be used; names it, and the file that it is from.
        """
        prompts: dict[Hashable, EncodedPrompt] = {}
        return [self._encoded(pair, prompts) for pair in pairs]

    def rows_of(self, encoded: Sequence[EncodedPair]) -> tuple[PairBatch, ...]:
        """:meth:`rows` of pairs that are encoded already."""
        needs = {"need_rejected": self.need_rejected, "need_other": self.need_other}
        parts = list(parts_of(encoded, self.row_tokens, self.layout, **needs))
        if not encoded:
            parts = [] if self.filler is None else [[]]
        return tuple(self._filled(part) for part in parts)

    def changed(
        self,
        *,
        layout: LayoutName | None = None,
        need_rejected: bool | None = None,
        need_other: bool | None = None,
        need_mismatched: bool | None = None,
    ) -> PairCollator:
        """The same collator in another layout, or with other sides than the loss reads."""
        other = copy.copy(self)
        other.layout = layout or self.layout
        other.need_rejected = self.need_rejected if need_rejected is None else need_rejected
        other.need_other = self.need_other if need_other is None else need_other
        other.need_mismatched = self.need_mismatched if need_mismatched is None else need_mismatched
        other._refuse_without_other()
        return other

    def of_chosen(self) -> PairCollator:
        """The same collator of chosen answers alone."""
        return self.changed(need_rejected=False, need_other=False, need_mismatched=False)

    def _refuse_without_other(self) -> None:
        if self.need_other and self.encoder.other_image is None:
            raise ConfigError(
                "the loss looks at another image, and the encoder gives none: make it with "
                "PairEncoder(..., other_image=OtherImageSettings(source=..., kind=...))"
            )

    def in_epoch(self, epoch: int) -> PairCollator:
        """The same collator for an epoch, counted from 0, where each has other images of its own."""
        other = copy.copy(self)
        other.encoder = copy.copy(self.encoder)
        other.encoder.epoch = epoch
        return other

    def with_features(self, load: LoadFeatures | None) -> PairCollator:
        """The same collator, whose batches bring what the tower made of their images where ``load`` has it.

        Args:
            load: called in the worker; None gives batches whose images the tower always runs over.
        """
        other = copy.copy(self)
        other.encoder = copy.copy(self.encoder)
        other.encoder.names_images = load is not None
        other.load_features = load
        return other

    def filled(self, filler: PreferencePair, *, always_images: bool) -> PairCollator:
        """The same collator, with a pair without weight for :meth:`rows` that would run nothing.

        Args:
            always_images: the filler has an image, and batches without one get it too: then every batch runs every
                part of the model.
        """
        other = copy.copy(self)
        other.filler, other.always_images = filler, always_images
        return other

    def _filled(self, pairs: Sequence[EncodedPair]) -> PairBatch:
        if self.filler is None or (pairs and not (self.always_images and not any(pair.vision for pair in pairs))):
            return self._batch(pairs)
        [filler] = self.encoded([self.filler])
        return replace(self._batch([*pairs, filler]), num_dummy_pairs=1)

    def _encoded(self, pair: PreferencePair, prompts: Prompts) -> EncodedPair:
        try:
            return self.encoder.encode(pair, self.load_image, self.load_video, prompts=prompts)
        except EncodeError:
            raise
        except DataError as err:  # an image that was lost since the start, or whose header alone was looked at
            where = f" of {pair.source}" if pair.source else ""
            raise DataError(f"row '{pair.id}'{where}: {err}; mmpref data check finds such rows") from err

    def lifting(self, settings: OtherImageSettings | None) -> PairCollator:
        """The same collator, whose batches bring both answers of each pair under another image (``lifted``).

        Args:
            settings: of these images, whatever others the loss looks at; None gives batches without.
        """
        if self.encoder.lift_image == settings:
            return self
        other = copy.copy(self)
        other.encoder = copy.copy(self.encoder)
        other.encoder.lift_image = settings
        return other

    def _batch(self, pairs: Sequence[EncodedPair]) -> PairBatch:
        batch = self._shown(pairs)
        if any(pair.lift_prompt is not None for pair in pairs):
            sides = [[pair.lift_prompt is not None for pair in pairs], [pair.lifts_rejected for pair in pairs]]
            lifted = self._shown([pair.lifted() for pair in pairs], need_other=False)
            batch = replace(batch, lifted=lifted, lift_sides=torch.tensor(sides))
        if self.need_mismatched:
            mismatched = self.of_chosen().lifting(None)._batch([pair.with_mismatched() for pair in pairs])
            batch = replace(batch, mismatched=mismatched)
        if not self.keyed:
            return batch
        return replace(batch, keys=answer_keys(pairs, rejected=batch.has_rejected, other=batch.has_other is not None))

    def _shown(self, pairs: Sequence[EncodedPair], *, need_other: bool | None = None) -> PairBatch:
        batch = collate_pairs(
            pairs,
            self.pad_token_id,
            layout=self.layout,
            need_rejected=self.need_rejected,
            need_other=self.need_other if need_other is None else need_other,
            image_token_id=self.encoder.chat.image_token_id,
            video_token_id=self.encoder.chat.video_token_id,
        )
        if self.load_features is not None and batch.image_rows:
            batch = replace(batch, features=self.load_features(batch.image_rows))
        return batch


def collate_pairs(
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    *,
    layout: LayoutName,
    need_rejected: bool = True,
    need_other: bool = False,
    image_token_id: int | None = None,
    video_token_id: int | None = None,
) -> PairBatch:
    """Encoded pairs as one batch.

    Args:
        image_token_id, video_token_id: if given, such tokens of every prompt are counted against its own images and
            videos.

    Raises:
        DataError: a demonstration where both answers are needed.
        EncodeError: a prompt whose image tokens are not those of its images, one that has other tokens with the other
            image, or an answer without tokens.
    """
    for pair in pairs:
        _check_other(pair)
    sides = (side for pair in pairs for side in sides_of(pair, need_rejected, need_other) if side is not None)
    prompts = {id(side.prompt): side.prompt for side in sides}
    for prompt in prompts.values():
        _check_image_tokens(prompt, image_token_id)
        _check_video_tokens(prompt, video_token_id)
    if layout == "shared_prefix":
        batch = shared_prefix_batch(pairs, need_rejected=need_rejected, need_other=need_other)
    else:
        batch = plain_batch(pairs, pad_token_id, need_rejected=need_rejected, need_other=need_other)
    shown = {"image": image_token_id, "video": video_token_id if batch.has_videos else None}
    ids = batch.input_ids.flatten()
    for kind, token in shown.items():
        places = None if token is None or not batch.vision else (ids == token).nonzero().flatten()
        if places is not None and len(places):
            batch = replace(batch, **{f"{kind}_token_id": token, f"{kind}_places": places})  # type: ignore[arg-type]
    return batch


def collate_prompts(
    prompts: Sequence[EncodedPrompt], pad_token_id: int, *, image_token_id: int | None = None
) -> dict[str, Tensor]:
    """Keyword arguments of ``model.generate`` for several prompts, padded on the left."""
    for prompt in prompts:
        _check_image_tokens(prompt, image_token_id)
    names = {name for prompt in prompts for name in prompt.token_types}
    types = {name: [prompt.types_or_zeros(name) for prompt in prompts] for name in sorted(names)}
    rows = [prompt.vision for prompt in prompts]
    if any(map(num_images, rows)):
        lengths = [len(prompt) for prompt in prompts]
        vision, seen, _ = row_by_row(rows, lengths, max(lengths), left=True)
        vision[SEEN] = seen.long()
    else:
        vision = join_vision(rows)
    return {
        "input_ids": pad_rows([prompt.input_ids for prompt in prompts], pad_token_id, left=True),
        "attention_mask": pad_rows([torch.ones_like(prompt.input_ids) for prompt in prompts], 0, left=True),
        **{name: pad_rows(planes, 0, left=True) for name, planes in types.items()},
        **vision,
    }


def _check_other(pair: EncodedPair) -> None:
    """Both looks at the chosen answer must count the same tokens, which stand behind as many."""
    if pair.other_prompt is not None and not torch.equal(pair.other_prompt.input_ids, pair.prompt.input_ids):
        detail = (
            f"has {len(pair.prompt)} tokens before its answer, and {len(pair.other_prompt)} or others with the other "
            "image: give images of the same size"
        )
        raise fault(pair.pair_id, "other_image", detail)


def _check_image_tokens(prompt: EncodedPrompt, image_token_id: int | None) -> None:
    """Models compare totals of a batch only, so two wrong rows can make up for each other and swap their images."""
    if image_token_id is None or (prompt.vision and not prompt.image_tokens and not prompt.video_tokens):
        return
    found, want = int((prompt.input_ids == image_token_id).sum()), sum(prompt.image_tokens)
    if found != want:
        detail = f"has {found} image tokens, and its own images have {want} features"
        raise fault(prompt.sample_id, "placeholder_count", detail)


def _check_video_tokens(prompt: EncodedPrompt, video_token_id: int | None) -> None:
    if video_token_id is None or not prompt.video_tokens:
        return
    found, want = int((prompt.input_ids == video_token_id).sum()), sum(prompt.video_tokens)
    if found != want:
        detail = f"has {found} video tokens, and its own videos have {want} features"
        raise fault(prompt.sample_id, "placeholder_count", detail)
