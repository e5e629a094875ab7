"""Temporary files and folders beside the place they are for, and the removal of those that killed processes left.

They have hidden names, ``.NAME.xxxxxxxx.tmp``, and are locked by the process that writes them. One that nobody has
locked was left by a process that was killed: the next that writes ``NAME`` removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from filelock import lock_descriptor

from mmpref.files.reading import LONGEST_NAME


def remove_abandoned(folder: Path, name: str) -> None:
    """Delete what killed processes left behind while they wrote a file or folder; never what one is writing now.

    A folder whose replacement was cut short between its two renames gets its name back.

    Args:
        folder: where.
        name: of the file or folder that was being written; ``*`` matches any letters.
    """
    if os.name != "posix" or not folder.is_dir():  # elsewhere an open file can be neither renamed nor deleted
        return
    wanted = re.compile(rf"\.({re.escape(shortened(name)).replace(re.escape('*'), '.*')})\.[a-z0-9_]{{8}}\.(tmp|old)")
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


def new_temporary_file(target: Path) -> tuple[int, Path]:
    """A new file beside ``target`` and its descriptor, which has it locked where there are locks."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{shortened(target.name)}.", suffix=".tmp", dir=target.parent)
        try:
            alone = os.name != "posix" or lock_descriptor(descriptor, blocking=False)
        except OSError:  # no locks here, so nobody removes it either
            alone = True
        if alone and Path(name).exists():
            return descriptor, Path(name)
        os.close(descriptor)  # another process took it for abandoned before it was locked


def lock_folder(folder: Path) -> int | None:
    """Lock a folder and return the descriptor that keeps it locked until it is closed; None where folders have none."""
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


def shortened(name: str) -> str:
    """A file name cut so that the ending of a temporary name fits behind it."""
    return name.encode(errors="surrogateescape")[: LONGEST_NAME - 30].decode(errors="ignore")
