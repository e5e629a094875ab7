"""Files that users give and files that mmpref wrote, damaged by chance and by design, through the real commands: each
ends well or with one line, within a gigabyte and a minute."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.damage import HOSTILE, ODD_VALUES, damaged
from tests.forked_commands import USUAL, Ended, ForkedCommands
from tests.small_files import write_small_files
from tests.tiers import corners
from tests.tiny_vlms import build
from tests.unit.report.folders import demo_like, write_pairs

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """# a recipe
output: o/run
seed: 3
model: {path: m, dtype: float32}
data:
  train: [{path: pairs.jsonl, weight: 2.0}]
  root: images
  max_bad_fraction: 0.01
processing: {max_length: 512, template_kwargs: {enable_thinking: false}}
loss: {name: uni_dpo, uni: {tau_good: 3.5, eta: 0.7}}
tune: {vision: freeze, language: lora}
adapter: {kind: lora, rank: 8, alpha: 16}
train:
  learning_rate: 1.0e-6
  max_steps: 10
  report_to: [tensorboard]
  lr_scheduler_kwargs: {}
"""
OVERRIDES = ("train.learning_rate", "loss.beta", "model.path", "adapter", "data.train", "train.extra", "output", "seed")


@dataclass(frozen=True)
class Read:
    """A file and a command that reads it."""

    file: str
    line: str
    has_model: bool = False


CHECK = "data check --workers 1 --out o/check"
POPE = "--benchmark pope --questions q.json"
SCORE = f"score {POPE} --answers a.jsonl"
CHAIR = "score --benchmark chair --questions gt.json --answers captions.jsonl synonyms=synonyms.txt"
MMHAL = "--benchmark mmhal --questions mmhal.json --answers mmhal.jsonl"
REPORT = "report runs/base runs/uni --out o/r.html"
EVAL = f"eval --model model --image-root images {POPE} --out ev --max-new-tokens 2 --limit 2"
TRAIN = "train first.yaml train.max_steps=1 train.use_cpu=true preflight=false model.path=model"
STOPPED = f"{TRAIN.replace('max_steps=1', 'max_steps=2')} train.save_steps=1 output=stopped"
CACHED = f"{TRAIN} reference.kind=cache reference.cache=refs"
VERIFY = "data verify pairs.jsonl --image-root images"

THE_RECIPE = Read("recipe.yaml", "config recipe.yaml")
GIVEN = [
    THE_RECIPE,
    Read("pairs.jsonl", f"{CHECK} pairs.jsonl --image-root images"),
    Read("alpaca.json", f"{CHECK} alpaca.json"),
    Read("alpaca.json", "data view alpaca.json --out o/v.html"),
    Read("dataset_info.json", f"{CHECK} dataset_info.json"),
    Read("dataset_info.json", "data convert pairs.jsonl --image-root images --to llamafactory_alpaca --out more.json"),
    Read("pairs.parquet", f"{CHECK} pairs.parquet --image-root images"),
    Read("pairs.parquet", "data audit pairs.parquet --image-root images"),
    Read("pairs.arrow", f"{CHECK} pairs.arrow --image-root images"),
    Read("povid.md", "data show povid.md"),
    Read("ids.json", "data audit pairs.jsonl --image-root images --benchmark-ids pope=ids.json"),
    Read("q.json", SCORE),
    Read("a.jsonl", SCORE),
    Read("a.jsonl", f"export {POPE} --answers a.jsonl --to llava --out o/x.jsonl"),
    Read("gt.json", CHAIR),
    Read("captions.jsonl", CHAIR),
    Read("synonyms.txt", CHAIR),
    Read("verdicts.jsonl", f"score {MMHAL} verdicts=verdicts.jsonl"),
    Read("mmhal.json", f"export {MMHAL} --to official --out o/x.json"),
]
WRITTEN = [
    Read("checked/data_report.json", f"{VERIFY} --report checked/data_report.json"),
    Read("checked/quarantine.jsonl", f"{VERIFY} --report checked"),
    Read("runs/uni/manifest.json", REPORT),
    Read("runs/uni/metrics.jsonl", REPORT),
    Read("runs/uni/recipe.yaml", REPORT),
    Read("runs/uni/pairs.parquet", REPORT),
    Read("runs/uni/evals/chair/results.json", REPORT),
    Read("runs/uni/evals/chair/items.jsonl", REPORT),
    Read("evaluated/results.json", "report evaluated --out o/r.csv"),
    Read("stopped/manifest.json", f"{STOPPED} --resume", True),
    Read("stopped/metrics.jsonl", f"{STOPPED} --resume", True),
    Read("stopped/checkpoints/step-1/trainer_state.json", f"{STOPPED} --resume", True),
    Read(
        "run/recipe.yaml", f"eval --model run --image-root images {POPE} --out o/e --limit 1 --max-new-tokens 1", True
    ),
    Read("run/manifest.json", "merge run --out o/merged", True),
    Read("checked/data_report.json", f"{TRAIN} output=o/run data.manifest=checked", True),
    Read("refs/facts.json", f"{CACHED} output=o/run", True),
    Read("ev/settings.json", EVAL, True),
    Read("ev/answers.jsonl", EVAL, True),
    Read("ev/results.json", EVAL, True),
    Read("ev/images.json", EVAL, True),
]
READ = GIVEN + WRITTEN


@pytest.fixture(scope="module")
def run() -> Iterator[ForkedCommands]:
    modules = (
        "mmpref.data.commands.audit_source",
        "mmpref.data.commands.check",
        "mmpref.data.commands.check_outcome",
        "mmpref.data.commands.convert",
        "mmpref.data.commands.verify_source",
        "mmpref.evals",
        "mmpref.report.page",
        "pyarrow.parquet",
    )
    with ForkedCommands(*modules) as commands:
        yield commands


@pytest.fixture(scope="module")
def run_with_torch() -> Iterator[ForkedCommands]:
    with ForkedCommands("mmpref.training.run.run", "mmpref.evals.evaluate") as commands:
        yield commands


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run: ForkedCommands) -> Path:
    """The files as they should be, to be copied to where they were written, beside it: evaluations know their place."""
    whole = tmp_path_factory.mktemp("damaged") / "whole"
    folder = whole.with_name("files")
    folder.mkdir()
    write_small_files(folder)
    table = pa.Table.from_pylist([json.loads(line) for line in (folder / "pairs.jsonl").open()])
    pq.write_table(table, folder / "pairs.parquet")
    with pa.ipc.new_file(folder / "pairs.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "recipe.yaml").rename(folder / "first.yaml")
    (folder / "recipe.yaml").write_text(RECIPE)
    shutil.copy(ROOT / "data_cards" / "povid.md", folder / "povid.md")
    (folder / "ids.json").write_text(json.dumps([{"image": "COCO_val2014_000000000042.jpg"}, {"image_id": 7}]))
    demo_like(folder / "runs", count=12)
    for name, at in zip(("base", "uni"), sorted((folder / "runs").iterdir()), strict=False):
        at.rename(folder / "runs" / name)
    logged = [{"step": n, "pair_id": str(n), "rewards/margins": 0.1 * n, "uni/w_perf": None} for n in range(9)]
    write_pairs(folder / "runs" / "uni" / "pairs.parquet", logged)
    checked = ["--workers", "1", "--out", "checked", "--image-root", "images"]
    done = run(["data", "check", "pairs.jsonl", *checked], folder=folder)
    assert done.code == 0, done
    folder.rename(whole)
    return whole


@pytest.fixture(scope="module")
def trained(whole: Path, run_with_torch: ForkedCommands) -> Path:
    """With a model, runs of it, a reference cache and answers."""
    folder = whole.with_name("files")
    shutil.rmtree(folder, ignore_errors=True)
    whole.rename(folder)
    build("llava", folder / "model")
    for line in (
        f"{TRAIN} output=run adapter.kind=lora tune.language=lora tune.vision=freeze tune.projector=freeze",
        f"{CACHED} output=other",
        STOPPED,
        EVAL,
    ):
        done = run_with_torch(line.split(), folder=folder, memory_mib=4096)
        assert done.code in (0, 8), done
    shutil.rmtree(folder / "other")
    shutil.rmtree(folder / "stopped" / "checkpoints" / "step-2")
    shutil.rmtree(folder / "stopped" / "model")
    manifest = folder / "stopped" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"state": "complete"', '"state": "stopped"'))
    folder.rename(whole)
    return whole


class Tried:
    """Runs commands beside damaged files, in a copy of all files for each."""

    def __init__(self, run: ForkedCommands, run_with_torch: ForkedCommands | None, whole: Path) -> None:
        self.faults: list[str] = []
        self.count = self.refused = 0
        self._most_seconds = self._most_mib = 0.0
        self._run, self._run_with_torch = run, run_with_torch
        self._whole, self.work = whole, whole.with_name("files")

    def __call__(self, read: Read, content: bytes, name: str) -> Ended:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._whole, self.work)
        (self.work / read.file).write_bytes(content)
        run = self._run if self._run_with_torch is None else self._run_with_torch
        ended = run(
            read.line.split(), folder=self.work, memory_mib=3000, seconds=60
        )  # libraries reserve more than they use
        self.count += 1
        self.refused += ended.code != 0
        self._most_seconds = max(self._most_seconds, ended.seconds)
        self._most_mib = max(self._most_mib, ended.peak_mib)
        if fault := ended.fault(*USUAL):
            self.faults.append(f"{read.line} [{read.file}: {name}]: {fault}")
        if ended.peak_mib > 1024:
            self.faults.append(f"{read.line} [{read.file}: {name}]: took {ended.peak_mib:.0f} MiB")
        return ended

    def by_chance(self, read: Read, seeds: range) -> None:
        good = (self._whole / read.file).read_bytes()
        for seed in seeds:
            self(read, damaged(good, f"{read.file} {seed}"), f"seed {seed}")

    def show(self, capsys: pytest.CaptureFixture[str]) -> None:
        with capsys.disabled():
            print(  # noqa: T201
                f"\n{self.count} damaged files, {self.refused} refused: longest {self._most_seconds:.2f} s, "
                f"memory +{self._most_mib:.0f} MiB at most"
            )


@pytest.fixture
def tried(run: ForkedCommands, whole: Path) -> Tried:
    return Tried(run, None, whole)


@pytest.fixture
def tried_with_torch(run: ForkedCommands, run_with_torch: ForkedCommands, trained: Path) -> Tried:
    return Tried(run, run_with_torch, trained)


def test_damaged_files_are_one_line(tried: Tried) -> None:
    for place, read in enumerate(READ):
        if place % 2 and not read.has_model:
            tried.by_chance(read, range(place, place + 1))
    assert tried.faults == []
    assert tried.refused > 3, "a damage is often seen"


@pytest.mark.slow
def test_a_file_that_is_something_else_altogether_is_one_line(tried: Tried) -> None:
    names = list(HOSTILE)
    for place, read in enumerate(READ):
        if not place % 2 and not read.has_model:
            name = names[place * 7 % len(names)]
            tried(read, HOSTILE[name], name)
    for read in READ:  # this ended in a traceback
        if "convert" in read.line:
            tried(read, HOSTILE["NaN"], "NaN")
    assert tried.faults == []
    assert tried.refused > tried.count / 2


def test_values_that_are_none_are_one_line(run: ForkedCommands, whole: Path) -> None:
    found = []
    for place, value in enumerate(ODD_VALUES):
        argv = ["config", "recipe.yaml", f"{OVERRIDES[place % len(OVERRIDES)]}={value}"]
        if fault := run(argv, folder=whole).fault(*USUAL):
            found.append(f"{argv[2][:80]!a}: {fault}")
    assert found == []


@pytest.mark.parametrize("schema", corners(["numbers", "structs", "no columns", "binary"], "no columns"))
def test_pair_statistics_of_another_schema_are_left_out(schema: str, tried: Tried) -> None:
    tables = {
        "numbers": pa.table({"step": [1, 2], "pair_id": [1.5, 2.5]}),
        "structs": pa.table({"step": [{"a": 1}], "pair_id": [[1]], "margin": [{"b": [2]}]}),
        "no columns": pa.table({}),
        "binary": pa.table({"step": [b"\xff"], "pair_id": [b"\xfe"], "margin": [b"x"], "loss": ["y"]}),
    }
    stream = pa.BufferOutputStream()
    pq.write_table(tables[schema], stream)
    ended = tried(Read("runs/uni/pairs.parquet", REPORT), stream.getvalue().to_pybytes(), schema)
    assert ended.code == 0, ended
    assert (tried.work / "o" / "r.html").is_file()


@pytest.mark.slow
def test_commands_take_the_whole_files(tried_with_torch: Tried, whole: Path) -> None:
    tried = tried_with_torch
    for line in {read.line: read for read in READ}.values():
        ended = tried(line, (whole / line.file).read_bytes(), "whole")
        assert ended.code in (0, 8), ended


@pytest.mark.slow
@pytest.mark.parametrize("read", READ, ids=lambda read: f"{read.file} {read.line[:20]}")
def test_many_damaged_files_are_one_line(
    read: Read, tried_with_torch: Tried, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = tried_with_torch
    for name, content in HOSTILE.items():
        tried(read, content, name)
    tried.by_chance(read, range(100, 250 if read == THE_RECIPE else 125))
    tried.show(capsys)
    assert tried.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("key", OVERRIDES)
def test_every_odd_value_of_a_key_is_one_line(key: str, run: ForkedCommands, whole: Path) -> None:
    faults = [run(["config", "recipe.yaml", f"{key}={value}"], folder=whole).fault(*USUAL) for value in ODD_VALUES]
    assert [fault for fault in faults if fault] == []


@pytest.mark.slow
def test_processes_of_their_own_end_as_forks_do(tried_with_torch: Tried, whole: Path) -> None:
    tried = tried_with_torch
    import subprocess
    import sys

    for read in READ[::5]:
        content = damaged((whole / read.file).read_bytes(), f"{read.file} 7")
        forked = tried(read, content, "alone")
        shutil.rmtree(tried.work)
        shutil.copytree(whole, tried.work)
        (tried.work / read.file).write_bytes(content)
        alone = subprocess.run(
            [sys.executable, "-m", "mmpref", *read.line.split()], cwd=tried.work, capture_output=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert alone.returncode == forked.code, (read, alone.stderr, forked.err)
        assert "Traceback" not in alone.stderr
    assert tried.faults == []
