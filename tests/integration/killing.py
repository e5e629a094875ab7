"""Runs in child processes that die by kill -9 at a moment of the test's choice, and what must be equal afterwards."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.pair_log import read_pair_log

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
"""Audit events of what changes a folder, beside ``open`` for writing."""


def in_child(arguments: list[str], *, before: Callable[[], object] = lambda: None) -> int:
    """Run a command in a forked process; its exit code, or minus the signal that ended it.

    Args:
        arguments: of ``mmpref``.
        before: called in that process first; it may plant a kill.
    """
    return os.waitstatus_to_exitcode(os.waitpid(forked(arguments, before=before), 0)[1])


def forked(arguments: list[str], *, before: Callable[[], object] = lambda: None) -> int:
    """Start a command in a forked process and return its id."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 70
        try:
            before()
            code = main(arguments)
        finally:
            os._exit(code)
    return child


class KilledAt:
    """Kills the process right before the n-th change of the disk below some folder: whatever moment between two changes
    a kill hits, it leaves what this leaves.

    Changes are: opening for writing, renaming, deleting, making or removing a folder, cutting, syncing, and a line of
    ``metrics.jsonl``, which is torn in the middle.

    Args:
        root: the folder.
        number: of the change, from 1 on; None never kills.
        count_into: a file that gets the number of changes when the process ends well.
    """

    def __init__(self, root: Path, number: int | None = None, *, count_into: Path | None = None) -> None:
        self._root, self._number, self._count_into = f"{root}{os.sep}", number, count_into
        self._seen = 0

    def __call__(self) -> None:
        """Plant it in this process, which must not live on: nobody takes it out again."""
        sys.addaudithook(self._heard)
        sync, append = os.fsync, JsonlLogger._append

        def counted_sync(descriptor: int) -> None:
            if self._is_below(descriptor, None):
                self._happens()
            sync(descriptor)

        def torn(logger: JsonlLogger, line: Any) -> None:
            def half() -> None:
                with logger.path.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line)[:25])

            self._happens(half)
            append(logger, line)

        os.fsync = counted_sync
        JsonlLogger._append = torn  # type: ignore[method-assign]

    def _heard(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self._is_below(path, None):
                self._happens()
        elif event in _CHANGES and self._is_below(given[0], given[-1] if len(given) > 1 else None):
            self._happens()

    def _is_below(self, path: Any, folder: Any) -> bool:
        if isinstance(path, int):
            found = Path(f"/proc/self/fd/{path}").readlink()
        elif isinstance(folder, int) and folder >= 0:  # shutil.rmtree speaks of entries of an open folder
            found = Path(f"/proc/self/fd/{folder}").readlink() / os.fsdecode(path)
        else:
            found = Path(os.fsdecode(path)).absolute()
        return str(found).startswith(self._root)

    def _happens(self, first: Callable[[], None] = lambda: None) -> None:
        self._seen += 1
        if self._count_into is not None:
            count_into, self._count_into = self._count_into, None  # its own writing is not counted
            count_into.write_text(str(self._seen))
            self._count_into = count_into
        if self._seen == self._number:
            self._number = None
            first()
            os.kill(os.getpid(), signal.SIGKILL)


def assert_same_run(run: Path, whole: Path) -> None:
    """The killed and the undisturbed run ended in the same bits, and nothing half-written is left."""
    assert RunDir(run).manifest()["state"] == "complete"
    files = sorted(file.name for file in (whole / "model").glob("*.safetensors"))
    assert files
    assert files == sorted(file.name for file in (run / "model").glob("*.safetensors"))
    for name in files:
        ours, theirs = load_file(run / "model" / name), load_file(whole / "model" / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    for file in ("pairs_file", "eval_pairs_file"):
        ours, theirs = getattr(RunDir(run), file), getattr(RunDir(whole), file)
        assert ours.is_file() == theirs.is_file()
        assert not theirs.is_file() or read_pair_log(ours) == read_pair_log(theirs)
    assert lines(run) == lines(whole)
    assert sorted(entry.name for entry in run.parent.rglob(".*")) == []


def lines(run: Path) -> list[dict[str, Any]]:
    """Every line of ``metrics.jsonl`` but the Trainer's summary, which is about time since the last start."""
    found = list(map(json.loads, RunDir(run).metrics_file.read_text().splitlines()))
    return [line for line in found if "train_runtime" not in line]
