"""A checkpoint of what was trained where a run fails in a way that can be put right, and how to resume from it.

Two cases: a row that can no longer be read in the middle of training (its image was deleted or damaged after the start,
which decoded every image), and a result that cannot be written after the last step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpref.errors import CheckpointError, DataError, Terminated
from mmpref.rundir.vanished import VanishedError
from mmpref.training.trainer.checkpoint import newest_complete
from mmpref.training.trainer.trainer import PreferenceTrainer


@contextmanager
def checkpoint_on_unreadable_row(trainer: PreferenceTrainer) -> Iterator[None]:
    """Around the training steps: a ``DataError`` in them leaves a checkpoint and says how to resume.

    Of several ranks only one has the bad row, and the others wait for it: then the last regular checkpoint counts.

    Raises:
        DataError: the same, with the path of the checkpoint.
    """
    try:
        yield
    except DataError as err:
        step = trainer.state.global_step
        if trainer.world.size > 1 or not step:
            raise
        try:
            kept = trainer.checkpoint_here()
        except CheckpointError as second:
            raise DataError(f"{err}; the checkpoint of step {step} could not be written either ({second})") from err
        if str(err).endswith("[other_image]"):  # nothing is lost that could come back, and a run goes on as it began
            raise DataError(
                f"{err}, and begin anew, in another output; what was learnt up to step {step} is in {kept}"
            ) from err
        raise DataError(
            f"{err}; everything up to step {step} is in {kept}: put the row's image or video back and go "
            "on with --resume"
        ) from err


@contextmanager
def checkpoint_on_failed_write(trainer: PreferenceTrainer) -> Iterator[None]:
    """Around what is written after the last step: a failure or a signal there leaves a checkpoint of that step.

    Raises:
        CheckpointError: the same, with the path of the checkpoint.
    """
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, Terminated) as err:
        try:
            kept = f"the trained weights are in {trainer.checkpoint_here()}: free disk space and go on with --resume"
        except VanishedError as vanished:
            raise vanished from err
        except CheckpointError as second:
            older, _ = newest_complete(Path(trainer.args.output_dir))
            kept = f"the checkpoint of the last step could not be written either ({second}); " + (
                "no other checkpoint is there (train.save_steps was null)"
                if older is None
                else f"the newest one is {older}: free disk space and go on with --resume"
            )
        if isinstance(err, CheckpointError):
            raise CheckpointError(f"{err}; {kept}") from err
        raise
