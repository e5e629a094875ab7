"""Files that a user names, opened and read within limits, so that a pipe, a device, a folder in a file's place, or
bytes that are no text give one clear error, and nothing waits for them.

And no command writes over what it reads, or two of its files into one: whatever reads some files and writes others asks
:func:`refuse_written_over` before it begins. Files are compared as the file system knows them, so that a symbolic link,
a hard link or another way to write the same path is seen.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeAlias

from mmpref.errors import ConfigError, MMPrefError, library_errors

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
LONGEST_NAME = 255
"""Bytes of one part of a path that file systems take."""
LONGEST_PATH = 4095
"""Bytes of a whole path that Linux takes."""
MOST_BYTES = 2 * 2**30
"""Of a file that is read as a whole."""
_PIECE = 16 * 2**20
_Identity: TypeAlias = tuple[str, str] | tuple[int, int]
"""Of a file: its path without links, or the device and the number of its inode."""


def home_path(path: Path | str) -> Path:
    """A path with ``~`` as the home folder; with a name that no user has, it stays as it is and is found missing."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib's raises over such a name


def without_links(path: Path | str) -> Path:
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
                raise error(f"{name} is {kind_of_file(kind)}; give a file")
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
        pieces: list[bytes] = []
        while size <= most:
            with library_errors(error, f"{name} cannot be read", "copy it again"):
                piece = stream.read(_PIECE)  # a read of `most` bytes would take that much memory before it begins
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            size = max(size, sum(map(len, pieces)))  # it may grow, and some files do not say how long they are
        raise error(f"{name} has {size:,} bytes, and is read up to {most:,}; is this the right file?")


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
        reason = f"not UTF-8 text at byte {err.start + 1} ({_encoding_of(content) or err.reason})"
        raise error(f"{name} cannot be read: {reason}; save it as UTF-8") from err


def read_json(path: Path | str, error: type[MMPrefError], what: str = "", *, most: int = MOST_BYTES) -> Any:
    """The content of a JSON file; see :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path, error, what, most=most), error, f"{what} {path}" if what else str(path))


def parse_json(text: str, error: type[MMPrefError], where: str) -> Any:
    """JSON as Python values. Refused are what is not JSON (NaN apart, which other tools write), text that is nested too
    deeply, numbers of thousands of digits, and a key that appears twice in one object: one of its values would be lost.

    Args:
        text: the JSON.
        error: the kind that is raised.
        where: begins the message.
    """
    with library_errors(error, f"{where} is not JSON that can be read", "write it again"):
        return json_value(text)


def json_value(text: str) -> Any:
    """What :func:`parse_json` reads, for whoever makes the message.

    Raises:
        ValueError: it is no such JSON, in words that fit a message.
        RecursionError: it is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=no_key_twice)
    except json.JSONDecodeError as err:
        place = f"line {err.lineno}, column {err.colno}" if "\n" in text.strip() else f"column {err.colno}"
        raise ValueError(f"{err.msg[:1].lower()}{err.msg[1:].removesuffix(' at')} at {place}") from None
    except RecursionError:
        raise RecursionError("brackets are nested too deeply") from None


def no_key_twice(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for ``object_pairs_hook``.

    Raises:
        ValueError: a key appears twice, and one of its values would be lost.
    """
    found = dict(items)
    if len(found) != len(items):
        keys = [key for key, _ in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"the same key appears twice: {', '.join(map(repr, twice))[:200]}")
    return found


def refuse_written_over(outputs: Mapping[str, Path | None], inputs: Iterable[object]) -> None:
    """Refuse outputs that are one of the inputs, or one another.

    Args:
        outputs: what is written, under the name that a message calls it by, such as ``--out``. None: not asked for.
        inputs: what is read. Anything but a path to something is passed over, such as rows or the name on a hub.

    Raises:
        ConfigError: names both files and what to change.
    """
    read = {identity: Path(path) for path in inputs if isinstance(path, str | Path) for identity in _identities(path)}
    written: dict[_Identity, tuple[str, Path]] = {}
    for name, path in outputs.items():
        if path is None:
            continue
        for identity in _identities(path):
            if identity in read:
                raise ConfigError(
                    f"{name} {path} would write over {read[identity]}, which is read here; choose another name"
                )
            if identity in written:
                other, there = written[identity]
                raise ConfigError(f"{name} {path} and {other} {there} are the same file; choose another name for one")
        written |= dict.fromkeys(_identities(path), (name, path))


def refuse_foreign_folder(folder: Path, ours: re.Pattern[str], inputs: Iterable[Path | None], remedy: str) -> None:
    """Refuse to replace a folder in which something lies that an earlier call did not write, or that is read now.

    Args:
        folder: it is replaced as a whole.
        ours: what an earlier call can have named the entries.
        inputs: files and folders that are read.
        remedy: ends the message.

    Raises:
        ConfigError: names what would be lost.
    """
    place = without_links(folder)
    for path in inputs:
        if path is not None and (real := without_links(path)).exists() and real.is_relative_to(place):
            raise ConfigError(f"the folder {folder} would be replaced, and {path} in it is read; {remedy}")
    if not folder.is_dir():
        return
    if foreign := sorted(entry.name for entry in folder.iterdir() if not ours.fullmatch(entry.name)):
        raise ConfigError(
            f"the folder {folder} would be replaced, and it contains other things ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}); {remedy}"
        )


def _identities(path: str | Path) -> Iterator[_Identity]:
    """What is the same for two paths to one file."""
    try:
        yield "path", str(without_links(path))
        found = os.stat(home_path(path))  # noqa: PTH116 - of a text that need be no path
    except (OSError, ValueError):
        return
    if found.st_ino:
        yield found.st_dev, found.st_ino


def kind_of_file(mode: int) -> str:
    """What a path leads to, in words for a message, by the mode that ``stat`` gives."""
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
