"""Models and processors from a folder or a hub id. The only module that uses the ``Auto*`` classes.

Images need no torchvision: processors are loaded with their Pillow backend and without their video part. Weights are
read from safetensors only, and no code from a model folder is ever run.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
)

from mmpref.errors import ConfigError, library_errors, one_line
from mmpref.models.adapters import lora as adapters
from mmpref.models.batch_norms import keep_statistics
from mmpref.models.folder.config_checks import (
    explain_unknown_part,
    explain_unknown_rope,
    refuse_keys,
    settle,
    warn_if_it_works,
)
from mmpref.models.folder.config_values import packing_of
from mmpref.models.folder.contents import AGAIN, look_into, read_object, refuse_odd_path, stored_weights
from mmpref.models.folder.generation_config import plain_generation
from mmpref.models.folder.image_only import image_only
from mmpref.models.folder.kinds import other_architecture, refuse_kind, refuse_reading_ahead
from mmpref.models.folder.packed_weights import is_packed, refuse_packing, refuse_plain
from mmpref.models.folder.processor_checks import complete_processor
from mmpref.models.folder.processors import has_own_processor, processor_class, refuse_without_images
from mmpref.models.folder.tokenizer_files import explain_tokenizer, refuse_ids_beyond, whole_tokenizer
from mmpref.models.folder.videos import note_video_settings
from mmpref.models.folder.weights_fit import building_within, refuse_misfit, refuse_positions, without_table
from mmpref.models.loaded import LoadedModel
from mmpref.models.parts import with_parts
from mmpref.models.position_table import num_places
from mmpref.models.quantize import Quantization, QuantizationSettings, after_quantized_load, quantization_config
from mmpref.models.row_positions import count_in_each_row
from mmpref.models.tower_inputs import take_any_dtype
from mmpref.models.tower_masks import look_both_ways
from mmpref.models.tower_windows import attend_by_length
from mmpref.processing.family import Family, PartName, family_of
from mmpref.processing.pixels import image_options
from mmpref.processing.rope_lengths import rope_lengths

logger = logging.getLogger(__name__)
_PACKAGE = re.compile(r"requires the (\w+) library but it was not found")
"""How transformers says what is not installed."""
_NO_SDPA = "scaled_dot_product_attention yet"
"""How transformers says that a type has no such attention."""
_OF_ATTENTION = ("FlashAttention", "flash_attn", "attn_implementation", "FlexAttention", "flex_attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSettings:
    """How a model and its processor are loaded.

    Args:
        dtype: ``auto`` (as saved), ``float32``, ``bfloat16`` or ``float16``.
        device: where the model goes; None keeps it on the CPU, or where quantisation put it.
        quantization: ``nf4``, ``fp4`` or ``int8`` for the language model's layers, or settings that say more.
        attn_implementation: transformers' name of the attention; None takes what the config or transformers says.
        min_pixels, max_pixels: resolution budget of one image.
        parts: path of a module -> the part that it belongs to, for what cannot be read from the model's own code.
        classifier: the model with its head for classes, as reward models have one, and not the one for words.
    """

    dtype: str = "auto"
    device: str | torch.device | None = None
    quantization: QuantizationSettings | Quantization | None = None
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    parts: Mapping[str, PartName] | None = None
    classifier: bool = False


_AS_SAVED = LoadSettings()


def load(
    path: str | Path,
    settings: LoadSettings = _AS_SAVED,
    *,
    adapter: Path | None = None,
    trainable: bool = False,
) -> LoadedModel:
    """A model, its processor and its row of facts.

    Args:
        path: a folder, or a hub id.
        settings: dtype, device, quantisation and the like.
        adapter: a folder with a LoRA adapter to put on the model.
        trainable: leave it in training mode; otherwise it is in eval mode and nothing requires a gradient.

    Raises:
        ConfigError: the folder is missing or is not such a model, or model and processor do not belong together.
    """
    model = load_model(path, settings)
    processor = load_processor(
        path, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels, classifier=settings.classifier
    )
    family = with_parts(family_of_config(model.config), model, settings.parts)
    family = replace(family, places=num_places(model, family))
    if family.note:
        logger.warning(family.note)
    # of other types the place in the text and the token of the features may be two
    if family.name.startswith("llava") or family.repeats_image_token or not has_own_processor(model.config):
        _check_image_token(processor, model.config, path)
    refuse_ids_beyond(processor, model, path)
    attend_by_length(model, family)
    look_both_ways(model, family)
    keep_statistics(model)
    take_any_dtype(model, family)
    count_in_each_row(model)
    if adapter is not None:
        model = adapters.attach(model, adapter, trainable=trainable)
    if not trainable:
        model.requires_grad_(False)
    model.train(trainable)
    return LoadedModel(model=model, processor=processor, family=family, path=str(path), dtype=settings.dtype)


def load_model(path: str | Path, settings: LoadSettings = _AS_SAVED) -> PreTrainedModel:
    """The model alone, in eval mode; an image-text-to-text model when its config has a vision tower, else a causal LM.

    Raises:
        ConfigError: see :func:`load`.
    """
    config = load_config(path, classifier=settings.classifier)
    family = family_of_config(config)
    folder = Path(path) if Path(path).is_dir() else None
    written = {} if folder is None else read_object(folder / "config.json")
    packed = packing_of(written) is not None or settings.quantization is not None
    stored = None if folder is None else stored_weights(folder, written)
    arguments: dict[str, Any] = {
        "dtype": _dtype(settings.dtype),
        "use_safetensors": True,
        "trust_remote_code": False,
        "local_files_only": folder is not None,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are refused below, in one line
    }
    if settings.attn_implementation is not None:
        arguments["attn_implementation"] = settings.attn_implementation
    if settings.quantization is not None:
        family = family_with_parts(config, settings.parts)
        arguments["quantization_config"] = quantization_config(settings.quantization, family, dtype=arguments["dtype"])
        arguments["device_map"] = {"": _default_device() if settings.device is None else str(settings.device)}
    if stored is not None:
        refuse_plain(stored, written, _file(path))
    kind = AutoModelForSequenceClassification if settings.classifier else _kind_of(config, family)
    if not settings.classifier:
        arguments["generation_config"] = plain_generation(config, path)
    building = building_within(_config_of(path), stored, packed=packed)
    with (
        _explained(path, "model", memory=False),
        explain_unknown_rope(config, _config_of(path)),
        building,
        without_table(),
    ):
        made, info = kind.from_pretrained(str(path), config=config, **arguments)
    model = cast(PreTrainedModel, made)
    if not settings.classifier:  # one may read both ways
        refuse_reading_ahead(model, path)
    refuse_positions(config, path)
    contradiction = other_architecture(config)
    refuse_misfit(model, info, path, packed=is_packed(model), contradiction=contradiction)
    if contradiction:
        logger.warning("%s: %s; its weights are of the latter, which is taken", path, contradiction)
    _keep_used_renamings(model)
    if settings.quantization is not None:
        after_quantized_load(model, family)
    elif settings.device is not None:
        model.to(settings.device)
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
    kind = _kind_of(config, family_of_config(config))
    where = _config_of(config.name_or_path) if config.name_or_path else f"this '{config.model_type}' config"
    with library_errors(ConfigError, f"{where} describes no model that can be built", AGAIN):
        made = _on_meta(kind, config, where, dtype, attn_implementation)
    refuse_reading_ahead(made, config.name_or_path or where)
    return cast(PreTrainedModel, made)


def _kind_of(config: PretrainedConfig, family: Family) -> Any:
    """The class that knows such a model. transformers lists some that see among those for text (Phi-4-multimodal), and
    some for text among those that see (Mistral 4)."""
    kinds: list[Any] = [AutoModelForImageTextToText, AutoModelForCausalLM]
    ordered = kinds if family.has_vision else kinds[::-1]
    return next((kind for kind in ordered if type(config) in kind._model_mapping), ordered[0])


def _on_meta(kind: Any, config: PretrainedConfig, where: str, dtype: torch.dtype, attn_implementation: str) -> Any:
    with building_within(where), torch.device("meta"):
        return kind.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=attn_implementation)


def check_model(path: str | Path) -> None:
    """Look at all files of a model folder, before anything else is done with it; a hub id passes.

    Raises:
        ConfigError: it is no model folder, or something in it is broken.
    """
    config = _check_folder(path)
    if config is not None:
        refuse_plain(stored_weights(Path(path), config), config, _file(path))


def load_config(path: str | Path, *, classifier: bool = False) -> PretrainedConfig:
    """The config of a model folder or hub id.

    Args:
        classifier: a model with a head for classes is taken too.

    Raises:
        ConfigError: nothing is there, or it is an adapter or something else than a model.
    """
    written = _check_folder(path)
    is_here = Path(path).is_dir()
    try:
        with _explained(path, "config"):
            found = AutoConfig.from_pretrained(str(path), trust_remote_code=False, local_files_only=is_here)
    except ConfigError:
        explain_unknown_part(written or {}, _file(path))
        raise
    refuse_kind(found, path, classifier=classifier)
    settle(found, _config_of(path))
    return cast(PretrainedConfig, found)


def family_of_config(config: PretrainedConfig) -> Family:
    """The row of facts for a config."""
    vision = getattr(config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    family = replace(
        family_of(str(config.model_type), has_vision=isinstance(vision, PretrainedConfig)),
        patch=patch if isinstance(patch, int) else None,
        rope_lengths=rope_lengths(config.get_text_config()),
    )
    if config.model_type == "idefics":
        return replace(family, no_images="looks at images through layers of its own, whose mask is not made here")
    if family.name == "llava" and getattr(vision, "model_type", None) == "pixtral":
        return replace(family, repeats_image_token=False)  # rows of an image end with tokens of their own
    return family


def _file(path: str | Path) -> Path:
    return Path(path) / "config.json"


def _config_of(path: str | Path) -> str:
    return str(_file(path)) if Path(path).is_dir() else f"the config of {path}"


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


def load_processor(
    path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None, classifier: bool = False
) -> Any:
    """The model's processor, or its tokenizer when the model takes text only.

    Args:
        min_pixels, max_pixels: resolution budget of one image.
        classifier: a model with a head for classes is taken too.

    Raises:
        ConfigError: no processor or tokenizer there, or a resolution budget for a processor that has none.
    """
    config = load_config(path, classifier=classifier)
    family = family_of_config(config)
    is_here = Path(path).is_dir()
    if not family.has_vision:
        with _explained(path, "tokenizer"), explain_tokenizer(path):
            tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=is_here)
        return whole_tokenizer(tokenizer, config, path)
    stock: Any = processor_class(config, path)
    refuse_without_images(path)
    settings = {"backend": "pil", "trust_remote_code": False, "local_files_only": is_here}
    with _explained(path, "processor"), explain_tokenizer(path):
        processor: Any = image_only(stock).from_pretrained(str(path), **settings)
    complete_processor(processor, config, path)
    whole_tokenizer(processor.tokenizer, config, path)
    note_video_settings(processor, config, family, path)
    options = image_options(processor, family, min_pixels=min_pixels, max_pixels=max_pixels)
    if options:
        size = processor.image_processor.size
        processor.image_processor.size = type(size)(**options["size"])
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


def _check_folder(path: str | Path) -> dict[str, Any] | None:
    """Refuse what is clearly not a model, with better words than transformers has.

    Returns:
        The content of the folder's config.json, all of whose small files were looked at; None for a hub id.
    """
    refuse_odd_path(path)
    folder = Path(path)
    if folder.is_dir():
        with library_errors(ConfigError, f"model folder {path} cannot be read", "look at its permissions"):
            names = {entry.name for entry in folder.iterdir()}
        if "config.json" in names:
            if "adapter_config.json" in names:
                raise ConfigError(
                    f"{path} holds a model and an adapter (config.json and adapter_config.json), and which of them is "
                    "meant is not clear: put the adapter's files into a folder of their own"
                )
            found = look_into(folder)
            refuse_keys(found, _file(path))
            refuse_packing(found, _file(path))
            return found
        if "adapter_config.json" in names:
            raise ConfigError(
                f"{path} is an adapter, not a model: give its base model as the model, and it as the adapter "
                "(adapter.path in a recipe)"
            )
        raise ConfigError(f"{path} has no config.json: it is not a model folder (one written by save_pretrained)")
    if folder.exists():
        raise ConfigError(f"{path} is a file; give the folder that holds config.json and the weights")
    if folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") != 1:
        raise ConfigError(f"model folder {path} does not exist; give a local folder, or a hub id such as org/name")
    return None


@contextmanager
def _explained(path: str | Path, what: str, *, memory: bool = True) -> Iterator[None]:
    """What a library raises when it cannot load, as one error that says what to do.

    Args:
        memory: a lack of memory is explained here too; otherwise it passes to whoever knows what would need less.
    """
    is_here = Path(path).is_dir()
    hint = AGAIN if is_here else "check the name and the connection, or give a local folder"
    cannot = f"the {what} of {path} cannot be loaded"
    try:
        with warn_if_it_works(), library_errors(ConfigError, cannot, hint, memory=memory):
            yield
    except ConfigError as err:
        reason = str(err.__cause__ or "")
        if "trust_remote_code" in reason:
            raise ConfigError(
                f"the {what} of {path} is code that comes with it, and mmpref runs no code of models: give a model of "
                "a type that transformers has; many are published once more in that form"
            ) from err.__cause__
        if (needed := _PACKAGE.search(reason)) and needed[1].lower() != "torchvision":
            raise ConfigError(
                f"{cannot} without the package {needed[1]}: install it (pip install {needed[1]})"
            ) from err.__cause__
        if "torchvision" in reason.lower():
            raise ConfigError(
                f"{cannot}: in transformers {transformers.__version__} it needs torchvision, whose part for images has "
                "no twin that works with Pillow alone; install the torchvision that belongs to your torch (from where "
                "torch came: one from another index makes transformers fail)"
            ) from err.__cause__
        if any(sign in reason for sign in _OF_ATTENTION):
            named = "eager" if _NO_SDPA in reason else "sdpa"
            raise ConfigError(
                f"{cannot} with the attention that its config.json or the recipe asks for: "
                f"{one_line(err.__cause__ or err)}; write model.attn_implementation={named} in the recipe, or take "
                "attn_implementation (or _attn_implementation) out of config.json"
            ) from err.__cause__
        raise


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
