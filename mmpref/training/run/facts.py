"""The facts of a run: what must not change between a checkpoint and its resume, by dotted name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmpref.files.hashes import Say
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.folder import versions
from mmpref.training.loss_settings import settings_of
from mmpref.training.precision import dtype_fact
from mmpref.training.run.data import RunData
from mmpref.training.run.images import RunImages, images_of
from mmpref.training.run.start_adapter import start_facts
from mmpref.training.run.start_model import is_folder, start_files
from mmpref.training.trainer.extra_arguments import MOVES_NO_WEIGHT

_MOVE_NO_WEIGHT = (
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "dataloader_num_workers",
    "skip_nonfinite_steps",
    "eval_steps",
    "per_device_eval_batch_size",
    "eval_image_lift",
    "pair_log",
    "samples",
)
"""Keys of ``train`` that may change between a checkpoint and its resume."""
PAIRS = "data.pairs"
IMAGES = "data.images"
GROUP_PAIRS = "train.group_pairs"
START_FILES = ("model.files.", "processor.files.")
"""How the names of facts about single files begin."""


def facts_of(
    recipe: Recipe, train_hashes: Sequence[str], *, processes: int = 1, say: Say | None = None
) -> dict[str, Any]:
    """What must not change between a checkpoint and its resume, by dotted name.

    Of batch size, accumulation and number of processes only the product moves the weights: an update is made of the
    same pairs however they are divided.

    Args:
        processes: that train together.
        recipe: everything in it that moves the weights is a fact; where things are written is not.
        train_hashes: sha256 of each training file, in order.
        say: called where hashing the model takes a while.
    """
    tree = recipe.model_dump(mode="json", exclude={"output", "model", "data", "preflight", "evals", "sample"})
    del tree["reference"]["cache"]
    del tree["adapter"]["path"]
    del tree["processing"]["feature_cache"]
    kwargs = tree["processing"].pop("template_kwargs")
    if kwargs:  # one fact, whose parts may have any names; runs from before this key have none
        tree["processing"]["template_kwargs"] = json.dumps(kwargs, sort_keys=True)
    if recipe.data.other_image is None:
        del tree["processing"]["other_image"]
    train = tree["train"]
    train["pairs_per_update"] = (
        train.pop("per_device_train_batch_size") * train.pop("gradient_accumulation_steps") * processes
    )
    for name in _MOVE_NO_WEIGHT:
        tree["train"].pop(name)
    # a preset is a name, and what it means may change between versions; without a balance this is null as it was
    tree["loss"]["ada"] = settings_of(recipe)["ada"]
    tree["model"] = {"dtype": dtype_fact(recipe)}
    if recipe.model.parts:
        tree["model"]["parts"] = recipe.model.parts
    tree["data"] = {"train": list(train_hashes)}
    if recipe.data.other_image is not None:
        tree["data"]["other_image"] = recipe.data.other_image
    tree["versions"] = {name: version for name, version in versions().items() if name in ("torch", "transformers")}
    path = recipe.model.path
    start = start_files(path, say) if is_folder(path) else {"model.id": path}
    return {**that_move_weights(flatten(tree)), **start_facts(recipe), **start}


def that_move_weights(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without the settings that may change; checkpoints of earlier versions have some of them."""
    idle = {f"train.{name}" for name in _MOVE_NO_WEIGHT} | {f"train.extra.{name}" for name in MOVES_NO_WEIGHT}
    return {
        name: value
        for name, value in facts.items()
        if name not in idle
        and name.partition(".")[0] != "evals"  # what mmpref sweep asks the trained model
        and (name, value) != ("train.extra", {})
        and not name.startswith(tuple(f"{key}." for key in idle))
    }


def pairs_fact(pairs: Sequence[PreferencePair]) -> dict[str, str]:
    """The pairs that train, in order, as a fact.

    The files are not enough: a missing or restored image, a manifest that quarantines rows, or another split
    into held-out pairs changes them. The order of an epoch is drawn from their number, so a resume with other pairs
    would train some of them twice and others never.
    """
    digest = hashlib.sha256(json.dumps([pair.id for pair in pairs]).encode()).hexdigest()
    return {PAIRS: f"{len(pairs)} pairs, sha256 of their ids {digest[:16]}"}


def facts_at_start(
    recipe: Recipe, data: RunData, held_out: Sequence[str], claimed: Mapping[str, Any], processes: int, say: Say
) -> tuple[RunImages, dict[str, Any]]:
    """The images that a run reads, and all facts of it that are known before its model is loaded.

    Args:
        held_out: what is kept out of the training files, as text.
        claimed: facts of the claim, with the id of the run.
    """
    images = images_of(data.train, data.eval, data.images, data.manifest, say)
    facts = facts_of(recipe, [*data.train_hashes, *held_out], processes=processes, say=say)
    facts |= {IMAGES: images.fact(), "run": claimed["run"]}
    return images, {**facts, "data.eval": list(data.eval_hashes)}


def files_in(facts: Mapping[str, Any]) -> dict[str, str]:
    """The files of model and processor among the facts: dotted name -> sha256."""
    return {name: value for name, value in facts.items() if name.startswith(START_FILES)}


def late_facts(recipe: Recipe, say: Say | None = None) -> dict[str, Any]:
    """Facts that are known only when the model was loaded: the files of a model from the hub, which may come now."""
    return {} if is_folder(recipe.model.path) else start_files(recipe.model.path, say)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return flat
