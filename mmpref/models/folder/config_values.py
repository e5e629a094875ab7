"""Values of a config.json that no model has, or that end far from the file that holds them: no torch.

A size that is too large takes all of the memory before anything can be compared with the weights; a share outside 0 to
1 is met by the first step; a number of labels becomes a table of as many names that nothing here reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError

AGAIN = "download the folder again, or write it again with save_pretrained"
# Nobody's model has more; a config that says so would build for hours
_MOST_LAYERS = 2000
_MOST_PARTS = 65_536
_MOST_SIZE = 2**31
_MOST_LABELS = 100_000
_LAYERS = re.compile(r"(^|_)(n_?layers?|layers|depths?|blocks)$")
_PARTS = re.compile(r"(^|_)(n_?heads?|heads|experts|groups)$")
_SIZES = re.compile(r"(^|_)(size|dim|dims|positions?|embeddings|length|width|channels|rank|window)$")
_COUNTS = re.compile(r"(^|_)(num|n)_(labels|classes)$")
_LIMITS = ((_LAYERS, _MOST_LAYERS), (_PARTS, _MOST_PARTS), (_COUNTS, _MOST_LABELS), (_SIZES, _MOST_SIZE))
PACKING = "quantization_config"
_TABLES = ("id2label", "label2id")
_SHARES = re.compile(r"(^|_)(dropout|dropout_rate|dropout_prob|pdrop|layerdrop|drop_path_rate|drop_rate)$")
_WHOLE = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "int", "long", "bool"})


def refuse_values(file: Path, config: Mapping[str, Any]) -> None:
    """Refuse sizes, numbers of labels, shares and dtypes that no model has.

    Args:
        file: the config.json, for the message.

    Raises:
        ConfigError: with the key.
    """
    for key, number in numbers(config):
        _refuse_size(file, key, number)
    for key, value in _values(config):
        if key in _TABLES and isinstance(value, Mapping | list) and len(value) > _MOST_LABELS:
            raise ConfigError(
                f"{file} has {len(value):,} entries in {key}, and no model has more than {_MOST_LABELS:,} labels; "
                f"{AGAIN}"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if _SHARES.search(key) and is_number and not 0 <= value <= 1:
            raise ConfigError(f"{file} says {key}: {_shown(value)}, and a share from 0 to 1 is expected; {AGAIN}")
        if key in ("dtype", "torch_dtype") and isinstance(value, str) and value.removeprefix("torch.") in _WHOLE:
            raise ConfigError(
                f"{file} says {key}: {value}, and a model computes in floating point: write the dtype that its weights "
                "are stored in there, such as float32 or bfloat16"
            )


def packing_of(config: Mapping[str, Any]) -> Any:
    """What a config says of the quantisation of its weights, where transformers looks for it; None for nothing."""
    text = config.get("text_config")
    return config.get(PACKING) or (text.get(PACKING) if isinstance(text, Mapping) else None) or None


def refuse_layers_beyond(file: Path, config: Mapping[str, Any], weights: int) -> None:
    """Refuse more layers than there are stored weights.

    Raises:
        ConfigError: with the key.
    """
    for key, value in numbers(config):
        if _LAYERS.search(key) and not key.startswith("max_") and value > weights:
            raise ConfigError(f"{file} says {key}: {value}, and the folder has only {weights} weights; {AGAIN}")


def numbers(tree: Mapping[str, Any] | list[Any], key: str = "") -> Iterator[tuple[str, int]]:
    """(key, whole number) everywhere in a config; numbers in a list have the list's key."""
    entries = tree.items() if isinstance(tree, Mapping) else ((key, entry) for entry in tree)
    for name, value in entries:
        if isinstance(value, Mapping | list):
            yield from numbers(value, name)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, value


def _values(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(key, value) of all objects in a config, those inside others too."""
    for name, value in tree.items():
        yield name, value
        if isinstance(value, Mapping):
            yield from _values(value)


def _refuse_size(file: Path, key: str, value: int) -> None:
    if key in ("num_hidden_layers", "n_layer", "n_layers") and value < 1:
        raise ConfigError(f"{file} says {key}: {value}, and a model has at least one; {AGAIN}")
    most = next((limit for pattern, limit in _LIMITS if pattern.search(key)), None)
    if most is not None and value > most:
        raise ConfigError(f"{file} says {key}: {_shown(value)}, and no model has more than {most:,}; {AGAIN}")


def _shown(value: float) -> str:
    return f"a number of {len(str(value))} digits" if isinstance(value, int) and abs(value) >= 10**18 else str(value)
