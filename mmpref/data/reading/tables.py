"""Rows of parquet and arrow files, and of arrow batches; memory does not grow with the file."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

from mmpref.data.quarantine import RowError, where_is
from mmpref.errors import DataError, one_line

BATCH = 256


BATCH_BYTES = 4 * 2**20
"""About as much is decoded at a time: rows with embedded images come a few at a time, plain text many."""


def table_rows(
    path: Path, kind: Literal["parquet", "arrow"], on_fault: Callable[[int, RowError], None] | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a parquet or arrow file; one record batch is held in memory."""
    import pyarrow as pa

    number = 0
    try:
        for batch in _parquet_batches(path) if kind == "parquet" else _arrow_batches(path):
            for row in batch_rows(batch):
                number += 1
                if isinstance(row, dict):
                    yield number, row
                    continue
                fault = RowError(f"{where_is(str(path), number)}: {row}", reason="encoding", detail=str(row))
                if on_fault is None:
                    raise fault
                on_fault(number, fault)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # ValueError: names that are not UTF-8
        where = f"after row {number}" if number else "at its beginning"
        raise DataError(f"{path} is not a whole {kind} file; reading failed {where}: {one_line(error)}") from error


def _parquet_batches(path: Path) -> Iterator[Any]:
    """Small batches; memory holds about one page of each column (the writer chose how long pages are)."""
    from pyarrow import parquet

    with parquet.ParquetFile(path, memory_map=False, pre_buffer=False, buffer_size=2**20) as file:
        for place in range(file.num_row_groups):
            group = file.metadata.row_group(place)
            size = _rows_at_a_time(group.total_byte_size, group.num_rows)
            yield from file.iter_batches(batch_size=size, row_groups=[place], use_threads=False)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Slices of the mapped file. A record batch may be as large as the file, so what was read is given back."""
    import pyarrow as pa

    with path.open("rb") as handle:
        mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)  # closed when arrow no longer points into it
    batches: Iterator[Any]
    source = pa.BufferReader(pa.py_buffer(mapped))
    if mapped[:6] == b"ARROW1":
        file = pa.ipc.open_file(source)
        batches = (file.get_batch(place) for place in range(file.num_record_batches))
    else:
        batches = pa.ipc.open_stream(source)
    for batch in batches:
        size = _rows_at_a_time(batch.get_total_buffer_size(), batch.num_rows)  # reads no offsets: unproved
        for begin in range(0, batch.num_rows, size):
            yield batch.slice(begin, size)
            if hasattr(mapped, "madvise"):  # without it, every page that was read counts until the file is closed
                mapped.madvise(mmap.MADV_DONTNEED)


def _rows_at_a_time(num_bytes: int, num_rows: int) -> int:
    return max(1, min(BATCH, BATCH_BYTES * num_rows // max(num_bytes, 1)))


def batch_rows(batch: Any) -> list[dict[str, Any] | str]:
    """The rows of a batch; one that cannot become Python values is a text that says why.

    Everything is validated first: in a damaged file, offsets may lead anywhere in memory.
    """
    try:
        batch.validate(full=True)
        return cast("list[dict[str, Any] | str]", batch.to_pylist())
    except (ValueError, OverflowError):  # a text that is not UTF-8, a date out of range, a wrong offset: find the row
        pass
    rows: list[dict[str, Any] | str] = []
    for place in range(batch.num_rows):
        row = batch.slice(place, 1)
        try:
            row.validate(full=True)
            rows.extend(row.to_pylist())
        except (ValueError, OverflowError) as error:
            rows.append(f"a value cannot be decoded: {one_line(error)}")
    return rows
