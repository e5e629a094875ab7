"""``pairs.parquet`` and ``pairs_eval.parquet`` as columns; while a run goes on, as its newest checkpoint has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmpref.errors import DataError, library_errors
from mmpref.rundir.content import STEP

Columns = dict[str, list[Any]]
_LOST = "its curves and examples are left out"


def read_columns(file: Path, problems: list[str]) -> Columns:
    """A parquet file's columns; nothing where it is not there, or damaged, which is a problem."""
    if not file.is_file():
        return {}
    try:
        return _columns(file)
    except DataError as err:
        problems.append(str(err))
        return {}


def columns_of_running(file: Path, problems: list[str]) -> Columns:
    """The same of a run that is not complete: its own file is written at the end, checkpoints have copies.

    Args:
        file: where the run will write it.
        problems: gets a sentence that names the step of the copy.
    """
    if file.is_file():
        return read_columns(file, problems)
    folder = file.parent / "checkpoints"
    found = {entry.name: entry for entry in folder.glob("step-*") if STEP.fullmatch(entry.name)}
    for name in sorted(found, key=lambda name: int(name.removeprefix("step-")), reverse=True):
        copy = found[name] / file.name
        try:
            columns = _columns(copy) if copy.is_file() else {}
        except DataError:  # a checkpoint that is being deleted, or was damaged: an older one may do
            continue
        if columns:
            problems.append(f"{file.name} is read from {folder.name}/{name}: the run writes its own when it ends")
            return columns
    return {}


def _columns(file: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with library_errors(DataError, f"{file.name} cannot be read", _LOST):
        table = pq.read_table(file)
        table.validate(full=True)  # in a damaged file, offsets may lead anywhere in memory
        columns: Columns = {}
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
                # many times faster than arrow's own lists, which these files are long enough to feel
                gone = column.is_null().to_numpy().nonzero()[0].tolist() if column.null_count else []
                columns[name] = column.fill_null(0).to_numpy().tolist()
                for place in gone:
                    columns[name][place] = None
            else:
                columns[name] = column.to_pylist()
    return columns
