"""Processes that work for another one: they end when it ends, however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmpref.errors import Terminated
from mmpref.process import notices, streams
from mmpref.process.signals import end_children, numbers, without_limit

_PARENT = "MMPREF_PARENT"
"""Environment variable with the id of the process that started this command as a step of its own."""
_EVERY = 1.0  # seconds between two looks at who the parent is
_TO_SAVE = 120.0
"""Seconds that a rank whose launcher is gone has for its checkpoint."""


def begin_child() -> None:
    """The first thing in a process that works for another one.

    Ctrl-C and a hang-up reach all processes of a terminal, and the first of them answers; when that one is gone,
    however it went, this one ends.
    """
    streams.protect()
    notices.install()
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # it waited where this one was started
    _in_thread(_end_with_parent)


def start_helpers(method: str) -> None:
    """Start the processes by which multiprocessing makes others and cleans up after them, so that a hang-up of the
    terminal does not end them: the process that they work for answers it.

    Args:
        method: ``spawn`` or ``forkserver``.
    """
    if os.name != "posix":
        return
    from multiprocessing import forkserver, resource_tracker

    waiting = {signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)  # they inherit that, and never see it
    try:
        resource_tracker.ensure_running()
        if method == "forkserver":
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def begin_loader_worker(_number: int = 0) -> None:
    """``worker_init_fn`` of a DataLoader: a signal to all processes of a terminal or a job is for the first of them.

    It may want these workers for the rest of a step before its checkpoint; what it sends them itself ends them, and
    torch ends those whose parent is gone.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        _in_thread(_end_when_parent_says)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Around the start of processes that work for this one: a signal that comes meanwhile waits, here and there.

    It would end a worker that does not know yet what to make of it, or leave half of what a new process reads first.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers()))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def run_step(arguments: Sequence[str], folder: Path) -> int:
    """Run an ``mmpref`` command in a process of its own, and wait for it.

    It writes to the same terminal. A signal is passed on, and raised again once the command has ended with what it has
    to save; when this process is killed, the command stops as at SIGTERM.

    Args:
        arguments: of ``mmpref``.
        folder: in which it runs.

    Returns:
        Its exit code; minus the number of a signal that killed it.

    Raises:
        KeyboardInterrupt, Terminated: a signal stopped this process, and the command.
    """
    streams.flush()
    environment = {**os.environ, _PARENT: str(os.getpid())}
    with without_limit():
        started: list[subprocess.Popen[bytes]] = []
        try:
            with starting_workers():
                command = [sys.executable, "-m", "mmpref", *arguments]
                first = _hear_signals if os.name == "posix" else None
                started.append(subprocess.Popen(command, cwd=folder, env=environment, preexec_fn=first))
            return started[0].wait()
        except (KeyboardInterrupt, Terminated) as stop:
            number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
            for child in started:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
                child.wait()
            raise


def _hear_signals() -> None:
    """In a new process, before the command begins: signals that wait in its parent do not wait here."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(numbers()))


def watch_launcher() -> None:
    """For a command that torchrun or another mmpref command started: when that is gone, stop as at SIGTERM, with a
    checkpoint, and end."""
    is_step = os.environ.get(_PARENT) == str(os.getppid())
    if ("TORCHELASTIC_RUN_ID" not in os.environ and not is_step) or os.name != "posix":
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
