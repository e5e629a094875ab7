"""Positions of a batch's rows, each as if it were alone, for models that count from one row to the next.

HunYuan-VL numbers the images that it sees and puts the number into one plane of its positions. Its code goes on
counting in the next row of a batch, so that the second answer of a pair would be read with other positions than alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmpref.models.unwrap import base_model, submodule

_COUNT_ON = frozenset({"hunyuan_vl"})
"""Model types whose code does."""


def count_in_each_row(model: nn.Module) -> None:
    """Let such a model find the positions of each row by itself; others are left as they are."""
    base: Any = base_model(model)
    inner: Any = submodule(base, "model")
    if getattr(base.config, "model_type", "") in _COUNT_ON and inner is not None:
        inner.get_rope_index = partial(_by_row, inner)


def _by_row(
    inner: Any,
    input_ids: Tensor,
    mm_token_type_ids: Tensor,
    image_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """As ``get_rope_index``: positions [planes, N, T] and what they are ahead of the count of tokens [N, 1]."""
    grids: Iterator[Tensor] = iter([] if image_grid_thw is None else image_grid_thw)
    found = []
    for row in range(input_ids.shape[0]):
        here = slice(row, row + 1)
        mask = None if attention_mask is None else attention_mask[here]
        kinds = mm_token_type_ids[row] if mask is None else mm_token_type_ids[row][mask[0].bool()]
        images = sum(kind == 1 for kind, _ in itertools.groupby(kinds.tolist()))
        own = list(itertools.islice(grids, images))
        of_row = torch.stack(own) if own else None
        stock = type(inner).get_rope_index
        found.append(stock(inner, input_ids[here], mm_token_type_ids[here], of_row, mask, **kwargs))
    return torch.cat([one for one, _ in found], dim=1), torch.cat([ahead for _, ahead in found])
