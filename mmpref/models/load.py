"""Models and processors from a folder or a hub id, and back to a folder. The one door to the ``Auto*`` classes.

Images need no torchvision: processors are loaded with their Pillow backend and without their video part. Weights are
read from safetensors only, and no code from a model folder is ever run.
"""

from __future__ import annotations

import copy
import logging
import os
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

from mmpref.errors import ConfigError
from mmpref.models import adapter as adapters
from mmpref.models.parts import with_parts
from mmpref.models.quantize import Quantization, QuantizationSettings, after_quantized_load, quantization_config
from mmpref.models.save import save_model
from mmpref.models.tower_windows import attend_by_length
from mmpref.processing.family import Family, PartName, family_of
from mmpref.processing.pixels import image_options

logger = logging.getLogger(__name__)

__all__ = ["LoadedModel", "load", "load_config", "load_model", "load_processor", "save_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with what is needed to feed it."""

    model: PreTrainedModel
    processor: Any  # a ProcessorMixin, or the tokenizer of a text-only model
    family: Family
    path: str
    dtype: str = "asked"
    """``auto`` where it is as saved because nothing else was asked for."""

    @property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)


def load(
    path: str | Path,
    *,
    adapter: Path | None = None,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    quantization: QuantizationSettings | Quantization | None = None,
    attn_implementation: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    trainable: bool = False,
    parts: Mapping[str, PartName] | None = None,
) -> LoadedModel:
    """A model, its processor and its row of facts.

    Args:
        path: a folder, or a hub id.
        adapter: a folder with a LoRA adapter to put on the model.
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        device: where the model goes; None keeps it on the CPU, or where quantisation put it.
        quantization: ``nf4``, ``fp4`` or ``int8`` for the language model's layers, or settings that say more.
        min_pixels, max_pixels: resolution budget of one image.
        trainable: leave it in training mode; otherwise it is in eval mode and nothing requires a gradient.
        parts: path of a module -> the part that it belongs to, for what cannot be told from the model's own code.

    Raises:
        ConfigError: the folder is missing or is not such a model, or model and processor do not belong together.
    """
    model = load_model(
        path,
        dtype=dtype,
        device=device,
        quantization=quantization,
        attn_implementation=attn_implementation,
        parts=parts,
    )
    processor = load_processor(path, min_pixels=min_pixels, max_pixels=max_pixels)
    family = with_parts(family_of_config(model.config), model, parts)
    if family.note:
        logger.warning(family.note)
    if family.repeats_image_token:
        _check_image_token(processor, model.config, path)
    attend_by_length(model, family)
    if adapter is not None:
        model = adapters.attach(model, adapter, trainable=trainable)
    if not trainable:
        model.requires_grad_(False)
    model.train(trainable)
    return LoadedModel(model=model, processor=processor, family=family, path=str(path), dtype=dtype)


def load_model(
    path: str | Path,
    *,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    quantization: QuantizationSettings | Quantization | None = None,
    attn_implementation: str | None = None,
    parts: Mapping[str, PartName] | None = None,
) -> PreTrainedModel:
    """The model alone, in eval mode; an image-text-to-text model when its config has a vision tower, else a causal LM.

    Raises:
        ConfigError: see :func:`load`.
    """
    config = load_config(path)
    family = family_of_config(config)
    settings: dict[str, Any] = {
        "dtype": _dtype(dtype),
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    if attn_implementation is not None:
        settings["attn_implementation"] = attn_implementation
    if quantization is not None:
        family = family_with_parts(config, parts)
        settings["quantization_config"] = quantization_config(quantization, family, dtype=settings["dtype"])
        settings["device_map"] = {"": str(device) if device is not None else _default_device()}
    kind = AutoModelForImageTextToText if family.has_vision else AutoModelForCausalLM
    with _explained(path, "model"):
        model = cast(PreTrainedModel, kind.from_pretrained(str(path), config=config, **settings))
    _keep_used_renamings(model)
    if quantization is not None:
        after_quantized_load(model, family)
    elif device is not None:
        model.to(device)
    return model


def _keep_used_renamings(model: PreTrainedModel) -> None:
    """The renamings that led from the names in the file to those in memory: saving goes them backwards.

    Loading for DeepSpeed ZeRO-3 keeps all that might have been needed, and the saved names would be wrong.
    """
    renamings = getattr(model, "_weight_conversions", None)
    if renamings is not None:
        model._weight_conversions = [one for one in renamings if getattr(one, "was_used", lambda: True)()]


def empty_model(config: PretrainedConfig, *, dtype: torch.dtype, attn_implementation: str) -> PreTrainedModel:
    """The model that a config describes, on the meta device: shapes without weights. The config is left as it is."""
    kind = AutoModelForImageTextToText if family_of_config(config).has_vision else AutoModelForCausalLM
    with torch.device("meta"):
        made = kind.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=attn_implementation)
    return cast(PreTrainedModel, made)


def load_config(path: str | Path) -> PretrainedConfig:
    """The config of a model folder or hub id.

    Raises:
        ConfigError: nothing is there, or it is an adapter or something else than a model.
    """
    _check_folder(path)
    with _explained(path, "config"):
        return cast(PretrainedConfig, AutoConfig.from_pretrained(str(path), trust_remote_code=False))


def family_of_config(config: PretrainedConfig) -> Family:
    """The row of facts for a config."""
    return family_of(str(config.model_type), has_vision=getattr(config, "vision_config", None) is not None)


def family_with_parts(config: PretrainedConfig, named: Mapping[str, PartName] | None = None) -> Family:
    """The row of facts for a config, with the parts that a model of this config has.

    Args:
        named: path of a module -> its part, by the user.

    Raises:
        ConfigError: transformers cannot build such a model.
    """
    with _explained(str(config.name_or_path or config.model_type), "model"):
        model = empty_model(config, dtype=torch.bfloat16, attn_implementation="eager")
    return with_parts(family_of_config(config), model, named)


def load_processor(path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
    """The model's processor, or its tokenizer when the model takes text only.

    Raises:
        ConfigError: no processor or tokenizer there, or a resolution budget for a processor that has none.
    """
    config = load_config(path)
    family = family_of_config(config)
    if not family.has_vision:
        with _explained(path, "tokenizer"):
            return AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    stock: Any = _processor_class(config, path)
    with _explained(path, "processor"):
        processor = image_only(stock).from_pretrained(str(path), backend="pil", trust_remote_code=False)
    options = image_options(processor, family, min_pixels=min_pixels, max_pixels=max_pixels)
    if options:
        size = processor.image_processor.size
        processor.image_processor.size = type(size)(**options["size"])
    return processor


def _processor_class(config: PretrainedConfig, path: str | Path) -> type[ProcessorMixin]:
    name = PROCESSOR_MAPPING_NAMES.get(config.model_type)
    name = name[0] if isinstance(name, tuple | list) else name
    found = getattr(transformers, name, None) if name else None
    if found is None:
        raise ConfigError(
            f"transformers {transformers.__version__} has no processor for model type '{config.model_type}' ({path}); "
            "update transformers or use another model"
        )
    return cast(type[ProcessorMixin], found)


@lru_cache
def image_only(stock: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The processor class without its video part, which would need torchvision and is never used here.

    The class keeps its name, because transformers compares it with what the folder says; so it says itself how it is
    pickled, which a class made here could not be.
    """
    kept = [name for name in stock.get_attributes() if "video" not in name]
    if kept == list(stock.get_attributes()):
        return stock
    body: dict[str, Any] = {
        "__module__": stock.__module__,
        "__doc__": stock.__doc__,
        "get_attributes": classmethod(lambda _cls: list(kept)),
        # some classes override it to read frame counts from the video part
        "apply_chat_template": ProcessorMixin.apply_chat_template,
        "__reduce__": lambda self: (_rebuild_image_only, (stock, self.__dict__)),
    }
    if (without_video := _with_optional_video(stock.__init__)) is not None:
        body["__init__"] = without_video
    return cast(type[ProcessorMixin], type(stock.__name__, (stock,), body))


def _with_optional_video(init: Any) -> Any:
    """The same constructor with None for a video part that it insists on (SmolVLM's); None when it does not.

    The code stays the original's, because transformers reads the names of its variables to learn what it takes.
    """
    required = init.__code__.co_varnames[: init.__code__.co_argcount - len(init.__defaults__ or ())]
    if required[-1] != "video_processor":
        return None
    defaults = (None, *(init.__defaults__ or ()))
    return types.FunctionType(init.__code__, init.__globals__, init.__name__, defaults, init.__closure__)


def _rebuild_image_only(stock: Any, state: dict[str, Any]) -> ProcessorMixin:
    kind: type[ProcessorMixin] = image_only(stock)
    processor: ProcessorMixin = object.__new__(kind)
    processor.__dict__.update(state)
    return processor


def _check_image_token(processor: Any, config: PretrainedConfig, path: str | Path) -> None:
    ours = getattr(processor, "image_token_id", None)
    theirs = getattr(config, "image_token_id", None)
    theirs = theirs if theirs is not None else getattr(config, "image_token_index", None)
    if None not in (ours, theirs) and ours != theirs:
        raise ConfigError(
            f"{path}: the tokenizer's image token has id {ours}, and the model's config looks for {theirs}: the model "
            "would not see its images; use the tokenizer that belongs to the model"
        )


def _check_folder(path: str | Path) -> None:
    """Refuse what is clearly not a model, with better words than transformers has."""
    folder = Path(path)
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return
        if (folder / "adapter_config.json").is_file():
            raise ConfigError(
                f"{path} is an adapter, not a model: give its base model as the model, and it as the adapter "
                "(adapter.path in a recipe)"
            )
        raise ConfigError(f"{path} has no config.json: it is not a model folder (one written by save_pretrained)")
    if folder.exists():
        raise ConfigError(f"{path} is a file; give the folder that holds config.json and the weights")
    if folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") != 1:
        raise ConfigError(f"model folder {path} does not exist; give a local folder, or a hub id such as org/name")


@contextmanager
def _explained(path: str | Path, what: str) -> Iterator[None]:
    """What transformers raises when it cannot load, as one error that says what to do."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as err:
        reason = " ".join(str(err).split())
        hint = (
            "check the folder" if Path(path).is_dir() else "check the name and the connection, or give a local folder"
        )
        if Path(path).is_dir() and what == "model" and list(Path(path).glob("*.bin")):
            hint = "its weights are pickle files, which can run code: convert them to safetensors"
        raise ConfigError(f"the {what} of {path} cannot be loaded: {reason[:400]}; {hint}") from err


def _dtype(name: str) -> Any:
    if name == "auto":
        return name
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in known:
        raise ConfigError(f"dtype must be auto, {', '.join(known)}, got {name!r}")
    return known[name]


def _default_device() -> str:
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "cpu"
