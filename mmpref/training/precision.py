"""In which dtypes a run stores its weights and computes: from the recipe, and as one line for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn
from transformers import PretrainedConfig

from mmpref.models.adapters.weights import plain_name
from mmpref.models.load import family_of_config, load_config
from mmpref.models.loaded import LoadedModel
from mmpref.models.precision import HALF, part_dtypes
from mmpref.models.tuning import Tuning
from mmpref.models.unwrap import unwrap
from mmpref.processing.family import PartName
from mmpref.recipe.sections import Recipe

WIDENED = "auto: float32 where whole parts train"
_EVERY: tuple[PartName, ...] = get_args(PartName)
_NAMES = {"Params4bit": "4 bits", "Int8Params": "8 bits"}


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with ``train.bf16`` set where it is null, to the default of this machine.

    Raises:
        ConfigError: there is no such model; its config is only looked at on a GPU that has bfloat16.
    """
    if recipe.train.bf16 is not None:
        return recipe
    has_it = not recipe.train.use_cpu and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    return with_bf16(recipe, has_it and bf16_by_default(recipe, lambda: load_config(recipe.model.path)))


def with_bf16(recipe: Recipe, is_on: bool) -> Recipe:
    """The recipe with ``train.bf16`` set."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"bf16": is_on})})


def bf16_by_default(recipe: Recipe, config: Any) -> bool:
    """Whether a GPU with bfloat16 computes in it where the recipe leaves that open: not beside float16.

    Args:
        config: gives the model's config; asked only where it matters.
    """
    if recipe.train.fp16 or recipe.model.dtype == "float16":
        return False
    whole = widens(recipe) and recipe.adapter.path is None  # an adapter that is trained further decides what trains
    return recipe.model.dtype != "auto" or whole or checkpoint_dtype(config()) != torch.float16


def checkpoint_dtype(config: PretrainedConfig) -> torch.dtype:
    """The dtype that a config names for its weights; bfloat16 where it names none."""
    named = getattr(config, "dtype", None)
    return named if isinstance(named, torch.dtype) else torch.bfloat16


def autocast_dtype(recipe: Recipe) -> torch.dtype | None:
    """The half precision that training computes in, or None."""
    return torch.bfloat16 if recipe.train.bf16 else torch.float16 if recipe.train.fp16 else None


def tuning_of(recipe: Recipe) -> Tuning:
    """The recipe's ``tune`` section as the models take it."""
    return Tuning(vision=recipe.tune.vision, projector=recipe.tune.projector, language=recipe.tune.language)


def widens(recipe: Recipe) -> bool:
    """Whether some weights are stored in float32 only because they train."""
    tune = recipe.tune
    return recipe.model.dtype == "auto" and "full" in (tune.vision, tune.projector, tune.language)


def dtype_fact(recipe: Recipe) -> str:
    """What a checkpoint or a cache of log-probs depends on of ``model.dtype``."""
    return WIDENED if widens(recipe) else recipe.model.dtype


def loaded_as(recipe: Recipe, *, is_deepspeed: bool = False) -> str:
    """The dtype to load a model in. DeepSpeed makes all weights those of its own mixed precision, and keeps a float32
    copy of what trains by itself: a reference that is a copy must be what the policy will be.
    """
    if not (is_deepspeed and widens(recipe)):
        return recipe.model.dtype
    half = autocast_dtype(recipe)
    return "float32" if half is None else str(half).removeprefix("torch.")


def planned_dtypes(
    config: PretrainedConfig, recipe: Recipe, *, is_deepspeed: bool = False
) -> dict[PartName, torch.dtype]:
    """The dtype that each part's weights will be stored in, before anything is loaded."""
    asked = loaded_as(recipe, is_deepspeed=is_deepspeed)
    saved = checkpoint_dtype(config) if asked == "auto" else getattr(torch, asked)
    found = None
    if asked == "auto":
        found = part_dtypes(saved, tuning_of(recipe), family_of_config(config), autocast=autocast_dtype(recipe))
    return dict(found) if found is not None else dict.fromkeys(_EVERY, saved)


def describe(loaded: LoadedModel, recipe: Recipe, *, is_deepspeed: bool = False) -> str:
    """One line: the dtype of each part's weights, and that of the computation."""
    stored = stored_dtypes(loaded)
    parts = ", ".join(f"{part} {' + '.join(names)}" for part, names in stored.items())
    half = autocast_dtype(recipe)
    computed = "no autocast" if half is None else f"autocast to {str(half).removeprefix('torch.')}"
    line = f"precision: weights {parts}; {computed}"
    if is_deepspeed and half is not None:
        return f"{line}; DeepSpeed keeps a float32 copy of what trains"
    if trains_in_half(loaded.model):
        line += "; weights are updated in half precision, as model.dtype asks: small updates may be rounded away"
    return line


def describe_saved(recipe: Recipe, folder: Path) -> str | None:
    """One line where a whole model was written in another dtype than its base has; None otherwise."""
    if not (folder / "config.json").is_file():
        return None
    written, base = (checkpoint_dtype(load_config(path)) for path in (folder, recipe.model.path))
    if written == base:
        return None
    wrote, saved = (str(dtype).removeprefix("torch.") for dtype in (written, base))
    if recipe.model.save_dtype != "auto":
        return f"model: written in {wrote}, as asked; the base is {saved}"
    return f"model: written in {wrote}, as trained, and the base is {saved}: model.save_dtype={saved} rounds to that"


def trains_in_half(model: nn.Module) -> bool:
    """Whether an optimizer will update weights that are stored in half precision."""
    return any(parameter.requires_grad and parameter.dtype in HALF for parameter in unwrap(model).parameters())


def stored_dtypes(loaded: LoadedModel) -> dict[PartName, list[str]]:
    """The dtypes in each part, the commonest first; what trains beside a frozen base is named."""
    sizes: dict[PartName, dict[str, int]] = {}
    for name, parameter in unwrap(loaded.model).named_parameters():
        part = loaded.family.part_of(plain_name(name))
        of_part = sizes.setdefault(part, {})
        dtype = _NAMES.get(type(parameter).__name__) or str(parameter.dtype).removeprefix("torch.")
        dtype += " LoRA" if ".lora_" in name else ""
        of_part[dtype] = of_part.get(dtype, 0) + parameter.numel()
    return {
        part: sorted(sizes[part], key=lambda name, of=sizes[part]: -of[name])  # type: ignore[misc]
        for part in _EVERY
        if part in sizes
    }
