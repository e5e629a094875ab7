"""One training in a folder at a time, all processes of it counted.

The first rank has the folder's lock, and each further rank a lock file of its own: a rank that outlives the first
still keeps other trainings away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.locking import Locked, NoLocksError, locked
from mmpref.rundir.content import LOCK
from mmpref.rundir.locking import PATIENCE, folder_locked, writing_alone
from mmpref.training.parallel.world import World


@contextmanager
def one_training_in(folder: Path, world: World, say: Callable[[str], None]) -> Iterator[bool]:
    """Lock a folder for the length of the block, with all ranks; they must enter it together.

    Args:
        folder: a real path (``files.real_path``), that of the first rank.
        world: all its ranks.
        say: called where the file system has no locks, so that a second training cannot be noticed.

    Yields:
        Whether this training is known to be the only one there.

    Raises:
        ConfigError: a training of other processes writes there.
        CheckpointError: the folder cannot be written.
    """
    with ExitStack() as locks:
        alone = world.on_first_rank(lambda: locks.enter_context(writing_alone(folder, say)))
        with world.fail_together():
            # a rank on a machine that does not see the folder has nothing to lock
            if alone and not world.is_first and (folder / LOCK).exists():
                locks.enter_context(_rank_lock(folder, world.rank))
        yield alone


@contextmanager
def _rank_lock(folder: Path, rank: int) -> Iterator[None]:
    with ExitStack() as locks:
        try:
            locks.enter_context(locked(folder / f"{LOCK}.{rank}", leave=False, patience=PATIENCE))
            locks.enter_context(folder_locked(folder, first=False))
        except Locked as err:
            who = err.holder or "another process"
            raise ConfigError(f"{folder} is in use: {who} writes there as rank {rank} of another training") from None
        except NoLocksError:  # the first rank's machine has them
            pass
        yield
