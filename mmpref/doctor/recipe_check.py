"""Whether a recipe would start: everything that ``mmpref train`` does before its first step.

What does not depend on something that failed is checked all the same, so that one run of it names every obstacle.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import torch
from transformers import TrainingArguments

from mmpref.doctor.machine import Fact, disk, fact_or_error, nearest_folder
from mmpref.doctor.needs import unmet
from mmpref.doctor.section_faults import data_faults, train_faults
from mmpref.errors import MMPrefError
from mmpref.files.writing import writing_to
from mmpref.models.load import check_model, load_config, load_processor
from mmpref.processing.collate import PairCollator
from mmpref.processing.pair_text import CLOSE, OPEN, SPELT_CLOSE, SPELT_OPEN, shown
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.claim import check_output, with_real_output
from mmpref.training.loss_settings import line_of, loss_written_out, objective_of, settle, with_score
from mmpref.training.parallel.strategy import refuse_launch_contradictions
from mmpref.training.parallel.world import World
from mmpref.training.precision import autocast_dtype, resolved
from mmpref.training.run.data import RunData
from mmpref.training.run.setup import refuse_shrinking, set_up
from mmpref.training.run.start_adapter import with_start_adapter
from mmpref.training.trainer.arguments import training_arguments
from mmpref.training.trainer.preflight import run_checks

T = TypeVar("T")


def check_recipe(recipe: Recipe) -> Iterator[Fact]:
    """Every obstacle to a start; if there is none, what ``mmpref train`` prints before its first step and every check.

    Nothing stays written, except in the reference cache of a recipe that asks for one.
    """
    checks = _Checks()
    yield fact_or_error(disk, recipe.output)
    checks.all("installation", list(unmet(recipe)))
    recipe = checks.at("model.dtype", lambda: resolved(recipe)) or recipe
    checks.at("the recipe's keys together", lambda: refuse_launch_contradictions(recipe))
    objective = checks.at("loss", lambda: objective_of(recipe))
    arguments = None
    if not checks.all("train", train_faults(recipe)):
        arguments = checks.at("train", lambda: training_arguments(recipe))
    checks.at("output", lambda: check_output(recipe))
    checks.at("output", lambda: _refuse_place(with_real_output(recipe).output), unless="output")
    checks.at("model.path", lambda: _model(recipe))
    checks.at("processing", lambda: refuse_shrinking(recipe), unless="model.path")
    recipe = checks.at("adapter", lambda: with_start_adapter(loss_written_out(recipe)), unless="loss") or recipe
    data = None
    if objective is not None:
        data, faults = data_faults(recipe, objective)
        checks.all("data", faults)
    yield from checks.failed
    if any(fact.name != "output" for fact in checks.failed) or objective is None or arguments is None or data is None:
        return
    try:
        yield from _start_up(recipe, arguments, data)
    except MMPrefError as err:
        yield Fact("start", str(err), False)


def _model(recipe: Recipe) -> None:
    """The model's files, config and processor, without its weights being read."""
    check_model(recipe.model.path)
    load_config(recipe.model.path)
    load_processor(recipe.model.path)


class _Checks:
    """Collects the checks that failed."""

    def __init__(self) -> None:
        self.failed: list[Fact] = []

    def at(self, name: str, look: Callable[[], T], *, unless: str = "") -> T | None:
        """What ``look`` returns; None if it raises, or if the check named ``unless`` failed before."""
        if any(fact.name == unless for fact in self.failed):
            return None
        try:
            return look()
        except MMPrefError as err:
            self.failed.append(Fact(name, str(err), False))
            return None

    def all(self, name: str, faults: Sequence[str]) -> bool:
        """Add faults that were found elsewhere; returns whether there are any."""
        self.failed += [Fact(name, fault, False) for fault in faults]
        return bool(faults)


def _start_up(recipe: Recipe, arguments: TrainingArguments, data: RunData) -> Iterator[Fact]:
    lines: list[str] = []
    score = settle(recipe, data.train, None, lines.append)
    recipe = with_score(recipe, score)
    objective = objective_of(recipe)
    ready = set_up(recipe, objective, data, lines.append, World(device=arguments.device))
    lines.append(line_of(recipe, reference=getattr(ready.reference, "kind", None), settled=score))
    ready.loaded.model.to(arguments.device)
    yield from (Fact("recipe", line, True) for line in lines)
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
    """One pair, if possible with images or videos, as the model reads it."""
    pair = next((pair for pair in pairs if pair.images or pair.videos), pairs[0])
    chat = collator.encoder.chat
    encoded = collator.encoder.encode(pair, collator.load_image, collator.load_video)
    for side, text in shown(encoded, chat.tokenizer, chat.image_token_id, chat.video_token_id):
        lines = text.replace("\n", "\n          ")
        spelt = f"; between {SPELT_OPEN} and {SPELT_CLOSE}: letters, not the token" if SPELT_OPEN in text else ""
        yield Fact(f"{side} of '{pair.id}', learnt between {OPEN} and {CLOSE}{spelt}", f"\n          {lines}")


def _autocast(recipe: Recipe, device: str) -> Callable[[], AbstractContextManager[object]]:
    half = autocast_dtype(recipe)
    return nullcontext if half is None else lambda: torch.autocast(device, half)


def _refuse_place(output: Path) -> None:
    """Refuse an output that cannot be written, by creating its folders and a file beside their place and deleting them.

    Raises:
        CheckpointError: with the reason.
    """
    place = nearest_folder(output)
    with writing_to(output):
        trial = Path(tempfile.mkdtemp(prefix=".mmpref-", dir=place))
        try:
            folder = trial / output.absolute().relative_to(place.absolute())
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "trial").write_bytes(b"0" * 4096)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
