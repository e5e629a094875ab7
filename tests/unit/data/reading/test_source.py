"""Lines become rows one at a time; a line that cannot is reported with its number."""

from __future__ import annotations

import codecs
import tracemalloc
from pathlib import Path

import pytest

from mmpref.data.quarantine import RowError
from mmpref.data.reading.source import read_jsonl
from mmpref.errors import DataError


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    return path


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}\n{"a": 3}')
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_rows(tmp_path: Path, data: bytes) -> None:
    assert list(read_jsonl(write(tmp_path, data))) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "json"),
        (b'{"a": NaN}', "json"),
        (b'{"a": -Infinity}', "json"),
        (b'{"a": 1, "a": 2}', "json"),
        (b'{"a": 1} {"a": 2}', "json"),
        (b"[" * 100_000, "json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "json"),
        (b"[1]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"null", "not_an_object"),
        (b'{"a": "\xff"}', "encoding"),
        (b'{"a": "' + b"x" * 300_000 + b'"}', "line_too_long"),
    ],
)
def test_a_bad_line_is_reported_and_the_next_one_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path, b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    faults: list[tuple[int, RowError]] = []
    rows = read_jsonl(path, on_fault=lambda number, fault: faults.append((number, fault)), max_line_bytes=200_000)
    assert list(rows) == [(1, {"a": 1}), (3, {"a": 3})]
    assert [(number, fault.reason) for number, fault in faults] == [(2, reason)]
    assert str(faults[0][1]).startswith(f"{path}, line 2: ")
    assert len(str(faults[0][1])) < 600
    with pytest.raises(RowError, match=", line 2: "):
        list(read_jsonl(path, max_line_bytes=200_000))


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * 50 + b'"}\n'
    path = write(tmp_path, line + b'{"a": 2}\n')
    assert len(list(read_jsonl(path, max_line_bytes=len(line)))) == 2
    faults: list[str] = []
    rows = list(read_jsonl(path, on_fault=lambda _, fault: faults.append(fault.reason), max_line_bytes=len(line) - 1))
    assert rows == [(2, {"a": 2})]
    assert faults == ["line_too_long"]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""], ids=["lf", "crlf", "end of file"])
@pytest.mark.parametrize("more", range(-1, 6))
def test_the_limit_of_a_line_is_its_bytes_and_its_line_end_without_the_mark(
    mark: bytes, end: bytes, more: int, tmp_path: Path
) -> None:
    """One byte more is a fault, and the next line is the next row: no rest of a line is taken for a row."""
    limit = 40
    line = b'{"a": "' + b"x" * (limit + more - len(end) - 9) + b'"}' + end
    assert len(line) == limit + more
    following = b'{"a": 2}\n' if end else b""
    path = write(tmp_path, mark + line + following)
    faults: list[tuple[int, str]] = []
    rows = list(
        read_jsonl(path, on_fault=lambda number, fault: faults.append((number, fault.reason)), max_line_bytes=limit)
    )
    assert [number for number, _ in rows] == ([1] if more <= 0 else []) + ([2] if end else [])
    assert faults == ([] if more <= 0 else [(1, "line_too_long")])


def test_a_huge_line_is_skipped_without_holding_it(tmp_path: Path) -> None:
    path = write(tmp_path, b'{"a": "' + b"x" * 30_000_000 + b'"}\n{"a": 2}\n')
    faults: list[int] = []
    tracemalloc.start()
    rows = list(read_jsonl(path, on_fault=lambda number, _: faults.append(number), max_line_bytes=1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (rows, faults) == ([(2, {"a": 2})], [1])
    assert peak < 6_000_000


@pytest.mark.parametrize(("magic", "name"), [(b"PAR1", "parquet"), (b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip")])
def test_other_kinds_of_file_are_named(tmp_path: Path, magic: bytes, name: str) -> None:
    with pytest.raises(DataError, match=f"is a {name} file"):
        list(read_jsonl(write(tmp_path, magic + b"\x00\x01\n")))


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.jsonl does not exist"):
        list(read_jsonl(tmp_path / "absent.jsonl"))
