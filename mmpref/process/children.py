"""Processes that work for another one: they end when it ends, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

from mmpref.process import notices, streams
from mmpref.process.signals import end_children

_EVERY = 1.0  # seconds between two looks at who the parent is
_TO_SAVE = 120.0
"""Seconds that a rank whose launcher is gone has for its checkpoint."""


def begin_child() -> None:
    """The first thing in a process that works for another: Ctrl-C and a hang-up reach all of a terminal's processes, and
    the first of them answers; when that one is gone, however, this one ends."""
    streams.protect()
    notices.install()
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        _in_thread(lambda: (parent.join(), os._exit(1)))


def watch_launcher() -> None:
    """For a rank that torchrun started: when torchrun is gone, stop as at SIGTERM, with a checkpoint, and end."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.name != "posix":
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_EVERY)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_TO_SAVE)
        end_children()
        os._exit(128 + signal.SIGTERM)

    _in_thread(watch)


def _in_thread(work: Callable[[], object]) -> None:
    threading.Thread(target=work, name="parent", daemon=True).start()
