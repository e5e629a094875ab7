"""Files: read within limits, written whole or not at all, hashed, and locked against a second process.

Everything that mmpref keeps on the disk is written here, so that half a file never looks whole and two processes never
write the same one. What a user names is opened here, so that a pipe, a device or a folder in a file's place is one
clear error and nothing waits for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from mmpref.errors import CheckpointError, MMPrefError, library_errors

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_LOCKED: set[int] = set()
"""Descriptors of this process's locks."""
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LONGEST_NAME = 255
"""Bytes of one part of a path that file systems take."""
LONGEST_PATH = 4095
"""Bytes of a whole path that Linux takes."""
MOST_BYTES = 2 * 2**30
"""Of a file that is read as a whole."""


def home_path(path: Path | str) -> Path:
    """A path with ``~`` as the home folder; with a name that no user has, it stays as it is and is found missing."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises over such a name


def real_path(path: Path | str) -> Path:
    """The absolute path without links; a link that leads to itself stays, and is found missing."""
    return Path(os.path.realpath(home_path(path)))  # pathlib's raises over such a link


def is_there(path: Path) -> bool:
    """Whether a regular file is there that this process may see."""
    try:
        return path.is_file()
    except OSError:
        return False


def why_no_path(text: str) -> str | None:
    """Why nothing can be opened or written under this name, or no message could name it; None where it can be one."""
    if _HALF_A_PAIR.search(text):
        return "is not UTF-8 text; rename the file"
    if found := _CONTROL.search(text):
        return f"has the control character {found[0]!r} in it; rename the file"
    if len(text.encode()) > LONGEST_PATH:
        return f"is longer than the {LONGEST_PATH:,} bytes that a path can have"
    longest = max((len(part.encode()) for part in Path(text).parts), default=0)
    if longest > LONGEST_NAME:
        return f"has a name of {longest:,} bytes in it; the longest that a file system takes has {LONGEST_NAME}"
    return None


def open_to_read(path: Path | str, error: type[MMPrefError], what: str = "") -> BufferedReader:
    """A regular file, opened; a pipe without a writer or a device is refused and not waited for.

    Args:
        path: the file.
        error: the kind that is raised.
        what: put before the path in the message, such as ``the recipe``.
    """
    name = f"{what} {path}" if what else str(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            kind = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(kind):
                raise error(f"{name} is {_kind_of_file(kind)}; give a file")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError as err:
        raise error(f"{name} does not exist; check the path (now in {_here()})") from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the name
        raise error(f"{name} cannot be read: {getattr(err, 'strerror', None) or err}") from err


def read_bytes(path: Path | str, error: type[MMPrefError], what: str = "", *, most: int = MOST_BYTES) -> bytes:
    """A whole file of at most ``most`` bytes; see :func:`open_to_read`."""
    name = f"{what} {path}" if what else str(path)
    with open_to_read(path, error, what) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise error(f"{name} has {size:,} bytes, and is read up to {most:,}; is this the right file?")
        with library_errors(error, f"{name} cannot be read", "copy it again"):
            return stream.read(most)


def read_text(path: Path | str, error: type[MMPrefError], what: str = "", *, most: int = MOST_BYTES) -> str:
    """A whole text in UTF-8, with or without a byte order mark; every line ends with a line feed.

    Raises:
        error: no such file, none that can be read, longer than ``most`` bytes, or not UTF-8 (with the byte's place).
    """
    content = read_bytes(path, error, what, most=most)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as err:
        name = f"{what} {path}" if what else str(path)
        told = f"not UTF-8 text at byte {err.start + 1} ({_encoding_of(content) or err.reason})"
        raise error(f"{name} cannot be read: {told}; save it as UTF-8") from err


def read_json(path: Path | str, error: type[MMPrefError], what: str = "", *, most: int = MOST_BYTES) -> Any:
    """The content of a JSON file; see :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, error, what, most=most), error, str(path))


def parse_json(text: str, error: type[MMPrefError], where: str) -> Any:
    """JSON as Python values. Refused are what is not JSON (NaN apart, which other tools write), text that is nested too
    deeply, numbers of thousands of digits, and a key that stands twice in one object: one of its values would be lost.

    Args:
        text: the JSON.
        error: the kind that is raised.
        where: begins the message.
    """
    with library_errors(error, f"{where} is not JSON that can be read", "write it again"):
        return json.loads(text, object_pairs_hook=no_key_twice)


def no_key_twice(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for ``object_pairs_hook``.

    Raises:
        ValueError: a key stands twice, and one of its values would be lost.
    """
    found = dict(items)
    if len(found) != len(items):
        keys = [key for key, _ in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"the same key stands twice: {', '.join(map(repr, twice))[:200]}")
    return found


def _kind_of_file(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe, which can be read only once",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def _encoding_of(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it looks like UTF-16"
    packed = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"PAR1": "parquet", b"ARROW1": "arrow"}
    return next((f"it is a {name} file" for magic, name in packed.items() if content.startswith(magic)), "")


def _here() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return "a folder that was deleted"


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
    with writing_to(path):
        target = Path(os.path.realpath(path))  # a symbolic link stays a link: the file it points to is replaced
        refuse_special(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=_hidden(target), suffix=".tmp", dir=target.parent)
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


def refuse_special(path: Path) -> None:
    """Refuse to write where a pipe, a device or a folder is: it would be waited for, or replaced by a file.

    Raises:
        CheckpointError: it says what is there.
    """
    if path.is_symlink():  # of a path without links
        raise CheckpointError(f"cannot write to {path}: it is a link that leads to itself; name a file")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"cannot write to {path}: it is {_kind_of_file(path.stat().st_mode)}; name a file")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8: characters stand as they are, but half a surrogate pair, which a model's text
    that was cut in the middle of an emoji has, is escaped. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return _HALF_A_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    write_text(path, json_text(content, indent=2) + "\n")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A folder that takes ``path``'s place only when the block ended well; until then it lies beside it."""
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_hidden(path), suffix=".tmp", dir=path.parent))
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
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for the length of the block; it says which process holds it.

    The lock is the operating system's (``flock``): it ends with the process, however that ends, so a lock file that is
    left behind means nothing. The file stays, as deleting it would let two processes hold two files of the same name.
    Children made by fork (the loader's workers) let go of it at once.

    Args:
        path: the lock file; its folder is made.

    Raises:
        Locked: another process, or another block of this one, holds it.
        CheckpointError: the file cannot be written.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    _LOCKED.add(descriptor)
    try:
        with writing_to(path):
            if not lock_descriptor(descriptor, blocking=False):
                raise Locked(path, _holder(descriptor))
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        yield
    finally:
        if descriptor in _LOCKED:  # a child that was forked meanwhile has let go of it
            _LOCKED.remove(descriptor)
            os.close(descriptor)  # and with it the lock


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


def _hidden(path: Path) -> str:
    """How the temporary name of what is written begins: cut where the name itself leaves no place for an ending."""
    return f".{path.name.encode(errors='surrogateescape')[: LONGEST_NAME - 30].decode(errors='ignore')}."


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
