"""Every pair's own statistics, step by step: ``pairs.parquet``, for the analyses after a run."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mmpref.errors import CheckpointError, library_errors
from mmpref.files.writing import replacing
from mmpref.training.trainer.metrics import Gather, list_of_one

STEP, PAIR_ID = "step", "pair_id"
Block = dict[str, Any]
"""Rows as columns: ``step`` and ``pair_id`` as sequences, and of each statistic single-precision numbers, NaN for a row
without a value."""


def place_of(pair_id: str) -> float:
    """Where the hash of an id lies in [0, 1): the pairs of a share are those below it, in every epoch and run."""
    digest = hashlib.blake2b(pair_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) * 2.0**-53  # as many bits as a float has, so that it stays below 1


class PairLog:
    """Every pair's statistics, step by step. Kept on the device until :meth:`flush`, and then four bytes a number.

    Args:
        gather: brings the rows of all ranks together; every rank must :meth:`flush` when one does.
        share: of the pairs that are kept, 0 to 1: those whose id's hash is below it (:func:`place_of`), so that the
            same pairs are followed over epochs and runs.
    """

    def __init__(self, gather: Gather = list_of_one, *, share: float = 1.0) -> None:
        self._gather, self.share = gather, share
        self._pending: list[tuple[int, tuple[str, ...], dict[str, Tensor]]] = []
        self._is_kept: dict[str, bool] = {}
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._steps = array("q")
        self._ids = array("i")  # of each row, its place in the names
        self._names: dict[str, int] = {}
        self._columns: dict[str, array[float]] = {}

    def __len__(self) -> int:
        """Number of rows, without those that are pending."""
        return len(self._steps)

    def add(self, step: int, pair_ids: Sequence[str], stats: Mapping[str, Tensor]) -> None:
        """Statistics [B] of a batch, detached; they stay on their device until :meth:`flush`."""
        if self.share > 0:
            self._pending.append((step, tuple(pair_ids), dict(stats)))

    def flush(self) -> None:
        """Move what is pending to the host: one transfer for all statistics, at log time and not per step."""
        for block in self._gather(self._take_pending()):
            self._append(block)

    def _append(self, block: Block) -> None:
        rows_before = len(self)
        for name, values in block.items():
            if name == STEP:
                self._steps.extend(values)
            elif name == PAIR_ID:
                self._ids.extend([self._names.setdefault(found, len(self._names)) for found in values])
            else:
                if name not in self._columns:
                    self._columns[name] = _without_values(rows_before)
                self._columns[name].extend(values)
        for column in self._columns.values():  # a statistic that this stretch did not have
            column.extend(_without_values(len(self) - len(column)))

    def _take_pending(self) -> Block:
        """This rank's rows since the last flush, as columns; {} without any."""
        pending, self._pending = self._pending, []
        rows = [(step, name) for step, names, _ in pending for name in names]
        kept = [place for place, (_, name) in enumerate(rows) if self._keeps(name)]
        if not kept:
            return {}
        names = sorted({name for _, _, stats in pending for name in stats})
        values = _on_host(pending, names)
        if names and len(kept) < len(rows):
            values = values[:, torch.tensor(kept)]
        columns = {name: _numbers(row) for name, row in zip(names, values, strict=True)}
        return {STEP: array("q", [rows[at][0] for at in kept]), PAIR_ID: [rows[at][1] for at in kept], **columns}

    def _keeps(self, pair_id: str) -> bool:
        if self.share >= 1:
            return True
        if pair_id not in self._is_kept:
            self._is_kept[pair_id] = place_of(pair_id) < self.share
        return self._is_kept[pair_id]

    def drop_pending(self, *, after: int | None = None) -> None:
        """Forget what was added since the last :meth:`flush`.

        Args:
            after: only what is of later steps than this one.
        """
        self._pending = [] if after is None else [entry for entry in self._pending if entry[0] <= after]

    def has_step(self, step: int) -> bool:
        """Whether any flushed row is of this step."""
        return step in self._steps  # those of several ranks are in no order between two log lines

    def recent(self, count: int, names: Sequence[str], step: int) -> list[list[float | None]]:
        """The last values of some statistics as they were at a log line; empty lists where one was never recorded.

        Args:
            step: of the log line: rows are flushed with each, so all up to it come before all behind it.
        """
        if any(name not in self._columns for name in names):
            return [[] for _ in names]
        end = bisect_right(self._steps, step)
        found = (self._columns[name][max(0, end - count) : end] for name in names)
        return [[None if value != value else value for value in values] for values in found]

    def restore(self, rows: pa.Table | Mapping[str, Sequence[Any]]) -> None:
        """Start from rows written before (:func:`read_pair_table`, :func:`read_pair_log`), as a resumed run does."""
        table = rows if isinstance(rows, pa.Table) else pa.table(dict(rows))
        self._pending.clear()
        self._begin_anew()
        block: Block = {STEP: table.column(STEP).to_pylist(), PAIR_ID: table.column(PAIR_ID).to_pylist()}
        for name in table.column_names:
            if name not in block:
                numbers = pc.fill_null(table.column(name).cast(pa.float32()), float("nan"))
                block[name] = array("f", b"".join(chunk.to_numpy().tobytes() for chunk in numbers.chunks))
        self._append(block)

    def write(self, path: Path) -> int:
        """Write all rows as parquet, written atomically; returns how many. Of several ranks one writes, after all
        of them flushed."""
        if self._pending:
            self.flush()
        with replacing(path) as stream:
            pq.write_table(self._as_table(), stream)
        return len(self)

    def _as_table(self) -> pa.Table:
        count = len(self)
        names = pa.array(list(self._names), pa.string())
        columns = {
            STEP: pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(self._steps)]),
            PAIR_ID: names.take(pa.Array.from_buffers(pa.int32(), count, [None, pa.py_buffer(self._ids)])),
        }
        none = pa.scalar(None, pa.float32())
        for name, values in self._columns.items():
            numbers = pa.Array.from_buffers(pa.float32(), count, [None, pa.py_buffer(values)])
            columns[name] = pc.if_else(pc.is_nan(numbers), none, numbers)
        return pa.table(columns)


def _without_values(count: int) -> array[float]:
    return array("f", [float("nan")]) * count


def _on_host(pending: Sequence[tuple[int, tuple[str, ...], dict[str, Tensor]]], names: Sequence[str]) -> Tensor:
    """The pending values [names, rows] in float32, NaN where a batch did not have one; one transfer for each device."""
    blocks: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for at, name in enumerate(names):
        device = next(stats[name].device for _, _, stats in pending if name in stats)
        parts = [
            stats[name].float() if name in stats else torch.full((len(ids),), float("nan"), device=device)
            for _, ids, stats in pending
        ]
        blocks.setdefault(device, []).append((at, torch.cat(parts)))
    found: dict[int, Tensor] = {}
    for rows in blocks.values():
        together = torch.stack([values for _, values in rows]).cpu()
        found |= dict(zip((at for at, _ in rows), together, strict=True))
    return torch.stack([found[at] for at in range(len(names))]) if names else torch.empty(0)


def _numbers(values: Tensor) -> array[float]:
    return array("f", values.contiguous().numpy().tobytes())


def read_pair_table(path: Path) -> pa.Table:
    """``pairs.parquet`` of a run or a checkpoint.

    Raises:
        CheckpointError: it cannot be read.
    """
    with library_errors(CheckpointError, f"{path} cannot be read", "copy it again, or resume from another checkpoint"):
        return pq.read_table(path)


def read_pair_log(path: Path) -> dict[str, list[Any]]:
    """``pairs.parquet`` of a run as columns: ``step``, ``pair_id`` and one per statistic (None where absent)."""
    columns: dict[str, list[Any]] = read_pair_table(path).to_pydict()
    return columns
