"""Reports where every rank was last when one of them waits too long, before NCCL silently ends the process.

NCCL's own watchdog aborts a process whose collective took longer than ``ddp_timeout``: no exception is raised, and no
message says which rank was missing. gloo raises, and needs none of this.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mmpref.training.parallel.world import World

logger = logging.getLogger(__name__)

_SHARE = 0.9  # of the timeout


@contextmanager
def watching(world: World, timeout: float, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """While the block runs, a thread reports once if this rank has made no progress for 90 % of ``timeout`` seconds.

    Args:
        world: its ``report_progress`` counts as progress.
        timeout: of collectives, in seconds.
        say: called with the report; by default our log, which is standard error and train.log.
    """
    say = say or logger.error
    over = threading.Event()

    def watch() -> None:
        begun = time.monotonic()
        while not over.wait(min(5.0, timeout / 20)):
            still = time.monotonic() - max(begun, world.moved_at)
            if still > _SHARE * timeout:
                reports = "; ".join(world.last_reported())
                say(
                    f"rank {world.rank} of {world.size} has not moved for {still:.0f} s, and is ended after "
                    f"{timeout:g} s (train.extra.ddp_timeout). Where each rank was last: {reports or 'not known'}. One "
                    "that is behind hangs or was killed: look at its rows and its machine"
                )
                return

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
