"""A report is about the bytes that were read: files that change meanwhile are refused, by the check and by training."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mmpref.data.commands.check import check
from mmpref.data.images.decoding import decode
from mmpref.data.images.loader import ImageLoader
from mmpref.data.opening import open_pairs
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import Quarantine
from mmpref.data.verification import verify
from mmpref.errors import DataError
from mmpref.records import ImageRef


def rows(folder: Path, num: int = 40, kind: str = "jsonl") -> Path:
    found: list[dict[str, Any]] = [
        {"id": str(n), "images": [], "prompt": [{"role": "user", "content": "What?"}], "chosen": "a", "rejected": "b"}
        for n in range(num)
    ]
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(found), path, row_group_size=8)
    elif kind == "json":
        path.write_text(json.dumps(found))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def changing(source: PairSource, change: Any, at: int = 20) -> PairSource:
    """The same source, whose file is changed once so many rows were read."""
    read = source.rows._open

    def slowly(on_fault: Any) -> Iterator[Any]:
        for number, row in enumerate(read(on_fault)):
            if number == at:
                change()
            yield row

    return replace(source, rows=replace(source.rows, _open=slowly))


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("how", ["grows", "is replaced", "shrinks at its end", "changes one byte"])
def test_a_file_that_changes_while_it_is_checked_gets_no_report(tmp_path: Path, kind: str, how: str) -> None:
    path = rows(tmp_path, kind=kind)
    content = path.read_bytes()

    def change() -> None:
        if how == "grows":
            with path.open("ab") as stream:
                stream.write(content[-100:])
        elif how == "is replaced":
            (tmp_path / "new").write_bytes(content + b"\n")
            (tmp_path / "new").replace(path)
        elif how == "shrinks at its end":
            os.truncate(path, len(content) - 1)
        else:
            with path.open("r+b") as stream:
                stream.seek(8)
                stream.write(b"#")

    with pytest.raises(DataError, match=r"(rows\..*was changed while it was read|is not a whole parquet file)"):
        check([changing(open_pairs(path), change)], out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "data_report.json").exists()


def test_a_file_of_a_folder_counts_as_much(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for n in range(2):
        rows(tmp_path / "set").rename(tmp_path / "set" / f"part{n}.jsonl")
    other = tmp_path / "set" / "part1.jsonl"
    source = open_pairs(tmp_path / "set")
    with pytest.raises(DataError, match=r"part1\.jsonl was changed while it was read"):
        check([changing(source, lambda: other.write_text(other.read_text() * 2), at=60)], out=tmp_path / "out")


def test_a_file_that_changes_after_it_was_compared_is_not_trained_on(tmp_path: Path) -> None:
    path = rows(tmp_path)
    check([open_pairs(path)], out=tmp_path / "out", workers=1)
    report = tmp_path / "out" / "data_report.json"
    source = open_pairs(path)
    checked = verify(report, [source], demonstrations=False)
    pairs = [found.pair for found in source.pairs(Quarantine(), demonstrations=False)]
    checked.verify_images([source], [pairs])
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(DataError, match="was changed while it was read"):
        checked.verify_images([source], [pairs])


def test_a_image_that_changes_between_its_decoding_and_its_hash_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (20, 20), "red").save(file)
    loader = ImageLoader(tmp_path)
    assert decode(loader, ImageRef(path="a.png")).reason is None
    hashed = hashlib.file_digest

    def late(*given: Any) -> Any:
        Image.new("RGB", (21, 21), "blue").save(tmp_path / "b.png")
        with file.open("r+b") as stream:
            stream.write((tmp_path / "b.png").read_bytes())
        return hashed(*given)

    monkeypatch.setattr(hashlib, "file_digest", late)
    found = decode(loader, ImageRef(path="a.png"))
    assert found.reason == "image_unreadable"
    assert "was changed while it was read" in found.detail


def test_a_second_check_into_one_folder_is_refused(tmp_path: Path) -> None:
    path, out = rows(tmp_path), tmp_path / "out"
    script = (
        "import sys; from pathlib import Path; from mmpref.files.locking import only_writer\n"
        "with only_writer(Path(sys.argv[1]), 'x'):\n    print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        done = subprocess.run(
            [sys.executable, "-m", "mmpref", "data", "check", str(path), "--out", str(out)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        other.kill()
    assert (done.returncode, f"is being written by process {other.pid} on " in done.stderr) == (2, True)
    assert not (out / "data_report.json").exists()
