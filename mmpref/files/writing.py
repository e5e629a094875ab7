"""Files: written atomically, hashed, and locked against a second process.

Everything that mmpref keeps on the disk is written here, so that half a file never looks whole and two processes never
write the same one.

What is being written lies beside its place under a hidden name, ``.NAME.xxxxxxxx.tmp``, and is locked by its process.
One that nobody has locked was left by a process that was killed: the next that writes ``NAME`` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor, unlock_descriptor

from mmpref import api_keys
from mmpref.errors import CheckpointError, ConfigError, library_errors
from mmpref.files.reading import LONGEST_NAME, kind_of_file

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_LOCKED: set[int] = set()
"""Descriptors of this process's locks."""
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}
"""What a file system answers that has no locks, or whose server for them does not run."""
_TRIES = 50
"""So often a file is opened anew that another process removed in between; it never takes more than a few."""


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals below ``path`` into one clear error."""
    try:
        yield
    except (FileExistsError, NotADirectoryError) as err:
        there = next((folder for folder in path.parents if folder.exists() and not folder.is_dir()), None)
        why = err.strerror or str(err) if there is None else f"{there} is {_said_of(there)} and no folder"
        raise CheckpointError(f"cannot write to {path}: {why}; give another path") from err
    except OSError as err:
        raise CheckpointError(
            f"cannot write to {path}: {err.strerror or err}; check permissions and free space"
        ) from err


def _said_of(path: Path) -> str:
    return "a file" if path.is_file() else kind_of_file(path.stat().st_mode)


def real_path(path: Path) -> Path:
    """Where a path leads, all symbolic links followed; as given where it has none and no ``..``. Nothing need be there.

    Raises:
        ConfigError: a link leads back to itself.
    """
    try:
        found = path.resolve()
    except (OSError, RuntimeError) as err:  # the latter is what Python says of such a link before 3.13
        raise ConfigError(f"{path}: its symbolic link leads back to itself; give another path") from err
    if found.is_symlink():
        raise ConfigError(f"{path}: its symbolic link leads back to itself; give another path")
    return path if found == path.absolute() else found


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes ``path``'s place only when it is whole and on the disk.

    The bytes go to a temporary file in the same folder, are synced, and are renamed over ``path``; a failure or a kill
    at any moment leaves the old file as it was.
    """
    with writing_to(path):
        target = real_path(path)  # a symbolic link stays a link: the file it points to is replaced
        refuse_special(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, target.name)
        descriptor, temporary = _temporary_file(target)
        locked_until_there = os.dup(descriptor)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600 files; others may read a result
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(locked_until_there)
        _sync_folder(target.parent)


def refuse_special(path: Path) -> None:
    """Refuse to write where a pipe, a device or a folder is: it would be waited for, or replaced by a file.

    Raises:
        CheckpointError: it says what is there.
    """
    if path.is_symlink():  # of a path without links
        raise CheckpointError(f"cannot write to {path}: it is a link that leads to itself; name a file")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"cannot write to {path}: it is {kind_of_file(path.stat().st_mode)}; name a file")


def open_to_append(path: Path) -> IO[str]:
    """A text file, open at its end; it and its folder are made where they are not there.

    Raises:
        CheckpointError: it cannot be written, or is a pipe, a device or a folder.
    """
    with writing_to(path):
        refuse_special(real_path(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write a text file written atomically."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8: characters stand as they are, but half a surrogate pair, which a model's text
    that was cut in the middle of an emoji has, is escaped. NaN and infinity are refused: they are not JSON. No API key
    comes into a file this way, whatever was said or read before."""
    text = json.dumps(api_keys.cut_all(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _HALF_A_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file written atomically."""
    write_text(path, json_text(content, indent=2) + "\n")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder that takes ``path``'s place only when the block ended well; until then it lies beside it."""
    with writing_to(path), folder_beside(path) as temporary:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync_file(file)
        let_others_read(temporary)
        if path.exists():
            old = temporary.with_suffix(".old")
            path.rename(old)
            try:
                temporary.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)  # another process may be at it as well
        else:
            temporary.rename(path)
        _sync_folder(path.parent)


@contextlib.contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A hidden folder beside ``path``, to be renamed when it is whole; what was not renamed is gone after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(path.parent, path.name)
    temporary = Path(tempfile.mkdtemp(prefix=f".{_cut(path.name)}.", suffix=".tmp", dir=path.parent))
    descriptor = _folder_lock(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def let_others_read(folder: Path) -> None:
    """Give a folder and all in it the permissions that the umask leaves: libraries make some files for their owner
    alone, and others may read a result."""
    for entry in (folder, *folder.rglob("*")):
        mode = entry.lstat().st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            wanted = 0o777 if stat.S_ISDIR(mode) else 0o666 | mode & 0o111
            with contextlib.suppress(PermissionError):  # another user's, of a rank on another machine
                entry.chmod(wanted & ~_umask())


def remove_abandoned(folder: Path, name: str) -> None:
    """Delete what killed processes left behind while they wrote a file or folder; never what one is writing now.

    A folder whose replacement was cut short between its two renames gets its name back.

    Args:
        folder: where.
        name: of the file or folder that was being written; ``*`` stands for any letters.
    """
    if os.name != "posix" or not folder.is_dir():  # elsewhere an open file can be neither renamed nor deleted
        return
    wanted = re.compile(rf"\.({re.escape(_cut(name)).replace(re.escape('*'), '.*')})\.[a-z0-9_]{{8}}\.(tmp|old)")
    found = [(entry, match) for entry in folder.iterdir() if (match := wanted.fullmatch(entry.name))]
    for entry, match in sorted(found, key=lambda each: each[1][2] == "old"):
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours to delete
            if match[2] == "old" and not entry.is_dir():
                continue
            if match[2] == "tmp" or (folder / match[1]).exists():
                _remove_unlocked(entry)
            elif not entry.with_suffix(".tmp").exists():
                entry.rename(folder / match[1])


def _remove_unlocked(entry: Path) -> None:
    is_folder = entry.is_dir()
    descriptor = os.open(entry, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW)  # a link is not ours
    try:
        if not lock_descriptor(descriptor, blocking=False):
            return
        if is_folder:
            shutil.rmtree(entry)
        else:
            entry.unlink()
    finally:
        os.close(descriptor)


def _temporary_file(target: Path) -> tuple[int, Path]:
    """A new file beside ``target`` and its descriptor, which holds its lock where there are locks."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{_cut(target.name)}.", suffix=".tmp", dir=target.parent)
        try:
            alone = os.name != "posix" or lock_descriptor(descriptor, blocking=False)
        except OSError:  # no locks here, so nobody removes it either
            alone = True
        if alone and Path(name).exists():
            return descriptor, Path(name)
        os.close(descriptor)  # another process took it for abandoned before it was locked


def _folder_lock(folder: Path) -> int | None:
    """A descriptor that holds the lock of a folder; None where folders have none."""
    if os.name != "posix":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if lock_descriptor(descriptor, blocking=False):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def sha256(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a lock, as it wrote itself down."""

    pid: int
    host: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Locked(Exception):  # noqa: N818 - whoever asks says what it means for the user
    """Another process holds the lock; ``holder`` is None when it has not said yet who it is."""

    def __init__(self, path: Path, holder: Holder | None) -> None:
        super().__init__(f"{path} is held by {holder or 'another process'}")
        self.path = path
        self.holder = holder


class NoLocksError(CheckpointError):
    """The file system has no locks."""


@contextlib.contextmanager
def locked(path: Path, *, leave: bool = True, patience: float = 0.0) -> Iterator[None]:
    """Hold a lock file for the length of the block; it says which process holds it.

    The lock is the operating system's (``flock``): it ends with the process, however that ends, so a lock file that is
    left behind means nothing. Children made by fork (the loader's workers) let go of it at once.

    Args:
        path: the lock file; its folder is made.
        leave: whether the file stays after the block. Without, it is deleted while its lock is held, and whoever had
            opened it already sees that it is not the file of that name any more.
        patience: seconds to wait for whoever holds it, such as :func:`refuse_locked` for a moment.

    Raises:
        Locked: another process, or another block of this one, holds it.
        NoLocksError: the file system has no locks.
        CheckpointError: the file cannot be written.
    """
    descriptor = _open_locked(path, time.monotonic() + patience)
    _LOCKED.add(descriptor)
    try:
        with writing_to(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        if descriptor in _LOCKED:  # a child that was forked meanwhile has let go of it
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
    lock = target.with_name(f".{_cut(target.name)}.lock")
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
    """Look whether somebody holds a lock file; nothing is made or changed.

    Raises:
        Locked: somebody does.
    """
    try:
        try:
            descriptor = os.open(path, os.O_RDWR)
        except PermissionError:  # another user's
            descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # there is none, or it cannot be looked into: whoever then wants to write there is told
        return
    try:
        with contextlib.suppress(OSError):
            if not lock_descriptor(descriptor, blocking=False):
                raise Locked(path, _holder(descriptor))
    finally:
        os.close(descriptor)


def _open_locked(path: Path, until: float) -> int:
    for _ in range(_TRIES):
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            except FileNotFoundError:  # whoever held it left, and took its folder along
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
        return None


def _let_go_in_child() -> None:
    for descriptor in _LOCKED:
        os.close(descriptor)
    _LOCKED.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def _cut(name: str) -> str:
    """A name that leaves place for the ending of a temporary one."""
    return name.encode(errors="surrogateescape")[: LONGEST_NAME - 30].decode(errors="ignore")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_folder(path: Path) -> None:
    if os.name == "posix":  # only there can a folder be opened and synced
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
