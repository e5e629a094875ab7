"""What this machine can do, and whether a recipe would start: ``mmpref doctor``.

Every fact is looked at by itself, so that one broken library is a line of the answer and not the end of it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmpref.errors import MMPrefError
from mmpref.files.writing import writing_to
from mmpref.recipe.sections import DataSection, Recipe, TrainSection
from mmpref.records import PreferencePair
from mmpref.version import __version__

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from mmpref.losses.objective import Objective
    from mmpref.processing.collate import PairCollator
    from mmpref.training.run.data import RunData

T = TypeVar("T")
S = TypeVar("S", TrainSection, DataSection)
_GIB = 2**30
_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "pillow", "bitsandbytes")
_TRIAL_SECONDS = 120
_MOST_FAULTS = 20


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the answer. ``ok`` is None where there is nothing good or bad about it."""

    name: str
    value: str
    ok: bool | None = None
    hint: str = ""


def machine() -> Iterator[Fact]:
    """What is installed and what the hardware offers; nothing is downloaded."""
    yield Fact("mmpref", f"{__version__} on Python {sys.version.split()[0]}")
    for name in _LIBRARIES:
        yield _library(name)
    for look in (_torchvision, _device, _memory, _four_bit, _attention, _disk, _hub):
        yield _safely(look)


def check_recipe(recipe: Recipe) -> Iterator[Fact]:
    """Everything that ``mmpref train`` would do before its first step, with every start-up check told.

    What does not depend on something that failed is looked at all the same, so that one answer names every obstacle.
    Nothing stays written, except in the reference cache of a recipe that asks for one.
    """
    from mmpref.rundir.claim import check_output, with_real_output
    from mmpref.training.loss_settings import loss_written_out, objective_of
    from mmpref.training.parallel.strategy import refuse_launch_contradictions
    from mmpref.training.precision import resolved
    from mmpref.training.run.setup import refuse_shrinking
    from mmpref.training.run.start_adapter import with_start_adapter
    from mmpref.training.trainer.arguments import training_arguments

    looks = _Looks()
    yield _safely(_disk, recipe.output)
    recipe = looks.at("model.dtype", lambda: resolved(recipe)) or recipe
    looks.at("the recipe's keys together", lambda: refuse_launch_contradictions(recipe))
    objective = looks.at("loss", lambda: objective_of(recipe))
    arguments = None
    if not looks.all("train", _train_faults(recipe)):
        arguments = looks.at("train", lambda: training_arguments(recipe))
    looks.at("output", lambda: check_output(recipe))
    looks.at("output", lambda: _refuse_place(with_real_output(recipe).output), unless="output")
    looks.at("model.path", lambda: _model(recipe))
    looks.at("processing", lambda: refuse_shrinking(recipe), unless="model.path")
    recipe = looks.at("adapter", lambda: with_start_adapter(loss_written_out(recipe)), unless="loss") or recipe
    data = None
    if objective is not None:
        data, faults = _data_faults(recipe, objective)
        looks.all("data", faults)
    yield from looks.failed
    if any(fact.name != "output" for fact in looks.failed) or objective is None or arguments is None or data is None:
        return
    try:
        yield from _start_up(recipe, arguments, data)
    except MMPrefError as err:
        yield Fact("start", str(err), False)


def _model(recipe: Recipe) -> None:
    """The model's files, config and processor, without its weights being read."""
    from mmpref.models.load import check_model, load_config, load_processor

    check_model(recipe.model.path)
    load_config(recipe.model.path)
    load_processor(recipe.model.path)


class _Looks:
    """What was looked at, and which of it failed."""

    def __init__(self) -> None:
        self.failed: list[Fact] = []

    def at(self, name: str, look: Callable[[], T], *, unless: str = "") -> T | None:
        """What ``look`` finds; None when it is refused, or what it rests on was."""
        if any(fact.name == unless for fact in self.failed):
            return None
        try:
            return look()
        except MMPrefError as err:
            self.failed.append(Fact(name, str(err), False))
            return None

    def all(self, name: str, faults: Sequence[str]) -> bool:
        """Note faults that were found elsewhere; whether there are some."""
        self.failed += [Fact(name, fault, False) for fault in faults]
        return bool(faults)


def _start_up(recipe: Recipe, arguments: TrainingArguments, data: RunData) -> Iterator[Fact]:
    from mmpref.training.loss_settings import line_of, objective_of, settle, with_score
    from mmpref.training.parallel.world import World
    from mmpref.training.run.setup import set_up
    from mmpref.training.trainer.preflight import run_checks

    told: list[str] = []
    score = settle(recipe, data.train, None, told.append)
    recipe = with_score(recipe, score)
    objective = objective_of(recipe)
    ready = set_up(recipe, objective, data, told.append, World(device=arguments.device))
    told.append(line_of(recipe, reference=getattr(ready.reference, "kind", None), settled=score))
    ready.loaded.model.to(arguments.device)
    yield from (Fact("recipe", line, True) for line in told)
    yield from _one_pair(ready.collator, ready.train.pairs)
    autocast = _autocast(recipe, str(arguments.device.type))
    checks = run_checks(
        ready.loaded.model,
        ready.collator,
        ready.train.pairs,
        ready.reference,
        device=arguments.device,
        autocast=autocast,
        args=arguments,
    )
    for check in checks:
        yield Fact(check.name, check.detail, check.passed, check.meaning)


def _one_pair(collator: PairCollator, pairs: Sequence[PreferencePair]) -> Iterator[Fact]:
    """One pair, if possible with images, as the model reads it."""
    from mmpref.processing.pair_text import CLOSE, OPEN, SPELT_CLOSE, SPELT_OPEN, shown

    pair = next((pair for pair in pairs if pair.images), pairs[0])
    chat = collator.encoder.chat
    encoded = collator.encoder.encode(pair, collator.load_image)
    for side, text in shown(encoded, chat.tokenizer, chat.image_token_id):
        lines = text.replace("\n", "\n          ")
        spelt = f"; between {SPELT_OPEN} and {SPELT_CLOSE}: letters, not the token" if SPELT_OPEN in text else ""
        yield Fact(f"{side} of '{pair.id}', learnt between {OPEN} and {CLOSE}{spelt}", f"\n          {lines}")


def _autocast(recipe: Recipe, device: str) -> Callable[[], AbstractContextManager[object]]:
    import torch

    from mmpref.training.precision import autocast_dtype

    half = autocast_dtype(recipe)
    return nullcontext if half is None else lambda: torch.autocast(device, half)


def _safely(look: Callable[..., Fact], *given: Path) -> Fact:
    name = look.__name__.strip("_").replace("_", " ")
    try:
        return look(*given)
    except Exception as err:  # a broken install can raise anything; that is the news
        return Fact(name, f"{type(err).__name__}: {err}"[:300], False)


def _library(name: str) -> Fact:
    floor = _floors().get(name)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name == "bitsandbytes":
            return Fact(
                name, "not installed", None, "needed for QLoRA and 8-bit optimizers: pip install 'mmpref[qlora]'"
            )
        return Fact(name, "not installed", False, f"pip install '{name}{floor or ''}'")
    from packaging.specifiers import SpecifierSet

    if floor and not SpecifierSet(floor).contains(version, prereleases=True):
        return Fact(name, version, False, f"mmpref needs {floor}: pip install -U '{name}{floor}'")
    return Fact(name, version, True)


def _floors() -> dict[str, str]:
    """What mmpref's own metadata asks for."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in importlib.metadata.requires("mmpref") or ()]
    return {req.name.lower(): str(req.specifier) for req in wanted if str(req.specifier)}


def _torchvision() -> Fact:
    if importlib.util.find_spec("torchvision") is None:
        return Fact("torchvision", "not installed, and not needed", True)
    trial = subprocess.run(
        [sys.executable, "-c", "import torchvision"],
        capture_output=True,
        text=True,
        timeout=_TRIAL_SECONDS,
        check=False,
    )
    if trial.returncode == 0:
        return Fact("torchvision", f"{importlib.metadata.version('torchvision')} (not needed)", True)
    reason = (trial.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return Fact(
        "torchvision", f"installed and broken: {reason}", False,
        "transformers cannot load models while it is there: pip uninstall torchvision, or install the build that "
        "belongs to this torch",
    )  # fmt: skip


def _device() -> Fact:
    import torch

    if not torch.cuda.is_available():
        build = "CUDA build without a usable GPU" if torch.version.cuda else "CPU build of torch"
        return Fact(
            "device", f"CPU, {torch.get_num_threads()} threads ({build})", None, "training real models needs a GPU"
        )
    found = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: use fp16"
        found.append(f"{card.name}, {card.total_memory / _GIB:.0f} GiB, compute {card.major}.{card.minor}, {bf16}")
    return Fact("device", "; ".join(found), True)


def _memory() -> Fact:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * size
    return Fact("memory", f"{pages * size / _GIB:.0f} GiB, {free / _GIB:.0f} GiB free")


def _four_bit() -> Fact:
    from mmpref.models.quantize import four_bit_trial

    if importlib.util.find_spec("bitsandbytes") is None:
        return Fact("4-bit layers", "bitsandbytes is not installed")
    return Fact("4-bit layers", four_bit_trial(), True)


def _attention() -> Fact:
    flash = importlib.util.find_spec("flash_attn") is not None
    return Fact("attention", "sdpa, eager" + (", flash_attention_2" if flash else " (flash-attn is not installed)"))


def _disk(output: Path | None = None) -> Fact:
    """Free space here, or where a run's folder would be made."""
    place = Path.cwd() if output is None else _nearest_folder(output)
    free = shutil.disk_usage(place).free / _GIB
    where = "here" if output is None else f"in {place}, where the output would be"
    return Fact("disk", f"{free:.0f} GiB free {where}", free > 5, "" if free > 5 else "checkpoints need room")


def _hub() -> Fact:
    from huggingface_hub import constants

    where = f"cache in {constants.HF_HUB_CACHE}"
    return Fact("hub", f"offline, {where}" if constants.HF_HUB_OFFLINE else where)


# --- every fault of one section ---------------------------------------------------------------------------------------
# The code that reads a section ends at its first fault. What made it is taken out, and the section is tried again: so
# every fault is told in the words in which mmpref train would tell it, and none that only stands in for another.


def _train_faults(recipe: Recipe) -> list[str]:
    """Everything that is refused in the ``train`` section."""
    from mmpref.training.trainer.arguments import training_arguments

    def look(section: TrainSection) -> None:
        training_arguments(recipe.model_copy(update={"train": section}))

    return _taken_out(recipe.train, look, _without_a_key)[0]


def _data_faults(recipe: Recipe, objective: Objective) -> tuple[RunData | None, list[str]]:
    """The data, and everything that is wrong with it: files and roots first, then the rows of every source.

    The data is None where something is.
    """
    from mmpref.data.images.loader import ImageLoader
    from mmpref.data.opening import recipe_sources
    from mmpref.data.quarantine import Quarantine
    from mmpref.training.run.data import load_data

    def load(section: DataSection) -> RunData:
        return load_data(recipe.model_copy(update={"data": section}), objective, Quarantine())

    written = [*recipe.data.train, *recipe.data.eval]
    common_root = any(isinstance(entry, str) or entry.root is None for entry in written)

    def look(section: DataSection) -> None:
        recipe_sources(section)
        if common_root:  # also where no source is left that would be read below it
            ImageLoader(section.root)

    faults, section = _taken_out(recipe.data, look, _without_a_source)
    if not faults:
        try:
            return load(section), []
        except MMPrefError as err:
            faults.append(str(err))
        parts = list(_alone(section)) if len(section.train) + len(section.eval) > 1 else []
    else:  # a root that is none says nothing of the rows below it
        parts = list(_alone(section)) if section.root == recipe.data.root else []
    for part in parts:
        try:
            load(part)
        except MMPrefError as err:
            faults.append(str(err))
    return None, list(dict.fromkeys(faults))


def _taken_out(
    section: S, look: Callable[[S], object], without: Callable[[S, str], Iterator[S]]
) -> tuple[list[str], S]:
    """Every fault that ``look`` raises, and the section without what made them.

    Args:
        without: the section with one thing less, for every thing that can be left out, likely ones first.
    """
    faults: list[str] = []
    fault = _fault(section, look)
    while fault is not None and len(faults) < _MOST_FAULTS:
        faults.append(fault)
        for changed in without(section, fault):
            if (after := _fault(changed, look)) != fault:
                section, fault = changed, after
                break
        else:  # nothing alone makes it
            return faults, section
    return list(dict.fromkeys(faults)), section


def _fault(section: S, look: Callable[[S], object]) -> str | None:
    try:
        look(section)
    except MMPrefError as err:
        return str(err)
    return None


def _without_a_key(section: TrainSection, fault: str) -> Iterator[TrainSection]:
    """A key at its default, those first that the fault names; of lists one entry first."""
    fields = type(section).model_fields
    given = {name: getattr(section, name) for name in fields}
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    changed = [name for name, value in given.items() if value != defaults[name]]
    for name in sorted(changed, key=lambda name: name not in fault):
        if isinstance(value := given[name], list) and len(value) > 1:
            yield from (section.model_copy(update={name: _less(value, place)}) for place in range(len(value)))
        yield section.model_copy(update={name: defaults[name]})


def _without_a_source(section: DataSection, fault: str) -> Iterator[DataSection]:
    """A source less, or another root, those first that the fault names; where a root is no folder, one that is there
    stands in its place."""
    found = []
    for key in ("train", "eval"):
        entries = getattr(section, key)
        for place, entry in enumerate(entries):
            path = entry if isinstance(entry, str) else entry.path
            found.append((path not in fault, section.model_copy(update={key: _less(entries, place)})))
    if section.root is not None:
        found.append((str(section.root) not in fault, section.model_copy(update={"root": Path.cwd()})))
    yield from (changed for _, changed in sorted(found, key=lambda entry: entry[0]))


def _alone(section: DataSection) -> Iterator[DataSection]:
    """Every source by itself, as one to train on; of those for evaluation every row must be in order."""
    alone: dict[str, Any] = {"eval": [], "held_out": 0.0, "manifest": None}
    for entry in section.train:
        yield section.model_copy(update={**alone, "train": [entry]})
    for entry in section.eval:
        yield section.model_copy(update={**alone, "train": [entry], "max_bad_fraction": 0.0})


def _less(entries: list[Any], place: int) -> list[Any]:
    return [*entries[:place], *entries[place + 1 :]]


def _nearest_folder(path: Path) -> Path:
    """The folder of a path that is there: itself, or the nearest one above it."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def _refuse_place(output: Path) -> None:
    """Make the folders of a run, and a file in them, beside where they would be, and take them away again.

    Raises:
        CheckpointError: that cannot be done.
    """
    place = _nearest_folder(output)
    with writing_to(output):
        trial = Path(tempfile.mkdtemp(prefix=".mmpref-", dir=place))
        try:
            folder = trial / output.absolute().relative_to(place.absolute())
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "trial").write_bytes(b"0" * 4096)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
