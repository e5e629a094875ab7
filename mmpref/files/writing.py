"""Files and folders written atomically: whatever happens meanwhile, either the old content or all of the new is there.

What is being written lies beside its place under a hidden name, ``.NAME.xxxxxxxx.tmp``, and is locked by its process
(:mod:`mmpref.files.temporary`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mmpref import api_keys
from mmpref.errors import CheckpointError, ConfigError
from mmpref.files.reading import kind_of_file
from mmpref.files.temporary import lock_folder, new_temporary_file, remove_abandoned, shortened

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


@contextlib.contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Raise what the operating system refuses below ``path`` as a CheckpointError that names the path and a remedy."""
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
    """Write a file atomically: it takes ``path``'s place only once all of it is on the disk.

    The bytes go to a temporary file in the same folder, are synced, and are renamed over ``path``; a failure or a kill
    at any moment leaves the old file as it was.
    """
    with writing_to(path):
        target = real_path(path)  # a symbolic link stays a link: the file it points to is replaced
        refuse_special(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, target.name)
        descriptor, temporary = new_temporary_file(target)
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
    """Write a text file atomically, as UTF-8."""
    with replacing(path) as stream:
        stream.write(text.encode("utf-8"))


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON that can be written as UTF-8: characters are kept as they are, but half a surrogate pair, which a model's
    text that was cut in the middle of an emoji has, is escaped. NaN and infinity are refused: they are not JSON. No
    API key comes into a file this way, whatever was said or read before."""
    text = json.dumps(api_keys.cut_all(content), indent=indent, ensure_ascii=False, allow_nan=False)
    return _HALF_A_PAIR.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, indented by two spaces."""
    write_text(path, json_text(content, indent=2) + "\n")


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Write a folder atomically: it takes ``path``'s place only if the block raises nothing."""
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
    temporary = Path(tempfile.mkdtemp(prefix=f".{shortened(path.name)}.", suffix=".tmp", dir=path.parent))
    descriptor = lock_folder(temporary)
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
