"""Every error that mmpref raises on purpose, each with the exit code that the command line returns.

A message says what is wrong, where (file, row, id, key) and what to do about it. Anything that is not an
``MMPrefError`` is a defect of mmpref and shows its traceback.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec

P = ParamSpec("P")
_FOR_PROGRAMMERS = re.compile(r"Exceeds the limit \(\d+ digits\) for integer string conversion.*")
"""What Python says of a number that is too long, with advice on what to call."""
_LONGEST = 300
"""Characters of another library's message in ours."""
_LONGEST_LINE = 1500
"""Characters of one line of a message on the terminal."""


class MMPrefError(Exception):
    """Base of all expected errors; ``exit_code`` is what the command line returns for it."""

    exit_code: int = 2
    reported_by_other_rank: bool = False
    """Another rank of the same run already printed this error; this process exits without a message."""


class ConfigError(MMPrefError):
    """A recipe, a key or a command-line argument that cannot be used as given (exit 2)."""

    exit_code = 2


class DataError(MMPrefError):
    """A data file, row or image that cannot be used (exit 3)."""

    exit_code = 3


class NonFiniteError(MMPrefError):
    """A loss or gradient that is NaN or infinite, stopped before the optimizer step (exit 4)."""

    exit_code = 4


class OutOfMemoryError(MMPrefError):
    """The device ran out of memory (exit 5)."""

    exit_code = 5


class CheckpointError(MMPrefError):
    """A checkpoint or output folder that cannot be read or written (exit 6)."""

    exit_code = 6


class DistributedError(MMPrefError):
    """Processes that disagree, or a launch that is not what was asked for (exit 7)."""

    exit_code = 7


class EvalIncompleteError(MMPrefError):
    """A benchmark or a judge that left too many questions without a result (exit 8).

    ``result`` is that of the questions which have one, where it could be made.
    """

    exit_code = 8
    result: object = None


class StoppedError(MMPrefError):
    """The run was asked to stop and did so at a safe point (exit 128 + signal number)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class Terminated(BaseException):
    """SIGTERM or SIGHUP; like KeyboardInterrupt no Exception, so that nothing on the way swallows it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number


def one_line(err: BaseException) -> str:
    """What an exception of another library says, as one line of at most 300 characters, with its class where that says
    more than its words."""
    words = "".join(letter if letter.isprintable() else " " for letter in str(err))
    text = _FOR_PROGRAMMERS.sub("a whole number has thousands of digits", " ".join(words.split()))
    if isinstance(err, OSError) and err.strerror:
        text = err.strerror
    elif not text or isinstance(err, (LookupError, AttributeError, RecursionError)):
        text = f"{type(err).__name__}: {text}" if text else type(err).__name__
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_OF_THE_MACHINE = {
    errno.EACCES: "check who may read and write it",
    errno.EPERM: "check who may read and write it",
    errno.EROFS: "name a place that can be written",
    errno.ELOOP: "its links lead to each other; name the file itself",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a folder is named, and a file is there",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EIO: "the disk or its server failed; copy the file elsewhere",
    errno.ESTALE: "the disk's server failed; try again",
    errno.EMFILE: "close other files, or raise `ulimit -n`",
    errno.ENFILE: "close other files",
}
"""What is wrong with the machine or with a path and never with our code -> what to do."""


def of_the_machine(err: OSError) -> MMPrefError | None:
    """A refusal of the operating system as one line, where only the machine or a path can be its cause; else None, and
    the traceback is shown. For the command line's last handler, where no reader or writer said more."""
    remedy = _OF_THE_MACHINE.get(err.errno or 0)
    if remedy is None:
        return None
    where = err.filename if isinstance(err.filename, str) else "a file"
    kind = CheckpointError if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO) else ConfigError
    return kind(f"{where}: {err.strerror}; {remedy}")


def as_shown(err: BaseException) -> str:
    """What an error says, for a terminal: characters that would move the cursor or end the line are written as escapes,
    and lines that a hostile file made endless are cut. Line breaks that the message itself has stay."""
    lines = []
    for line in str(err).split("\n"):
        text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line[:_LONGEST_LINE])
        lines.append(text if len(line) <= _LONGEST_LINE else f"{text}...")
    return "\n".join(lines)


@contextmanager
def library_errors(error: type[MMPrefError], what: str, remedy: str, *, memory: bool = True) -> Iterator[None]:
    """Turn whatever another library raises over a user's file into one line: ``what: its words; remedy``.

    To be put around the call into the library and nothing of our own, as a defect of ours would look like a bad file.
    Our own errors and Ctrl-C pass; a lack of the computer's memory is an :class:`OutOfMemoryError` that names the file,
    and a device's passes to its own handler.

    Args:
        error: the kind that is raised.
        what: what cannot be done, with the file, row or key: ``the tokenizer of x cannot be loaded``.
        remedy: what to do: ``download the folder again``.
        memory: False lets a lack of memory pass as it is, where a handler around this one knows what would help.
    """
    try:
        yield
    except MMPrefError:
        raise
    except Exception as err:
        if type(err).__name__ == "OutOfMemoryError":  # torch's, which this module does not import
            raise
        if lacks_memory(err):
            if not memory:
                raise
            raise OutOfMemoryError(f"{what}: out of memory; free some, or look at what asks for so much there") from err
        raise error(f"{what}: {one_line(err)}; {remedy}") from err
    except BaseException as err:
        if type(err).__name__ != "PanicException":  # of a library in Rust: no Exception, as Python has it
            raise
        raise error(f"{what}: {one_line(err)}; {remedy}") from err


def lacks_memory(err: Exception) -> bool:
    """Whether the computer's memory ran out: Python's own error, the system's, or torch's, which has no class."""
    if isinstance(err, OSError):
        return err.errno == errno.ENOMEM
    return isinstance(err, MemoryError) or (isinstance(err, RuntimeError) and "can't allocate memory" in str(err))


def stopped_by_ctrl_c(command: Callable[P, None]) -> Callable[P, None]:
    """The same command with Ctrl-C, SIGTERM and SIGHUP as our own error: one line, and exit code 130, 143 or 129. So is
    memory that ran out, with exit code 5.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with _signals_are_raised():
                command(*args, **kwargs)
        except MemoryError as err:  # no handler nearer to it knew of what
            raise OutOfMemoryError(
                "out of memory; free some, or give the command less at once (smaller files, models or batches)"
            ) from err
        except (KeyboardInterrupt, Terminated) as stop:
            number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
            raise StoppedError(
                f"stopped by {signal_name(number)}; nothing unfinished was left looking whole", number
            ) from None

    return run


def signal_name(number: int) -> str:
    """``SIGTERM``, or what a user calls it."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def _signals_are_raised() -> Iterator[None]:
    """Python drops what is raised while an object is taken down, a KeyboardInterrupt too: its signal is sent again."""
    report = sys.unraisablehook

    def send_again(dropped: sys.UnraisableHookArgs) -> None:
        kind, value = dropped.exc_type, dropped.exc_value
        if not issubclass(kind, (KeyboardInterrupt, Terminated)):
            report(dropped)
            return
        number = value.number if isinstance(value, Terminated) else signal.SIGINT
        if (signals := sys.modules.get("mmpref.process.signals")) is not None:
            signals.forget()
        again = threading.Timer(0.05, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = report
