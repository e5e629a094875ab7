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


# ---- ways to harm a file -------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes() or b"\n")
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


def harmed(
    died: tuple[There, Result], tmp_path: Path, said: Callable[[], str], harm: Callable[[Path], None], file: Path
) -> tuple[int, str]:
    """How a resume ends after one file was harmed."""
    template, whole = died
    there = template.copy(tmp_path / "there")
    try:
        harm(there.root / file.relative_to(template.root))
        return ends_well_or_is_refused(there, whole, said)
    finally:
        shutil.rmtree(there.root)


DECIDES = ("model/model.safetensors", "model/config.json", "model/tokenizer.json", "image", "pairs", "held-out pairs")
"""What makes other weights or numbers."""


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_every_file_harmed(
    died: tuple[There, Result], tmp_path: Path, said: Callable[[], str], harm: Callable[[Path], None]
) -> None:
    ends: dict[str, int] = {}
    told: list[str] = []
    for name, file in files_of(died[0]):
        ends[name], words = harmed(died, tmp_path, said, harm, file)
        told.append(f"{harm.__name__} {name}: {ends[name]} {words[-400:] if ends[name] else ''}")
    (tmp_path / "ends.txt").write_text("\n".join(told) + "\n")
    assert len(ends) > 20
    for name in DECIDES if harm is not touch else ():
        assert ends[name] in (2, 3, 6), (harm.__name__, name)
    for name, code in ends.items() if harm is touch else ():
        assert code == 0, name
    for name, code in ends.items():  # an older checkpoint takes the place of a harmed one
        assert not name.startswith("checkpoint/") or code == 0, name


QUICK = [
    (flip_unseen, "model/model.safetensors", 6, "model.files.model.safetensors: "),
    (swap, "model/tokenizer.json", 6, "processor.files.tokenizer.json: "),
    (flip_unseen, "image", 6, "images/"),
    (touch, "image", 0, "resuming from"),
    (cut, "cache/part", 6, "has other bytes than were written"),
    (remove, "cache/part", 0, "pairs computed"),
    (link, "checkpoint/optimizer.pt", 0, "optimizer.pt is a link and was written as a file"),
    (flip, "checkpoint/COMPLETE.json", 0, "COMPLETE.json is damaged"),
]


@pytest.mark.parametrize(("harm", "name", "code", "words"), QUICK, ids=[f"{h.__name__} {n}" for h, n, *_ in QUICK])
def test_what_is_harmed_is_refused_by_name_or_does_not_count(
    died: tuple[There, Result],
    tmp_path: Path,
    said: Callable[[], str],
    harm: Callable[[Path], None],
    name: str,
    code: int,
    words: str,
) -> None:
    file = dict(files_of(died[0]))[name]
    ended, told = harmed(died, tmp_path, said, harm, file)
    assert (ended, words in told) == (code, True), told[-1500:]
