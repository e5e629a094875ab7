"""Locks on a run folder: one training or command writes into it at a time; also whether it was moved or deleted.

A lock file names the process that writes. The folder itself is locked as well (``flock`` on its own descriptor, shared
by all ranks), because a lock file may be deleted by hand. The descriptor also distinguishes a folder that was moved or
deleted meanwhile from another one that has its name now.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.locking import Locked, NoLocksError, holder_by_system, locked, refuse_locked
from mmpref.files.writing import writing_to
from mmpref.rundir.content import LOCK

if sys.platform != "win32":
    import fcntl

PATIENCE = 0.5
"""Seconds to wait for a lock: whoever only looks whether it is free has it for a moment."""
_LOCKED_FOLDERS: dict[Path, int] = {}
"""Folders that this process has locked, each with its descriptor."""
_CONTINUES_IN: dict[Path, Path] = {}
"""Where a run is kept whose folder was deleted or moved. Kept after the lock is released: the log is written last."""
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES}
"""Errors of ``flock`` where another process has the lock; any other means that folders cannot be locked here."""


@contextlib.contextmanager
def writing_alone(folder: Path, say: Callable[[str], None], option: str = "output=...") -> Iterator[bool]:
    """Be the only process that writes into a folder, for the length of the block.

    The folder is created. If the block leaves it empty it is removed afterwards, and so is the lock file.

    Args:
        folder: a real path (``files.real_path``).
        say: called with a warning where the file system has no locks.
        option: the command line option that gives another folder, for the message.

    Yields:
        Whether it is known that no other process writes there; without locks it is not.

    Raises:
        ConfigError: another process is writing there.
        CheckpointError: the folder cannot be written.
    """
    with writing_to(folder):
        made = [each for each in (folder, *folder.parents) if not each.exists()]
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, made)
        try:
            stack.enter_context(locked(folder / LOCK, leave=False, patience=PATIENCE))
            others = sorted(folder.glob(f"{LOCK}.*"))
            for lock in others:
                refuse_locked(lock)
            stack.enter_context(folder_locked(folder, first=True))
        except Locked as err:
            raise _refusal(folder, err, option) from None
        except NoLocksError as err:
            say(f"warning: {err}")
            yield False
            return
        with writing_to(folder):
            for lock in others:
                lock.unlink(missing_ok=True)  # of ranks that were killed
        yield True


def refuse_second(folder: Path) -> None:
    """Refuse to write into a folder that another process writes into; nothing is created or changed.

    Raises:
        ConfigError: names that process and its machine.
    """
    try:
        for lock in sorted(folder.glob(f"{LOCK}*")):
            refuse_locked(lock)
        if sys.platform != "win32":
            descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            try:
                _lock(descriptor, folder, fcntl.LOCK_EX, time.monotonic())
            finally:
                os.close(descriptor)
    except Locked as err:
        raise _refusal(folder, err, "output=...") from None
    except OSError:  # unreadable: whoever wants to write there gets an error of its own
        return


@contextlib.contextmanager
def folder_locked(folder: Path, *, first: bool) -> Iterator[None]:
    """Lock a folder for the length of the block, by its own descriptor; a process forked meanwhile drops the lock.

    Args:
        folder: a real path; it exists.
        first: no other process may have locked it; the further ranks of a training share the lock of the first.

    Raises:
        Locked: another process has locked it.
    """
    if sys.platform == "win32":
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError:  # it may be written and not read
        yield
        return
    folder = folder.absolute()
    try:
        until = time.monotonic() + PATIENCE
        if first:
            _lock(descriptor, folder, fcntl.LOCK_EX, until)
        _lock(descriptor, folder, fcntl.LOCK_SH, until)
    except BaseException:
        os.close(descriptor)
        raise
    _drop_locks_in_forked_children()
    _LOCKED_FOLDERS[folder] = descriptor
    _CONTINUES_IN.pop(folder, None)
    try:
        yield
    finally:
        if _LOCKED_FOLDERS.pop(folder, None) is not None:  # a child that was forked meanwhile has closed it
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a child was forked a moment ago
            os.close(descriptor)


def now_at(folder: Path) -> Path | None:
    """Where a folder that this process has locked is: at its path, or where :func:`continue_in` set it.

    None where its path now belongs to another folder or to none. One that is not locked is taken to be at its path.
    """
    folder = folder.absolute()
    if folder in _CONTINUES_IN:
        return _CONTINUES_IN[folder]
    if folder not in _LOCKED_FOLDERS or _is(folder, _LOCKED_FOLDERS[folder]):
        return folder
    return None


def has_vanished(folder: Path) -> bool:
    """Whether a folder that this process locked was moved or deleted since; that stays true whatever takes its name."""
    return folder.absolute() in _CONTINUES_IN or now_at(folder) is None


def moved_to(folder: Path) -> Path | None:
    """Where a folder that this process locked was moved; None where it was deleted, or the system cannot say."""
    descriptor = _LOCKED_FOLDERS.get(folder.absolute())
    with contextlib.suppress(OSError):
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        return place if descriptor is not None and _is(place, descriptor) else None
    return None


def continue_in(folder: Path, place: Path) -> None:
    """From now on :func:`now_at` gives ``place`` for a folder that vanished."""
    _CONTINUES_IN[folder.absolute()] = place


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _lock(descriptor: int, folder: Path, kind: int, until: float) -> None:
    if sys.platform == "win32":
        return
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except OSError as err:
            if err.errno not in _TAKEN:
                return
        if time.monotonic() >= until:
            raise Locked(folder, holder_by_system(descriptor))  # its lock file is gone
        time.sleep(0.02)


def _refusal(folder: Path, err: Locked, option: str) -> ConfigError:
    who = err.holder or "a process whose name is not known yet"
    stop = f", stop it (kill {err.holder.pid})" if err.holder else ""
    return ConfigError(
        f"{folder} is in use: {who} writes there; wait for its end{stop}, or choose another folder with {option}"
    )


def _remove_empty(folders: Sequence[Path]) -> None:
    with contextlib.suppress(OSError):  # something is in it
        for folder in folders:
            folder.rmdir()


def _drop_locks() -> None:
    for descriptor in _LOCKED_FOLDERS.values():
        os.close(descriptor)
    _LOCKED_FOLDERS.clear()
    _CONTINUES_IN.clear()


@functools.cache
def _drop_locks_in_forked_children() -> None:
    """Once, when the first folder is locked: a forked child shares its parent's lock and would keep it alive."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_drop_locks)
