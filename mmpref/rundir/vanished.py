"""A run folder that is deleted or moved while it trains: what was trained is kept, and the error says where."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

from mmpref.errors import CheckpointError
from mmpref.rundir.folder import RunDir
from mmpref.rundir.locking import goes_on_in, moved_to, now_at


class VanishedError(CheckpointError):
    """The run folder vanished; what was trained lies where the message says."""


def kept_in(folder: Path) -> Path:
    """The folder in which a run is saved whose own vanished: where it was moved, or one that is made in its place, or
    beside it where something else has its name by now.

    Args:
        folder: the run folder, as it was begun.

    Raises:
        CheckpointError: that folder cannot be written.
    """
    place = now_at(folder)
    if place is not None:
        return place
    place = moved_to(folder) or _free(folder)
    RunDir(folder).make_again(place)
    goes_on_in(folder, place)
    return place


def as_error(folder: Path, place: Path, checkpoint: Path) -> VanishedError:
    """What happened, in one line, and the command that goes on.

    Args:
        checkpoint: in ``place``, with all that was trained.
    """
    again = shlex.join(["mmpref", "train", str(RunDir(place).recipe_file), f"output={place}", "--resume"])
    return VanishedError(
        f"the run folder {folder} vanished while it trained (deleted or moved): what was trained is in {checkpoint}; "
        f"go on with `{again}`"
    )


def _free(folder: Path) -> Path:
    others = (folder.with_name(f"{folder.name}-kept-{number}") for number in itertools.count(1))
    return next(name for name in itertools.chain([folder], others) if not os.path.lexists(name))
