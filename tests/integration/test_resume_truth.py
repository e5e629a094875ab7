"""Whatever is done to a run folder or to what the run reads, a resume ends with the bits of an undisturbed run, or is
refused in one line."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.demo.world import WorldFiles
from mmpref.generation.fingerprint import of_model
from mmpref.rundir.content import COMPLETE
from mmpref.rundir.folder import RunDir
from mmpref.training.run import images as run_images
from mmpref.training.run.images import LIST, RunImages
from mmpref.training.trainer.checkpoint import seal, sealed_in
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.tiers import corners

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

    def image(self, number: int) -> Path:
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


def lengthen(file: Path) -> None:
    """By a byte that most readers do not mind."""
    with file.open("ab") as stream:
        stream.write(b"\n")


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


HARMS = (flip, flip_unseen, cut, lengthen, empty, remove, rename, swap, link, as_folder, touch)


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
        assert not (there.run / "model").exists()
    return code, told


def files_of(there: There) -> Iterator[tuple[str, Path]]:
    """One name for each kind of file that a resume depends on, and the file."""
    for file in sorted(there.newest.iterdir()):
        yield f"checkpoint/{file.name}", file
    for file in sorted((there.root / "model").iterdir()):
        yield f"model/{file.name}", file
    for file in sorted(there.cache.iterdir()):
        yield f"cache/{'part' if file.name.startswith('part') else file.name}", file
    yield "image", there.image(7)
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
    (lengthen, "model/tokenizer.json", 6, "processor.files.tokenizer.json: "),
    (swap, "image", 6, "data.images: images/"),
    (touch, "image", 0, "resuming from"),
    (cut, "cache/part", 6, "has other bytes than were written"),
    (remove, "cache/part", 0, "pairs computed"),
    (link, "checkpoint/optimizer.pt", 0, "optimizer.pt is a link and was written as a file"),
    (flip, "checkpoint/COMPLETE.json", 0, "COMPLETE.json is damaged"),
]


@pytest.mark.parametrize(
    ("harm", "name", "code", "words"),
    corners(QUICK, flip_unseen, swap, remove, link),
    ids=[f"{h.__name__} {n}" for h, n, *_ in QUICK],
)
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


# ---- what is refused, all at once, and what to do about it -----------------------------------------------------------


@pytest.fixture
def here(died: tuple[There, Result], tmp_path: Path) -> There:
    return died[0].copy(tmp_path / "there")


def test_everything_that_differs_is_told_at_once_and_each_advice_helps(
    died: tuple[There, Result], here: There, said: Callable[[], str]
) -> None:
    whole = died[1]
    kept = here.copy(here.root.with_name("kept"))
    config, image = here.root / "model" / "config.json", here.image(3)
    config.write_text(config.read_text() + "\n")
    shutil.copyfile(here.image(11), image)
    held_out = WorldFiles.under(here.root / "world").pairs_heldout
    held_out.write_text("".join(held_out.read_text().splitlines(keepends=True)[:-1]))
    changed = ("train.learning_rate=2e-3", "seed=3", "loss.beta=0.3")
    code, told = ends_well_or_is_refused(here, whole, said, *changed)
    assert code == 6
    for words in (
        "train.learning_rate: 0.001 then, 0.002 now", "seed: 0 then, 3 now", "loss.beta: 0.1 then, 0.3 now",
        "model.files.config.json: ", "data.eval: [", "data.images: images/",
        "-> put the earlier model back", "-> put the earlier images back",
        "-> put the earlier files back where data.eval",
    ):  # fmt: skip
        assert words in told, words
    command = next(words for words in told.split("`") if words.startswith("mmpref train "))
    # each advice carried out: what was put right is not named any more
    shutil.copy2(kept.root / "model" / "config.json", config)
    code, told = ends_well_or_is_refused(here, whole, said, *changed)
    assert (code, "model.files" in told, "data.images" in told) == (6, False, True)
    shutil.copy2(kept.image(3), image)
    shutil.copy2(WorldFiles.under(kept.root / "world").pairs_heldout, held_out)
    code, told = ends_well_or_is_refused(here, whole, said, *changed)
    assert (code, "data.images" in told, "data.eval" in told, "seed: " in told) == (6, False, False, True)
    assert main(shlex.split(command)[1:]) == 0
    assert Result.of(here.run).is_that_of(whole)


def test_a_checkpoint_of_another_run_is_refused_and_the_advice_helps(
    died: tuple[There, Result], here: There, said: Callable[[], str]
) -> None:
    other = RunDir(here.root / "other")
    shutil.copytree(here.run, other.path)
    manifest = json.loads((here.run / "manifest.json").read_text())
    (here.run / "manifest.json").write_text(json.dumps({**manifest, "run": "f" * 32}))
    code, told = ends_well_or_is_refused(here, died[1], said)
    assert code == 6
    assert f"run: {manifest['run'][:12]} then, ffffffffffff now (another run wrote it)" in told
    assert f"delete {here.newest}, or move it away" in told
    for folder in (here.run / "checkpoints").iterdir():
        shutil.rmtree(folder)
    assert ends_well_or_is_refused(here, died[1], said)[0] == 0


def resealed(folder: Path, change: Callable[[dict], dict], *, old: bool = False) -> None:
    """The checkpoint as if its run had noted other facts; ``old``: as an earlier version wrote it."""
    sealed = sealed_in(folder)
    seal(folder, change(dict(sealed.facts)), step=sealed.step)
    if old:
        content = json.loads((folder / COMPLETE).read_text())
        (folder / COMPLETE).write_text(json.dumps({"files": content["files"], "facts": content["facts"]}))


def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_line_until_allowed(
    died: tuple[There, Result], here: There, said: Callable[[], str]
) -> None:
    def earlier(facts: dict) -> dict:
        new = ("processor.files.", "model.files.", "data.images", "data.eval", "run")
        return {**{k: v for k, v in facts.items() if not k.startswith(new)}, "model.files.config.json": "of the ends"}

    (here.newest / LIST).unlink()
    resealed(here.newest, earlier, old=True)
    code, told = ends_well_or_is_refused(here, died[1], said)
    assert code == 6
    assert "is of an earlier version of mmpref, which noted no hash of the whole model, processor and images" in told
    assert "model.files.config.json" not in told
    assert "if they are unchanged, --allow-data-change" in told
    assert ends_well_or_is_refused(here, died[1], said, "train.learning_rate=1")[0] == 6  # what it says counts
    assert ends_well_or_is_refused(here, died[1], said, "--allow-data-change")[0] == 0


def test_images_whose_bytes_were_not_read_go_by_their_times_and_a_copy_that_keeps_them_is_the_same(
    died: tuple[There, Result], here: There, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_images, "HASHED_BELOW", 0)  # as of a data set of some GB
    known = RunImages.read(here.newest / LIST)
    unread = RunImages({name: replace(one, sha256="") for name, one in known.files.items()})
    unread.write(here.newest / LIST)
    resealed(here.newest, lambda facts: {**facts, "data.images": unread.fact()})
    kept = here.copy(here.root.with_name("kept"))
    touch(here.image(3))
    code, told = ends_well_or_is_refused(here, died[1], said)
    assert code == 6
    assert "same size and another time of change" in told
    assert "whether the bytes are the same is not known" in told
    assert "`cp -a`, `rsync -a`, `tar`" in told
    # a copy that keeps times, elsewhere; and what was allowed goes on to the same end, as the bytes are the same
    moved = here.root / "moved"
    subprocess.run(["cp", "-a", str(kept.root / "world"), str(moved)], check=True)
    assert main([*kept.command(f"data.root={moved}"), "--resume"]) == 0
    assert Result.of(kept.run).is_that_of(died[1])
    assert ends_well_or_is_refused(here, died[1], said, "--allow-data-change")[0] == 0


def test_another_folder_of_images_with_the_same_names_is_refused_and_the_cache_takes_none_for_another(
    died: tuple[There, Result], here: There, said: Callable[[], str]
) -> None:
    others = here.root / "others"
    shutil.copytree(here.root / "world", others)
    name = json.loads(here.pairs.read_text().splitlines()[3])["images"][0]
    shutil.copyfile(here.image(11), others / name)
    shown = sum(name in json.loads(line)["images"] for line in here.pairs.read_text().splitlines())
    code, told = ends_well_or_is_refused(here, died[1], said, f"data.root={others}")
    assert code == 6
    assert f"data.images: {name} of 60 is not the earlier file ({name}: " in told
    assert "or set data.root to where they are" in told
    assert main([*here.command(f"data.root={others}"), "--resume", "--allow-data-change"]) == 0
    computed = re.search(r"reference cache: (\d+) answers of \d+ pairs computed", said())
    assert computed is not None
    assert int(computed[1]) == 2 * shown  # both answers of each pair with that image, and no other
    whole, changed = died[1].pairs, Result.of(here.run).pairs
    assert changed["pair_id"] == whole["pair_id"]  # in the order that it was


@pytest.mark.parametrize("lines", [
    b"", b'{"step": 9, "loss": 1.0}\n', b'{"step": 1, "loss": 7}\n{"step": 4, "lo',
    b"\xff\xfe not a line \n\n[3]\nnull",
])  # fmt: skip
def test_whatever_stands_in_the_lines_of_the_run_each_is_there_once(tmp_path: Path, lines: bytes) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    (tmp_path / "step-2").mkdir()
    kept = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
    (tmp_path / "step-2" / "metrics.jsonl").write_text(kept)
    (tmp_path / "metrics.jsonl").write_bytes(lines)
    logger.begin_from(tmp_path / "step-2", 2)
    assert (tmp_path / "metrics.jsonl").read_text() == kept
    logger.begin_from(None, -1)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


# ---- a model from the hub --------------------------------------------------------------------------------------------


def test_a_hub_model_counts_by_its_files_and_another_revision_is_refused(
    here: There, place: Place, tmp_path: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    repo = cache / "models--org--tiny"

    def revision(name: str) -> Path:
        """A snapshot as the hub's client makes it: links to blobs."""
        (repo / "blobs").mkdir(parents=True, exist_ok=True)
        (repo / "snapshots" / name).mkdir(parents=True)
        for file in place.model.iterdir():
            blob = repo / "blobs" / f"{name}-{file.name}"
            shutil.copy2(file, blob)
            (repo / "snapshots" / name / file.name).symlink_to(blob)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / "main").write_text(name)
        return repo / "snapshots" / name

    first = revision("a" * 40)
    short = ("model.path=org/tiny", "train.max_steps=2", "train.save_steps=1", "reference.kind=auto", "data.eval=[]")
    run = here.root / "hub"
    command = [*There(here.root).command(*short), f"output={run}"]
    assert main(command) == 0
    RunDir(run).set_state("stopped")
    shutil.rmtree(run / "checkpoints" / "step-2")
    (first / "consolidated.safetensors").write_bytes(b"brought by another program")
    assert main([*command, "--resume"]) == 0
    RunDir(run).set_state("stopped")
    shutil.rmtree(run / "checkpoints" / "step-2", ignore_errors=True)
    flip(repo / "blobs" / f"{revision('b' * 40).name}-model.safetensors")
    said()
    assert main([*command, "--resume"]) == 6
    assert "model.files.model.safetensors: " in said()
    assert of_model("org/tiny") == f"revision {'b' * 40}"
    assert of_model("org/nothing") == ""
