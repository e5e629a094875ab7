"""The log of a run: means of the pairs' statistics, and the lines of ``metrics.jsonl``."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from mmpref.files.writing import open_to_append, write_text, writing_to
from mmpref.rundir.locking import has_vanished
from mmpref.training.trainer.log_lines import LogLines

Gather = Callable[[Any], list[Any]]
"""What each rank has, given what this one has (``World.gather``)."""


def list_of_one(value: Any) -> list[Any]:
    """The ``Gather`` of a process that is alone."""
    return [value]


class Meter:
    """Running sum and count per statistic. Adds on the device; talks to the host once per log line.

    What comes together is added together, so that a step costs a few kernels and not a few for each statistic.
    """

    def __init__(self) -> None:
        self._totals: dict[tuple[tuple[str, ...], torch.device], Tensor] = {}
        """By the names that came together: [2, names], sums and counts."""

    def add(self, stats: Mapping[str, Tensor]) -> None:
        """Add a batch of per-pair values, each [B] and detached. NaN marks a pair that has no value and is left out."""
        together: dict[tuple[torch.device, int], list[str]] = {}
        for name, value in stats.items():
            together.setdefault((value.device, len(value)), []).append(name)
        for (device, _), names in together.items():
            values = torch.stack([stats[name].to(torch.float32) for name in names])
            there = ~torch.isnan(values)
            total = torch.stack([torch.where(there, values, 0), there.to(torch.float32)]).sum(dim=-1)
            key = (tuple(names), device)
            self._totals[key] = self._totals[key] + total if key in self._totals else total

    def take(self, gather: Gather = list_of_one) -> dict[str, float]:
        """Mean over every pair since the last call and over all ranks, then empty.

        Args:
            gather: gives what each rank has; ranks may have seen different statistics.
        """
        totals: dict[str, list[float]] = {}
        for of_rank in gather(self._take_totals()):
            for name, (total, count) in of_rank.items():
                entry = totals.setdefault(name, [0.0, 0.0])
                entry[0] += total
                entry[1] += count
        return {name: total / count for name, (total, count) in sorted(totals.items()) if count > 0}

    def _take_totals(self) -> dict[str, tuple[float, float]]:
        found: dict[str, tuple[float, float]] = {}
        by_device: dict[torch.device, list[tuple[str, ...]]] = {}
        for names, device in self._totals:
            by_device.setdefault(device, []).append(names)
        for device, keys in by_device.items():
            sums, counts = torch.cat([self._totals[names, device] for names in keys], dim=1).tolist()
            for name, total, count in zip((one for names in keys for one in names), sums, counts, strict=True):
                before = found.get(name, (0.0, 0.0))
                found[name] = (before[0] + total, before[1] + count)
        self._totals.clear()
        return found


LINES = "metrics.jsonl"
_SUMMARY = '"train_runtime"'  # in the line that the Trainer writes when it ends


class InCheckpoint(TrainerCallback, ABC):
    """A callback that has something to keep in every checkpoint."""

    @abstractmethod
    def copy_to(self, checkpoint: Path) -> None:
        """Put it into a checkpoint that is being written."""


class JsonlLogger(LogLines, InCheckpoint):
    """Writes every log line of the Trainer to ``metrics.jsonl`` as it comes.

    A checkpoint holds a copy of the lines that were there when it was written, and a resumed run begins with that copy:
    a step alone does not say whether a line of it came before the checkpoint or after.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        """What was written so far, for where the folder vanishes."""

    def copy_to(self, checkpoint: Path) -> None:
        """Put the lines so far into a checkpoint that is being written."""
        lines = [] if has_vanished(self.path.parent) else _lines_of(self.path)
        if len(lines) < len(self._lines):  # the file was deleted meanwhile
            lines = self._lines
        write_text(checkpoint / LINES, "".join(f"{line}\n" for line in lines))

    def begin_from(self, checkpoint: Path | None, step: int) -> None:
        """Keep exactly the lines that a run has which starts at a checkpoint; what came after it is done again.

        The summaries of the parts that a resumed run is made of are dropped.

        Args:
            checkpoint: where the run goes on from; None where everything is done again.
            step: of the checkpoint, for one of an earlier version that holds no lines.
        """
        kept: list[str] = []
        if checkpoint is not None and (checkpoint / LINES).is_file():
            kept = _lines_of(checkpoint / LINES)
        elif checkpoint is not None:
            kept = [line for line in _lines_of(self.path) if _step_of(line) <= step]
        self._lines = [line for line in kept if _SUMMARY not in line]
        if kept or self.path.is_file():
            write_text(self.path, "".join(f"{line}\n" for line in self._lines))

    def read(self, logs: Mapping[str, float], state: TrainerState) -> None:
        """Write a line; of several ranks the first does."""
        if state.is_world_process_zero:
            self._append({"step": state.global_step, **logs})

    def event(self, step: int, name: str, message: str) -> None:
        """A line of its own for something that happened: ``{"step", "event", "message"}``."""
        self._append({"step": step, "event": name, "message": message})

    def _append(self, line: Mapping[str, Any]) -> None:
        text = json.dumps(line)
        self._lines.append(text)
        if has_vanished(self.path.parent):
            return  # the next save says so, and has the line
        with writing_to(self.path), open_to_append(self.path) as stream:
            stream.write(f"{text}\n")


def _lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def _step_of(line: str) -> float:
    """The step of a log line; a line torn by a kill belongs to no step and is dropped."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return float("inf")
