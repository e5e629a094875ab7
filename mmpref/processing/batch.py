"""A batch of pairs as the model runs them. This is the only place that knows the order of chosen and rejected.

Two layouts. *Shared prefix*: one row without padding, in which every prompt appears once and all its answers follow it,
``[prompt | answer | answer | ... | next prompt | ...]``, with positions that start again for each answer. *Plain*: one
padded row for each answer, with its own copy of the prompt. In both, an answer that stands in several pairs of one
prompt is run once, and its log-probs are those of each of these pairs.

Shapes: B pairs, A answers (B chosen ones, then B rejected ones where there is a rejected side, then B chosen ones under
another image where there is such a side), N rows, T tokens, K positions at which an
answer token is predicted, L tokens of the longest answer, M tokens of all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmpref.errors import DataError
from mmpref.processing.cross_attention import Crossing
from mmpref.processing.image_rows import ImageRow


class Branch(NamedTuple):
    """Tokens that lie side by side in the packed row and go on from what stands before them in their sequence.

    The sequence of a branch is the first ``at`` tokens of its parent's sequence, and then its own.
    """

    parent: int  # number of the branch that it goes on from; -1 for the first of a segment, which goes on from nothing
    at: int  # tokens before it in its sequence
    length: int  # tokens of its own


class Segment(NamedTuple):
    """Where one prompt and the answers that continue it lie in the packed row: a tree of tokens.

    The first branch is the prompt with the first answer. Each further answer is one more branch, which begins where it
    differs from those before it: behind the prompt, or behind what it has in common with one of them.
    """

    start: int
    branches: tuple[Branch, ...]

    @classmethod
    def of(cls, start: int, prefix: int, *answers: int) -> Segment:
        """A prefix of so many tokens and answers of so many, which have no more in common than the prefix."""
        first, *others = answers or (0,)
        rest = (Branch(0, prefix, length) for length in others if length)
        return cls(start, (Branch(-1, 0, prefix + first), *rest))

    @property
    def num_tokens(self) -> int:
        """Tokens in the row."""
        return sum(branch.length for branch in self.branches)

    @property
    def end(self) -> int:
        """The first token behind the segment."""
        return self.start + self.num_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: the prompt with its longest answer."""
        return max(branch.at + branch.length for branch in self.branches)

    @property
    def starts(self) -> tuple[int, ...]:
        """Place in the row at which each branch begins."""
        return tuple(accumulate((branch.length for branch in self.branches[:-1]), initial=self.start))


class BySide(NamedTuple):
    """Something of every answer, side by side: [B, ...] each; None for a side that the batch does not have."""

    chosen: Tensor
    rejected: Tensor | None = None
    other: Tensor | None = None
    """Of the chosen answers under another image; where ``has_other`` is False a pair has none, and the value is 0."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBatch:
    """B pairs, ready for the model. Answer i is the chosen one of pair i, answer B+i its rejected one, and the last B
    answers are the chosen ones under another image, where there are such.
    """

    input_ids: Tensor  # [N, T]; N = 1 with a shared prefix, else padded on the right
    predicts: Tensor  # [K] places in the N * T tokens whose output predicts a counted answer token
    targets: Tensor  # [K] the token that stands after each of them
    answers: (
        Tensor  # [A, L] which of the K belong to each answer, in order; answers share some; K fills up shorter rows
    )
    answer_lens: Tensor  # [A] counted tokens of each answer
    pair_ids: tuple[str, ...]  # length B
    attention_mask: Tensor | None = None  # [N, T] 1 = real token; None with a shared prefix, where every token is
    position_ids: Tensor | None = None  # [1, T] or [3, N, T]; None lets the model count (never with a shared prefix)
    segments: tuple[Segment, ...] = ()  # with a shared prefix; () in the plain layout
    vision: Mapping[str, Tensor] = field(default_factory=dict)  # images and videos of all rows, in order; {} for text
    # of models that see images by cross-attention (``processing.cross_attention``)
    cross_seen: Tensor | None = None  # [N, T, I, F] which tiles of its own images each token sees
    crossings: tuple[Crossing, ...] = ()  # which images are whose
    token_types: Mapping[str, Tensor] = field(default_factory=dict)  # [N, T] each: mm_token_type_ids and the like
    score_chosen: Tensor | None = None  # [B], NaN where a pair has none; None when no pair has one
    score_rejected: Tensor | None = None  # [B]
    has_other: Tensor | None = None  # [B] bool: which pairs have another image; None where no side is for that
    answer_weights: Tensor | None = None  # [A, L] what each token of an answer counts; None: every one 1
    weight: Tensor | None = None  # [B] of a pair's whole loss; None: 1 each
    desirable: Tensor | None = None  # [B] 1 or 0, of single answers; None where nothing was said of them
    # what a model would otherwise read back from the device, which waits for it (``models.image_inputs``)
    image_grids: tuple[
        tuple[int, ...], ...
    ] = ()  # (time, rows, columns) in patches of every image, where there are any
    video_grids: tuple[tuple[int, ...], ...] = ()  # the same of every video
    video_frames: tuple[int, ...] = ()  # frames of every video: some models are given all videos as long as the longest
    image_token_id: int | None = None  # the token whose places ``image_places`` are
    image_places: Tensor | None = None  # [M] places in the N * T tokens that take an image feature each, in order
    video_token_id: int | None = None
    video_places: Tensor | None = None  # the same of video features
    # for features that are kept (``models.tower_features``)
    image_rows: tuple[ImageRow, ...] = ()  # whose images ``vision`` has, in order; () where they are not named
    features: Mapping[str, Tensor] = field(default_factory=dict)  # what the tower made of them; {} where it must run
    num_dummy_pairs: int = 0  # the last n pairs have no weight: they are there so that all ranks run as many forwards
    # length A, chosen first: all that the model is given for each answer, its prompt included, as a hash; else ()
    keys: tuple[str, ...] = ()
    # [2, M] every token of every pair once: its place in the N * T tokens, and its pair. What a prompt's pairs share is
    # there for each of them; padding, and what the row of a rejected answer repeats of the chosen one's, for none. None
    # in a batch made by hand
    pair_tokens: Tensor | None = None
    # of single answers: under the same prompts the answers of other rows, one for each pair, as a batch of its own
    mismatched: PairBatch | None = None
    # the same answers under another image in the place of each of their own, as a batch of its own, and which answers
    # that is true of, [2, B] bool, chosen and rejected: the others stand there as they are
    lifted: PairBatch | None = None
    lift_sides: Tensor | None = None

    def __post_init__(self) -> None:  # shapes only: no tensor is read, so nothing waits for the device
        pairs = len(self.pair_ids)
        others = 0 if self.has_other is None else 1
        if not pairs or self.answers.shape[0] not in ((1 + others) * pairs, (2 + others) * pairs):
            raise ValueError(
                f"{self.answers.shape[0]} answers for {pairs} pairs: want one or two for each, and one more"
            )
        if bool(self.segments) == (self.attention_mask is not None) or (self.segments and self.position_ids is None):
            raise ValueError("a batch has segments and position_ids, or an attention_mask, and never both")
        want = {
            "attention_mask": tuple(self.input_ids.shape),
            **dict.fromkeys(self.token_types, tuple(self.input_ids.shape)),
            "targets": tuple(self.predicts.shape),
            "answer_lens": (self.answers.shape[0],),
            "score_chosen": (pairs,),
            "score_rejected": (pairs,),
            "has_other": (pairs,),
            "answer_weights": tuple(self.answers.shape),
            "weight": (pairs,),
            "desirable": (pairs,),
            "lift_sides": (2, pairs),
        }
        if (self.lifted is None) != (self.lift_sides is None):
            raise ValueError("lifted and lift_sides go together")
        if self.lifted is not None and self.lifted.pair_ids != self.pair_ids:
            raise ValueError("lifted answers are of other pairs")
        if self.mismatched is not None and self.mismatched.pair_ids != self.pair_ids:
            raise ValueError("mismatched answers are of other pairs")
        for name, shape in want.items():
            value = self.token_types[name] if name in self.token_types else getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} is {tuple(value.shape)}, want {shape}")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pair_ids)

    @property
    def counted(self) -> int:
        """Number of pairs that have weight; they come first."""
        return len(self.pair_ids) - self.num_dummy_pairs

    @property
    def counted_ids(self) -> tuple[str, ...]:
        """Ids of the pairs that have weight."""
        return self.pair_ids[: self.counted]

    @property
    def num_tokens(self) -> int:
        """Tokens that the model runs over, padding counted."""
        return self.input_ids.numel()

    @property
    def has_videos(self) -> bool:
        """Whether any row has a video."""
        return bool(self.video_frames)

    @property
    def shares_prefix(self) -> bool:
        """Whether all answers of a prompt follow one copy of it."""
        return bool(self.segments)

    @property
    def has_rejected(self) -> bool:
        """Whether there is a rejected answer for every pair; else there is none for any."""
        return self.answers.shape[0] == (2 if self.has_other is None else 3) * len(self.pair_ids)

    @property
    def scores(self) -> tuple[Tensor, Tensor] | None:
        """Judge scores (chosen [B], rejected [B]), or None when no pair has them."""
        if self.score_chosen is None or self.score_rejected is None:
            return None
        return self.score_chosen, self.score_rejected

    def by_side(self, answers: Tensor) -> BySide:
        """An [A, ...] tensor by side, [B, ...] each."""
        count = len(self.pair_ids)
        rejected = answers[count : 2 * count] if self.has_rejected else None
        return BySide(answers[:count], rejected, None if self.has_other is None else answers[-count:])

    def sums(self, values: Tensor) -> Tensor:
        """Sum over the tokens of every answer, weighted by what each counts: [K] to [A]."""
        rows = self.by_answer(values)
        return (rows if self.answer_weights is None else rows * self.answer_weights.to(rows.dtype)).sum(dim=1)

    @property
    def effective_lens(self) -> Tensor:
        """What the tokens of every answer count together: [A]; their number where nothing is weighted."""
        return self.answer_lens if self.answer_weights is None else self.answer_weights.sum(dim=1)

    def share_weighted(self, plain: float) -> Tensor | None:
        """Share of the tokens of both answers of each pair that count something else than ``plain``: [B]; None where
        nothing is weighted.
        """
        if self.answer_weights is None:
            return None
        real = torch.arange(self.answers.shape[1], device=self.answers.device) < self.answer_lens[:, None]
        special = self.by_side((real & (self.answer_weights != plain)).sum(dim=1))
        tokens = self.by_side(self.answer_lens)
        if special.rejected is None or tokens.rejected is None:
            return special.chosen / tokens.chosen
        return (special.chosen + special.rejected) / (tokens.chosen + tokens.rejected)

    def by_answer(self, values: Tensor) -> Tensor:
        """Values of the K predictions as one row for each answer: [A, L], zeros where an answer has no token."""
        return torch.cat([values, values.new_zeros(1)])[self.answers]

    def model_inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for the model: tokens and images, never targets, masks of answers or scores."""
        inputs = {"input_ids": self.input_ids, **self.token_types, **self.vision}
        # of a packed row every token is real; a model that is not told so takes positions that start again for a border
        real = torch.ones_like(self.input_ids) if self.attention_mask is None else self.attention_mask
        inputs["attention_mask"] = real
        if self.position_ids is not None:
            inputs["position_ids"] = self.position_ids
        return inputs

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """The same batch elsewhere; ``non_blocking`` spares the wait where the batch is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """The same batch in page-locked memory; the name is the one that DataLoader looks for."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        """The same batch with every tensor changed."""
        changed: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor):
                changed[entry.name] = change(value)
            elif isinstance(value, PairBatch):
                changed[entry.name] = value.map(change)
            elif isinstance(value, Mapping):
                changed[entry.name] = {name: change(tensor) for name, tensor in value.items()}
        return replace(self, **changed)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A small tensor made on the host, on an accelerator without waiting for what that is busy with."""
    if device.type in ("cpu", "meta", "mps"):  # which know no pinned memory
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def pad_rows(rows: Sequence[Tensor], value: int, *, left: bool = False) -> Tensor:
    """1-D tensors of different lengths as one [N, T]."""
    width = max(row.shape[0] for row in rows)
    out = rows[0].new_full((len(rows), width), value)
    for index, row in enumerate(rows):
        where = slice(width - row.shape[0], None) if left else slice(0, row.shape[0])
        out[index, where] = row
    return out


def join_vision(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The vision inputs of several rows as one set, in row order; rows without images or videos add none of them.

    Every processor puts images (or their patches) first: (images, 3, H, W), (images, tiles, 3, H, W), (patches, dim)
    with (images, 3) grids, (images, 2) sizes; and so for videos, whose inputs have names of their own. Tensors are
    joined along that dimension; where rows have different numbers of tiles or frames, or images have different sizes
    that the model is given (Pixtral) or has a mask of (Idefics 2), the smaller ones are padded with zeros, which the
    models cut off or leave out by the sizes or the mask, and ``models.logps.video_inputs`` by the numbers of frames.
    MiniCPM-V's patches lie in one row, (1, 3, P, P * patches) with (images, 2) grids, and are joined along that.
    Numbers that are places among the patches of all images are moved on by those of the rows before (Molmo 2).

    Raises:
        DataError: images that became tensors of different heights and widths, which no model takes in one batch.
    """
    joined: dict[str, Tensor] = {}
    for of_videos in (False, True):
        parts = [{name: row[name] for name in row if is_of_videos(name) == of_videos} for row in rows]
        joined.update(_join_alike([part for part in parts if part]))
    return joined


def is_of_videos(name: str) -> bool:
    """Whether a vision input of this name is of videos; else it is of images."""
    return "video" in name or name == "second_per_grid_ts"


def _join_alike(present: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Of rows that all have images, or all have videos."""
    if not present:
        return {}
    names = {name for row in present for name in row}
    if not all(_has_none(row, name) for row in present for name in names - row.keys()):
        raise DataError(
            f"rows of one batch have different vision inputs: {sorted({str(sorted(row)) for row in present})}"
        )
    moved, strips = _moved_on(present), _strips(present)
    joined = {name: _join(name, [row[name] for row in moved if name in row], names) for name in names - strips}
    return joined | {name: torch.cat([row[name] for row in moved], dim=-1) for name in strips}


_COUNTED_BY = {"pixel_values_local": "num_local_patches"}
"""Inputs that a row is without where none of its images has any (crops of large ones), and what counts them."""


def _has_none(row: Mapping[str, Tensor], name: str) -> bool:
    counts = row.get(_COUNTED_BY.get(name, ""))
    return counts is not None and not counts.any()


_PLACES_IN = {"image_token_pooling": "pixel_values"}
"""Inputs that count the first two dimensions of another; below zero stands for no place."""


def _moved_on(rows: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
    """Rows whose places count from the first row on."""
    names = _PLACES_IN.keys() & rows[0].keys()
    if not names:
        return rows
    found = [dict(row) for row in rows]
    for name in names:
        before = 0
        for row in found:
            places, counted = row[name], row[_PLACES_IN[name]]
            row[name] = places.where(places < 0, places + before)
            before += counted.shape[0] * counted.shape[1]
    return found


def _strips(rows: Sequence[Mapping[str, Tensor]]) -> set[str]:
    return {"pixel_values"} if all(map(_in_one_row, rows)) else set()


def _in_one_row(images: Mapping[str, Tensor]) -> bool:
    """Whether the patches of all images stand side by side in one strip: its length is what their grids add up to."""
    pixels, grids = images.get("pixel_values"), images.get("target_sizes")
    if pixels is None or grids is None or pixels.dim() != 4 or pixels.shape[0] != 1:
        return False
    return int(grids.prod(-1).sum()) * pixels.shape[-2] == pixels.shape[-1]


def _join(name: str, tensors: list[Tensor], names: Collection[str]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0]  # as large as all the rest of a batch of one pair: not copied
    shapes = [tuple(tensor.shape) for tensor in tensors]
    differ = {dim for dim in range(1, len(shapes[0])) if len({shape[dim] for shape in shapes}) > 1}
    if not differ:
        return torch.cat(tensors)
    may_differ = {1} if len(shapes[0]) > 2 else set()  # tiles of an image
    if "image_sizes" in names and len(shapes[0]) == 4:
        may_differ |= {2, 3}  # whole images; the model cuts them to their sizes
    elif "pixel_attention_mask" in names:
        may_differ = differ  # images of a row, and their heights and widths, which the mask tells
    if not differ <= may_differ:
        raise DataError(
            f"images of one batch became '{name}' of different sizes ({', '.join(map(str, shapes[:4]))}), which the "
            "model cannot take together; give its image processor a fixed size, or use a batch size of 1"
        )
    most = [max(shape[dim] for shape in shapes) for dim in range(len(shapes[0]))]
    return torch.cat([_padded(tensor, most[1:]) for tensor in tensors])


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """With zeros behind, up to these sizes of all dimensions but the first."""
    missing = [size - had for size, had in zip(sizes, tensor.shape[1:], strict=True)]
    padding = [amount for size in reversed(missing) for amount in (0, size)]
    return torch.nn.functional.pad(tensor, padding) if any(missing) else tensor
