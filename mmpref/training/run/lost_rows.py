"""A row that can no longer be read in the middle of training: its image went, or was damaged, after the start.

The start has decoded every image, so this is seldom, and it is no reason to lose what was trained: the run ends with a
checkpoint of the last whole step and goes on from there once the image is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mmpref.errors import CheckpointError, DataError
from mmpref.training.trainer.trainer import PreferenceTrainer


@contextmanager
def kept_when_rows_are_lost(trainer: PreferenceTrainer) -> Iterator[None]:
    """Around the training steps: a ``DataError`` in them leaves a checkpoint and says how to go on.

    Of several processes only one has the bad row, and the others wait for it: there the last regular checkpoint counts.

    Raises:
        DataError: the same, with where the checkpoint is.
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
        raise DataError(
            f"{err}; everything up to step {step} is in {kept}: put the row's image back and go on with --resume"
        ) from err
