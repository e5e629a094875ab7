"""Files: written whole or not at all, hashed, and locked against a second process.

Everything that mmpref keeps on the disk is written here, so that half a file never looks whole and two processes never
write the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from mmpref import api_keys
from mmpref.errors import CheckpointError, ConfigError

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_LOCKED: set[int] = set()
"""Descriptors of this process's locks."""


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals below ``path`` into one clear error."""
    try:
        yield
    except OSError as err:
        raise CheckpointError(
            f"cannot write to {path}: {err.strerror or err}; check permissions and free space"
        ) from err


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes ``path``'s place only when it is whole and on the disk.

    The bytes go to a temporary file in the same folder, are synced, and are renamed over ``path``; a failure or a kill
    at any moment leaves the old file as it was.
    """
    target = path.resolve()  # a symbolic link stays a link: the file it points to is replaced
    with writing_to(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
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
        _sync_folder(target.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8: characters stand as they are, but half a surrogate pair, which a model's text
    that was cut in the middle of an emoji has, is escaped. NaN and infinity are refused: they are not JSON. No API key
    comes into a file this way, whatever was said or read before."""
    text = json.dumps(api_keys.cut_all(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _HALF_A_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json_text(content, indent=2) + "\n")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder that takes ``path``'s place only when the block ended well; until then it lies beside it."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            temporary.chmod(0o777 & ~_umask())
            if path.exists():
                old = temporary.with_suffix(".old")
                path.rename(old)
                temporary.rename(path)
                shutil.rmtree(old)
            else:
                temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(path.parent)


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


@contextlib.contextmanager
def locked(path: Path, *, leave: bool = True) -> Iterator[None]:
    """Hold a lock file for the length of the block; it says which process holds it.

    The lock is the operating system's (``flock``): it ends with the process, however that ends, so a lock file that is
    left behind means nothing. Children made by fork (the loader's workers) let go of it at once.

    Args:
        path: the lock file; its folder is made.
        leave: the file stays. Without it, it is deleted before it is let go, and whoever had opened it meanwhile sees
            that and opens the next one.

    Raises:
        Locked: another process, or another block of this one, holds it.
        CheckpointError: the file cannot be written.
    """
    descriptor = _open_locked(path)
    try:
        with writing_to(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        if descriptor in _LOCKED:  # a child that was forked meanwhile has let go of it
            if not leave:
                path.unlink(missing_ok=True)
            _LOCKED.remove(descriptor)
            os.close(descriptor)  # and with it the lock


def _open_locked(path: Path) -> int:
    """A descriptor of the lock file of that name, locked."""
    while True:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        _LOCKED.add(descriptor)
        try:
            with writing_to(path):
                if not lock_descriptor(descriptor, blocking=False):
                    raise Locked(path, _holder(descriptor))
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            _LOCKED.discard(descriptor)
            os.close(descriptor)
            raise
        _LOCKED.discard(descriptor)  # it was deleted between the two steps
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def only_writer(path: Path, remedy: str) -> Iterator[None]:
    """Write a file or folder, and no other process of mmpref at the same time.

    Args:
        path: what is written; a lock file lies beside it for as long.
        remedy: what to do where another process writes it: ``choose another --out``.

    Raises:
        ConfigError: another process writes it; the message names the process and its host.
    """
    target = path.resolve()
    lock = target.with_name(f".{target.name[:200]}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, leave=False))
        except Locked as err:
            who = err.holder or "another process"
            raise ConfigError(f"{path} is being written by {who}; wait for it to end, or {remedy}") from None
        yield


def _holder(descriptor: int) -> Holder | None:
    try:
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
