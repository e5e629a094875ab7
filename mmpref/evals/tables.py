"""Tables of other tools: .tsv and .xlsx, by the names in their first line."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError

TABLES = (".tsv", ".xlsx")


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a .tsv or .xlsx file, by the names in its first line."""
    try:
        if path.suffix.lower() == ".tsv":
            csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # VLMEvalKit keeps images in a column
            with path.open(encoding="utf-8-sig", newline="") as stream:
                return [dict(row) for row in csv.DictReader(stream, delimiter="\t")]
        book = _openpyxl().load_workbook(path, read_only=True)  # an answer that begins with = is text
    except ConfigError:
        raise
    except Exception as err:  # zip, XML and encoding errors have no common kind
        raise DataError(f"{path} cannot be read as a table: {err}") from err
    try:
        lines = book.worksheets[0].iter_rows(values_only=True)
        names = [str(name) for name in next(lines, ())]
        return [dict(zip(names, line, strict=False)) for line in lines if any(cell is not None for cell in line)]
    finally:
        book.close()


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as a .tsv or .xlsx file.

    Raises:
        ConfigError: an .xlsx file and no openpyxl to write it.
        DataError: a text that such a file cannot hold.
    """
    content = list(rows)
    names = list(dict.fromkeys(name for row in content for name in row))
    for number, row in enumerate(content, 1):
        if any(isinstance(value, str) and not _is_whole(value) for value in row.values()):
            raise DataError(f"{path}, row {number}: has half a surrogate pair, which no table can hold; use JSON lines")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".tsv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, delimiter="\t", lineterminator="\n")
            writer.writeheader()
            writer.writerows(content)
        return
    openpyxl = _openpyxl()
    illegal = openpyxl.cell.cell.ILLEGAL_CHARACTERS_RE
    for number, row in enumerate(content, 1):
        if any(isinstance(value, str) and illegal.search(value) for value in row.values()):
            raise DataError(f"{path}, row {number}: has a control character, which .xlsx cannot hold; use .tsv")
    book = openpyxl.Workbook(write_only=True)
    sheet = book.create_sheet()
    sheet.append(names)
    for row in content:
        cells = [openpyxl.cell.WriteOnlyCell(sheet, value=row.get(name)) for name in names]
        for cell in cells:
            if isinstance(cell.value, str):
                cell.data_type = "s"  # an answer that begins with = is no formula
        sheet.append(cells)
    book.save(path)


def _is_whole(text: str) -> bool:
    """Whether every character is one: half of an emoji has no place in UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _openpyxl() -> Any:
    try:
        import openpyxl
        import openpyxl.cell.cell
    except ImportError as err:
        raise ConfigError(
            "an .xlsx table needs openpyxl: pip install 'mmpref[tables]', or save the table as .tsv"
        ) from err
    return openpyxl
