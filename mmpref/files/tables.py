"""Tables of other tools: .tsv, .csv and .xlsx, by the names in their first line.

Texts that a table cannot contain unchanged are refused, with the numbers of their rows: a cell of .xlsx has 32,767
characters at most, and XML has no carriage return and no control characters; a .tsv has every cell in quotes, so that
it may contain tabs and line breaks of any kind, but no NUL, at which other readers end.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from mmpref.errors import ConfigError, DataError

TABLES = (".tsv", ".csv", ".xlsx")
WRITTEN = (".tsv", ".xlsx")
_SEPARATORS = (",", ";", "\t")  # of a .csv, whichever its first line has most of


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a .tsv, .csv or .xlsx file, by the names in its first line.

    Raises:
        DataError: it cannot be read, or a line has more or fewer cells than there are names.
    """
    end = path.suffix.lower()
    try:
        if end != ".xlsx":
            with path.open(encoding="utf-8-sig", newline="") as stream:
                return _lines(path, stream, "\t" if end == ".tsv" else "")
        book = _openpyxl().load_workbook(path, read_only=True)  # an answer that begins with = is text
    except (ConfigError, DataError):
        raise
    except Exception as err:  # zip, XML and encoding errors have no common kind
        raise DataError(f"{path} cannot be read as a table: {err}") from err
    try:
        lines = book.worksheets[0].iter_rows(values_only=True)
        names = [str(name) for name in next(lines, ())]
        return [dict(zip(names, line, strict=False)) for line in lines if any(cell is not None for cell in line)]
    finally:
        book.close()


def _lines(path: Path, stream: TextIO, separator: str) -> list[dict[str, Any]]:
    """The rows of a text table; a line with a cell too many or too few has lost a quote, or half of itself."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # VLMEvalKit keeps images in a column
    if not separator:
        first = stream.readline()
        separator = max(_SEPARATORS, key=first.count)
        stream.seek(0)
    lines = csv.reader(stream, delimiter=separator)
    names = next(lines, [])
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"{path}: the first line has {', '.join(map(repr, twice))} twice; one column would be lost")
    rows = []
    for line in lines:
        if line and len(line) != len(names):
            raise DataError(
                f"{path}, line {lines.line_num}: {len(line)} cells, and the first line has {len(names)} names "
                f"({', '.join(names)[:_SHOWN_NAMES]}); a text with {separator!r} or a line break needs quotes"
            )
        if line:
            rows.append(dict(zip(names, line, strict=True)))
    return rows


_SHOWN_NAMES = 120


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows as a .tsv or .xlsx file.

    Raises:
        ConfigError: an .xlsx file and no openpyxl to write it.
        DataError: texts that such a file cannot contain unchanged; nothing is written.
    """
    content = list(rows)
    names = list(dict.fromkeys(name for row in content for name in row))
    in_excel = path.suffix.lower() != ".tsv"
    _refuse_what_cannot_be_written(path, content, in_excel=in_excel)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not in_excel:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, names, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
            writer.writeheader()
            writer.writerows(content)
        return
    openpyxl = _openpyxl()
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


_LONGEST_CELL = 32_767  # of Excel, in the units of UTF-16; what is longer is cut by openpyxl without a word
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")


def _refuse_what_cannot_be_written(path: Path, content: Sequence[Mapping[str, Any]], *, in_excel: bool) -> None:
    odd = [
        (number, why)
        for number, row in enumerate(content, 1)
        if (why := next(filter(None, (_why_not(v, in_excel) for v in row.values() if isinstance(v, str))), ""))
    ]
    if not odd:
        return
    first = ", ".join(str(number) for number, _ in odd[:_SHOWN]) + (", ..." if len(odd) > _SHOWN else "")
    half = any(why == _HALF for _, why in odd)
    remedy = "JSON lines: `--to jsonl`, with a name that ends in .jsonl"
    remedy = f"use {remedy}" if half or not in_excel else f"use .tsv, or {remedy}"
    raise DataError(
        f"{path}, row {odd[0][0]}: {odd[0][1]}; {len(odd)} of {len(content)} rows cannot be written to the table as "
        f"they are ({first}), and nothing was written; {remedy}"
    )


_SHOWN = 5
_HALF = "has half a surrogate pair, which no table can contain"


def _why_not(text: str, in_excel: bool) -> str:
    if not _is_whole(text):
        return _HALF
    if not in_excel:
        return "has a NUL character, at which other readers end" if "\0" in text else ""
    if len(text.encode("utf-16-le")) > 2 * _LONGEST_CELL:
        return f"has {len(text):,} characters, and a cell of .xlsx can have {_LONGEST_CELL:,}"
    if found := _NOT_IN_XML.search(text):
        what = "a carriage return" if found[0] == "\r" else "a control character"
        return f"has {what}, which .xlsx cannot contain"
    return ""


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
