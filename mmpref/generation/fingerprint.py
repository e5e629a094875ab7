"""What answers depend on, as short texts that can be compared: the model's files, the questions, the images."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from mmpref.files.hashes import content_hash, folder_hashes, joined
from mmpref.files.reading import home_path
from mmpref.records import EvalSample, ImageRef

_log = logging.getLogger(__name__)
WHOLE = "whole:"
"""Before a hash of whole files; without it, an earlier version read pieces of large ones."""

_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "additional_chat_templates/*")


def of_file(path: Path) -> str:
    """Size and hash of a file, of all its bytes."""
    return f"{path.stat().st_size}:{content_hash(path)[:32]}"


def of_model(name: str | Path | None, *, fetch: bool = False) -> str:
    """Of all files of a model or adapter folder; of a hub id its revision in the hub's cache; "" for none.

    A revision names its files' contents, and other programs may bring more of the files at any time.

    Args:
        fetch: ask the hub for the config of a model that is not in the cache; it is about to be loaded.
    """
    if name is None:
        return ""
    folder = Path(name)
    if folder.is_dir():
        return WHOLE + joined(folder_hashes(folder, _MODEL_FILES, say=_log.warning))
    return _revision(str(name), fetch)


def _revision(hub_id: str, fetch: bool) -> str:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    try:
        found: object = try_to_load_from_cache(hub_id, "config.json")
        if not isinstance(found, str) and fetch and hub_id.count("/") == 1:
            found = hf_hub_download(hub_id, "config.json")
    except (OSError, ValueError):  # not there, or no name of a hub; whoever loads the model says so
        return ""
    return f"revision {Path(found).parent.name}" if isinstance(found, str) else ""


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
    """Image path -> fingerprint, for the files that are there. A path says nothing about what is in the image."""
    if root is None:
        return {}
    found = {}
    shown = (image for sample in samples for image in (*sample.images, *sample.meta.get("rejected_images", ())))
    for path in sorted({image.path for image in shown if image.path is not None}):
        file = home_path(root) / path
        try:
            if file.is_file():
                found[path] = of_file(file)
        except (OSError, ValueError):  # whoever opens the image says what is wrong with it
            continue
    return found


def _image(image: ImageRef) -> str:
    return image.path or hashlib.sha256(image.data or b"").hexdigest()
