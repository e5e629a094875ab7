"""What answers depend on, as short texts that can be compared: the model's files, the questions, the pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mmpref.file_reading import home_path
from mmpref.records import EvalSample, ImageRef

_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
_WHOLE_FILE_BYTES = 1 << 24
_PIECES = 16
_PIECE_BYTES = 1 << 16


def of_file(path: Path) -> str:
    """Size and hash of a file; of one above 16 MB the hash of pieces spread over it, so 15 GB take no time."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        if size <= _WHOLE_FILE_BYTES:
            digest.update(stream.read())
        else:
            for index in range(_PIECES):
                stream.seek(index * (size - _PIECE_BYTES) // (_PIECES - 1))
                digest.update(stream.read(_PIECE_BYTES))
    return f"{size}:{digest.hexdigest()[:32]}"


def of_model(name: str | Path | None) -> str:
    """Of all files of a model or adapter folder; "" for a hub id or none."""
    folder = Path(name) if name is not None else None
    if folder is None or not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern)}):
        digest.update(f"{file.name}\0{of_file(file)}\0".encode())
    return digest.hexdigest()


def of_questions(samples: Sequence[EvalSample], *, with_targets: bool = False) -> str:
    """Of what the model is asked. The labels are part of it only where the model is shown them: with_targets."""
    digest = hashlib.sha256()
    for sample in samples:
        turns = [(message.role, [(part.kind, part.text) for part in message.parts]) for message in sample.prompt]
        images = [_image(image) for image in sample.images]
        shown = [sample.target] if with_targets else []
        if prefix := sample.meta.get("response_prefix"):
            shown.append({"response_prefix": prefix})
        if others := sample.meta.get("rejected_images"):
            shown.append({"rejected_images": [_image(image) for image in others]})
        if kwargs := sample.meta.get("template_kwargs"):
            shown.append({"template_kwargs": kwargs})
        digest.update(json.dumps([sample.id, images, turns, *shown]).encode())
    return digest.hexdigest()


def of_images(samples: Sequence[EvalSample], root: str | Path | None) -> dict[str, str]:
    """Image path -> fingerprint, for the files that are there. A path says nothing about what is in the picture."""
    if root is None:
        return {}
    found = {}
    shown = (image for sample in samples for image in (*sample.images, *sample.meta.get("rejected_images", ())))
    for path in sorted({image.path for image in shown if image.path is not None}):
        file = home_path(root) / path
        try:
            if file.is_file():
                found[path] = of_file(file)
        except (OSError, ValueError):  # whoever opens the picture says what is wrong with it
            continue
    return found


def _image(image: ImageRef) -> str:
    return image.path or hashlib.sha256(image.data or b"").hexdigest()
