"""Rows from JSON text, one at a time: JSONL, and the lists that other suites write, decoded as they are read."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from mmpref.data.quarantine import LineNumber, RowError, where_is
from mmpref.errors import DataError, one_line
from mmpref.files.reading import no_key_twice, open_to_read

MAX_LINE_BYTES = 96 * 2**20
"""Longest accepted row: one embedded image of the largest accepted size fits, written in base64."""

OnFault = Callable[[int, RowError], None]

_BINARY = {b"PAR1": "parquet", b"ARRO": "arrow", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}
_CHUNK = 2**20
# a whole string, or one mark outside of strings; a quote alone is a string that the buffer cuts
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)


def read_jsonl(
    path: Path | str, *, on_fault: OnFault | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) for each row of a JSONL file. Blank lines are no rows, and are counted.

    Args:
        path: UTF-8 text, one JSON object per line; a byte order mark and CRLF are accepted.
        on_fault: gets (line number, fault) for a line that is not a JSON object, and reading goes on. Without it the
            first fault is raised.
        max_line_bytes: a longer line is a fault; it is skipped without being held in memory.
    """
    path = Path(path)
    with open_to_read(path, DataError) as handle:
        number = LineNumber(0)
        while True:
            try:
                mark = len(codecs.BOM_UTF8) if number == 0 else 0  # which is no part of the row
                line = handle.readline(max_line_bytes + 1 + mark)
                if number == 0:
                    _refuse_binary(path, line)
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line:
                    return
                number = LineNumber(number + 1)
                too_long = len(line) > max_line_bytes
                if too_long:
                    _skip_line(handle, line)
            except OSError as error:
                raise DataError(f"cannot read {path} after line {number}: {error.strerror or error}") from error
            try:
                if too_long:
                    raise _fault("line_too_long", f"the line is longer than {max_line_bytes} bytes")
                if line.isspace():
                    continue
                row = _parse(line)
            except RowError as fault:
                _report(path, number, fault, on_fault)
            else:
                yield number, row


def read_json(
    path: Path | str, *, on_fault: OnFault | None = None, max_row_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (place from 1, row) for each object of a file that holds one JSON list.

    The list is decoded as it is read, so memory holds one row and not the file. What stands between two commas of it is
    a row; one that cannot be decoded is reported and the next one is read. A file that holds one object whose values
    are objects is read too: its keys become the ``image_id`` of rows that have none.

    Raises:
        DataError: the list is never closed (a file that was cut, or a lost quote): rows cannot be told apart any more.
    """
    path = Path(path)
    with open_to_read(path, DataError) as handle:
        try:
            head = handle.read(_CHUNK)
            _refuse_binary(path, head)
            body = head.removeprefix(codecs.BOM_UTF8).lstrip()
            if not body:
                if handle.read(1):
                    raise DataError(f"{path} begins with a megabyte of blanks; it is not a list of rows")
                return
            if body[:1] not in (b"[", b"{"):
                raise DataError(f"{path} is not a JSON list of rows: it begins with {body[:20]!r}")
            keyed = body[:1] == b"{"
            line = head.count(b"\n", 0, len(head) - len(body)) + 1
            for number, text in _elements(path, handle, body[1:], max_row_bytes):
                first, line = line, line + text.count(b"\n")
                try:
                    row = _keyed_row(path, number, text, first) if keyed else _parse(text, first)
                except RowError as fault:
                    _report(path, number, fault, on_fault)
                else:
                    yield number, row
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def holds_json_lines(path: Path) -> bool:
    """Whether a file that begins with ``{`` has one row per line; if not, it is one object over many lines."""
    with open_to_read(path, DataError) as handle:
        line = b"\n"
        while line.isspace():
            line = handle.readline(MAX_LINE_BYTES)
        try:
            first = _parse(line.removeprefix(codecs.BOM_UTF8))
        except RowError:
            return line.removeprefix(codecs.BOM_UTF8).strip() != b"{"
        alone = not handle.read(_CHUNK).strip()
        return not (alone and first and all(isinstance(value, dict) for value in first.values()))


def _elements(path: Path, handle: IO[bytes], buffer: bytes, max_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The texts between the commas of the outermost list, numbered from 1, up to its closing bracket."""
    start = scanned = depth = number = 0
    while True:
        for token in _TOKEN.finditer(buffer, scanned):
            mark = buffer[token.start()]
            scanned = token.end()
            if scanned - token.start() > 1:
                continue
            if mark == 0x22:  # the string goes on behind the end of the buffer
                scanned = token.start()
                break
            if mark in b"[{":
                depth += 1
            elif mark in b"]}" and depth:
                depth -= 1
            elif depth == 0:
                text = buffer[start : token.start()]
                if mark == 0x2C or text.strip():
                    number += 1
                    yield number, text
                start = scanned
                if mark != 0x2C:
                    rest = buffer[start:].strip() or handle.read(_CHUNK).strip()
                    if rest:
                        yield number + 1, rest[:100]
                    return
        else:
            scanned = len(buffer)
        if len(buffer) - start > max_bytes:
            raise DataError(f"{path}: row {number + 1} is longer than {max_bytes} bytes; rows after it were not read")
        more = handle.read(max(_CHUNK, len(buffer) - start))
        if not more:
            raise DataError(
                f"{path} ends inside row {number + 1}: its list is never closed; the file was cut, or a quote or "
                "bracket is missing there"
            )
        buffer, scanned, start = buffer[start:] + more, scanned - start, 0


def _keyed_row(path: Path, number: int, text: bytes, line: int) -> dict[str, Any]:
    member = _parse(b"{" + text + b"}", line)
    if len(member) != 1:
        raise _fault("json", "broken JSON: not one key with its row")
    ((key, row),) = member.items()
    if not isinstance(row, dict):
        if number == 1:
            raise DataError(f"{path} is one JSON object and not a list of rows; give the file with the rows")
        raise _fault("not_an_object", f"a row must be a JSON object {{...}}, {key[:60]!r} is a {type(row).__name__}")
    return {"image_id": key, **row}


def _report(path: Path, number: int, fault: RowError, on_fault: OnFault | None) -> None:
    placed = RowError(f"{where_is(str(path), number)}: {fault.detail}", reason=fault.reason, detail=fault.detail)
    if on_fault is None:
        raise placed from fault
    on_fault(number, placed)


def _parse(line: bytes, first: int | None = None) -> dict[str, Any]:
    """The row that a text holds; ``first`` is the line that the text begins in, where a row may have several."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _fault("encoding", f"not UTF-8 text: {error.reason} at byte {error.start + 1}") from error
    try:
        row = _DECODER.decode(text.rstrip())
    except RecursionError as error:
        raise _fault("json", "broken JSON: nested too deeply") from error
    except ValueError as error:
        raise _fault("json", f"broken JSON: {_said(error, first)}") from error
    if not isinstance(row, dict):
        raise _fault("not_an_object", f"a row must be a JSON object {{...}}, this one is a {type(row).__name__}")
    return row


def _said(error: ValueError, first: int | None) -> str:
    """What is wrong and where: json counts lines from the beginning of the text it is given, which is one row."""
    if not isinstance(error, json.JSONDecodeError):
        return one_line(error)
    if first is None:
        return f"{error.msg} at character {error.pos + 1}"
    return f"{error.msg} at line {first + error.lineno - 1} of the file, character {error.colno}"


def _refuse_constant(name: str) -> NoReturn:
    raise _fault("json", f"{name} is not JSON; leave the field out when there is no value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=no_key_twice)
"""Made once: making it takes as long as decoding a row of text."""


def _refuse_binary(path: Path, first: bytes) -> None:
    for magic, name in _BINARY.items():
        if first.startswith(magic):
            raise DataError(f"{path} is a {name} file; this reader takes JSONL, one JSON object per line")


def _skip_line(handle: IO[bytes], part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = handle.readline(2**20)


def _fault(reason: str, detail: str) -> RowError:
    return RowError(detail, reason=reason)
