"""Pairs written as canonical rows, which reading gives back."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpref.data.pairs import PAIR_KEYS
from mmpref.errors import DataError
from mmpref.files.writing import replacing
from mmpref.records import AnswerWeight, ImageRef, PreferencePair, Prompt, VideoRef


def pair_to_row(pair: PreferencePair) -> dict[str, Any]:
    """The canonical row of a pair: JSON-ready, fields at their default left out. ``pair_from_row`` gives it back.

    In ``meta``, what JSON has no form for becomes text (bytes in base64), and NaN becomes null.
    """
    rejected, other = pair.rejected_images, pair.other_images
    answers: dict[str, Any] = {
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "rejected_images": None if rejected is None else [_image_to_row(image) for image in rejected],
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        "other_images": None if other is None else [_image_to_row(image) for image in other],
        "weight": None if pair.weight == 1 else pair.weight,
        "chosen_weight": _weight_to_row(pair.chosen_weight),
        "rejected_weight": _weight_to_row(pair.rejected_weight),
        "label": pair.label,
    }
    row = _shown_to_row(pair) | answers
    return {key: row[key] for key in PAIR_KEYS if row[key] is not None}


def prompt_to_row(prompt: Prompt) -> dict[str, Any]:
    """The row of a prompt, like that of a pair without its answers. ``prompt_from_row`` gives it back."""
    return {key: value for key, value in _shown_to_row(prompt).items() if value is not None}


def _shown_to_row(shown: PreferencePair | Prompt) -> dict[str, Any]:
    return {
        "id": shown.id,
        "images": [_image_to_row(image) for image in shown.images],
        "prompt": [
            {
                "role": message.role,
                "content": [
                    {"type": "text", "text": part.text} if part.kind == "text" else {"type": part.kind}
                    for part in message.parts
                ],
            }
            for message in shown.prompt
        ],
        "response_prefix": shown.response_prefix or None,
        "source": shown.source or None,
        "meta": _plain(shown.meta) or None,
        "videos": [_video_to_row(video) for video in shown.videos] or None,
        "template_kwargs": None if shown.template_kwargs is None else dict(shown.template_kwargs),
    }


def _plain(value: Any) -> Any:
    """What ``meta`` holds as JSON has it: parquet brings times, decimals, bytes, and NaN where nothing was said."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value if value is None or isinstance(value, str | int) else str(value)


def write_pairs(path: Path | str, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs as canonical JSONL, written atomically.

    Raises:
        DataError: a pair's ``meta`` is not JSON.
        CheckpointError: the file cannot be written.
    """
    with replacing(Path(path)) as stream:
        for pair in pairs:
            stream.write(json_line(pair))


def json_line(pair: PreferencePair) -> bytes:
    """One line of a canonical file.

    Raises:
        DataError: JSON or UTF-8 cannot hold it.
    """
    try:
        return (json.dumps(pair_to_row(pair), ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:  # half a character, say
        raise DataError(f"pair {pair.id!r} cannot be written as JSON: {error}") from error


def _video_to_row(video: VideoRef) -> str | dict[str, Any]:
    if video.path is not None:
        return video.path
    return {"frames": [_image_to_row(frame) for frame in video.frames], "fps": video.fps}


def _weight_to_row(weight: AnswerWeight | None) -> Any:
    return [span._asdict() for span in weight] if isinstance(weight, tuple) else weight


def _image_to_row(image: ImageRef) -> str | dict[str, str]:
    if image.path is not None:
        return image.path
    return {"bytes": base64.b64encode(image.data or b"").decode("ascii")}
