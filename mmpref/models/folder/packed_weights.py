"""Folders whose weights are stored quantised: whether they can be loaded here, and whether they are what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

from mmpref.errors import ConfigError, library_errors, one_line
from mmpref.models.folder.config_values import AGAIN, PACKING, packing_of
from mmpref.models.folder.contents import PLAIN, Stored

_WHOLE = "give the folder of the weights that are not quantised, and adapter.kind=qlora where they are too large"


def refuse_packing(config: Mapping[str, Any], file: Path) -> None:
    """Refuse a quantisation that transformers does not know, which it would skip, or that needs what is not installed.

    Args:
        file: the config.json, for the message.

    Raises:
        ConfigError: with the method.
    """
    packing = packing_of(config)
    if packing is None:
        return
    if not isinstance(packing, Mapping):
        raise ConfigError(f"{file} says {PACKING}: {str(packing)[:80]!a}, and an object is expected; {AGAIN}")
    method = _method(packing)
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ConfigError(
            f"{file} says that its weights are quantised by {str(packing.get('quant_method'))[:80]!a}, which "
            f"transformers does not know; where they are not quantised, take {PACKING} out of the file, else {_WHOLE}"
        )
    with library_errors(ConfigError, f"{file}: its {PACKING} ({method}) cannot be read", AGAIN):
        missing = _not_installed(method, packing)
    if missing is not None:
        raise ConfigError(f"the weights beside {file} are quantised by {method}: {one_line(missing)}; or {_WHOLE}")


def refuse_plain(stored: Mapping[str, Stored], config: Mapping[str, Any], file: Path) -> None:
    """Refuse plain weights beside a config that says they are quantised: they would be read as what they are not.

    Raises:
        ConfigError: none of the weights is stored in anything but plain floating point.
    """
    packing = packing_of(config)
    if not isinstance(packing, Mapping) or packing.get("quantization_mode") == "online":  # BitNet's, packed as it loads
        return
    if all(one.dtype in PLAIN for one in stored.values()):
        kinds = ", ".join(sorted({one.dtype for one in stored.values()}))
        raise ConfigError(
            f"{file} says that the weights are quantised by {_method(packing)}, and all of them are stored as {kinds}: "
            f"take {PACKING} out of the file, or {AGAIN}"
        )


def is_packed(model: nn.Module) -> bool:
    """Whether the weights that a model was loaded from were quantised; not so where loading itself did it."""
    quantizer = getattr(model, "hf_quantizer", None)
    return quantizer is not None and bool(getattr(quantizer, "pre_quantized", False))


def _method(packing: Mapping[str, Any]) -> str:
    for key, method in (("load_in_4bit", "bitsandbytes_4bit"), ("load_in_8bit", "bitsandbytes_8bit")):
        if packing.get(key):
            return method
    found = packing.get("quant_method")
    return str(getattr(found, "value", found))


def _not_installed(method: str, packing: Mapping[str, Any]) -> ImportError | None:
    """The package that is lacking. Whatever else is wrong depends on where the model is loaded, and is met there."""
    kind: Any = AUTO_QUANTIZATION_CONFIG_MAPPING[method]
    quantizer: Any = AUTO_QUANTIZER_MAPPING[method]
    try:
        settings = kind.from_dict(dict(packing))
    except ModuleNotFoundError as err:
        return ImportError(f"{err}: install it (pip install {err.name})")
    except ImportError as err:
        return err
    try:
        quantizer(settings).validate_environment(device_map=None, weights_only=True)
    except ImportError as err:
        return err
    except (RuntimeError, ValueError):  # no such device here
        return None
    return None
