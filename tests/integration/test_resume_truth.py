"""Whatever is done to a run folder or to what the run reads, a resume ends with the bits of an undisturbed run, or is
refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli import main
from mmpref.demo.world import WorldFiles
from mmpref.rundir import RunDir
from mmpref.training.metrics import read_pair_log
from tests.integration.conftest import Place

SETTINGS = (
    "train.per_device_train_batch_size=8", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.logging_steps=1",
    "train.save_steps=2", "train.save_total_limit=null", "train.max_steps=5", "reference.kind=cache",
)  # fmt: skip


@dataclass(frozen=True)
class There:
    """A run that died after step 4, with copies of all that it reads."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def newest(self) -> Path:
        return self.run / "checkpoints" / "step-4"

    @property
    def cache(self) -> Path:
        return self.root / "run.reference"

    def command(self, *changes: str) -> list[str]:
        world = WorldFiles.under(self.root / "world")
        return Place(world, self.root / "model").training("demo_dpo", self.run, *SETTINGS, *changes)

    @property
    def pairs(self) -> Path:
        return WorldFiles.under(self.root / "world").pairs

    def picture(self, number: int) -> Path:
        row = json.loads(self.pairs.read_text().splitlines()[number])
        return self.root / "world" / row["images"][0]

    def copy(self, to: Path) -> There:
        shutil.copytree(self.root, to, symlinks=True)
        return There(to)


@dataclass(frozen=True)
class Result:
    """What a finished run holds."""

    weights: dict[str, torch.Tensor]
    pairs: dict[str, list]
    evaluated: dict[str, list]
    lines: list[dict]

    @classmethod
    def of(cls, run: Path) -> Result:
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return cls(
            load_file(run / "model" / "model.safetensors"),
            read_pair_log(RunDir(run).pairs_file),
            read_pair_log(RunDir(run).eval_pairs_file),
            [line for line in lines if "train_runtime" not in line],
        )

    def is_that_of(self, other: Result) -> bool:
        same = all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())
        rest = (self.pairs, self.evaluated, self.lines) == (other.pairs, other.evaluated, other.lines)
        return same and rest and self.weights.keys() == other.weights.keys()


@pytest.fixture(scope="module")
def died(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[There, Result]:
    there = There(tmp_path_factory.mktemp("died") / "there")
    shutil.copytree(place.world.root, there.root / "world")
    shutil.copytree(place.model, there.root / "model")
    assert main(there.command()) == 0
    whole = Result.of(there.run)
    shutil.rmtree(there.run / "model")
    shutil.rmtree(there.run / "checkpoints" / "step-5", ignore_errors=True)
    for name in ("pairs.parquet", "pairs_eval.parquet"):
        (there.run / name).unlink()
    RunDir(there.run).set_state("running")
    return there, whole


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    return lambda: " ".join("".join(capfd.readouterr()).split())


# ---- ways to harm a file ----------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def flip_unseen(file: Path) -> None:
    """One bit, with the time of change put back."""
    before = file.stat()
    flip(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name(f"old-{file.name}"))


def swap(file: Path) -> None:
    """With the file beside it, or one that is alike."""
    others = sorted(other for other in file.parent.iterdir() if other.is_file() and other != file)
    alike = [other for other in others if other.suffix == file.suffix] or others
    content, other = file.read_bytes(), alike[0].read_bytes()
    file.write_bytes(other)
    alike[0].write_bytes(content)


def link(file: Path) -> None:
    """To a copy elsewhere, of which a bit is another."""
    elsewhere = file.parent.parent / f"elsewhere-{file.name}"
    shutil.copy2(file, elsewhere)
    flip(elsewhere)
    file.unlink()
    file.symlink_to(elsewhere)


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def touch(file: Path) -> None:
    os.utime(file, ns=(1, 1))


HARMS = (flip, flip_unseen, cut, empty, remove, rename, swap, link, as_folder, touch)


def ends_well_or_is_refused(there: There, whole: Result, said: Callable[[], str], *more: str) -> tuple[int, str]:
    said()
    code = main([*there.command(*more), "--resume"])
    told = said()
    assert "Traceback" not in told
    if code == 0:
        assert Result.of(there.run).is_that_of(whole), told
    else:
        assert code in (2, 3, 6), told
        assert told.count("mmpref: error:") <= 1
        assert RunDir(there.run).manifest()["state"] != "complete"
    return code, told


def files_of(there: There) -> Iterator[tuple[str, Path]]:
    """One name for each kind of file that a resume depends on, and the file."""
    for file in sorted(there.newest.iterdir()):
        yield f"checkpoint/{file.name}", file
    for file in sorted((there.root / "model").iterdir()):
        yield f"model/{file.name}", file
    for file in sorted(there.cache.iterdir()):
        yield f"cache/{'part' if file.name.startswith('part') else file.name}", file
    yield "image", there.picture(7)
    yield "pairs", there.pairs
    yield "held-out pairs", WorldFiles.under(there.root / "world").pairs_heldout
    yield "metrics.jsonl", there.run / "metrics.jsonl"
    yield "recipe.yaml", there.run / "recipe.yaml"
    yield "manifest.json", there.run / "manifest.json"
    yield "quarantine.jsonl", there.run / "quarantine.jsonl"


@pytest.mark.slow
def test_every_file_harmed_in_every_way(died: tuple[There, Result], tmp_path: Path, said: Callable[[], str]) -> None:
    template, whole = died
    ends: dict[str, str] = {}
    wrong: list[str] = []
    for name, file in files_of(template):
        for harm in HARMS:
            there = template.copy(tmp_path / "there")
            here = there.root / file.relative_to(template.root)
            if here.exists():
                harm(here)
                label = f"{harm.__name__} {name}"
                try:
                    code, told = ends_well_or_is_refused(there, whole, said)
                    ends[label] = f"{code} {'' if code == 0 else told[-300:]}"
                except BaseException as err:
                    wrong.append(f"{label}: {type(err).__name__}: {str(err)[:600]}")
            shutil.rmtree(there.root)
    print(*(f"{label}: {end}" for label, end in ends.items()), sep="\n")
    assert not wrong, "\n".join(wrong)
    assert len(ends) > 150
    # what moves weights or numbers is refused, or taken from elsewhere, but never passes as what it was
    for harm in ("flip", "cut", "swap", "empty", "link"):
        for name in ("model/model.safetensors", "model/config.json", "model/tokenizer.json", "image", "pairs"):
            assert ends[f"{harm} {name}"][0] in "236", (harm, name)
    assert all(ends[f"touch {name}"][0] == "0" for name, _ in files_of(template))
