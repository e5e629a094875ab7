"""A run folder that is deleted or moved while it trains: what was trained is saved, and the error names the place."""

from __future__ import annotations

import itertools
import os
import shlex
from pathlib import Path

from mmpref.errors import CheckpointError
from mmpref.rundir.folder import RunDir
from mmpref.rundir.locking import continue_in, moved_to, now_at


class VanishedError(CheckpointError):
    """The run folder vanished; the message names the checkpoint with what was trained."""


def kept_in(folder: Path) -> Path:
    """The folder that a run is saved to when its own has vanished.

    It is where the folder was moved, or a new one in its place, or beside it if something else has its name by now.

    Args:
        folder: the run folder, as it was at the start.

    Raises:
        CheckpointError: that folder cannot be written.
    """
    place = now_at(folder)
    if place is not None:
        return place
    place = moved_to(folder) or _free(folder)
    RunDir(folder).recreate_in(place)
    continue_in(folder, place)
    return place


def as_error(folder: Path, place: Path, checkpoint: Path) -> VanishedError:
    """What happened, in one line, and the command that resumes.

    Args:
        folder: the run folder that vanished.
        place: the folder that the run was saved to.
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
