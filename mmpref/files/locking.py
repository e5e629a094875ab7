"""Locks between processes: a lock file that names its holder, and one writer at a time for a file or folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import lock_descriptor, unlock_descriptor

from mmpref.errors import CheckpointError, ConfigError, library_errors
from mmpref.files.temporary import shortened
from mmpref.files.writing import real_path, writing_to

_LOCKED: set[int] = set()
"""Descriptors of this process's locks."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
"""Error numbers of a file system that has no locks, or whose lock server does not run."""
_TRIES = 50
"""How often a file that another process removed in between is opened again; it never takes more than a few."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has a lock, as it wrote itself into the lock file."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Locked(Exception):  # noqa: N818 - whoever asks says what it means for the user
    """Another process has the lock; ``holder`` is None where neither it nor the system has said which (yet)."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        super().__init__(f"{path} is locked by {holder or 'another process'}")
        self.path = path
        self.holder = holder


class NoLocksError(CheckpointError):
    """The file system has no locks."""


@contextlib.contextmanager
def locked(path: Path, *, leave: bool = True, patience: float = 0.0) -> Iterator[None]:
    """Lock a file for the length of the block; its content names the process that has it locked.

    The lock is the operating system's (``flock``): it ends with the process, however that ends, so a lock file that is
    left behind means nothing. Children made by fork (the loader's workers) close it at once.

    Args:
        path: the lock file; its folder is made.
        leave: whether the file stays after the block. Without, it is deleted while it is locked, and whoever had
            opened it already sees that it is not the file of that name any more.
        patience: seconds to wait for whoever has it locked, such as :func:`refuse_locked` for a moment.

    Raises:
        Locked: another process, or another block of this one, has it locked.
        NoLocksError: the file system has no locks.
        CheckpointError: the file cannot be written.
    """
    _close_in_forked_children()
    descriptor = _open_locked(path, time.monotonic() + patience)
    _LOCKED.add(descriptor)
    try:
        with writing_to(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        if descriptor in _LOCKED:  # not so in a child that was forked meanwhile: it has closed it
            _LOCKED.remove(descriptor)
            if not leave and _is_at(descriptor, path):
                with contextlib.suppress(OSError):
                    path.unlink()
            with contextlib.suppress(OSError):
                unlock_descriptor(descriptor)  # closing is not enough where a child was forked a moment ago
            os.close(descriptor)


@contextlib.contextmanager
def only_writer(path: Path, remedy: str) -> Iterator[None]:
    """Write a file or folder, and no other process of mmpref at the same time.

    Args:
        path: what is written; a lock file lies beside it for as long, where the file system
            has locks.
        remedy: what to do where another process writes it: ``choose another --out``.

    Raises:
        ConfigError: another process writes it; the message names the process and its host.
    """
    with library_errors(CheckpointError, f"cannot write to {str(path)!r}", "choose another name"):
        target = real_path(path).absolute()
    lock = target.with_name(f".{shortened(target.name)}.lock")
    with contextlib.ExitStack() as stack:
        try:
            with contextlib.suppress(NoLocksError):  # as everywhere where a second writer is seen at best
                stack.enter_context(locked(lock, leave=False))
        except Locked as err:
            who = err.holder or "another process"
            raise ConfigError(f"{path} is being written by {who}; wait for it to end, or {remedy}") from None
        except CheckpointError as err:
            raise CheckpointError(str(err).replace(str(lock), str(path))) from err
        yield


def refuse_locked(path: Path) -> None:
    """Check that nobody has a lock file locked; nothing is made or changed.

    Raises:
        Locked: somebody does.
    """
    try:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except PermissionError:  # another user's
            descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # there is none, or it cannot be looked into: whoever then writes there gets the error
        return
    try:
        with contextlib.suppress(OSError):
            if not lock_descriptor(descriptor, blocking=False):
                raise Locked(path, _holder(descriptor))
    finally:
        os.close(descriptor)


def holder_by_system(descriptor: int) -> Holder | None:
    """Which process has locked an open file or folder (``flock``), where the system says so (Linux); it may be gone."""
    wanted = str(os.fstat(descriptor).st_ino)
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if "->" in fields:  # one that waits for it
                continue
            if "FLOCK" in fields and fields[-3].rpartition(":")[2] == wanted and (pid := int(fields[-4])) > 0:
                return Holder(pid, socket.gethostname())
    return None


def _open_locked(path: Path, until: float) -> int:
    for _ in range(_TRIES):
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            except FileNotFoundError:  # whoever had it locked removed it with its folder
                continue
        try:
            while not _lock(descriptor, path):
                if time.monotonic() >= until:
                    raise Locked(path, _holder(descriptor))
                time.sleep(0.02)
            if _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise CheckpointError(f"{path} is deleted again and again while it is opened; look for what does that")


def _lock(descriptor: int, path: Path) -> bool:
    try:
        with writing_to(path):
            return lock_descriptor(descriptor, blocking=False)
    except CheckpointError as err:
        reason = err.__cause__
        if not isinstance(reason, OSError) or reason.errno not in _NO_LOCKS:
            raise
        if os.fstat(descriptor).st_size == 0:
            path.unlink(missing_ok=True)
        raise NoLocksError(
            f"the file system of {path.parent} has no locks ({reason.strerror or reason}), so a second process that "
            "writes there goes unseen; use a folder on another file system, or mount this one with flock"
        ) from err


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether a file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _holder(descriptor: int) -> Holder | None:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        content = json.loads(os.read(descriptor, 1000))
        return Holder(int(content["pid"]), str(content["host"]))
    except (OSError, ValueError, TypeError, KeyError):  # between its lock and its line
        return holder_by_system(descriptor)


@functools.cache  # once in a process; its children inherit the registration
def _close_in_forked_children() -> None:
    """From now on a child made by fork closes the descriptors of its parent's locks at once."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for descriptor in _LOCKED:
        os.close(descriptor)
    _LOCKED.clear()
