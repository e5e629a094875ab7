"""Which checkpoint a resumed run starts from, and whether the run is still the one that wrote it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import CheckpointError
from mmpref.files.hashes import Say
from mmpref.losses import resolve
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.content import MANIFEST
from mmpref.rundir.folder import RunDir, versions
from mmpref.training.loss_settings import settings_of
from mmpref.training.precision import dtype_fact
from mmpref.training.run.data import RunData
from mmpref.training.run.images import LIST, RunImages, images_of
from mmpref.training.run.resume_differences import Differences
from mmpref.training.run.start_adapter import start_facts
from mmpref.training.run.start_model import is_folder, start_files
from mmpref.training.trainer.checkpoint import anything_in, newest_complete, sealed_in
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
)
_PAIRS = "data.pairs"
_IMAGES = "data.images"
_FILES = ("model.files.", "processor.files.")
_NEW_IN_2 = (*_FILES, "model.id", _IMAGES, "data.eval", "run")
"""What checkpoints of format 1 say nothing of, or nothing that can be compared."""


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
    tree["model"] = {"dtype": dtype_fact(recipe)}
    if recipe.model.parts:
        tree["model"]["parts"] = recipe.model.parts
    tree["data"] = {"train": list(train_hashes)}
    tree["versions"] = {name: version for name, version in versions().items() if name in ("torch", "transformers")}
    path = recipe.model.path
    start = start_files(path, say) if is_folder(path) else {"model.id": path}
    return {**_that_move_weights(_flatten(tree)), **start_facts(recipe), **start}


def _that_move_weights(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without the settings that may change; checkpoints of earlier versions have some of them."""
    idle = {f"train.{name}" for name in _MOVE_NO_WEIGHT} | {f"train.extra.{name}" for name in MOVES_NO_WEIGHT}
    return {
        name: value
        for name, value in facts.items()
        if name not in idle
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
    return {_PAIRS: f"{len(pairs)} pairs, sha256 of their ids {digest[:16]}"}


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
    facts |= {_IMAGES: images.fact(), "run": claimed["run"]}
    return images, {**facts, "data.eval": list(data.eval_hashes)}


def files_in(facts: Mapping[str, Any]) -> dict[str, str]:
    """The files of model and processor among the facts: dotted name -> sha256."""
    return {name: value for name, value in facts.items() if name.startswith(_FILES)}


def late_facts(recipe: Recipe, say: Say | None = None) -> dict[str, Any]:
    """Facts that are known only when the model was loaded: the files of a model from the hub, which may come now."""
    return {} if is_folder(recipe.model.path) else start_files(recipe.model.path, say)


def choose_checkpoint(
    run: RunDir, facts: Mapping[str, Any], *, allow_data_change: bool, say: Say, images: RunImages | None = None
) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none and training starts at step 0.

    Args:
        run: the run to resume.
        facts: of the run as it is now (:func:`facts_of`). Which pairs train is not known yet; :func:`check_pairs` looks
            at them when it is.
        allow_data_change: go on although the data or the library versions changed; anything else is still refused.
        say: called with the checkpoints that were passed over, and the one that is used.
        images: that the run reads now; None skips their comparison.

    Raises:
        CheckpointError: checkpoints are there and none of them is whole; or the newest was written by a run with other
            facts, or from other images; each is named, with what it was, what it is, and what to do.
    """
    folder, skipped = newest_complete(run.checkpoints)
    if folder is None and anything_in(run.checkpoints):
        raise CheckpointError(
            f"none of the checkpoints in {run.checkpoints} can be used, and a start at step 0 would overwrite them: "
            f"{'; '.join(skipped)}. When that is put right --resume goes on from there; --overwrite begins anew"
        )
    for reason in skipped:
        say(f"passed over: {reason}")
    if folder is None:
        say("no complete checkpoint to resume from: starting at step 0")
        return None
    sealed = sealed_in(folder)
    then = _that_move_weights(_loss_written_out(dict(sealed.facts)))
    now = dict(facts)
    then.pop(_PAIRS, None)
    _refuse_nameless(run, folder, then)
    changes = Differences(folder, run)
    if sealed.format == 1:
        changes.is_old()
        then, now = ({k: v for k, v in side.items() if not k.startswith(_NEW_IN_2)} for side in (then, now))
    elif "model.id" in now:
        then = {name: value for name, value in then.items() if not name.startswith(_FILES)}
    if images is not None and then.get(_IMAGES) != now.get(_IMAGES):
        changes.of_images(RunImages.read(folder / LIST), images, stopped_at(run))
    changes.of_facts(*({k: v for k, v in side.items() if k != _IMAGES} for side in (then, now)))
    changes.refuse_unless(allow_data_change)
    for line in changes.notes:
        say(line)
    say(f"resuming from {folder}" + (f" although {allowed}" if (allowed := changes.described()) else ""))
    return folder


def _refuse_nameless(run: RunDir, checkpoint: Path, then: Mapping[str, Any]) -> None:
    """Refuse a run without its id: its checkpoints would look like those of another run."""
    manifest = run.path / MANIFEST
    name = run.manifest().get("run") if manifest.is_file() else None
    if then.get("run") is None or not manifest.is_file() or (isinstance(name, str) and name):
        return
    line = json.dumps({"run": then["run"]})[1:-1]
    raise CheckpointError(
        f"{manifest} lacks its 'run', the name of the run, which {checkpoint} has: put `{line}` back into it if that "
        "checkpoint is of this run; then --resume goes on from it"
    )


def stopped_at(run: RunDir) -> str:
    """The errors that ended a run, this time and before, as its manifest has them."""
    manifest = run.manifest()
    return f"{manifest.get('error', '')} {manifest.get('earlier_errors', '')}"


def check_pairs(checkpoint: Path, facts: Mapping[str, Any], *, allow_data_change: bool, say: Say) -> None:
    """Refuse to go on with other pairs than those of the checkpoint, or say what that means where it is allowed.

    Args:
        checkpoint: that training goes on from.
        facts: of the run as it is now, with :func:`pairs_fact` and :func:`late_facts`.
        allow_data_change: go on all the same.
        say: called with the consequence for the order of pairs.

    Raises:
        CheckpointError: the pairs, or a hub model's files, are other ones, or the checkpoint does not say which it
            trained on.
    """
    sealed = sealed_in(checkpoint)
    if "model.id" in facts and sealed.format > 1:
        changes = Differences(checkpoint, RunDir(checkpoint.parent.parent))
        changes.of_facts(*({k: v for k, v in side.items() if k.startswith(_FILES)} for side in (sealed.facts, facts)))
        changes.refuse_unless(allow_data_change)
    then, now = sealed.facts.get(_PAIRS), facts[_PAIRS]
    if then == now:
        return
    found = (
        f"the pairs that train are not those of {checkpoint}: {_PAIRS}: {then!r} then, {now!r} now"
        if then is not None
        else f"{checkpoint} does not say which pairs it trained on (an earlier version of mmpref wrote it): {now!r} now"
    )
    if allow_data_change:
        if then is None:
            say(f"{found}; the order of pairs goes on as it was only if they are the same")
        else:
            say(
                f"{found}; their order is drawn anew, so in the epoch under way some pairs train twice and others not "
                "at all, and the number of steps follows the present pairs; --overwrite instead of --resume begins anew"
            )
        return
    if then is None:
        raise CheckpointError(
            f"{found}; if data files, images, manifest and library versions are unchanged, so are the pairs, and "
            "--allow-data-change goes on"
        )
    raise CheckpointError(
        f"{found}. A row was quarantined or came back: look at quarantine.jsonl, data.manifest and the images. With "
        "the earlier pairs --resume goes on as if nothing had happened (a damaged image is put right in its own "
        "file); --allow-data-change goes on all the same, but draws their order anew, so that in the epoch under way "
        "some pairs train twice and others not at all; --overwrite begins anew"
    )


def _loss_written_out(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a checkpoint that has the loss as it was given, with every key of it.

    A balance is left as it is: its presets meant something else once.
    """
    if facts.get("loss.beta") is not None:
        return facts
    given: dict[str, Any] = {}
    for name, value in facts.items():
        section, *parts = name.split(".")
        if section == "loss" and value is not None:
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
