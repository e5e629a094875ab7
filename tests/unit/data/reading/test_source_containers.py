"""Every container gives the same rows, one at a time and as often as asked; what is broken is named by its row."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import load_pairs
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.data.reading.json_rows import read_json
from mmpref.data.reading.rows import RowSource
from mmpref.data.reading.source import count_rows, open_source
from mmpref.errors import ConfigError, DataError

Row = dict[str, Any]
PROMPT = [{"role": "user", "content": [{"type": "text", "text": "Which, 'one' or \"two\" [a]?"}]}]
ROWS: list[Row] = [
    {
        "id": f"r{number}",
        "prompt": PROMPT,
        "chosen": f"good {number} \u20ac {{",
        "rejected": "bad ]",
        "score_chosen": 2.5,
        "score_rejected": 1.0,
    }
    for number in range(7)
]


def as_jsonl(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def as_json(folder: Path) -> Path:
    path = folder / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def as_json_with_lines(folder: Path) -> Path:
    return as_jsonl(folder).rename(folder / "rows.json")


def as_parquet(folder: Path) -> Path:
    path = folder / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=3)
    return path


def as_arrow_file(folder: Path) -> Path:
    path = folder / "rows.arrow"
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def as_arrow_stream(folder: Path) -> Path:
    path = folder / "rows.arrow"
    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return path


def as_saved_dataset(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"), num_shards=2)
    return folder / "saved"


def as_saved_splits(folder: Path) -> Path:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_folder(folder: Path) -> Path:
    parts = folder / "parts"
    parts.mkdir()
    for number, rows in enumerate((ROWS[:4], ROWS[4:])):
        parquet.write_table(pa.Table.from_pylist(rows), parts / f"train-0000{number}-of-00002.parquet")
    (parts / "dataset_infos.json").write_text("{}")
    return parts


CONTAINERS = [as_jsonl, as_json, as_json_with_lines, as_parquet, as_arrow_file, as_arrow_stream, as_saved_dataset,
              as_saved_splits, as_folder]  # fmt: skip


@pytest.mark.parametrize("write", CONTAINERS)
def test_every_container_gives_the_same_rows_again_and_again(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = open_source(write(tmp_path))
    assert [row for _, _, row in source] == ROWS
    assert [row for _, _, row in source] == ROWS, "a second reading starts anew"
    places = [(Path(file).name, number) for file, number, _ in source]
    assert len(set(places)) == len(ROWS)
    assert min(number for _, number in places) == 1
    pairs = load_pairs([source.spec], allow_demonstrations=False, quarantine=Quarantine())
    assert [(pair.id, pair.chosen, pair.score_chosen) for pair in pairs] == [
        (row["id"], row["chosen"], 2.5) for row in ROWS
    ]


def test_a_reader_that_was_left_early_can_be_started_again(tmp_path: Path) -> None:
    source = open_source(as_json(tmp_path))
    assert next(iter(source)).number == 1
    assert len(list(source)) == len(ROWS)


def test_the_number_of_rows_is_known_where_it_costs_nothing(tmp_path: Path) -> None:
    assert count_rows(open_source(as_parquet(tmp_path))) == 7
    assert count_rows(open_source(as_jsonl(tmp_path))) == 7
    assert count_rows(open_source(as_json(tmp_path))) is None


def faults_of(source: RowSource) -> tuple[list[Row], list[tuple[int, str]]]:
    faults: list[tuple[int, str]] = []

    def note(file: str, number: int, fault: RowError) -> None:
        assert str(fault).startswith(f"{file}, row {number}: ")
        faults.append((number, fault.reason))

    return [dict(row) for _, _, row in source.rows(note)], faults


def test_a_broken_row_of_a_list_is_named_and_the_next_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(
        b'\xef\xbb\xbf [{"a": 1}, 3, {"a": NaN}, {"a": 1 "b"}, , {"a": "\xff"}, {"a": 2, "a": 3},\n {"a": "}"}]\n '
    )
    rows, faults = faults_of(open_source(path))
    assert rows == [{"a": 1}, {"a": "}"}]
    assert faults == [(2, "not_an_object"), (3, "json"), (4, "json"), (5, "json"), (6, "encoding"), (7, "json")]
    with pytest.raises(RowError, match=r"rows\.json, row 2: "):
        list(open_source(path))


@pytest.mark.parametrize("text", [b"[]", b" [ ] \n", b"", b"\xef\xbb\xbf"])
def test_an_empty_list_has_no_rows(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(text)
    assert list(read_json(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'[{"a": 1}, {"a": 2', "ends inside row 2"),
        (b'[{"a": 1}, {"a": "2}]', "ends inside row 2"),
        (b'{"rows": [1, 2],\n "n": 2}', "not a list of rows"),
        (b"<!doctype html>", "not a JSON list"),
    ],
)
def test_a_list_that_cannot_be_told_apart_is_an_error_of_the_file(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=message):
        list(read_json(path, on_fault=lambda *_: None))


def test_text_behind_the_list_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1}] {"a": 2} x')
    assert faults_of(open_source(path)) == ([{"a": 1}], [(2, "json")])


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_of_rows_gives_its_keys_to_them(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"12": {"a": 1}, "13": {"a": 2, "image_id": 5}}, indent=indent))
    assert [row for _, _, row in open_source(path)] == [{"image_id": "12", "a": 1}, {"image_id": 5, "a": 2}]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), max_size=5), ascii_only=st.booleans())
def test_any_list_of_objects_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only), encoding="utf-8")
    assert [row for _, row in read_json(path)] == rows


def test_rows_larger_than_the_buffer_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    rows = [{"a": 'x"[' * 1_500_000}, {"a": "y"}]
    path.write_text(json.dumps(rows))
    assert [row for _, row in read_json(path)] == rows
    with pytest.raises(DataError, match="row 1 is longer than 1000000 bytes"):
        list(read_json(path, max_row_bytes=1_000_000))


def test_a_text_in_parquet_that_is_not_utf8_is_one_bad_row(tmp_path: Path) -> None:
    values = pa.array([b"good", b"\xff\xfe", b"fine"]).view(pa.string())
    parquet.write_table(pa.table({"a": values}), tmp_path / "rows.parquet")
    assert faults_of(open_source(tmp_path / "rows.parquet")) == ([{"a": "good"}, {"a": "fine"}], [(2, "encoding")])


@pytest.mark.parametrize("write", [as_parquet, as_arrow_file, as_arrow_stream])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_a_cut_table_is_an_error_that_names_the_file(
    tmp_path: Path, write: Callable[[Path], Path], share: float
) -> None:
    path = write(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=path.name):
        list(open_source(path))


@pytest.mark.parametrize("nested", [False, True])
def test_images_of_a_data_set_stay_bytes(tmp_path: Path, nested: bool) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": None}
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
            "prompt": datasets.List({"role": datasets.Value("string"),
                                     "content": datasets.List({"type": datasets.Value("string"),
                                                               "text": datasets.Value("string")})}),
            "chosen": datasets.Value("string"),
            "rejected": datasets.Value("string"),
        }
    )  # fmt: skip
    prompt = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}]
    row = {"id": "a", "images": [image], "prompt": prompt, "chosen": "Red.", "rejected": "Blue."}
    data = datasets.Dataset.from_list([row], features=features)
    if nested:
        datasets.DatasetDict({"train": data}).save_to_disk(str(tmp_path / "saved"))
        path = tmp_path / "saved"
    else:
        path = tmp_path / "rows.parquet"
        data.to_parquet(str(path))
    (pair,) = load_pairs([path], allow_demonstrations=False, quarantine=Quarantine(), images=ImageLoader(None))
    assert pair.images[0].data == buffer.getvalue()
    assert ImageLoader(None).open(pair.images[0]).getpixel((0, 0)) == (255, 0, 0)


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:5]), "test": datasets.Dataset.from_list(ROWS[5:])}
    )
    both.save_to_disk(str(tmp_path / "saved"))
    assert len(list(open_source(tmp_path / "saved", split="test"))) == 2
    for split, message in ((None, "train, test; choose one"), ("tests", "'tests' is not among them")):
        with pytest.raises(ConfigError, match=message):
            open_source(tmp_path / "saved", split=split)
    folder = as_folder(tmp_path)
    parquet.write_table(pa.Table.from_pylist(ROWS[:1]), folder / "test.parquet")
    assert len(list(open_source(folder, split="train"))) == 7
    assert len(list(open_source(folder, split="test"))) == 1
    with pytest.raises(ConfigError, match="no file of split 'te'"):
        open_source(folder, split="te")
    with pytest.raises(ConfigError, match="leave the split out"):
        open_source(folder / "test.parquet", split="train")


def test_what_is_not_a_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no file of rows"):
        open_source(tmp_path)
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.parquet").touch()
    with pytest.raises(ConfigError, match=r"several kinds \(jsonl, parquet\)"):
        open_source(tmp_path)
    assert [file.name for file in open_source(tmp_path, file_format="jsonl").files] == ["a.jsonl"]
    for absent in ("absent.jsonl", "some/where/absent", "./absent/x", "owner/rows.parquet"):
        with pytest.raises(DataError, match="does not exist"):
            open_source(absent)
    saved = as_saved_dataset(tmp_path)
    next(saved.glob("data-00001*")).unlink()
    with pytest.raises(DataError, match="lacks data-00001"):
        open_source(saved)


def test_a_hub_id_is_read_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, load, calls = as_folder(tmp_path), datasets.load_dataset, []

    def local(name: str, config: str | None, *, split: str | None, revision: str | None, streaming: bool) -> Any:
        calls.append((name, config, split, revision, streaming))
        return load(str(folder), split=split, streaming=streaming, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", local)
    source = open_source("owner/pairs:clean@1a2b")
    assert calls == [], "nothing is asked before the first row"
    assert [row for _, _, row in source] == ROWS
    assert [(file, number) for file, number, _ in source][-1] == ("owner/pairs:clean@1a2b", 7)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    assert [row for _, _, row in open_source("owner/pairs", split="train")] == ROWS
    assert calls == [("owner/pairs", "clean", None, "1a2b", False)] * 2 + [("owner/pairs", None, "train", None, True)]


def test_a_hub_id_that_cannot_be_had_is_one_clear_error() -> None:
    with pytest.raises(
        DataError, match=r"owner/absent is no file or folder here, .*offline: only what is in the cache"
    ):
        list(open_source("owner/absent"))


MEMORY = """
import sys
from pathlib import Path
from mmpref.data.reading.source import open_source
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
list(open_source(sys.argv[1]))
before = peak()
print(sum(1 for _ in open_source(sys.argv[2])), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    paths = []
    for size in (500, 20_000):
        rows = [{"id": str(number), "chosen": f"{number} " * 300} for number in range(size)]
        path = tmp_path / f"{size}.{kind}"
        paths.append(path)
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "json":
            path.write_text(json.dumps(rows))
        elif kind == "parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=500, compression="none")
        else:
            table = pa.Table.from_pylist(rows)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=500)
    assert paths[1].stat().st_size > 30e6
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, paths)], capture_output=True, text=True, check=True, env=os.environ
    )
    num_rows, grown_kib = map(int, done.stdout.split())
    assert num_rows == 20_000
    assert grown_kib < 20_000, "what a batch needs, whatever the file holds"


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.txt", "rows.jsonl.gz", "rows"])
def test_other_kinds_of_files_are_refused_with_the_kinds_that_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"{}") if name.endswith("gz") else b"question\tchosen\nWhat?\tA cup.\n")
    with pytest.raises(DataError, match="read are JSONL, JSON, parquet and arrow"):
        list(open_source(path))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]"])
def test_a_file_without_rows_is_called_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="the file is empty"):
        load_pairs([path], allow_demonstrations=False, quarantine=Quarantine())


def test_a_folder_of_several_splits_is_not_read_as_one(tmp_path: Path) -> None:
    row = json.dumps({"prompt": "Hi?", "chosen": "a", "rejected": "b"}) + "\n"
    names = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test-00000-of-00001.jsonl"]
    for folder, files in (
        ("parts", names),
        ("plain", ["train.jsonl", "validation.jsonl"]),
        ("free", ["a.jsonl", "b.jsonl"]),
    ):
        for name in files:
            (tmp_path / folder / "data").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "data" / name).write_text(row)
    for folder, splits in (("parts", "test, train"), ("plain", "train, validation")):
        with pytest.raises(ConfigError, match=f"files of the splits {splits}; choose one"):
            open_source(tmp_path / folder)
    assert len(open_source(tmp_path / "parts", split="train").files) == 2
    assert len(open_source(tmp_path / "free").files) == 2
