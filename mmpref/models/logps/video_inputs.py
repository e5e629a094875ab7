"""Videos of different lengths in one batch, for models that take them as one tensor: padded, and cut here again.

LLaVA-OneVision has one tensor [videos, frames, 3, height, width] for all videos, and writes the tokens of all of them
as if they were equally long. Where they are not, the frames that there are run as one video, and its features are taken
apart again.

Shapes: V videos, F frames of the longest, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmpref.models.logps.image_inputs import replaced
from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.batch import PairBatch

_PADDED = frozenset({"llava_onevision"})
"""Model types whose videos are one padded tensor, and whose features are one sequence with one token behind it."""


@contextmanager
def cutting_videos(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Inside, the model sees of each video the frames that it has."""
    base: Any = base_model(model)
    inner: Any = submodule(base, "model")
    is_even = len(set(batch.video_frames)) < 2
    if is_even or getattr(base.config, "model_type", "") not in _PADDED:
        yield
        return
    stock = inner.get_video_features

    def features(pixel_values_videos: Tensor, **other: Any) -> Any:
        frames = [video[:count] for video, count in zip(pixel_values_videos, batch.video_frames, strict=True)]
        found = copy.copy(stock(torch.cat(frames)[None], **other))
        whole = found.pooler_output[0]  # the tokens of all frames, and the one behind a video
        each, over = divmod(len(whole), sum(batch.video_frames))
        parts = whole[: len(whole) - over].split([each * count for count in batch.video_frames])
        behind = whole[-1:] if over else inner.image_newline[None].to(whole.device, whole.dtype)
        pieces = [piece for part in parts for piece in (part, behind)]
        # older releases put the one behind the last video there themselves
        found.pooler_output = torch.cat(pieces if over else pieces[:-1])[None]
        return found

    with replaced(inner, "get_video_features", features):
        yield
