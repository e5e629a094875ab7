"""Standard output and error of this process: losing them is noted, and never raised.

A command has more to do than to print: it trains, and writes results. So a reader that went away (``| head -1``), a
terminal that hung up, a closed descriptor and a full disk behind ``>`` do not stop it; what was lost is known at the
end.
What the encoding of the terminal has no character for is written as an escape.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

NAMES = {1: "standard output", 2: "standard error"}
PATIENCE = 10.0
"""Seconds that a training waits for whoever should read its output, before it goes on without."""
DISK_FULL = 6
"""Exit code of a command whose standard output could not be written, as of any other file."""

_PIECE = 4096  # PIPE_BUF: a pipe that is ready takes so much without waiting
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET, errno.ENXIO, errno.ESHUTDOWN)
"""Nobody is there to read: a closed pipe, a terminal that hung up."""


class Descriptor(io.RawIOBase):
    """A file descriptor to write to; what cannot be written is dropped, and the reason is kept in ``lost``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.name = f"<{NAMES.get(number, number)}>"
        self.lost: OSError | None = None
        self.patience: float | None = None
        """Seconds to wait for a reader that does not read; None waits for ever, as any program does."""
        self.left_out = 0
        """Bytes that nobody was there to read in time."""
        self.when_lost: Callable[[str], None] | None = None
        """Called once, with a sentence, when something could not be written."""
        self._waits = False

    def fileno(self) -> int:
        """Number of the descriptor."""
        return self.number

    def writable(self) -> bool:
        """Always: what cannot be written is dropped."""
        return True

    def isatty(self) -> bool:
        """Whether a terminal is at the other end; not once it is gone."""
        try:
            return os.isatty(self.number)
        except OSError:
            return False

    def write(self, data: Any) -> int:
        """Write or drop all of ``data``, and return its length in bytes either way."""
        whole = memoryview(data).cast("B")
        for begin in range(0, len(whole), _PIECE):
            piece = whole[begin : begin + _PIECE]
            if self._is_ready():
                self._put(piece)
            else:
                self.left_out += len(piece)
        return len(whole)

    def _is_ready(self) -> bool:
        if self.patience is None:
            return True
        if self._can_take(0.0 if self._waits else self.patience):
            if self._waits:
                self._waits = False
                self._put(f"\n[{self.left_out} bytes are left out here: nobody read them]\n".encode())
            return True
        if not self._waits:
            self._waits = True
            self._report(f"nobody reads {NAMES[self.number]}: the run goes on without it")
        return False

    def _can_take(self, seconds: float | None) -> bool:
        if not hasattr(select, "poll"):
            return True
        waiting = select.poll()
        waiting.register(self.number, select.POLLOUT)
        return bool(waiting.poll(None if seconds is None else seconds * 1000))  # an error counts: writing names it

    def _put(self, piece: memoryview | bytes) -> None:
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(self.number, rest) :]
            except BlockingIOError:  # whoever has the other end asked the system not to wait
                if not self._can_take(self.patience):
                    self.left_out += len(rest)
                    return
            except OSError as err:
                self._lose(err)
                return

    def _lose(self, err: OSError) -> None:
        first = self.lost is None
        self.lost = self.lost or err
        if err.errno not in _NO_SPACE:  # where there may be space again, later lines are tried
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.number)  # children and other libraries write there too
                os.close(null)
        if first:
            self._report(f"{NAMES[self.number]} is lost ({err.strerror}): the run goes on without it")

    def _report(self, sentence: str) -> None:
        if self.when_lost is not None:
            self.when_lost(sentence)


class _Ascii(io.TextIOWrapper):
    """Text for a terminal that only has ASCII, without ``buffer``: click would write UTF-8 to it."""

    @property
    def buffer(self) -> Any:
        raise AttributeError("buffer")


_ours: dict[int, Descriptor] = {}
_optional: list[bool] = []


def protect() -> None:
    """Put streams of ours in place of ``sys.stdout`` and ``sys.stderr``, once; not where somebody did so before."""
    _open_what_is_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        now: TextIO | None = getattr(sys, name)
        if number in _ours or now is not getattr(sys, f"__{name}__"):
            continue
        _ours[number] = Descriptor(number)
        setattr(sys, name, _text(_ours[number], now))


def _open_what_is_closed() -> None:
    """A descriptor of 0 to 2 that was closed before we began would be given to the next file that is opened."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)


def _text(descriptor: Descriptor, like: TextIO | None) -> io.TextIOWrapper:
    encoding = getattr(like, "encoding", None) or "utf-8"
    errors = getattr(like, "errors", None) or "strict"
    if errors in ("strict", "surrogateescape", "surrogatepass"):
        errors = "backslashreplace"
    is_ascii = encoding.lower().replace("-", "").replace("_", "") in ("ascii", "usascii", "ansix3.41968", "646")
    kind = _Ascii if is_ascii else io.TextIOWrapper
    return kind(
        io.BufferedWriter(descriptor),
        encoding=encoding,
        errors=errors,
        line_buffering=descriptor.number == 2 or bool(getattr(like, "line_buffering", False)),
        write_through=descriptor.number == 2 or bool(getattr(like, "write_through", False)),
    )


@contextlib.contextmanager
def going_on_without(say: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, no loss of output is a failure, and nobody is waited for who does not read.

    Args:
        say: called with a sentence when something is lost, for the log file. It must not write to either stream.
    """
    before = [(one, one.patience, one.when_lost) for one in _ours.values()]
    for one, _, _ in before:
        one.patience, one.when_lost = PATIENCE, say
    try:
        yield
    finally:
        for one, patience, when_lost in before:
            flush()
            one.patience, one.when_lost = patience, when_lost


def flush() -> None:
    """Write what waits in the buffers of both streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not ours
            stream.flush()


def output_is_optional() -> None:
    """What this command makes is in a folder, with a log: to lose standard output is no failure."""
    _optional.append(True)


def lost_output() -> tuple[str, bool] | None:
    """Why standard output could not be written, as a sentence, and whether that is a failure; None where it was, or
    nobody wants it any more."""
    flush()
    lost = _ours[1].lost if 1 in _ours else None
    if lost is None or lost.errno in _GONE:
        return None
    said = f"standard output cannot be written: {lost.strerror}; free some space, or send it elsewhere"
    return f"{said}{' (train.log of the run folder has every line)' if _optional else ''}", not _optional
