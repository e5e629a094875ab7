"""Every path that a command takes or a recipe names, given as what is no path, or leads to what is no file or folder:
one line and the right exit code, nothing waited for, nothing replaced."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.forked_commands import ForkedCommands
from tests.odd_paths import NOT_A_NAME, good_files, odd_paths
from tests.tiny_vlms import build

POPE = "--benchmark pope --questions pope.jsonl"
CHAIR = "--benchmark chair --questions truth.json"
SERVER = "--server http://127.0.0.1:9 --model m"
EVAL = f"eval --model model --images . {POPE} --out ev --max-new-tokens 2"
JUDGE = f"judge --benchmark object_halbench {SERVER} truth=truth.json"
TRAIN = "train recipe.yaml output=new"
CHECK = "data check pairs.jsonl --workers 1"


@dataclass(frozen=True)
class Slot:
    """A place for a path in a command line, ``@``."""

    line: str
    codes: tuple[int, ...]
    fine: tuple[str, ...] = ()
    """Kinds that may be given here: the command works, or says something else."""


MADE = ("missing", "folder")
SLOTS = [
    Slot("recipes @", (2,)),
    Slot("config @", (2,)),
    Slot("config recipe.yaml adapter.path=@", (2,)),
    Slot("plan @", (2,)),
    Slot("plan recipe.yaml model.path=@ --gpu-memory 24GiB", (2,)),
    Slot("train @", (2,)),
    Slot("train recipe.yaml output=@", (2, 6), MADE),
    Slot(f"{TRAIN} model.path=@", (2,)),
    Slot(f"{TRAIN} data.train=@", (2, 3)),
    Slot(f"{TRAIN} data.eval=@", (2, 3)),
    Slot(f"{TRAIN} data.manifest=@", (2, 3)),
    Slot(f"{TRAIN} data.root=@", (2, 3), ("folder",)),
    Slot(f"{TRAIN} adapter.path=@", (2, 6)),
    Slot(f"{TRAIN} reference.kind=cache reference.cache=@", (2, 6), MADE),
    Slot(f"{TRAIN} --launch @", (7,)),
    Slot("merge @ --out merged", (2, 6)),
    Slot("doctor --recipe @", (2,)),
    Slot("doctor --recipe recipe.yaml model.path=@", (2,)),
    Slot("doctor --recipe recipe.yaml data.train=@", (2, 3)),
    Slot("score --benchmark pope --questions @ --answers answers.jsonl", (3,)),
    Slot(f"score {POPE} --answers @", (3,)),
    Slot(f"score {POPE} --answers answers.jsonl --out @", (2, 6), MADE),
    Slot(f"score {CHAIR} --answers captions.jsonl synonyms=@", (2, 3)),
    Slot("export --benchmark pope --questions @ --answers answers.jsonl --to llava --out x.jsonl", (3,)),
    Slot(f"export {POPE} --answers @ --to llava --out x.jsonl", (3,)),
    Slot(f"export {POPE} --answers answers.jsonl --to llava --out @", (2, 6), ("missing",)),
    Slot("report @ --out x.html", (2,)),
    Slot("report res @ --out x.csv", (2,)),
    Slot("report res --out @", (2,)),
    Slot("report res --out x.html --images @", (2,), ("folder",)),
    Slot("demo --out @ --scale 0.02", (2, 6), MADE),
    Slot(f"eval --model @ --images . {POPE} --out ev", (2, 3)),
    Slot("eval --model model --images . --benchmark pope --questions @ --out ev", (3,)),
    Slot(f"{EVAL} --images @", (2, 3)),
    Slot(f"{EVAL} --out @", (2, 6), MADE),
    Slot(f"{EVAL} --adapter @", (2, 6)),
    Slot(f"{JUDGE} --questions objects.jsonl --answers @ --out v.jsonl --dry-run", (3,)),
    Slot(f"{JUDGE} --questions @ --answers described.jsonl --out v.jsonl --dry-run", (2, 3)),
    Slot(f"{JUDGE} --questions objects.jsonl --answers described.jsonl --out @", (2, 6), ("missing",)),
    Slot(f"{JUDGE} --questions objects.jsonl --answers described.jsonl --out v.jsonl --cache @", (2, 6), ("missing",)),
    Slot("data show @", (2, 3)),
    Slot("data check @", (2, 3)),
    Slot(f"{CHECK} --out @", (2, 6), MADE),
    Slot(f"{CHECK} --out c --root @", (2, 3)),
    Slot(f"{CHECK} --out c --card @", (2, 3)),
    Slot(f"{CHECK} --out c --fix @", (2, 6), ("missing",)),
    Slot("data verify @ --report check", (2, 3)),
    Slot("data verify pairs.jsonl --report @", (2, 3)),
    Slot("data convert @ --to trl --out c.jsonl", (2, 3)),
    Slot("data convert pairs.jsonl --to trl --out @", (2, 6), ("missing",)),
    Slot("data convert pairs.jsonl --to llamafactory_alpaca --out @", (2, 6), ("missing",)),
    Slot("data convert pairs.jsonl --to trl --out c.jsonl --root @", (2, 3), ("folder",)),
    Slot("data convert embedded.jsonl --to llamafactory_alpaca --out c.json --images @", (2, 6)),
    Slot("data audit @", (2, 3)),
    Slot("data audit pairs.jsonl --benchmark-ids pope=@", (2, 3)),
    Slot("data audit pairs.jsonl --benchmark-images pope=@", (2, 3)),
    Slot("data audit pairs.jsonl --visual-genome @", (2, 3)),
    Slot("data audit pairs.jsonl --drop-leaks @", (2, 6), ("missing",)),
    Slot("data audit pairs.jsonl --out @", (2, 6), ("missing",)),
    Slot("data view @ --out v.html", (2, 3)),
    Slot("data view pairs.jsonl --out @", (2, 6), ("missing",)),
    Slot("data fetch @ --host x.invalid --out f.jsonl --root fr", (2, 3)),
    Slot("data fetch pairs.jsonl --host x.invalid --out @ --root fr", (2, 6), ("missing",)),
    Slot("data fetch pairs.jsonl --host x.invalid --out f.jsonl --root @", (2, 6), MADE),
]
KINDS = ("folder", "pipe", "device", "socket", "loop", "missing", "below a file")
EVERY = [(slot, kind) for slot in SLOTS for kind in KINDS if kind not in slot.fine]
SOME = [(slot, KINDS[(place * 2 + 1) % 7]) for place, slot in enumerate(SLOTS)]
SOME = [each for each in SOME if each in EVERY]
SOME += [(slot, "pipe") for slot in SLOTS if "--cache" in slot.line]  # was waited for


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedCommands]:
    with ForkedCommands(
        "mmpref.training.run", "mmpref.report.page", "mmpref.doctor", "mmpref.evals.runner"
    ) as commands:
        yield commands


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, run: ForkedCommands) -> Path:
    folder = good_files(tmp_path_factory.mktemp("good"))
    build("llava", folder / "model")
    for line in (f"{CHECK} --out check", f"score {POPE} --answers answers.jsonl --out res"):
        ended = run(line.split(), folder=folder)
        assert ended.code == 0, ended
    return folder


def faults(cases: list[tuple[Slot, str]], run: ForkedCommands, good: Path, tmp_path: Path) -> list[str]:
    found = []
    for number, (slot, kind) in enumerate(cases):
        short = tmp_path / str(number)
        odd = odd_paths(short)
        work = short / "work"
        shutil.copytree(good, work)
        ended = run([word.replace("@", odd[kind]) for word in slot.line.split()], folder=work, memory_mib=4096)
        if fault := ended.fault(*slot.codes):
            found.append(f"{slot.line} ({kind}): {fault}")
        if not stat.S_ISFIFO((short / "pipe.jsonl").stat().st_mode) or (short / "file").read_bytes():
            found.append(f"{slot.line} ({kind}): wrote over what was there")
        shutil.rmtree(short)
    return found


def test_a_path_that_leads_to_no_file_or_folder_is_one_line(run: ForkedCommands, good: Path, tmp_path: Path) -> None:
    assert len(SOME) > 50
    assert faults(SOME, run, good, tmp_path) == []


@pytest.mark.slow
def test_every_path_that_leads_to_no_file_or_folder_is_one_line(
    run: ForkedCommands, good: Path, tmp_path: Path
) -> None:
    assert faults(EVERY, run, good, tmp_path) == []


def test_what_can_be_no_path_is_refused_in_one_line_whatever_it_is_for(
    run: ForkedCommands, good: Path, tmp_path: Path
) -> None:
    odd = {**odd_paths(tmp_path / "o"), "NUL": "a\0b"}
    found = []
    for number, kind in enumerate((*NOT_A_NAME, "NUL")):
        for slot in SLOTS[number % 5 :: 5]:
            ended = run([word.replace("@", odd[kind]) for word in slot.line.split()], folder=good)
            if fault := ended.fault(2):
                found.append(f"{slot.line} ({kind}): {fault}")
    assert found == []


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "loop", "folder", "missing", "below a file"])
def test_an_image_that_is_no_file_is_a_bad_row(kind: str, run: ForkedCommands, tmp_path: Path) -> None:
    folder, odd = good_files(tmp_path / "g"), odd_paths(tmp_path / "o")
    text = (folder / "pairs.jsonl").read_text().replace('"a.png"', f'"{odd[kind]}"', 1)
    (folder / "pairs.jsonl").write_text(text)
    ended = run([*f"{CHECK} --out c --root".split(), "/"], folder=folder, seconds=20)
    assert ended.code == 3, ended
    assert "Traceback" not in ended.out + ended.err
    rows = [json.loads(line) for line in (folder / "c" / "quarantine.jsonl").read_text().splitlines()]
    assert (rows[0]["line"], rows[0]["reason"].partition("_")[0]) == (1, "image"), rows
