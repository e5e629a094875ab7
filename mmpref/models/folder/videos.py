"""What a model's folder says of how videos are processed, where transformers looks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mmpref.errors import ConfigError
from mmpref.models.folder.contents import AGAIN, read_object
from mmpref.models.folder.processors import small_file
from mmpref.processing.family import Family
from mmpref.processing.image_settings import odd_setting
from mmpref.processing.video_settings import ATTRIBUTE, VideoSettings


def note_video_settings(processor: Any, config: PretrainedConfig, family: Family, path: str | Path) -> None:
    """Give a processor the video settings of its folder; none where the folder has none.

    Raises:
        ConfigError: a setting that cannot be meant, with file and key.
    """
    if family.video is None:
        return
    written, file = _written(path)
    if file is None:
        return
    if odd := odd_setting(written):
        raise ConfigError(f"{file} {odd}; {AGAIN}")
    vision = getattr(config, "vision_config", None)
    a_second = getattr(vision, "tokens_per_second", None)
    try:
        settings = VideoSettings.of(written, family.video, positions_a_second=float(a_second or 1.0))
    except ValueError as err:
        raise ConfigError(f"{file} {err}; {AGAIN}") from err
    for ours, theirs in (
        ("temporal_patch_size", "temporal_patch_size"),
        ("patch_size", "patch_size"),
        ("merge_size", "spatial_merge_size"),
    ):
        made, taken = getattr(settings, ours), getattr(vision, theirs, None)
        if family.video.form == "patches" and isinstance(taken, int) and made != taken:
            raise ConfigError(
                f"{file} gives videos {ours} {made}, and config.json has {theirs} {taken}: the vision tower would be "
                "given other patches than it takes; use files of one model"
            )
    setattr(processor, ATTRIBUTE, settings)


def _written(path: str | Path) -> tuple[Mapping[str, Any], Path | None]:
    """The settings of a folder or hub id, and their file: for videos alone, or else those of images."""
    file = small_file(path, "processor_config.json")
    if file is not None:
        inner = read_object(file).get("video_processor")
        if isinstance(inner, Mapping):
            return inner, file
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        file = small_file(path, name)
        if file is not None:
            return read_object(file), file
    return {}, None
