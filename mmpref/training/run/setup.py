"""Everything that a training step needs: model, reference, layout, and the pairs that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import set_seed

from mmpref.data.single_answers import with_mismatched
from mmpref.errors import ConfigError
from mmpref.files.hashes import Say
from mmpref.losses.objective import Objective
from mmpref.models.adapters.lora import prepare
from mmpref.models.adapters.weights import count_parameters
from mmpref.models.experts import describe_experts
from mmpref.models.folder.config_checks import refuse_unsavable
from mmpref.models.load import LoadSettings, family_of_config, load, load_config
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.layout_choice import Layout, choose_layout
from mmpref.models.logps.reference import Reference, choose_reference
from mmpref.models.logps.router_balance import find_routers
from mmpref.models.part_counts import PartCount, count_parts, in_words
from mmpref.models.quantize import QuantizationSettings
from mmpref.models.reference_rule import start_of
from mmpref.models.tuning import AdapterSettings
from mmpref.processing.collate import PairCollator
from mmpref.processing.encode import PairEncoder
from mmpref.processing.family import PartName
from mmpref.processing.length_plan import FitPlan
from mmpref.processing.pixels import ImageSettings
from mmpref.processing.token_weights import TokenWeightSettings, describe_weights
from mmpref.recipe.sections import AdapterSection, Recipe
from mmpref.records import PreferencePair, PromptKey
from mmpref.training.parallel.world import SINGLE_PROCESS, World
from mmpref.training.precision import autocast_dtype, describe, loaded_as, tuning_of
from mmpref.training.run.data import RunData
from mmpref.training.run.feature_cache import KeptFeatures, open_features
from mmpref.training.run.lengths import fit_data
from mmpref.training.run.other_images import (
    describe_without_lift,
    eval_other_image_of,
    notes_on_other_images,
    other_image_of,
    refuse_held_out_without_images,
    refuse_without_images,
)
from mmpref.training.run.pair_notes import describe_quarantined, describe_row_weights, notes_on_pairs
from mmpref.training.run.reference_cache import ReferenceCache, cache_facts, one_fills
from mmpref.training.run.start_adapter import adapter_folder, describe_start
from mmpref.training.trainer.memory_errors import explain_oom


@dataclass(frozen=True, slots=True)
class Setup:
    """A run before its first step."""

    loaded: LoadedModel
    reference: Reference | None
    layout: Layout
    collator: PairCollator
    train: FitPlan
    eval: FitPlan
    trained: int  # parameters
    total: int
    parts: Mapping[PartName, PartCount]
    features: KeptFeatures | None = None


def set_up(recipe: Recipe, objective: Objective, data: RunData, say: Say, world: World = SINGLE_PROCESS) -> Setup:
    """Load the model, choose layout and reference, and plan the lengths of all pairs.

    A reference cache is computed here, except where the model will be sharded: then it is computed after that.

    Args:
        recipe: with the settings of its start adapter (``start_adapter.with_start_adapter``).
        objective: says whether a reference and rejected answers are needed.
        data: the pairs.
        say: called with one line per choice, with the reason.
        world: all its ranks must call this together; the model trains on its device.

    Raises:
        MMPrefError: the model, its parts or the reference cannot be what the recipe asks for.
    """
    refuse_shrinking(recipe)
    if recipe.cpu_threads is not None:
        torch.set_num_threads(recipe.cpu_threads)
    set_seed(recipe.seed)  # before the model: a fresh adapter is drawn at random
    with explain_oom(lambda: f"loading {recipe.model.path}", lambda: smaller_weights(recipe)):
        loaded = _load_model(recipe, world)
    refuse_unsavable(loaded.model, recipe.model.path)
    if recipe.model.router_aux_loss_coef:
        find_routers(loaded.model)
    if recipe.adapter.path is not None:
        say(describe_start(recipe))
    say(describe(loaded, recipe, is_deepspeed=world.is_deepspeed))
    trained, total = count_parameters(loaded.model)
    parts = count_parts(loaded.model, loaded.family)
    encoder = encoder_of(recipe, loaded)
    encoder.token_weights = TokenWeightSettings.of(objective.token_weights)
    if note := describe_weights(encoder.token_weights, [*data.train, *data.eval]):
        say(f"token weights: {note}")
    if note := describe_row_weights(data.train):
        say(note)
    if note := describe_quarantined(data.quarantine.rows):
        say(note)
    if encoder.other_image is not None:
        refuse_without_images(data.train)
        for name, pairs in (("data.train", data.train), ("data.eval", data.eval)):
            for line in notes_on_other_images(pairs, encoder.other_image):
                say(f"{name}: {line}")
    if (lift := eval_other_image_of(recipe)) is not None:
        refuse_held_out_without_images(data.eval)
        if note := describe_without_lift(data.eval, lift, data.images.has_one_colour):
            say(f"data.eval: {note}")
    train, held_out = fit_data(recipe, data, encoder, say)
    if objective.needs_labels:  # no answer of a row that was set aside
        train.pairs, held_out.pairs = (with_mismatched(plan.pairs, seed=recipe.seed) for plan in (train, held_out))
    for note in encoder.chat.notes.values():
        say(f"template: {note}")
    rows = f"{len(train.pairs)} pairs, {len(data.quarantine)} rows in quarantine"
    say(f"{rows}; {trained:,} of {total:,} parameters train")
    say(f"parts: {in_words(parts)}")
    if recipe.adapter.path is None:
        adapter, packed = recipe.adapter.kind != "none", recipe.adapter.stored_as is not None
        if note := describe_experts(loaded.model, adapter=adapter, adapted=recipe.adapter.experts, packed=packed):
            say(note)
    layout = world.on_first_rank(  # where one rank reads the weights for all, the others have none to try a layout with
        lambda: choose_layout(loaded.model, loaded.family, recipe.model.attention)
    )
    say(f"layout: {layout.explanation}")
    for note in notes_on_pairs(train, row_tokens=recipe.processing.row_tokens, layout=layout.name):
        say(note)
    encoder.budgets = _smallest(train.budgets, held_out.budgets)
    collator = PairCollator(
        encoder,
        data.images.open,
        data.videos,
        layout=layout.name,
        need_rejected=objective.needs_rejected,
        need_mismatched=objective.needs_kl,
        need_other=objective.needs_other,
        row_tokens=recipe.processing.row_tokens,
        keyed=recipe.reference.kind == "cache" and objective.needs_reference,
    )
    features = open_features(recipe, loaded, [*train.pairs, *held_out.pairs], world=world, say=say)
    if features is not None:
        collator = collator.with_features(features.files)
    cached = [] if recipe.reference.kind == "cache" else ["reference.kind=cache"]
    alone = one_fills(_cache_folder(recipe), world, say) if _has_cache(recipe, objective) else nullcontext()
    with explain_oom(lambda: "making the reference", lambda: [*cached, *smaller_weights(recipe)]), alone:
        reference = _reference(recipe, objective, loaded, collator, world)
        if isinstance(reference, ReferenceCache) and not world.model_is_wrapped_in_train:
            pairs = [*train.pairs, *held_out.pairs]
            compute_reference(reference, loaded.model, collator, pairs, recipe=recipe, say=say, world=world)
    if reference is not None:
        say(f"reference: {reference.explanation}")
    return Setup(loaded, reference, layout, collator, train, held_out, trained, total, parts, features)


def _smallest(*budgets: Mapping[PromptKey, int]) -> dict[PromptKey, int]:
    """Of prompts that are trained on and held out, so that they show the same images in both."""
    found: dict[PromptKey, int] = {}
    for prompt, most in (item for each in budgets for item in each.items()):
        found[prompt] = min(most, found.get(prompt, most))
    return found


def refuse_shrinking(recipe: Recipe) -> None:
    """Refuse ``processing.shrink_images`` for a model whose images have one size, before its weights are read.

    Raises:
        ConfigError: the key would do nothing; or there is no such model.
    """
    if not recipe.processing.shrink_images:
        return
    family = family_of_config(load_config(recipe.model.path))
    if not family.has_pixel_budget:
        raise ConfigError(
            "processing.shrink_images would do nothing: it belongs to models that resize images to a number of pixels "
            f"(Qwen-VL), and the family '{family.name}' does not; write `processing.shrink_images=false`"
        )


def _reference(
    recipe: Recipe,
    objective: Objective,
    loaded: LoadedModel,
    collator: PairCollator,
    world: World,
) -> Reference | None:
    section = recipe.reference
    if section.kind != "cache":
        needed = objective.needs_reference or recipe.samples_name_reference
        return choose_reference(loaded.model, needed, kind=section.kind, start=start_of(recipe))
    if not objective.needs_reference:
        return None
    folder = _cache_folder(recipe)
    facts = world.on_first_rank(lambda: cache_facts(recipe, loaded, collator))
    world.on_first_rank(lambda: len(ReferenceCache.open(folder, facts)))  # makes it, if it is new
    return ReferenceCache.open(folder, facts)


def _has_cache(recipe: Recipe, objective: Objective) -> bool:
    return recipe.reference.kind == "cache" and objective.needs_reference


def _cache_folder(recipe: Recipe) -> Path:
    return recipe.reference.cache or recipe.output.with_name(f"{recipe.output.name}.reference")


def compute_reference(
    cache: ReferenceCache,
    policy: nn.Module,
    collator: PairCollator,
    pairs: Sequence[PreferencePair],
    *,
    recipe: Recipe,
    say: Say,
    world: World,
) -> None:
    """Compute the missing log-probs of a reference cache in the precision of training, with the policy as reference.

    All ranks must call it together.
    """
    half, device = autocast_dtype(recipe), world.device
    with torch.autocast(device.type, half, enabled=half is not None):
        workers = int(recipe.train.dataloader_num_workers)
        cache.fill(policy, collator, pairs, device=device, say=say, world=world, workers=workers)


def smaller_weights(recipe: Recipe) -> list[str]:
    """Keys that help where memory runs out before the first forward."""
    quantized = [] if recipe.adapter.stored_as else ["adapter.kind=qlora with tune.language=lora (weights in 4 bits)"]
    trains = "full" in (recipe.tune.vision, recipe.tune.projector, recipe.tune.language)  # these would not learn in it
    half = [] if trains or recipe.model.dtype in ("bfloat16", "float16") else ["model.dtype=bfloat16"]
    return [*quantized, *half]


def encoder_of(recipe: Recipe, loaded: LoadedModel) -> PairEncoder:
    """The encoder that a recipe's ``processing`` section asks for."""
    processing = recipe.processing
    return PairEncoder(
        loaded.processor,
        loaded.family,
        max_length=processing.max_length,
        images=ImageSettings(
            min_pixels=processing.min_pixels,
            max_pixels=processing.max_pixels,
            cache_bytes=processing.pixel_cache_mib * 2**20,
        ),
        video_max_pixels=processing.video_max_pixels,
        template_kwargs=processing.template_kwargs,
        other_image=other_image_of(recipe),
    )


def _load_model(recipe: Recipe, world: World = SINGLE_PROCESS) -> LoadedModel:
    adapter, half = recipe.adapter, autocast_dtype(recipe)
    loaded = load(
        recipe.model.path,
        LoadSettings(
            dtype=loaded_as(recipe, is_deepspeed=world.is_deepspeed),
            quantization=_quantization(adapter, sharded=world.strategy == "fsdp2"),
            attn_implementation=recipe.model.attn_implementation,
            min_pixels=recipe.processing.min_pixels,
            max_pixels=recipe.processing.max_pixels,
            parts=recipe.model.parts,
        ),
        trainable=True,
    )
    set_seed(recipe.seed)  # where weights are divided as they are read, reading them draws numbers
    return prepare(
        loaded,
        tuning_of(recipe),
        _adapter_settings(adapter) if adapter.kind != "none" else None,
        start=None if adapter.path is None else adapter_folder(recipe),
        autocast=half,
    )


def _adapter_settings(section: AdapterSection) -> AdapterSettings:
    keys = {"rank", "alpha", "dropout", "use_rslora", "use_dora", "init", "experts"}
    return AdapterSettings(**section.model_dump(include=keys))


def _quantization(section: AdapterSection, *, sharded: bool) -> QuantizationSettings | None:
    if section.stored_as is None:
        return None
    return QuantizationSettings(
        kind=section.stored_as,
        double_quant=section.double_quant,
        compute_dtype=section.compute_dtype,
        sharded=sharded,
    )
