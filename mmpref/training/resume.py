"""Which checkpoint a resumed run starts from, and whether the run is still the one that wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.config import Recipe
from mmpref.errors import CheckpointError
from mmpref.losses import resolve
from mmpref.rundir import RunDir, versions
from mmpref.training.checkpoint import differences, model_fingerprint, newest_complete, verify
from mmpref.training.continued import start_facts
from mmpref.training.loss_of import settings_of
from mmpref.training.precision import dtype_fact

Say = Callable[[str], None]
_MOVE_NO_WEIGHT = (
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "report_to",
    "dataloader_num_workers",
    "skip_nonfinite_steps",
    "eval_steps",
)
_MAY_BE_ALLOWED = ("data.", "versions.")


def facts_of(recipe: Recipe, train_hashes: Sequence[str], *, processes: int = 1) -> dict[str, Any]:
    """What must not change between a checkpoint and its resume, by dotted name.

    Of batch size, accumulation and number of processes only the product moves the weights: an update is made of the
    same pairs however they are spread.

    Args:
        processes: that train together.
        recipe: everything in it that moves the weights is a fact; where things are written is not.
        train_hashes: sha256 of each training file, in order.
    """
    tree = recipe.model_dump(mode="json", exclude={"output", "model", "data", "preflight"})
    del tree["reference"]["cache"]
    del tree["adapter"]["path"]
    kwargs = tree["processing"].pop("template_kwargs")
    if kwargs:  # one fact, whose parts may have any names; runs from before this key have none
        tree["processing"]["template_kwargs"] = json.dumps(kwargs, sort_keys=True)
    train = tree["train"]
    train["pairs_per_update"] = (
        train.pop("per_device_train_batch_size") * train.pop("gradient_accumulation_steps") * processes
    )
    for name in _MOVE_NO_WEIGHT:
        tree["train"].pop(name)
    # a preset is a name, and what it means may change between versions; without a balance this is null as it was
    tree["loss"]["ada"] = settings_of(recipe)["ada"]
    tree["model"] = {"files": model_fingerprint(recipe.model.path), "dtype": dtype_fact(recipe)}
    if recipe.model.parts:
        tree["model"]["parts"] = recipe.model.parts
    tree["data"] = {"train": list(train_hashes)}
    tree["versions"] = {name: version for name, version in versions().items() if name in ("torch", "transformers")}
    return {**_flatten(tree), **start_facts(recipe)}


def choose_checkpoint(run: RunDir, facts: Mapping[str, Any], *, allow_data_change: bool, say: Say) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none and training starts at step 0.

    Args:
        run: the run to resume.
        facts: of the run as it is now (:func:`facts_of`).
        allow_data_change: go on although the data or the library versions changed; anything else is still refused.
        say: told what was passed over, and where training goes on.

    Raises:
        CheckpointError: the checkpoint was written by a run with other facts; each is named.
    """
    folder, skipped = newest_complete(run.checkpoints)
    for reason in skipped:
        say(f"passed over: {reason}")
    if folder is None:
        say("no complete checkpoint to resume from: starting at step 0")
        return None
    changes = differences(_loss_written_out(verify(folder)), facts)
    refused = [change for change in changes if not (allow_data_change and change.startswith(_MAY_BE_ALLOWED))]
    if refused:
        all_allowed = all(change.startswith(_MAY_BE_ALLOWED) for change in refused)
        hint = "; --allow-data-change goes on all the same" if all_allowed else ""
        raise CheckpointError(f"{folder} belongs to another run: {'; '.join(refused)}{hint}")
    say(f"resuming from {folder}" + (f" although {'; '.join(changes)}" if changes else ""))
    return folder


def _loss_written_out(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a checkpoint that has the loss as it was given, with every key of it.

    A balance is left as it is: its presets meant something else once.
    """
    if facts.get("loss.beta") is not None:
        return facts
    given: dict[str, Any] = {}
    for name, value in facts.items():
        room, *parts = name.split(".")
        if room == "loss" and value is not None:
            (given if len(parts) == 1 else given.setdefault(parts[0], {}))[parts[-1]] = value
    loss = resolve(given)
    return facts if loss["ada"] is not None else {**facts, **_flatten({"loss": loss})}


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint folder was written at."""
    return int(checkpoint.name.removeprefix("step-"))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return flat
