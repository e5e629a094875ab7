"""Cross-attention to images (Llama 3.2 Vision), so that every sequence of a batch sees its own images and no others.

In transformers a token that sees no image (it stands before the first, or its row has none) attends to all images of
its row instead, and to the empty ones that fill a batch up. Alone, a text row skips these layers. Here every sequence
of a batch attends to its own images, as it would alone; one without images gets nothing from these layers, which is the
same as skipping them. That holds for padded rows, and for a packed row, which has the images of all its pairs side by
side and each of them once.

Shapes: N rows, T tokens, I images of a row, F tiles of an image, P patches of a tile, h heads, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpref.models.logps.image_inputs import replaced
from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.batch import PairBatch
from mmpref.processing.cross_attention import Crossing


@dataclass(frozen=True, slots=True, eq=False)
class CrossMask:
    """What a model hands to its layers of cross-attention as their mask: which tokens see which images."""

    seen: Tensor  # [N, T, I, F] bool, of each token's own images
    crossings: tuple[Crossing, ...]
    patches: int

    def of_tokens(self, crossing: Crossing) -> Tensor:
        """What the tokens of one sequence see of their own images: [tokens, I * F * P] bool."""
        row, start, end, first, last = crossing
        tiles = self.seen[row, start:end, : last - first].flatten(1)
        # as in transformers, a token before the first image sees them all
        tiles = tiles | ~tiles.any(dim=1, keepdim=True)
        return tiles.repeat_interleave(self.patches, dim=1)


@contextmanager
def crossing_images(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Inside, the language model's layers of cross-attention are given the batch's own masks; others change nothing."""
    if not batch.crossings:
        yield
        return
    inner: Any = submodule(base_model(model), "model")
    language: Any = inner.language_model
    mask = CrossMask(_of(batch), batch.crossings, inner.vision_model.num_patches)
    stock = language.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        states = kwargs["cross_attention_states"]
        # layers leave out what their second half would add to a token that sees no image
        sees = mask.seen.flatten(2).any(dim=2)[:, None, :, None].to(states.dtype)
        return stock(*args, **{**kwargs, "cross_attention_mask": mask, "full_text_row_masked_out_mask": sees})

    with replaced(language, "forward", forward):
        yield


def _of(batch: PairBatch) -> Tensor:
    assert batch.cross_seen is not None
    return batch.cross_seen


def attend_across(mask: CrossMask, query: Tensor, key: Tensor, value: Tensor, *, dropout: float,
                  scaling: float | None) -> Tensor:  # fmt: skip
    """Queries [N, h, T, d] over the images of their own sequences: [N, T, h, d], zeros where there are none."""
    out = torch.zeros_like(query)
    groups = query.shape[1] // key.shape[1]
    length = mask.seen.shape[3] * mask.patches
    parts: list[list[Tensor]] = [[] for _ in range(query.shape[0])]
    for crossing in mask.crossings:
        row, start, end, first, last = crossing
        if first == last:
            parts[row].append(out[row, :, start:end])
            continue
        q = query[row : row + 1, :, start:end]
        k, v = (x[row : row + 1, :, first * length : last * length] for x in (key, value))
        k, v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        seen = mask.of_tokens(crossing)
        parts[row].append(F.scaled_dot_product_attention(q, k, v, seen, dropout_p=dropout, scale=scaling)[0])
    for row, found in enumerate(parts):  # padding stands behind
        found.append(out[row, :, sum(part.shape[1] for part in found) :])
    return torch.stack([torch.cat(found, dim=1) for found in parts]).transpose(1, 2)
