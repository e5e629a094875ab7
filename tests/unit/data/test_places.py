"""Where a row stands, by the right word: lines of a file that has one row per line, rows of everything else."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from mmpref.data.commands.check import check
from mmpref.data.commands.check_report import CheckReport
from mmpref.data.commands.next_steps import check_command, override, source_keys
from mmpref.data.opening import open_pairs
from mmpref.yaml_text import parse_value

GOOD = {"prompt": "What is here?", "chosen": "A cup.", "rejected": "A dog."}
BAD = {**GOOD, "id": "bad", "chosen": ""}
BOM = b"\xef\xbb\xbf"


def checked(file: Path) -> tuple[CheckReport, list[dict[str, Any]]]:
    report = check([open_pairs(file)], out=file.parent / "out", workers=1)
    lines = (file.parent / "out" / "quarantine.jsonl").read_text().splitlines()
    return report, [json.loads(line) for line in lines]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", BOM])
def test_a_row_of_jsonl_is_named_by_its_line_whatever_stands_between(tmp_path: Path, ending: str, mark: bytes) -> None:
    lines = ["", "  ", json.dumps(GOOD), "", json.dumps(BAD), '{"id": "cut", "chosen"', "[1]", json.dumps(GOOD)]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(mark + ending.join([*lines, ""]).encode())
    report, aside = checked(file)
    assert [(row["line"], row["id"], row["reason"]) for row in aside] == [
        (5, "bad", "empty_response"),
        (6, None, "json"),
        (7, None, "not_an_object"),
    ]
    assert not any("row" in row for row in aside)
    assert set(aside[0]) == {"source", "file", "line", "id", "reason", "detail"}
    assert report.first_bad[0] == f"{file}, line 5 (id 'bad'): empty_response: 'chosen' is empty"
    assert "at character 23" in aside[1]["detail"]  # json would say line 1 of the row


def test_a_row_of_a_list_is_named_by_its_number_and_broken_json_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    broken = json.dumps(GOOD, indent=1).replace('",\n', '"\n', 1)
    rows = [json.dumps(GOOD, indent=1), json.dumps(BAD, indent=1), broken]
    file.write_bytes(BOM + ("\n[\n" + ",\n".join(rows) + "\n]\n").encode())
    _, aside = checked(file)
    assert [(row["row"], row["reason"]) for row in aside] == [(2, "empty_response"), (3, "json")]
    assert not any("line" in row for row in aside)
    lines = file.read_text(encoding="utf-8-sig").split("\n")
    number = next(n for n, line in enumerate(lines, 1) if n > 13 and '"chosen"' in line)
    assert f"Expecting ',' delimiter at line {number} of the file, character 2" in aside[1]["detail"]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_row_of_a_table_is_named_by_its_number(tmp_path: Path, kind: str) -> None:
    table = pa.Table.from_pylist([{**GOOD, "id": "a"}, {**GOOD, "id": "b"}, BAD])
    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(table, file)
    else:
        feather.write_feather(table, file, compression="uncompressed")
    report, aside = checked(file)
    assert [(row["row"], row["id"]) for row in aside] == [(3, "bad")]
    assert report.first_bad[0].startswith(f"{file}, row 3 (id 'bad')")


@pytest.mark.parametrize(
    "value",
    ["plain.jsonl", "my pairs.jsonl", "it's.jsonl", "a: b.jsonl", "[x].jsonl", "1e3", "null", "#.jsonl", "é.jsonl"],
)
def test_a_key_is_written_so_that_the_shell_and_the_recipe_read_this_value(value: str) -> None:
    (word,) = shlex.split(override("data.train", value))
    assert parse_value(word.partition("=")[2], where="here") == value
    (word,) = shlex.split(override("data.train", [{"path": value, "split": "train"}]))
    assert parse_value(word.partition("=")[2], where="here") == [{"path": value, "split": "train"}]


def test_sources_that_are_read_in_two_ways_have_no_one_command_and_keep_their_roots(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        files.append(folder / "rows.jsonl")
        files[-1].write_text(json.dumps(GOOD) + "\n")
    sources = [open_pairs(file) for file in files]
    (keys,) = source_keys(sources)
    (word,) = shlex.split(keys)
    assert parse_value(word.partition("=")[2], where="here") == [
        {"path": str(file), "root": str(file.parent)} for file in files
    ]
    assert check_command(sources, demonstrations=False) == f"mmpref data check {files[0]} {files[1]}"
    assert check_command([sources[0], open_pairs(files[1], root=tmp_path)], demonstrations=False) is None
