"""Reading rows from files, one at a time: memory does not grow with the file, and a broken row stops nothing else."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from mmpref.data.quarantine import RowError
from mmpref.errors import DataError

MAX_LINE_BYTES = 96 * 2**20
"""Longest accepted line: one embedded image of the largest accepted size fits, written in base64."""

_BINARY = {b"PAR1": "parquet", b"ARRO": "arrow", b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip"}


def read_jsonl(
    path: Path | str, *, on_fault: Callable[[int, RowError], None] | None = None, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) for each row of a JSONL file. Blank lines are not rows.

    Args:
        path: UTF-8 text, one JSON object per line; a byte order mark and CRLF are accepted.
        on_fault: gets (line number, fault) for a line that is not a JSON object, and reading goes on. Without it the
            first fault is raised.
        max_line_bytes: a longer line is a fault; it is skipped without being held in memory.
    """
    path = Path(path)
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; check the path (now in {Path.cwd()})") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    with handle:
        number = 0
        while True:
            try:
                line = handle.readline(max_line_bytes + 1)
                if number == 0:
                    _refuse_binary(path, line)
                    line = line.removeprefix(codecs.BOM_UTF8)
                if not line:
                    return
                number += 1
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
                placed = RowError(f"{path}:{number}: {fault.detail}", reason=fault.reason, detail=fault.detail)
                if on_fault is None:
                    raise placed from fault
                on_fault(number, placed)
            else:
                yield number, row


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _fault("encoding", f"not UTF-8 text: {error.reason} at byte {error.start + 1}") from error
    try:
        row = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError as error:
        raise _fault("json", "broken JSON: nested too deeply") from error
    except ValueError as error:
        raise _fault("json", f"broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise _fault("not_an_object", f"a row must be a JSON object {{...}}, this one is a {type(row).__name__}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise _fault("json", f"{name} is not JSON; leave the field out when there is no value")


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) != len(items):
        keys = [key for key, _ in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise _fault("json", f"the same key stands twice: {', '.join(map(repr, twice))[:200]}")
    return found


def _refuse_binary(path: Path, first: bytes) -> None:
    for magic, name in _BINARY.items():
        if first.startswith(magic):
            raise DataError(f"{path} is a {name} file; this reader takes JSONL, one JSON object per line")


def _skip_line(handle: IO[bytes], part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = handle.readline(2**20)


def _fault(reason: str, detail: str) -> RowError:
    return RowError(detail, reason=reason)
