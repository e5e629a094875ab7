"""In which precision each part of a model is kept: float32 for what an optimizer updates, unless asked otherwise.

bfloat16 has 8 bits: near 0.02, the size of a usual weight, two neighbours are 1.2e-4 apart, and an update of 1e-6 or
6e-6 is rounded away. So weights that train themselves are kept in float32, and autocast computes with half-precision
copies of them. What is frozen may stay as it was saved, where autocast brings both together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

import torch
from torch import nn

from mmpref.processing.family import Family, PartName

if TYPE_CHECKING:
    from mmpref.models.tuning import Tuning

HALF = (torch.bfloat16, torch.float16)
_PACKED = ("Params4bit", "Int8Params")  # of bitsandbytes; 4 bits may be stored as a half-precision tensor


def part_dtypes(
    saved: torch.dtype, tuning: Tuning, family: Family, *, autocast: torch.dtype | None
) -> Mapping[PartName, torch.dtype] | None:
    """What each part is kept in under ``dtype: auto``; None where all stays as saved, because no whole part trains.

    - A part that trains itself is float32, and so is the copy of it that an adapter keeps frozen beside the one it
      trains: the reference reads that one, and must say the same at the start.
    - A projector behind a tower that trains is float32 as well: some lie inside the tower, and layer norms do not take
      wider inputs than their weights.
    - What is frozen is as saved, or in autocast's half precision where it was saved in the other one; without autocast
      layers cannot read each other across two precisions, and everything is float32. So it is for a family of
      ``one_dtype``.

    Args:
        saved: what the checkpoint's weights are.
        autocast: the half precision that training computes in, or None.
    """
    parts: tuple[PartName, ...] = get_args(PartName)
    full = {part for part in parts if tuning.of(part) == "full"}
    if not full:
        return None
    if "vision" in full:
        full.add("projector")
    frozen = saved if autocast is None or saved not in HALF else autocast
    if autocast is None or family.one_dtype:
        frozen = torch.float32
    return {part: torch.float32 if part in full else frozen for part in parts}


def keep_in(model: nn.Module, family: Family, dtypes: Mapping[PartName, torch.dtype]) -> None:
    """Bring half-precision weights and buffers of each part into its dtype, in place; packed weights stay packed.

    What a checkpoint holds in float32 among half-precision weights is there for a reason and stays.
    """
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        wanted = dtypes[family.part_of(name)]
        is_plain = type(tensor).__name__ not in _PACKED and not hasattr(tensor, "ds_id")  # ZeRO-3 divided it already
        if tensor.dtype in HALF and tensor.dtype != wanted and is_plain:
            tensor.data = tensor.data.to(wanted)


def saved_dtype(model: nn.Module) -> torch.dtype:
    """What most of a model's weights are stored in: for one that was just loaded as saved, its checkpoint's dtype."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point() and type(parameter).__name__ not in _PACKED:
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda dtype: sizes[dtype], default=torch.float32)


def dtype_to_save(model: nn.Module, asked: str) -> torch.dtype | None:
    """What a trained model is written in; None writes every weight in the dtype it has.

    ``auto`` writes all in float32 where that is what was trained: a folder has one dtype, and in that of a frozen tower
    what was learnt would be rounded by whoever loads it.
    """
    if asked != "auto":
        found: torch.dtype = getattr(torch, asked)
        return found
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    mixed = any(parameter.dtype in HALF for parameter in model.parameters())
    return torch.float32 if mixed and trained == {torch.float32} else None
