"""Hashes of the files of the model that a run starts from: weights and config, and all that the processor reads."""

from __future__ import annotations

import json
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.hashes import Say, content_hashes, folder_hashes
from mmpref.models.save import PROCESSOR_FILES, TEMPLATE_FOLDER, processor_folder

_WEIGHTS, _INDEX, _CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"


def model_fingerprint(path: str, say: Say | None = None) -> dict[str, str]:
    """Name -> sha256 of the config and of every weight file of a model, by all their bytes.

    Args:
        path: a folder; or a hub id whose files are on this machine, of which only those count that are loaded: other
            programs may download more of them at any time.
        say: called where hashing takes a while.

    Raises:
        ConfigError: a file cannot be read, or the hub's cache has no such model.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder_hashes(folder, ("*.safetensors", "*.safetensors.index.json", _CONFIG), say=say)
    folder = processor_folder(path)
    files = content_hashes([folder / name for name in [_CONFIG, *_loaded(folder)]], say=say)
    return {file.name: digest for file, digest in files.items()}


def processor_fingerprint(path: str) -> dict[str, str]:
    """Name -> sha256 of the files of tokenizer, image processor and chat template.

    Raises:
        ConfigError: as :func:`model_fingerprint`.
    """
    return folder_hashes(processor_folder(path), (*PROCESSOR_FILES, f"{TEMPLATE_FOLDER}/*"))


def start_files(path: str, say: Say | None = None) -> dict[str, str]:
    """Both, as the facts of a checkpoint: ``model.files.NAME`` and ``processor.files.NAME``."""
    model = {f"model.files.{name}": digest for name, digest in model_fingerprint(path, say).items()}
    return {**model, **{f"processor.files.{name}": digest for name, digest in processor_fingerprint(path).items()}}


def is_folder(path: str) -> bool:
    """Whether a model is a folder here; else it is a hub id, whose files are known once it was loaded."""
    return Path(path).is_dir()


def _loaded(folder: Path) -> list[str]:
    """The weight files that transformers reads."""
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    index = folder / _INDEX
    if not index.is_file():
        return sorted(file.name for file in folder.glob("*.safetensors"))
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [_INDEX, *sorted({str(name) for name in names})]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{index} cannot be read: {err}; download the model again") from err
