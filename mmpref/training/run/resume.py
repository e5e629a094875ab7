"""Which checkpoint a resumed run starts from, and whether the run is still the one that wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import CheckpointError
from mmpref.files.hashes import Say
from mmpref.losses import resolve
from mmpref.losses.presets import BASES
from mmpref.rundir.content import MANIFEST
from mmpref.rundir.folder import RunDir
from mmpref.training.run.facts import GROUP_PAIRS, IMAGES, PAIRS, START_FILES, flatten, that_move_weights
from mmpref.training.run.images import LIST, RunImages
from mmpref.training.run.resume_differences import Differences
from mmpref.training.trainer.checkpoint import anything_in, newest_complete, sealed_in

_NEW_IN_2 = (*START_FILES, "model.id", IMAGES, "data.eval", "run")
"""Facts that checkpoints of format 1 lack, or have in a form that cannot be compared."""


def choose_checkpoint(
    run: RunDir, facts: Mapping[str, Any], *, allow_data_change: bool, say: Say, images: RunImages | None = None
) -> Path | None:
    """The newest complete checkpoint of a run; None when there is none and training starts at step 0.

    Args:
        run: the run to resume.
        facts: of the run as it is now (``facts.facts_of``). Which pairs train is not known yet; :func:`check_pairs`
            compares them when it is.
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
    then = that_move_weights(_loss_written_out(dict(sealed.facts)))
    now = dict(facts)
    if GROUP_PAIRS in now:
        then.setdefault(GROUP_PAIRS, "off")  # checkpoints from before there were groups
    then.pop(PAIRS, None)
    _refuse_nameless(run, folder, then)
    changes = Differences(folder, run)
    if sealed.format == 1:
        changes.is_old()
        then, now = ({k: v for k, v in side.items() if not k.startswith(_NEW_IN_2)} for side in (then, now))
    elif "model.id" in now:
        then = {name: value for name, value in then.items() if not name.startswith(START_FILES)}
    if images is not None and then.get(IMAGES) != now.get(IMAGES):
        changes.of_images(RunImages.read(folder / LIST), images, stopped_at(run))
    changes.of_facts(*({k: v for k, v in side.items() if k != IMAGES} for side in (then, now)))
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
        facts: of the run as it is now, with ``facts.pairs_fact`` and ``facts.late_facts``.
        allow_data_change: go on all the same.
        say: called with the consequence for the order of pairs.

    Raises:
        CheckpointError: the pairs, or a hub model's files, are other ones, or the checkpoint does not say which it
            trained on.
    """
    sealed = sealed_in(checkpoint)
    if "model.id" in facts and sealed.format > 1:
        changes = Differences(checkpoint, RunDir(checkpoint.parent.parent))
        changes.of_facts(
            *({k: v for k, v in side.items() if k.startswith(START_FILES)} for side in (sealed.facts, facts))
        )
        changes.refuse_unless(allow_data_change)
    then, now = sealed.facts.get(PAIRS), facts[PAIRS]
    if then == now:
        return
    found = (
        f"the pairs that train are not those of {checkpoint}: {PAIRS}: {then!r} then, {now!r} now"
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
        # written out already, maybe before there were terms with these weights; they were what a base has without them
        options = BASES[facts["loss.base"]].options if facts.get("loss.base") in BASES else {}
        new = {name: options[key] for key in ("pair_weight", "nll_weight")
               if key in options and facts.get(name := f"loss.{key}") is None}  # fmt: skip
        return {**facts, **new}
    given: dict[str, Any] = {}
    for name, value in facts.items():
        section, *parts = name.split(".")
        if section == "loss" and value is not None:
            (given if len(parts) == 1 else given.setdefault(parts[0], {}))[parts[-1]] = value
    loss = resolve(given)
    return facts if loss["ada"] is not None else {**facts, **flatten({"loss": loss})}


def step_of(checkpoint: Path) -> int:
    """The step a checkpoint folder was written at."""
    return int(checkpoint.name.removeprefix("step-"))
