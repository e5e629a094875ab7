"""What is in a model folder, looked at before any library opens it: no torch, and no weight is read.

A folder comes from somebody else, or from half a download. Libraries meet what is broken in it with a traceback, a
model that is partly random, or all of the memory; here it is one line that names the file.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from mmpref.errors import ConfigError, library_errors, one_line
from mmpref.models.folder.config_values import AGAIN as AGAIN
from mmpref.models.folder.config_values import packing_of, refuse_layers_beyond, refuse_values

_MOST_JSON = 64 * 2**20
MOST_TOKENIZER = 512 * 2**20
_MOST_HEADER = 100_000_000
"""Bytes, as the library of safetensors has it."""
_MOST_ID = 2**31
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What is taken from a generation_config.json."""
_WEIGHTS = "model.safetensors"
_READ = (".json", ".jinja", ".safetensors", ".model", ".txt", ".tiktoken")
_TEXTS = frozenset({"chat_template.jinja", "vocab.txt", "merges.txt"})
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TRAINED = (".weight", ".bias")
PLAIN = frozenset({"F64", "F32", "F16", "BF16"})
FLOATS = PLAIN | {"F8_E4M3", "F8_E5M2"}


class Stored(NamedTuple):
    """One tensor as the header of its file describes it."""

    shape: tuple[int, ...]
    dtype: str


def refuse_odd_path(path: str | Path) -> None:
    """Refuse what no file system has a place for, and a link that leads to itself.

    Raises:
        ConfigError: with the reason.
    """
    text = str(path)
    shown = ascii(text if len(text) <= 120 else f"{text[:100]}...")
    if not text.strip():
        raise ConfigError("the model's path is empty; give a local folder, or a hub id such as org/name")
    try:
        Path(text).stat()
    except FileNotFoundError:
        if Path(text).is_symlink():
            raise ConfigError(f"model folder {shown} is a link to something that is not there") from None
    except (OSError, ValueError) as err:  # a name too long, NUL, half a character, a loop, no permission
        raise ConfigError(
            f"model folder {shown} cannot be opened: {one_line(err)}; give the path of a local folder"
        ) from err


def refuse_unusable_name(path: str, what: str) -> None:
    """Refuse a name that could be no path on any machine; one that is not there, or not for us, passes.

    Raises:
        ConfigError: it begins with ``what``.
    """
    try:
        Path(path).stat()
    except (OSError, ValueError) as err:
        if not isinstance(err, FileNotFoundError | NotADirectoryError | PermissionError):
            raise ConfigError(f"{what} {path[:80]!a}, which is no path: {one_line(err)}") from err


def read_object(file: Path, *, most: int = _MOST_JSON) -> dict[str, Any]:
    """A JSON object from a file of a model folder.

    Raises:
        ConfigError: it cannot be read, is too large, is not UTF-8 or JSON, holds NaN, or is not an object.
    """
    refuse_odd_file(file, most=most)
    with library_errors(ConfigError, f"{file} cannot be read", AGAIN):
        found = json.loads(file.read_bytes().decode("utf-8"), parse_constant=_constant)
    if not isinstance(found, dict):
        raise ConfigError(f"{file} holds a JSON {type(found).__name__}, and an object is expected; {AGAIN}")
    return found


def refuse_odd_file(file: Path, *, most: int | None = None) -> None:
    """Refuse what is no plain file that can be read: opening a pipe waits for ever, and a device may never end.

    Raises:
        ConfigError: with the reason.
    """
    try:
        found = file.stat()
    except (OSError, ValueError) as err:
        raise ConfigError(f"{file} cannot be read: {one_line(err)}; {AGAIN}") from err
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{file} is not a file (a folder, a pipe or a device); {AGAIN}")
    if not os.access(file, os.R_OK):
        raise ConfigError(f"{file} cannot be read: permission denied; give yourself the right to read it")
    if most is not None and found.st_size > most:
        raise ConfigError(f"{file} has {found.st_size:,} bytes, and {most:,} are the most that is read; {AGAIN}")


def look_into(folder: Path) -> dict[str, Any]:
    """Check all small files of a model folder; returns its config.

    Raises:
        ConfigError: what is broken, with the file.
    """
    with library_errors(ConfigError, f"model folder {folder} cannot be read", "look at its permissions"):
        entries = sorted(folder.iterdir())
    for file in entries:
        if file.suffix in _READ:
            refuse_odd_file(file, most=None if file.suffix == ".safetensors" else MOST_TOKENIZER)
        if file.suffix == ".json" and file.name != "tokenizer.json" and not file.name.endswith(".index.json"):
            _read_known(file)
    for file in (*(file for file in entries if file.name in _TEXTS), *_more_templates(folder)):
        _refuse_no_text(file)
    config = read_object(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ConfigError(f"{folder / 'config.json'} names no model_type; {AGAIN}")
    refuse_values(folder / "config.json", config)
    return config


def _more_templates(folder: Path) -> list[Path]:
    """Templates with names of their own, which loading reads too."""
    inner = folder / "additional_chat_templates"
    with library_errors(ConfigError, f"{inner} cannot be read", AGAIN):
        return sorted(inner.glob("*.jinja")) if inner.exists() else []


def _refuse_no_text(file: Path) -> None:
    """Refuse what is read as text and is none: libraries name the byte and not the file."""
    refuse_odd_file(file, most=MOST_TOKENIZER)
    with library_errors(ConfigError, f"{file} is no UTF-8 text", "save it as UTF-8, or download the folder again"):
        file.read_bytes().decode("utf-8")


def stored_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Stored]:
    """What the safetensors files of a folder hold, from their headers.

    Args:
        config: of the folder; says whether its weights are quantised.

    Raises:
        ConfigError: there are none, a file is broken, missing or cut off, or they are not those of the config.
    """
    index = folder / f"{_WEIGHTS}.index.json"
    if (folder / _WEIGHTS).exists() or not index.exists():
        _refuse_without_weights(folder)
        found = read_header(folder / _WEIGHTS)
    else:
        found = _sharded(index)
    if packing_of(config) is None:
        odd = sorted(name for name, one in found.items() if one.dtype not in FLOATS and name.endswith(_TRAINED))
        if odd:
            raise ConfigError(
                f"the weights in {folder} are whole numbers: {odd[0]} is {found[odd[0]].dtype}, and config.json says "
                f"nothing of quantization; {AGAIN}"
            )
    refuse_layers_beyond(folder / "config.json", config, len(found))
    return found


def _sharded(index: Path) -> dict[str, Stored]:
    """The weights of all files that an index names."""
    found: dict[str, Stored] = {}
    for name, keys in _shards(index).items():
        file = index.with_name(name)
        if not file.exists():
            raise ConfigError(f"{file}, which {index.name} names, is missing; {AGAIN}")
        here = read_header(file)
        if odd := sorted(keys ^ here.keys()):
            what = f"{file} lacks it" if odd[0] in keys else f"{index.name} does not say that {file} has it"
            raise ConfigError(f"{index}: {len(odd)} weights are not where it says: {odd[0]}: {what}; {AGAIN}")
        found |= here
    return found


def _refuse_without_weights(folder: Path) -> None:
    if (folder / _WEIGHTS).exists():
        return
    names = [path.name for pattern in _PICKLED for path in folder.glob(pattern)]
    if names:
        raise ConfigError(
            f"the weights of {folder} are pickle files ({names[0]}), which can run code when they are read: convert "
            "them to safetensors (load them with transformers where you trust them, and save_pretrained)"
        )
    if gguf := next(folder.glob("*.gguf"), None):
        raise ConfigError(
            f"the weights of {folder} are {gguf.name}, a GGUF file, which cannot be trained or read here; give the "
            "folder that it was made from"
        )
    raise ConfigError(f"{folder} has no {_WEIGHTS} and no {_WEIGHTS}.index.json: no weights are there; {AGAIN}")


def _shards(index: Path) -> dict[str, set[str]]:
    """File name -> names of the weights that it shall hold."""
    found = read_object(index, most=MOST_TOKENIZER).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{index} has no weight_map of weights and files; {AGAIN}")
    shards: dict[str, set[str]] = {}
    for name, file in found.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise ConfigError(
                f"{index} says {name} is in {str(file)[:80]!a}, which is no safetensors file of the folder; {AGAIN}"
            )
        shards.setdefault(file, set()).add(name)
    return shards


def read_header(file: Path) -> dict[str, Stored]:
    """What a safetensors file holds, by name.

    Raises:
        ConfigError: it is broken, cut off, or empty.
    """
    refuse_odd_file(file)
    _refuse_other_length(file)
    with (
        library_errors(ConfigError, f"{file} cannot be read", AGAIN),
        safe_open(file, framework="pt") as stream,
    ):
        entries = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118  # not a mapping
        found = {name: Stored(tuple(entry.get_shape()), str(entry.get_dtype())) for name, entry in entries.items()}
    if not found:
        raise ConfigError(f"{file} holds no weights; {AGAIN}")
    return found


def _refuse_other_length(file: Path) -> None:
    """Refuse a file whose length is not what its header says, before it is mapped into memory whole."""
    actual = file.stat().st_size
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if actual < 8 or not 2 <= size <= _MOST_HEADER or 8 + size > actual:
            raise ConfigError(f"{file} cannot be read: it does not begin as a safetensors file does; {AGAIN}")
        with library_errors(ConfigError, f"{file} cannot be read: its header is broken", AGAIN):
            entries = [entry for name, entry in json.loads(stream.read(size)).items() if name != "__metadata__"]
            end = 8 + size + max((int(entry["data_offsets"][1]) for entry in entries), default=0)
    if actual != end:
        what = "is cut off" if actual < end else "has more than its header describes"
        raise ConfigError(f"{file} {what}: it has {actual:,} bytes, and its header speaks of {end:,}; {AGAIN}")


def _read_known(file: Path) -> None:
    """The small JSON files that loading reads; others may be anything."""
    if file.name in {
        "generation_config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "adapter_config.json",
    }:
        found = read_object(file)
        if file.name == "generation_config.json":
            _check_generation(file, found)
        if file.name == "chat_template.json" and "chat_template" not in found:
            raise ConfigError(f"{file} has no key chat_template; {AGAIN}")


def _check_generation(file: Path, found: Mapping[str, Any]) -> None:
    """Refuse what is no token's number where one is read; nothing else of the file is used."""
    for key in TOKEN_IDS:
        ids = value if isinstance(value := found.get(key), list) else [value]
        if not all(one is None or (type(one) is int and 0 <= one < _MOST_ID) for one in ids):
            raise ConfigError(f"{file}: {key} is {str(value)[:80]!a}, and a token's number is expected; {AGAIN}")


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("it holds NaN, which is no number")
    return float(name)  # real configs say Infinity for no limit
