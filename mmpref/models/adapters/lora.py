"""Which weights train, and LoRA on them. The only module that imports peft.

A part of the model (vision tower, projector, language model) is frozen, trained itself, or given a LoRA adapter. With
LoRA anywhere, a part that trains fully is a copy kept by the adapter: the base stays as it was, so that switching the
adapter off gives the reference model, and one adapter folder holds everything that was trained.
"""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmpref.errors import ConfigError, library_errors
from mmpref.models.adapters.casts import leave_casts_to_autocast
from mmpref.models.adapters.saved import CONFIG, WEIGHTS, adapter_settings
from mmpref.models.folder.contents import AGAIN, read_header
from mmpref.models.frozen_tower import keep_frozen_tower_out_of_graph
from mmpref.models.parts import with_parts
from mmpref.models.precision import keep_in, part_dtypes, saved_dtype
from mmpref.models.tower_windows import attend_by_length
from mmpref.models.tuning import PARTS, AdapterSettings, Tuning
from mmpref.models.unwrap import submodule, unwrap
from mmpref.processing.family import Family, PartName

if TYPE_CHECKING:
    from mmpref.models.loaded import LoadedModel


def prepare(
    loaded: LoadedModel,
    tuning: Tuning,
    adapter: AdapterSettings | None = None,
    *,
    start: Path | None = None,
    autocast: torch.dtype | None = None,
) -> LoadedModel:
    """The same model with gradients where they are wanted, LoRA attached where it is asked for, in training mode.

    Its parts are looked up in the model itself (``parts.with_parts``). Weights that train themselves are then float32,
    unless the model was loaded in a dtype that was asked for (``models.precision``).

    Args:
        loaded: a model without an adapter.
        tuning: what happens to each part.
        adapter: LoRA settings; None where no part has LoRA.
        start: folder of a saved adapter that training starts from. Of ``adapter`` only the dropout counts then, and
            ``freeze`` leaves what the adapter has on a part as it is.
        autocast: the half precision that training will compute in; None where it computes in that of the weights.

    Raises:
        ConfigError: parts the model does not have, LoRA settings without a part for them (or the other way round),
            quantised weights that should train themselves, an adapter that does not fit, nothing left to train.
    """
    model = loaded.model
    family = with_parts(loaded.family, model, dict(loaded.family.named))
    _check(tuning, adapter, family, model)
    model.requires_grad_(False)
    if loaded.dtype == "auto":
        dtypes = part_dtypes(saved_dtype(model), tuning, family, autocast=autocast)
        if dtypes is not None:
            keep_in(model, family, dtypes)
    if adapter is not None and start is not None:
        model = attach(model, start, trainable=True, dropout=adapter.dropout)
        for name, parameter in model.named_parameters():
            frozen = tuning.of(family.part_of(plain_name(name))) == "freeze"
            parameter.requires_grad_(is_adapter_weight(name) and not frozen)
    elif adapter is not None:
        model = _with_lora(model, family, tuning, adapter)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(tuning.of(family.part_of(name)) == "full")
    trained, _ = count_parameters(model)
    if not trained:
        raise ConfigError(
            "nothing would train: set at least one of tune.vision, tune.projector, tune.language to full or lora"
        )
    for part in PARTS if start is None else ():
        asked = tuning.of(part)
        if asked != "freeze" and not any(
            value.requires_grad and family.part_of(plain_name(name)) == part for name, value in model.named_parameters()
        ):
            reason = "has no linear layer" if asked == "lora" else "has single tensors only, which no adapter can copy"
            raise ConfigError(f"tune.{part} is {asked}, and it {reason}: nothing of it would train; set it to freeze")
    if family.has_vision and tuning.vision == "freeze" and not _adapted(model, family, "vision"):
        keep_frozen_tower_out_of_graph(model, family)
    if adapter is not None:
        leave_casts_to_autocast(model)
    attend_by_length(model, family)
    model.train()
    return dataclasses.replace(loaded, model=model, family=family)


def attach(model: PreTrainedModel, folder: Path, *, trainable: bool, dropout: float | None = None) -> Any:
    """Put a saved adapter on its base model.

    Args:
        model: the base.
        folder: of the adapter.
        trainable: its weights require gradients.
        dropout: of its layers; None takes what the adapter was trained with.

    Raises:
        ConfigError: there is no adapter in the folder, or it does not fit the model.
    """
    peft = _peft()
    settings = adapter_settings(folder)
    named = settings.get("base_model_name_or_path")
    of = f" (its {CONFIG} names {str(named)[:80]} as its base)" if named else ""
    with library_errors(ConfigError, f"{folder / CONFIG} cannot be used", AGAIN):
        config = peft.PeftConfig.from_pretrained(str(folder))
    if dropout is not None:
        config.lora_dropout = dropout
    with (
        library_errors(ConfigError, f"the adapter in {folder} does not fit this model{of}", "give its own base model"),
        warnings.catch_warnings(),  # peft only warns, and goes on with layers that learnt nothing
    ):
        warnings.filterwarnings("error", message="Found missing adapter keys")
        found = peft.PeftModel.from_pretrained(
            model, str(folder), config=config, is_trainable=trainable, local_files_only=True
        )
    _refuse_left_over(peft, found, folder, of)
    config.base_model_name_or_path = model.name_or_path or named  # what it is saved with when it was trained further
    return found


def _refuse_left_over(peft: Any, model: Any, folder: Path, of: str) -> None:
    """Weights for layers that the model does not have: peft leaves them out and says nothing."""
    stored = [name for name in read_header(folder / WEIGHTS) if ".lora_" in name]
    placed = sum(".lora_" in name for name in peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    if len(stored) > placed:
        raise ConfigError(
            f"the adapter in {folder} does not fit this model{of}: it holds {len(stored)} LoRA tensors, and this model "
            f"has a place for {placed} of them; give its own base model"
        )


def merged(model: Any) -> PreTrainedModel:
    """The base model with a peft adapter added to its weights, as one plain model.

    Raises:
        ConfigError: the base is quantised: merging would round the adapter away.
    """
    base: PreTrainedModel = model.get_base_model()
    if getattr(base, "is_quantized", False):
        raise ConfigError("an adapter is merged into the base as it was published, not into quantised weights")
    whole: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return whole


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(parameters that train, all parameters); two weights in one byte are counted as two."""
    sizes = [(p.requires_grad, stored_numel(p)) for p in model.parameters()]
    return sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)


def whole_numel(parameter: Tensor) -> int:
    """Numbers in a weight, of which DeepSpeed ZeRO-3 may leave an empty tensor where it was."""
    return int(getattr(parameter, "ds_numel", 0)) or parameter.numel()


def stored_numel(parameter: Tensor) -> int:
    """Weights that a tensor stands for: 4-bit layers keep two in a byte, whatever the type of what holds the bytes."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    if isinstance(shape, torch.Size):
        return shape.numel()
    return whole_numel(parameter) * (2 if _is_four_bit(parameter) else 1)


def has_adapter(model: nn.Module) -> bool:
    """Whether a peft adapter is attached."""
    return hasattr(unwrap(model), "disable_adapter")


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter of a peft model belongs to the adapter, and so vanishes when the adapter is off."""
    return ".lora_" in name or ".modules_to_save." in name


def plain_name(name: str) -> str:
    """The name that a weight of a peft model has, or would have, in the model itself."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".base_layer", "")


def adapter_changes_nothing(model: nn.Module) -> bool:
    """Whether the adapter is as peft starts it, adding zero: then the adapter switched off is the same model."""
    inner = unwrap(model)
    for name, parameter in inner.named_parameters():
        if (".lora_B." in name or ".lora_embedding_B." in name) and bool(parameter.detach().any()):
            return False
        if ".modules_to_save." in name:
            path, _, rest = name.partition(".modules_to_save.")
            original = inner.get_parameter(f"{path}.original_module.{rest.partition('.')[2]}")
            if not torch.equal(original.detach(), parameter.detach()):
                return False
    return True


def changed_its_base(model: nn.Module) -> bool:
    """Whether the adapter started by taking its weights out of the base (PiSSA)."""
    return getattr(unwrap(model), "adapter_start", None) is not None


def as_plain_lora(model: nn.Module, folder: Path) -> None:
    """Make a saved adapter that started from the base's own weights one for the base as it was published.

    What was learned is ``B A - B0 A0``, which is one adapter of twice the rank: ``[B | -B0] [A ; A0]``. An adapter that
    started from zero is left as it is.
    """
    start: dict[str, torch.Tensor] | None = getattr(unwrap(model), "adapter_start", None)
    if start is None:
        return
    file, config_file = folder / WEIGHTS, folder / CONFIG
    weights = load_file(file)
    for name, first in start.items():
        of_a = ".lora_A." in name
        weights[name] = torch.cat([weights[name], first if of_a else -first], dim=0 if of_a else 1).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["r"] *= 2
    config["lora_alpha"] *= 2**0.5 if config["use_rslora"] else 2
    config["init_lora_weights"] = True
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _check(tuning: Tuning, adapter: AdapterSettings | None, family: Family, model: nn.Module) -> None:
    lora = [part for part in PARTS if tuning.of(part) == "lora"]
    if lora and adapter is None:
        raise ConfigError(f"tune.{lora[0]} is lora, and there are no LoRA settings: set adapter.kind to lora or qlora")
    if adapter is not None and not lora:
        raise ConfigError(
            "adapter.kind asks for LoRA, and no part is tuned by it: set tune.language (or another) to lora"
        )
    if adapter is not None and tuning.language == "full":
        raise ConfigError("tune.language: full beside LoRA on another part is not supported; make it lora or freeze")
    if tuning.vision == "full" and tuning.projector == "lora" and _is_inside(family.projector, family.vision):
        raise ConfigError(
            "tune.projector: lora inside a vision tower that is full (Qwen) is not supported; make it full"
        )
    if family.unknown:
        names = ", ".join(family.unknown)
        raise ConfigError(
            f"what these modules of a '{_type_of(model)}' model are cannot be read from its code: {names}; say it, "
            f"as in model.parts={{{family.unknown[0]}: other}} (vision, projector, language, or other: never trained)"
        )
    found = {family.part_of(name) for name, _ in model.named_parameters()}
    for part in PARTS:
        if tuning.of(part) != "freeze" and part not in found:
            raise ConfigError(
                f"tune.{part} is {tuning.of(part)}, and this '{family.name}' model has no {part} part that mmpref "
                f"knows; set it to freeze"
            )
    for name, parameter in model.named_parameters():
        of = family.part_of(name)
        if tuning.of(of) == "full" and (_is_four_bit(parameter) or parameter.dtype == torch.int8):
            raise ConfigError(f"tune.{of} is full, and its weights are quantised ({name}): use lora")


def _type_of(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _is_inside(paths: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return any(path.startswith(tower + ".") for path in paths for tower in outer)


def lora_layers(model: PreTrainedModel, family: Family, tuning: Tuning) -> list[str]:
    """Names of the layers that get an adapter: every linear one of the parts tuned by LoRA, but never the head."""
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and tuning.of(family.part_of(name)) == "lora"
    ]


def _with_lora(model: PreTrainedModel, family: Family, tuning: Tuning, adapter: AdapterSettings) -> Any:
    peft = _peft()
    layers = lora_layers(model, family, tuning)
    if not layers:
        raise ConfigError("the parts tuned by LoRA have no linear layers to put it on")
    if adapter.init != "zero" and (adapter.use_dora or getattr(model, "is_quantized", False)):
        raise ConfigError(
            f"adapter.init: {adapter.init} splits the base's own weights: it needs them whole and without DoRA; use "
            "adapter.kind: lora without quantization and use_dora, or adapter.init: zero"
        )
    config = peft.LoraConfig(
        r=adapter.rank,
        init_lora_weights=True if adapter.init == "zero" else adapter.init,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        target_modules=_pattern(layers, model),
        modules_to_save=modules_to_save(model, family, tuning) or None,
        bias="none",
    )
    adapted = peft.get_peft_model(model, config)
    if adapter.init != "zero":
        adapted.adapter_start = {
            name.replace(".default.", "."): parameter.detach().cpu().clone()
            for name, parameter in adapted.named_parameters()
            if ".lora_A." in name or ".lora_B." in name
        }
    for name, parameter in adapted.named_parameters():
        if ".modules_to_save." in name:  # a copied tower holds its projector too, which may have to stay frozen
            parameter.requires_grad_(tuning.of(family.part_of(plain_name(name))) == "full")
    return adapted


def _adapted(model: nn.Module, family: Family, part: PartName) -> bool:
    """Whether an adapter has anything on a part."""
    return any(
        is_adapter_weight(name) and family.part_of(plain_name(name)) == part for name, _ in model.named_parameters()
    )


def _pattern(names: list[str], model: nn.Module) -> str:
    """A regular expression for exactly these modules, with layer numbers made general so that it stays short."""
    every = [name for name, _ in model.named_modules()]
    by_shape: dict[str, set[str]] = {}
    for name in names:
        shape = r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in name.split("."))
        by_shape.setdefault(shape, set()).add(name)
    patterns: list[str] = []
    for shape, wanted in by_shape.items():
        is_exact = {name for name in every if re.fullmatch(shape, name)} == wanted
        patterns += [shape] if is_exact else sorted(re.escape(name) for name in wanted)
    return "|".join(patterns)


def modules_to_save(model: nn.Module, family: Family, tuning: Tuning) -> list[str]:
    """Paths of the modules that train fully beside the adapter.

    Single tensors (image_newline) cannot, and stay frozen.
    """
    found: list[str] = []
    parts: tuple[PartName, ...] = ("vision", "projector")
    for part in parts:
        if tuning.of(part) != "full":
            continue
        for path in family.paths_of(part):
            module = submodule(model, path)
            if module is None or any(path.startswith(outer + ".") for outer in found):
                continue
            if isinstance(module, nn.ModuleList):  # peft copies modules that can be called
                found += [f"{path}.{index}" for index in range(len(module))]
            else:
                found.append(path)
    return found


def _is_four_bit(parameter: Tensor) -> bool:
    return parameter.dtype == torch.uint8


def _peft() -> Any:
    try:
        import peft
    except ImportError as err:
        raise ConfigError("LoRA needs peft: pip install peft") from err
    return peft
