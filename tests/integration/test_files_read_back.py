"""What mmpref wrote, or a user gives, comes back damaged: the real commands, each in a fork under limits of memory and
time, end well or with one line and an exit code of theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.forked_commands import Ended, ForkedCommands
from tests.mutations import HOSTILE, mutated
from tests.odd_paths import good_files
from tests.tiny_vlms import build

POPE = "--benchmark pope --questions pope.jsonl"
EVAL = f"eval --model model --images . {POPE} --out ev --max-new-tokens 2 --limit 2"
TRAIN = "train.max_steps=1 train.use_cpu=true preflight=false"
CACHED = f"train recipe.yaml output=again {TRAIN} reference.kind=cache reference.cache=refs"
CODES = (0, 2, 3, 6, 8)
MEMORY_MIB = 1024
SECONDS = 40


@dataclass(frozen=True)
class Read:
    """A file and a command that reads it."""

    file: str
    line: str


RECIPE = Read("recipe.yaml", "config recipe.yaml")
READ = [
    Read("run/manifest.json", "report run --out x.html"),
    Read("run/metrics.jsonl", "report run --out x.html"),
    Read("run/recipe.yaml", "report run --out x.html"),
    Read("run/pairs.parquet", "report run --out x.html"),
    Read("run/manifest.json", f"train recipe.yaml {TRAIN} --resume"),
    Read("run/manifest.json", "merge run --out merged"),
    Read("run/recipe.yaml", f"eval --model run --images . {POPE} --out other --limit 1 --max-new-tokens 1"),
    Read("res/results.json", "report res --out x.html"),
    Read("res/items.jsonl", "report res --out x.html"),
    Read("res/results.json", "report res --out x.csv"),
    Read("ev/settings.json", EVAL),
    Read("ev/answers.jsonl", EVAL),
    Read("ev/results.json", EVAL),
    Read("ev/images.json", EVAL),
    Read("check/data_report.json", "data verify pairs.jsonl --report check"),
    Read("check/quarantine.jsonl", "data verify pairs.jsonl --report check"),
    Read("check/data_report.json", f"train recipe.yaml output=again data.manifest=check {TRAIN}"),
    Read("answers.jsonl", f"score {POPE} --answers answers.jsonl"),
    Read("answers.jsonl", f"export {POPE} --answers answers.jsonl --to llava --out out.jsonl"),
    Read("pope.jsonl", f"score {POPE} --answers answers.jsonl"),
    Read("truth.json", "score --benchmark chair --questions truth.json --answers captions.jsonl"),
    Read(
        "synonyms.txt", "score --benchmark chair --questions truth.json --answers captions.jsonl synonyms=synonyms.txt"
    ),
    Read("captions.jsonl", "score --benchmark chair --questions truth.json --answers captions.jsonl"),
    Read("info/dataset_info.json", "data check info:pairs --workers 1 --out c"),
    Read("info/dataset_info.json", "data convert pairs.jsonl --to llamafactory_alpaca --out info/more.json"),
    Read("pairs.jsonl", "data check pairs.jsonl --workers 1 --out c"),
    Read("alpaca.json", "data view alpaca.json --out v.html"),
    Read("pairs.parquet", "data check pairs.parquet --workers 1 --out c"),
    Read("pairs.parquet", "data audit pairs.parquet"),
    Read("card.md", "data show ./card.md"),
    Read("refs/facts.json", CACHED),
]


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedCommands]:
    modules = (
        "mmpref.training.run",
        "mmpref.report.page",
        "mmpref.evals.runner",
        "mmpref.data.check",
        "pyarrow.parquet",
    )
    with ForkedCommands(*modules) as commands:
        yield commands


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, run: ForkedCommands) -> Path:
    folder = good_files(tmp_path_factory.mktemp("good"))
    build("llava", folder / "model")
    rows = {"prompt": ["what ?"] * 3, "chosen": ["a"] * 3, "rejected": ["b", "c", "d"], "images": [["a.png"]] * 3}
    pq.write_table(pa.table(rows), folder / "pairs.parquet")
    card = Path(__file__).parents[2] / "data_cards" / "rlhf_v.md"
    (folder / "card.md").write_text(card.read_text().replace("name: rlhf_v", "name: card"))
    for line in (
        f"train recipe.yaml {TRAIN}",
        CACHED.replace("again", "first"),
        "data check pairs.jsonl --workers 1 --out check",
        f"score {POPE} --answers answers.jsonl --out res",
        EVAL,
    ):
        ended = run(line.split(), folder=folder, memory_mib=4096)
        assert ended.code in (0, 8), ended
    return folder


def broken_end(ended: Ended) -> str | None:
    """What is wrong with an end; a list of bad rows below the one line is none."""
    if ended.code not in CODES or "Traceback" in ended.out + ended.err:
        return f"exit {ended.code}: {ended.err[-1500:]}"
    said = [line for line in ended.err.splitlines() if not line.startswith(("  ", "mmpref: note"))]
    if ended.code != 0 and not any(line.startswith("mmpref: ") for line in said):
        return f"exit {ended.code} and nothing said: {ended.err[-500:]!r}"
    if any(len(line) > 1600 for line in ended.err.splitlines()):
        return f"endless: {ended.err[:300]!r}"
    if "set_int_max_str_digits" in ended.out + ended.err:
        return "advice for programmers"
    return None


class Tried:
    """Faults found, and the longest that any command took."""

    def __init__(self, run: ForkedCommands, good: Path, place: Path) -> None:
        self.faults: list[str] = []
        self.most_seconds = 0.0
        self.count = self.refused = 0
        self._run, self._good, self._place = run, good, place

    def __call__(self, read: Read, content: bytes, name: str) -> None:
        work = self._place / "work"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(self._good, work)
        (work / read.file).write_bytes(content)
        ended = self._run(read.line.split(), folder=work, memory_mib=MEMORY_MIB, seconds=SECONDS)
        self.count += 1
        self.refused += ended.code != 0
        self.most_seconds = max(self.most_seconds, ended.seconds)
        if fault := broken_end(ended):
            self.faults.append(f"{read.line} [{read.file}: {name}]: {fault}")

    def show(self, capsys: pytest.CaptureFixture[str]) -> None:
        with capsys.disabled():
            print(f"\n{self.count} commands, {self.refused} refused: longest {self.most_seconds:.1f} s")  # noqa: T201


@pytest.fixture
def tried(run: ForkedCommands, good: Path, tmp_path: Path) -> Tried:
    return Tried(run, good, tmp_path)


def test_a_file_that_is_something_else_altogether_is_one_line(tried: Tried) -> None:
    names = list(HOSTILE)
    for number, read in enumerate((RECIPE, *READ)):
        name = names[number * 7 % len(names)]
        tried(read, HOSTILE[name], name)
    for read in READ:  # these two ended in a traceback
        if "dataset_info" in read.file and "convert" in read.line:
            tried(read, HOSTILE["NaN"], "NaN")
        if read.line.startswith("eval --model run"):
            tried(read, HOSTILE["a text"], "a text")
    assert tried.faults == []
    assert tried.refused > tried.count / 3


@pytest.mark.slow
def test_every_file_that_is_something_else_altogether_is_one_line(
    tried: Tried, capsys: pytest.CaptureFixture[str]
) -> None:
    for read in (RECIPE, *READ):
        for name, content in HOSTILE.items():
            tried(read, content, name)
    tried.show(capsys)
    assert tried.faults == []


def test_mutated_recipes_and_files_end_well_or_in_one_line(tried: Tried, good: Path) -> None:
    for seed in range(15):
        tried(RECIPE, mutated((good / RECIPE.file).read_bytes(), seed), f"seed {seed}")
    for seed in range(15):
        read = READ[seed * 2 % len(READ)]
        tried(read, mutated((good / read.file).read_bytes(), seed), f"seed {seed}")
    assert tried.faults == []
    assert tried.refused > 10, "a fault in a file is mostly seen"


@pytest.mark.slow
def test_many_mutated_recipes_and_files_end_well_or_in_one_line(
    tried: Tried, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(200):
        read = RECIPE if seed % 2 else Read("recipe.yaml", f"train recipe.yaml output=again {TRAIN}")
        tried(read, mutated((good / RECIPE.file).read_bytes(), 1000 + seed), f"seed {1000 + seed}")
    for seed in range(400):
        read = READ[seed % len(READ)]
        tried(read, mutated((good / read.file).read_bytes(), 5000 + seed), f"seed {5000 + seed}")
    tried.show(capsys)
    assert tried.faults == []


@pytest.mark.parametrize("schema", ["numbers", "structs", "no columns", "binary"])
def test_pair_statistics_of_another_schema_are_left_out_and_said(
    schema: str, run: ForkedCommands, good: Path, tmp_path: Path
) -> None:
    tables = {
        "numbers": pa.table({"step": [1, 2], "pair_id": [1.5, 2.5]}),
        "structs": pa.table({"step": [{"a": 1}], "pair_id": [[1]], "margin": [{"b": [2]}]}),
        "no columns": pa.table({}),
        "binary": pa.table({"step": [b"\xff"], "pair_id": [b"\xfe"], "margin": [b"x"], "loss": ["y"]}),
    }
    work = tmp_path / "work"
    shutil.copytree(good, work)
    for name in ("pairs.parquet", "pairs_eval.parquet"):
        pq.write_table(tables[schema], work / "run" / name)
    ended = run(["report", "run", "--out", "x.html"], folder=work)
    assert ended.code == 0, ended
    assert (work / "x.html").is_file()
