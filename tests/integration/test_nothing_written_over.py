"""No command writes over what it reads, nor two of its files into one: refused before anything is done, by whatever
name the file is given."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from mmpref.cli.main import main
from tests.small_files import write_small_files

AT = ["--server", "http://127.0.0.1:1/v1", "--model", "m"]
MMHAL = ["--benchmark", "mmhal", "--questions", "mmhal.json"]
POPE = ["--benchmark", "pope", "--questions", "q.json", "--answers", "a.jsonl"]
CHAIR = ["--benchmark", "chair", "--questions", "gt.json", "--answers", "captions.jsonl", "synonyms=synonyms.txt"]
JUDGE = ["judge", *MMHAL, "--answers", "mmhal.jsonl", *AT]
EVAL = ["eval", *MMHAL, "--image-root", "images", *AT]
BY_JUDGE = ["--judge-server", "http://127.0.0.1:1", "--judge-model", "j"]
PAIRS = ["pairs.jsonl", "--image-root", "images"]
CONVERT = ["data", "convert"]
CHECK = ["data", "check", *PAIRS, "--workers", "1", "--out"]
FETCH = ["data", "fetch", "pairs.jsonl", "--host", "x.invalid", "--image-root", "o/f"]

# the file that is read -> the commands that would write over it; @ is where it is given once more
OVER = {
    "export out, questions": ("q.json", ["export", *POPE, "--to", "llava", "--out", "@"]),
    "export out, answers": ("a.jsonl", ["export", *POPE, "--to", "jsonl", "--out", "@"]),
    "export out, option": ("synonyms.txt", ["export", *CHAIR, "--to", "jsonl", "--out", "@"]),
    "score out, option": ("synonyms.txt", ["score", *CHAIR, "--out", "@"]),
    "score out, questions": ("q.json", ["score", *POPE, "--out", "@"]),
    "judge out, questions": ("mmhal.json", [*JUDGE, "--out", "@"]),
    "judge out, answers": ("mmhal.jsonl", [*JUDGE, "--out", "@"]),
    "judge cache, answers": ("mmhal.jsonl", [*JUDGE, "--out", "o/v.jsonl", "--cache", "@"]),
    "judge cache, questions": ("mmhal.json", [*JUDGE, "--out", "o/v.jsonl", "--cache", "@", "--dry-run"]),
    "eval judge cache": ("mmhal.json", [*EVAL, "--out", "o/e", *BY_JUDGE, "--judge-cache", "@"]),
    "check fix": ("pairs.jsonl", [*CHECK, "o", "--fix", "@"]),
    "convert out": ("pairs.jsonl", [*CONVERT, *PAIRS, "--to", "trl", "--out", "@"]),
    "audit out": ("pairs.jsonl", ["data", "audit", *PAIRS, "--out", "@"]),
    "audit without leaks": ("pairs.jsonl", ["data", "audit", *PAIRS, "--drop-leaks", "@"]),
    "audit out, ids": ("q.json", ["data", "audit", *PAIRS, "--benchmark-ids", "x=q.json", "--out", "@"]),
    "view out": ("pairs.jsonl", ["data", "view", *PAIRS, "--out", "@"]),
    "fetch out": ("pairs.jsonl", [*FETCH, "--out", "@"]),
    "report out": ("evaluated/results.json", ["report", "evaluated", "--out", "@"]),
    "report out, a file": ("evaluated/results.json", ["report", "evaluated/results.json", "--out", "@"]),
}
# a command one of whose further files is @, which stands where a link to what is read is put
BESIDE = {
    "score items": ("a.jsonl", "o/r.items.jsonl", ["score", *POPE, "--out", "o/r.json"]),
    "score in a folder": ("a.jsonl", "o/items.jsonl", ["score", *POPE, "--out", "o"]),
    "judge's own cache": ("mmhal.jsonl", "o/v.cache.jsonl", [*JUDGE, "--out", "o/v.jsonl"]),
    "eval answers": ("mmhal.json", "o/answers.jsonl", [*EVAL, "--out", "o"]),
    "eval items": ("mmhal.json", "o/items.jsonl", [*EVAL, "--out", "o"]),
    "eval verdicts": ("mmhal.json", "o/verdicts.jsonl", [*EVAL, "--out", "o", *BY_JUDGE]),
    "check report": ("pairs.jsonl", "o/data_report.json", [*CHECK, "o"]),
    "check list": ("pairs.jsonl", "o/quarantine.jsonl", [*CHECK, "o"]),
    "convert's list": ("pairs.jsonl", "o/c.quarantine.jsonl", [*CONVERT, *PAIRS, "--to", "trl", "--out", "o/c.jsonl"]),
    "fetch's list": ("pairs.jsonl", "o/c.quarantine.jsonl", [*FETCH, "--out", "o/c.jsonl"]),
}
TWICE = {
    "judge": [*JUDGE, "--out", "o/v.jsonl", "--cache", "o/v.jsonl"],
    "judge, another way": [*JUDGE, "--out", "o/v.jsonl", "--cache", "o/../o/v.jsonl"],
    "audit": ["data", "audit", *PAIRS, "--out", "o/x.json", "--drop-leaks", "o/x.json"],
    "check fix": [*CHECK, "o", "--fix", "o/quarantine.jsonl"],
    "convert": [*CONVERT, *PAIRS, "--to", "llamafactory_sharegpt", "--out", "o/dataset_info.json"],
    "eval judge cache": [*EVAL, "--out", "o", *BY_JUDGE, "--judge-cache", "o/answers.jsonl"],
    "report": ["report", "evaluated", "--out", "o/r.html", "--out", "o/r.html"],
}
LINKS = {"itself": None, "a link": os.symlink, "a hard link": os.link}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_small_files(tmp_path)
    (tmp_path / "o").mkdir(exist_ok=True)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def refused(words: list[str], folder: Path, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(folder)
    assert main(words) == 2
    err = capsys.readouterr().err
    assert says in err, err
    assert err.count("\n") == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "kind"),
    # a report has another ending than what it reads
    [(name, kind) for name in OVER for kind in LINKS if not (name.startswith("report") and kind == "itself")],
)
def test_what_is_read_is_not_written_over(
    name: str, kind: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read, words = OVER[name]
    given = f"./{read}" if kind == "itself" else f"o/link{Path(read).suffix}"
    if name.startswith("report"):  # which writes files with other endings only
        given = "o/link.csv"
    if (link := LINKS[kind]) is not None:
        link(small / read, small / given)
    refused([given if word == "@" else word for word in words], small, f"would write over {read}", capsys)


@pytest.mark.parametrize("name", BESIDE)
def test_nor_by_a_file_that_is_written_beside(name: str, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read, beside, words = BESIDE[name]
    (small / beside).hardlink_to(small / read)
    refused(words, small, f"{beside} would write over {read}", capsys)


@pytest.mark.parametrize("name", TWICE)
def test_two_files_of_one_command_are_not_the_same(name: str, small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(TWICE[name], small, "are the same file", capsys)


def test_the_list_of_rows_left_out_is_not_the_source(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "a.quarantine.jsonl").write_bytes((small / "pairs.jsonl").read_bytes())
    words = [*CONVERT, "a.quarantine.jsonl", "--image-root", "images", "--to", "trl", "--out", "a.jsonl"]
    (small / "a.jsonl").unlink()
    refused(words, small, "would write over", capsys)


def test_a_folder_of_answers_is_not_written_over(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "a.jpg\tIs it?\tYes\tyes\na.jpg\tIs it not?\tNo\tno\n"
    for folder in ("asked", "answered"):
        (small / folder).mkdir()
        (small / folder / "existence.txt").write_text(lines)
    words = ["export", "--benchmark", "mme", "--questions", "asked", "--answers", "answered", "--to", "official"]
    for out in ("asked", "answered", "./answered/"):
        refused([*words, "--out", out], small, "would write over", capsys)
    (small / "link").mkdir()
    (small / "link" / "existence.txt").symlink_to(small / "asked" / "existence.txt")
    refused([*words, "--out", "link"], small, "would write over", capsys)
    assert main([*words, "--out", "o"]) == 0
    assert main([*words, "--out", "o"]) == 0  # over its own


def test_a_second_time_over_one_s_own_files_is_allowed(small: Path) -> None:
    for words in (
        ["export", *POPE, "--to", "llava", "--out", "o/x.jsonl"],
        ["score", *POPE, "--out", "o/r.json"],
        ["score", *POPE, "--out", "scored"],
        [*CHECK, "o"],
        [*CONVERT, *PAIRS, "--to", "llamafactory_sharegpt", "--out", "o/c.json"],
        ["data", "audit", *PAIRS, "--out", "o/x.json", "--drop-leaks", "o/y.jsonl"],
        ["data", "view", *PAIRS, "--out", "o/v.html"],
        ["report", "scored", "--out", "scored/r.md", "--out", "scored/r.csv"],
    ):
        assert [main(words), main(words)] == [0, 0], words


def embedded(small: Path) -> None:
    import base64

    Image.new("RGB", (9, 9), "red").save(small / "one.png")
    data = base64.b64encode((small / "one.png").read_bytes()).decode()
    content = [{"type": "image"}, {"type": "text", "text": "what ?"}]
    row = {"id": "1", "images": [{"bytes": data}], "prompt": [{"role": "user", "content": content}]}
    (small / "e.jsonl").write_text(json.dumps({**row, "chosen": "a", "rejected": "b"}) + "\n")


def test_a_folder_of_images_that_are_others_is_not_replaced(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embedded(small)
    (small / "converted").mkdir()
    Image.new("RGB", (9, 9)).save(small / "converted" / "mine.png")
    words = [*CONVERT, "e.jsonl", "--to", "ms_swift", "--out", "c.jsonl", "--image-folder"]
    refused(
        [*words, "converted"], small, "it contains other things (mine.png); give --image-folder a new folder", capsys
    )
    assert [main([*words, "new"]), main([*words, "new"])] == [0, 0]
    capsys.readouterr()
    (small / "clean_images").mkdir()
    Image.new("RGB", (9, 9)).save(small / "clean_images" / "mine.png")
    (small / "data").mkdir()
    assert main([*CHECK, "o", "--fix", "clean.jsonl", "--copy-images"]) == 2
    assert "it contains other things (mine.png); give --fix another name" in capsys.readouterr().err
    assert (small / "clean_images" / "mine.png").is_file()
