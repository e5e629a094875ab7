"""A trained model as a folder that anyone can load: written atomically."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmpref.errors import CheckpointError, ConfigError, MMPrefError
from mmpref.files.writing import folder_beside, real_path
from mmpref.models.adapters.pissa import as_plain_lora
from mmpref.models.adapters.switch import TRAINED
from mmpref.models.folder.generation_config import FILE as GENERATION
from mmpref.models.unwrap import unwrap

# Everything that belongs to the processor, the tokenizer and the chat template. Copied byte for byte: writing them
# again would lose what this version does not use (the video part of a processor, for one).
PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "image_processor_config.json",
    "chat_template.*",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "sentencepiece*",
    "spiece.model",
)
TEMPLATE_FOLDER = "additional_chat_templates"


def save_model(
    model: nn.Module,
    processor_source: str | Path,
    out: Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the weights (of an adapted model: the adapter) and the base model's processor files to ``out``.

    Weights get the names that the hub's files have, which every release of transformers and vLLM read. They are not the
    names of the running model: ``from_pretrained`` maps them back, ``load_state_dict`` would silently find nothing.

    The folder is written beside and renamed: ``out`` is written atomically.

    Args:
        model: a model of transformers, or one with a peft adapter; it may be wrapped for several processes.
        processor_source: folder or hub id of the base model.
        out: must not exist, or be an empty folder.
        weights: whole tensors in place of the model's own, by the names of its ``state_dict()``; for a sharded model.
        dtype: that a whole model is written in; None leaves each weight in its own. An adapter is written as it is.

    Raises:
        CheckpointError: ``out`` holds something, or cannot be written.
        ConfigError: no processor files can be found.
    """
    inner = unwrap(model)
    source, out = processor_folder(processor_source), real_path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} already exists and is not empty; choose another folder or remove it")
    try:
        with folder_beside(out) as beside:
            if isinstance(inner, PreTrainedModel):
                if dtype is not None:
                    weights = _in_one_dtype(inner.state_dict() if weights is None else weights, dtype)
                inner.save_pretrained(beside, state_dict=None if weights is None else dict(weights))
                if (source / GENERATION).is_file():  # loading takes only the ids of it
                    shutil.copyfile(source / GENERATION, beside / GENERATION)
                if dtype is not None:
                    _say_dtype(beside / "config.json", str(dtype).removeprefix("torch."))
            else:
                given = {} if weights is None else {"state_dict": dict(weights)}
                # peft: the adapter that trains and its config, not the copy of it that may stand beside it
                inner.save_pretrained(str(beside), selected_adapters=[TRAINED], **given)  # type: ignore[operator]
                as_plain_lora(inner, beside)
            copy_processor_files(source, beside)
            _settle(beside)
            if out.exists():
                out.rmdir()
            beside.rename(out)
    except MMPrefError:
        raise
    except Exception as err:  # a full disk in the words of three libraries, or a config that cannot be written
        reason = " ".join(str(err).split())
        raise CheckpointError(
            f"{out} could not be written, nothing was left there: {reason}; check permissions and free space"
        ) from err


def _in_one_dtype(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating-point weights in a dtype. What is tied stays tied: it is found by its storage, and written once."""
    done: dict[tuple[Any, ...], Tensor] = {}
    found = {}
    for name, value in weights.items():
        place = (value.data_ptr(), value.storage_offset(), value.shape)
        if value.is_floating_point() and value.dtype != dtype and value.numel():
            value = done.setdefault(place, done[place] if place in done else value.detach().to("cpu", dtype))
        found[name] = value
    return found


def _say_dtype(config: Path, name: str) -> None:
    """transformers writes the dtype of the first weight it meets, and loads by what is written."""

    def changed(tree: dict[str, Any]) -> dict[str, Any]:
        found = {key: changed(value) if isinstance(value, dict) else value for key, value in tree.items()}
        return {**found, "dtype": name} if isinstance(tree.get("dtype"), str) else found

    tree = {**changed(json.loads(config.read_text(encoding="utf-8"))), "dtype": name}
    config.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_processor_files(source: Path, out: Path) -> list[str]:
    """Copy the processor's files as they are; returns their names.

    Raises:
        ConfigError: the source has none.
    """
    names = sorted(
        entry.name
        for entry in source.iterdir()
        if entry.is_file() and any(fnmatch(entry.name, pattern) for pattern in PROCESSOR_FILES)
    )
    if not names:
        raise ConfigError(f"{source} has no tokenizer or processor files to copy; give the folder of the base model")
    for name in names:
        shutil.copyfile(source / name, out / name)  # follows the links of the hub's cache
    templates = source / TEMPLATE_FOLDER
    if templates.is_dir():
        shutil.copytree(templates, out / TEMPLATE_FOLDER)
    return names


def processor_folder(source: str | Path) -> Path:
    """The local folder with a model's processor files; a hub id is looked up in the local cache.

    Raises:
        ConfigError: it is neither a folder nor in the cache.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        patterns = [*PROCESSOR_FILES, f"{TEMPLATE_FOLDER}/*"]
        return Path(snapshot_download(str(source), allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError) as err:
        raise ConfigError(f"the processor files of {source} are not on this machine: {err}") from err


def _settle(folder: Path) -> None:
    """Bytes on disk before the rename, and the usual permissions: safetensors writes files only the owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
