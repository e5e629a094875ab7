"""What is in a file, as the sha256 of all its bytes: read once, and known from then on.

Weights are too large to be read at every start, so the hash of a large file is kept in the user's cache folder under
what the file system says of it: real path, size, times of change, inode and device. Where any of these is another, the
file is read again. The folder is ``$MMPREF_CACHE``, else ``$XDG_CACHE_HOME/mmpref``, else ``~/.cache/mmpref``, with one
small file for each file that was hashed, written atomically, so that many processes may write at once. Where
it cannot be written, files are read at every start; what is damaged there is read as if it were not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, MMPrefError, one_line
from mmpref.files.writing import replacing

Say = Callable[[str], None]
KEPT_FROM = 1 << 24
"""Bytes from which a hash is kept; a smaller file is read in the time that it takes to look its hash up."""
SAID_FROM = 1 << 32
"""Bytes to read from which ``say`` is called: some seconds of reading."""
_MOST_KEPT = 2000
SETTLED_NS = 2_000_000_000
"""A file that was changed this shortly ago may change again within one tick of its file system's clock."""
_TOGETHER = 256
"""Small files that a thread takes at a time."""
_THREADS = min(4, os.cpu_count() or 1)
_SAID_EVERY = 20.0  # seconds
_known: dict[tuple[Any, ...], str] = {}
"""What this process has hashed, for where nothing can be written."""


def content_hash(path: Path, error: type[MMPrefError] = ConfigError) -> str:
    """sha256 of a file's bytes, all of them.

    Raises:
        MMPrefError: of the kind ``error``; the file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            if os.fstat(stream.fileno()).st_size < KEPT_FROM:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        real = path.resolve()
        before = _facts(real)
        if (found := _remembered(before)) is not None:
            return found
        with real.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if _facts(real) == before:
            _remember(before, digest)
        return digest
    except (OSError, RuntimeError) as err:  # the second is a loop of links
        raise error(f"{path} cannot be read: {one_line(err)}; check that it is there and its permissions") from err


def content_hashes(
    files: Iterable[Path], error: type[MMPrefError] = ConfigError, *, say: Say | None = None
) -> dict[Path, str]:
    """:func:`content_hash` of many files, some at a time.

    Args:
        error: the kind of what is raised.
        say: called with a sentence where reading takes a while.
    """
    wanted = list(files)
    large = {file: size for file in wanted if (size := _size_to_read(file))}
    small = [file for file in wanted if file not in large]
    jobs = [[file] for file in large] + [small[at : at + _TOGETHER] for at in range(0, len(small), _TOGETHER)]
    total, done, said_at = sum(large.values()), 0, time.monotonic()
    if say is not None and total >= SAID_FROM:
        say(
            f"hashing {total / 2**30:.1f} GiB in {wanted[0].parent}, so that nothing else is taken for it later; done "
            f"once while the files stay as they are (kept in {_folder() or 'this process: there is no home folder'})"
        )
    found: dict[Path, str] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for ready in as_completed([pool.submit(_hashes, job, error) for job in jobs]):
            found |= ready.result()
            done += sum(large.get(file, 0) for file in ready.result())
            if say is not None and total >= SAID_FROM and time.monotonic() - said_at > _SAID_EVERY:
                said_at = time.monotonic()
                say(f"hashing: {done / 2**30:.1f} of {total / 2**30:.1f} GiB")
    return {file: found[file] for file in wanted}


def folder_hashes(
    folder: Path, patterns: Iterable[str], error: type[MMPrefError] = ConfigError, *, say: Say | None = None
) -> dict[str, str]:
    """Name below the folder -> sha256, for the files that match one of the patterns."""
    try:
        files = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    except OSError as err:
        raise error(f"{folder} cannot be read: {one_line(err)}; check its permissions") from err
    return {
        file.relative_to(folder).as_posix(): digest for file, digest in content_hashes(files, error, say=say).items()
    }


def joined(hashes: Mapping[str, str]) -> str:
    """One hash for names and what is in each."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _hashes(files: Iterable[Path], error: type[MMPrefError]) -> dict[Path, str]:
    return {file: content_hash(file, error) for file in files}


def _facts(real: Path) -> dict[str, Any]:
    found = real.stat()
    return {
        "path": str(real),
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
    }


def _remembered(facts: Mapping[str, Any]) -> str | None:
    if (digest := _known.get(tuple(facts.values()))) is not None:
        return digest
    folder = _folder()
    if folder is None or facts["bytes"] < KEPT_FROM:
        return None
    try:
        entry = json.loads(_entry(folder, facts).read_bytes())
        digest, check = entry.pop("sha256"), entry.pop("check")
        return digest if entry == facts and check == _check(facts, digest) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _remember(facts: Mapping[str, Any], digest: str) -> None:
    if time.time_ns() - max(facts["mtime_ns"], facts["ctime_ns"]) < SETTLED_NS or facts["bytes"] < KEPT_FROM:
        return
    _known[tuple(facts.values())] = digest
    folder = _folder()
    if folder is None:
        return
    text = json.dumps({**facts, "sha256": digest, "check": _check(facts, digest)})
    with contextlib.suppress(MMPrefError, OSError):  # a home that is full or read-only: the file is read next time too
        with replacing(_entry(folder, facts)) as stream:
            stream.write(text.encode("ascii"))
        _forget_oldest(folder)


def _check(facts: Mapping[str, Any], digest: str) -> str:
    return hashlib.sha256(f"{json.dumps(facts)}{digest}".encode()).hexdigest()[:16]


def _entry(folder: Path, facts: Mapping[str, Any]) -> Path:
    """Machines that share a home may have other files under one path: inode and device are in the name too."""
    name = json.dumps([facts["path"], facts["inode"], facts["device"]])
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"


def _forget_oldest(folder: Path) -> None:
    entries = sorted(folder.glob("*.json"), key=lambda entry: entry.stat().st_mtime_ns)
    if len(entries) > _MOST_KEPT:
        for entry in entries[: len(entries) // 2]:
            entry.unlink(missing_ok=True)


def _folder() -> Path | None:
    """Where hashes are kept; None without a home."""
    return cache_folder("hashes")


def cache_folder(name: str) -> Path | None:
    """A folder in the user's cache folder, which may not be there yet; None without a home."""
    try:
        if given := os.environ.get("MMPREF_CACHE"):
            return Path(given).expanduser() / name
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return Path(base).expanduser() / "mmpref" / name
    except RuntimeError:
        return None


def _size_to_read(file: Path) -> int:
    """Bytes of a large file whose hash is not known; 0 for others."""
    try:
        if file.stat().st_size < KEPT_FROM:
            return 0
        facts = _facts(file.resolve())
    except (OSError, RuntimeError):  # said by whoever reads it
        return 0
    return 0 if _remembered(facts) is not None else int(facts["bytes"])


def sha256(path: Path) -> str:
    """sha256 of a file's bytes, read now and not remembered."""
    with path.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
