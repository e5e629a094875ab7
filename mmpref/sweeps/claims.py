"""Who works on what: several commands on one folder, on one machine or more, share the cells by a lock for each."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.locking import Locked, NoLocksError, locked, refuse_locked

_PATIENCE = 0.5
"""Seconds to wait for a lock: whoever only looks whether it is free has it for a moment."""


class BusyError(Exception):
    """Another process has it; ``holder`` says which."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Be the only one that works on a cell, or on the evaluations of a start model, for the length of the block.

    The lock ends with the process that has it, however that ends. Where the file system has no locks, nothing is known
    of others, and the lock of the run folder itself says so.

    Args:
        folder: of the cell or the evaluations; the lock lies beside it.

    Raises:
        BusyError: another process has it.
        CheckpointError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(_lock(folder), leave=False, patience=_PATIENCE))
        except Locked as err:
            raise BusyError(_said(err)) from None
        except NoLocksError:
            pass
        yield


def holder_of(folder: Path) -> str | None:
    """Which process works on a cell now; None where none does."""
    try:
        refuse_locked(_lock(folder))
    except Locked as err:
        return _said(err)
    return None


def _lock(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _said(err: Locked) -> str:
    return str(err.holder) if err.holder is not None else "another process"


@dataclass(frozen=True, slots=True)
class Share:
    """Share ``number`` of ``total`` of the cells, counted from 1; every ``total``-th cell, so that the arms are divided
    too."""

    number: int = 1
    total: int = 1
    source: str = ""
    """Where it was said, if not by an option."""

    def has(self, place: int) -> bool:
        """Whether the cell at a place, from 0, is in this share."""
        return place % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


ALL = Share()


def share_of(text: str | None, environment: Mapping[str, str] = os.environ) -> Share:
    """The share that ``--shard 2/8`` names, else that of this task of a SLURM array, else everything.

    Raises:
        ConfigError: it names none, or the array's numbers are no row.
    """
    if text is not None:
        found = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"--shard {text}: write I/N with 1 <= I <= N, as --shard 2/8")
        return Share(int(found[1]), int(found[2]))
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return ALL
    task, count, first, step = (
        _number(environment, name, default)
        for name, default in (
            ("SLURM_ARRAY_TASK_ID", None),
            ("SLURM_ARRAY_TASK_COUNT", None),
            ("SLURM_ARRAY_TASK_MIN", None),
            ("SLURM_ARRAY_TASK_STEP", 1),
        )
    )
    place, rest = divmod(task - first, max(step, 1))
    if rest or not 0 <= place < count:
        raise ConfigError(
            f"the numbers of this SLURM array are no row (task {task} of {count}, the first is {first}), so the share "
            "of this task is not known; give it with --shard I/N, or --shard 1/1 for all cells"
        )
    return Share(place + 1, count, f"SLURM_ARRAY_TASK_ID={task}")


def _number(environment: Mapping[str, str], name: str, default: int | None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigError(f"{name} is {text!r} in this task of a SLURM array; give the share with --shard I/N")
    return int(text)


def devices_of(count: int, visible: str | None, found: Callable[[], int]) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each worker: the devices in turn; None where there is nothing to divide.

    Args:
        count: of workers.
        visible: that of this process.
        found: counts the devices, where that says nothing.
    """
    named = [name.strip() for name in visible.split(",")] if visible else list(map(str, range(found())))
    if count == 1 or len(named) < 2:
        return [None] * count
    return [named[number % len(named)] for number in range(count)]
