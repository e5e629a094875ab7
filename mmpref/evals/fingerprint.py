"""What answers depend on, as short texts that can be compared: the model's files, the questions, the pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mmpref.records import EvalSample

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
        images = [image.path or hashlib.sha256(image.data or b"").hexdigest() for image in sample.images]
        shown = [sample.target] if with_targets else []
        digest.update(json.dumps([sample.id, images, turns, *shown]).encode())
    return digest.hexdigest()


def of_images(samples: Sequence[EvalSample], root: str | Path | None) -> dict[str, str]:
    """Image path -> fingerprint, for the files that are there. A path says nothing about what is in the picture."""
    if root is None:
        return {}
    found = {}
    for path in sorted({image.path for sample in samples for image in sample.images if image.path is not None}):
        file = Path(root).expanduser() / path
        try:
            if file.is_file():
                found[path] = of_file(file)
        except (OSError, ValueError):  # whoever opens the picture says what is wrong with it
            continue
    return found
