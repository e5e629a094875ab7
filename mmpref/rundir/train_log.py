"""``train.log`` in the run folder: every line that a run prints, with its time."""

from __future__ import annotations

import os
import socket
import stat
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from mmpref.errors import MMPrefError, Terminated, signal_name
from mmpref.files.hashes import Say
from mmpref.process.notices import kept_by
from mmpref.process.streams import going_on_without
from mmpref.rundir.locking import now_at
from mmpref.version import __version__

_MOST_WAITING = 10_000
"""Lines kept in memory while the disk is full or the folder does not exist yet; beyond that the oldest are dropped."""


class TrainLog:
    """A context that collects the lines of a run, and writes them as soon as the run folder exists.

    Warnings of other libraries go there too, and the error that ends the run. If the log cannot be written the run goes
    on, and the lines wait until there is space.

    Args:
        is_first: whether this is rank 0, which writes all lines; of the others only an error reaches the file.
        rank: of this process.
    """

    def __init__(self, *, is_first: bool = True, rank: int = 0) -> None:
        self._is_first = is_first
        self._rank = rank
        self._path: Path | None = None
        self._waiting: list[str] = []
        self._around = ExitStack()

    def start(self, path: Path) -> None:
        """The run folder exists: write the waiting lines, and from now on every line as it comes."""
        if self._path is not None:
            return
        self._path = path
        if self._is_first:
            now = f"mmpref {__version__} begins, process {os.getpid()} on {socket.gethostname()}"
            self._waiting.insert(0, stamped(now))
            self._write()

    def line(self, text: str) -> None:
        """One line, or several that belong together."""
        if self._is_first:
            self._add(text)

    def saying(self, say: Say) -> Say:
        """A function that writes a line to the log and then calls ``say`` with it."""

        def both(text: str) -> None:
            self.line(text)
            say(text)

        return both

    def __enter__(self) -> Self:
        self._around.enter_context(kept_by(self.line))
        self._around.enter_context(going_on_without(self.line))
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        if (
            err is not None
            and not (isinstance(err, MMPrefError) and err.reported_by_other_rank)
            and self._path is not None
        ):
            where = "" if self._is_first else f"rank {self._rank}: "
            self._add(f"{where}{_as_text(err)}")
        self._around.close()

    def _add(self, text: str) -> None:
        self._waiting.append(stamped(text))
        del self._waiting[:-_MOST_WAITING]
        self._write()

    def _write(self) -> None:
        folder = None if self._path is None else now_at(self._path.parent)
        if self._path is None or folder is None:  # it does not exist yet, or it vanished
            return
        if append(folder / self._path.name, "".join(self._waiting)):
            self._waiting.clear()


def stamped(text: str) -> str:
    """A line of the log: the local time, and the text; its further lines are indented."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text.rstrip().replace(chr(10), chr(10) + ' ' * 20)}\n"


def append(path: Path, lines: str) -> bool:
    """Append lines to a log in one write, so that those of several processes do not mix; returns whether it could."""
    content = lines.encode("utf-8", errors="backslashreplace")
    try:
        # opening a pipe without a reader would block
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NONBLOCK", 0), 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, content) < len(content):  # the disk became full: all of it is written again later
                os.ftruncate(descriptor, before)
                return False
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def _as_text(err: BaseException) -> str:
    if isinstance(err, MMPrefError):
        return f"error: {err}" if err.exit_code < 128 else str(err)
    if isinstance(err, KeyboardInterrupt):
        return "stopped by Ctrl-C"
    if isinstance(err, Terminated):
        return f"stopped by {signal_name(err.number)}"
    return "error: " + "".join(traceback.format_exception(err)).rstrip()
