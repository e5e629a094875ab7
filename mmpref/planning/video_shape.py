"""What one video becomes in a model: tokens of the decoder and patches of the vision tower, by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import PretrainedConfig

from mmpref.data.videos.sampling import FrameRule
from mmpref.errors import ConfigError
from mmpref.models.load import family_of_config, load_config, load_processor
from mmpref.planning.image_shape import vision_sides
from mmpref.planning.plan_input import Clip
from mmpref.processing.encode import PairEncoder
from mmpref.processing.errors import EncodeError
from mmpref.processing.family import Family
from mmpref.processing.video_settings import ATTRIBUTE, VideoSettings
from mmpref.processing.videos import Run, VideoEncoder
from mmpref.recipe.sections import ProcessingSection, Recipe
from mmpref.records import Message, Part, PreferencePair, VideoRef, VideoShape

FRAMES_A_SECOND = 30
"""Of the video that is planned for. Only a recipe that shows more a second would depend on it."""
_QWEN2 = {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}}
_QWEN3 = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}
_PUBLISHED: dict[str, Any] = {"qwen2_vl": _QWEN2, "qwen2_5_vl": _QWEN2} | dict.fromkeys(
    ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), _QWEN3
)
"""Model type -> what the published folders say of videos and transformers' own processors do not."""
_ROW = "the planned pair"


def video_shape(config: PretrainedConfig, recipe: Recipe, clip: Clip) -> tuple[int, int]:
    """(tokens, patches of the vision tower) of one video, as the recipe shows it.

    By the settings of the model's folder and its tokenizer where the folder is here; else by those that its family is
    published with, and the times that Qwen3-VL writes before its frames are counted as its tokenizer splits them.

    Raises:
        ConfigError: a model that takes no videos, or none like this.
    """
    family, shape = family_of_config(config), frames_shown(clip, recipe.processing)
    path = Path(recipe.model.path)
    try:
        if path.is_dir() and any(path.glob("*processor*.json")):
            encoder = _encoder(str(path), recipe.processing.video_max_pixels)
            (runs,) = encoder.videos.runs(_ROW, [shape])
            tokens = _prompt_tokens(encoder, [shape]) - _prompt_tokens(encoder, [])
        else:
            videos = _as_published(config, family, recipe.processing.video_max_pixels)
            (runs,) = videos.runs(_ROW, [shape])
            tokens = sum(run.num_tokens + _tokens_around(run) for run in runs)
    except EncodeError as err:
        raise ConfigError(str(err)) from err
    return tokens, _tower_patches(config, family, runs)


@cache
def _encoder(path: str, max_pixels: int | None) -> PairEncoder:
    return PairEncoder(load_processor(path), family_of_config(load_config(path)), video_max_pixels=max_pixels)


def frames_shown(clip: Clip, processing: ProcessingSection) -> VideoShape:
    """The frames that a recipe shows of a video."""
    rule = FrameRule(fps=processing.video_fps, max_frames=processing.video_max_frames)
    times = rule.sample(max(1, round(clip.seconds * FRAMES_A_SECOND)), FRAMES_A_SECOND).times
    return VideoShape(*clip.size, times)


def _as_published(config: PretrainedConfig, family: Family, max_pixels: int | None) -> VideoEncoder:
    """An encoder of videos for a model whose folder is not here."""
    stand_in = SimpleNamespace()
    if family.video is not None:
        vision: Any = config.vision_config
        written = dict(_PUBLISHED.get(config.model_type, {}))
        if family.video.form == "frames":
            stand_in.num_image_tokens = _of_a_frame(config)
        else:
            written["patch_size"] = vision_sides(vision, "patch_size")[0]
            written["merge_size"] = vision_sides(vision, "spatial_merge_size")[0]
            written["temporal_patch_size"] = vision_sides(vision, "temporal_patch_size")[0]
        setattr(stand_in, ATTRIBUTE, VideoSettings.of(written, family.video))
    return VideoEncoder(stand_in, family, max_pixels=max_pixels)


def _prompt_tokens(encoder: PairEncoder, shapes: Sequence[VideoShape]) -> int:
    """Tokens of a short prompt with videos of these shapes."""
    videos = tuple(VideoRef(path="planned") for _ in shapes)
    prompt = Message("user", (*(Part("video") for _ in shapes), Part("text", "What?")))
    pair = PreferencePair(id=_ROW, images=(), prompt=(prompt,), videos=videos, chosen="A", rejected="B")
    return encoder.prompt_length(pair, encoder.encode_text(pair), (), shapes)[0]


def _tokens_around(run: Run) -> int:
    """Two marks and the time before a run, of which Qwen's tokenizers make a token for each digit and mark, and one
    of `` seconds``."""
    return len(run.time.replace(" seconds", "s")) + 2 if run.time else 0


def _of_a_frame(config: PretrainedConfig) -> int:
    """Patches of a frame that the tower takes whole."""
    vision: Any = config.vision_config
    size, patch = vision_sides(vision, "image_size"), vision_sides(vision, "patch_size")
    return prod(side // step for side, step in zip(size, patch, strict=True))


def _tower_patches(config: PretrainedConfig, family: Family, runs: Sequence[Run]) -> int:
    assert family.video is not None  # runs of others are refused
    if family.video.form == "frames":
        return sum(run.patches for run in runs) * _of_a_frame(config)
    merge, _ = vision_sides(config.vision_config, "spatial_merge_size")
    return sum(run.num_tokens for run in runs) * merge**2
