"""A batch of pairs as rows of the plain layout. This is the only place that knows the order of chosen and rejected.

Shapes: B pairs, N rows (2B, or B when there is no rejected side), T tokens after padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmpref.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairBatch:
    """B pairs as rows: row i is pair i's chosen answer, row B+i its rejected one.

    Demonstrations have only the first B.
    """

    input_ids: Tensor  # [N, T], padded on the right
    attention_mask: Tensor  # [N, T] 1 = real token
    answer_mask: Tensor  # [N, T] bool, True = counted by the loss
    pair_ids: tuple[str, ...]  # length B
    vision: Mapping[str, Tensor] = field(default_factory=dict)  # the images of all rows in row order; {} for text
    token_types: Mapping[str, Tensor] = field(default_factory=dict)  # [N, T] each: mm_token_type_ids and the like
    score_chosen: Tensor | None = None  # [B], NaN where a pair has none; None when no pair has one
    score_rejected: Tensor | None = None  # [B]

    def __post_init__(self) -> None:  # shapes only: no tensor is read, so nothing waits for the device
        rows = self.input_ids.shape[0]
        if not self.pair_ids or rows not in (len(self.pair_ids), 2 * len(self.pair_ids)):
            raise ValueError(f"{rows} rows for {len(self.pair_ids)} pairs: want one or two rows for each")
        want = tuple(self.input_ids.shape)
        for name, value in (
            ("attention_mask", self.attention_mask),
            ("answer_mask", self.answer_mask),
            *self.token_types.items(),
        ):
            if tuple(value.shape) != want:
                raise ValueError(f"{name} is {tuple(value.shape)}, want {want} like input_ids")
        for name, score in (("score_chosen", self.score_chosen), ("score_rejected", self.score_rejected)):
            if score is not None and tuple(score.shape) != (len(self.pair_ids),):
                raise ValueError(f"{name} is {tuple(score.shape)}, want ({len(self.pair_ids)},)")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pair_ids)

    @property
    def num_rows(self) -> int:
        return self.input_ids.shape[0]

    @property
    def has_rejected(self) -> bool:
        return self.num_rows != len(self.pair_ids)

    @property
    def scores(self) -> tuple[Tensor, Tensor] | None:
        """Judge scores (chosen [B], rejected [B]), or None when no pair has them."""
        if self.score_chosen is None or self.score_rejected is None:
            return None
        return self.score_chosen, self.score_rejected

    def halves(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split a [N, ...] tensor into (chosen [B, ...], rejected [B, ...] or None)."""
        count = len(self.pair_ids)
        return rows[:count], rows[count:] if self.has_rejected else None

    def model_inputs(self) -> dict[str, Tensor]:
        """Keyword arguments for the model: tokens and images, never masks of answers or scores."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            **self.token_types,
            **self.vision,
        }

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> PairBatch:
        def maybe(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return PairBatch(
            input_ids=change(self.input_ids),
            attention_mask=change(self.attention_mask),
            answer_mask=change(self.answer_mask),
            pair_ids=self.pair_ids,
            vision={name: change(value) for name, value in self.vision.items()},
            token_types={name: change(value) for name, value in self.token_types.items()},
            score_chosen=maybe(self.score_chosen),
            score_rejected=maybe(self.score_rejected),
        )


def pad_rows(rows: Sequence[Tensor], value: int, *, left: bool = False) -> Tensor:
    """1-D tensors of different lengths as one [N, T]."""
    width = max(row.shape[0] for row in rows)
    out = rows[0].new_full((len(rows), width), value)
    for index, row in enumerate(rows):
        where = slice(width - row.shape[0], None) if left else slice(0, row.shape[0])
        out[index, where] = row
    return out


def join_vision(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The vision inputs of several rows as one set, in row order; rows without images add nothing.

    Every processor puts images (or their patches) first: (images, 3, H, W), (images, tiles, 3, H, W), (patches, dim)
    with (images, 3) grids, (images, 2) sizes. Tensors are joined along that dimension; where rows have different
    numbers of tiles, the shorter ones are padded with zeros, which the models cut off again by the image sizes.

    Raises:
        DataError: images that became tensors of different heights and widths, which no model takes in one batch.
    """
    present = [row for row in rows if row]
    if not present:
        return {}
    names = present[0].keys()
    if any(row.keys() != names for row in present):
        raise DataError(
            f"rows of one batch have different vision inputs: {sorted({str(sorted(row)) for row in present})}"
        )
    return {name: _join(name, [row[name] for row in present]) for name in names}


def _join(name: str, tensors: list[Tensor]) -> Tensor:
    if len({tuple(tensor.shape[1:]) for tensor in tensors}) == 1:
        return torch.cat(tensors)
    if min(tensor.dim() for tensor in tensors) < 3 or len({tuple(tensor.shape[2:]) for tensor in tensors}) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors[:4])
        raise DataError(
            f"images of one batch became '{name}' of different sizes ({shapes}), which the model cannot take "
            "together; give its image processor a fixed size, or use a batch size of 1"
        )
    tiles = max(tensor.shape[1] for tensor in tensors)
    return torch.cat(list(_with_tiles(tensors, tiles)))


def _with_tiles(tensors: Sequence[Tensor], tiles: int) -> Iterator[Tensor]:
    for tensor in tensors:
        padding: list[Any] = [0, 0] * (tensor.dim() - 2) + [0, tiles - tensor.shape[1]]
        yield torch.nn.functional.pad(tensor, padding)
