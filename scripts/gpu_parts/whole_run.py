"""A training run as ``mmpref train`` makes it, start-up checks and all, with its peaks and times."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from gpu_parts.clock import context_bytes
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir
from mmpref.training.run.callbacks import RunCallbacks
from mmpref.training.run.run import train
from mmpref.training.trainer.trainer import PreferenceTrainer

AtEnd = Callable[["WholeRun", PreferenceTrainer], None]


@dataclass(kw_only=True)
class WholeRun:
    """What was seen of a run. Bytes are zeros on a CPU.

    Attributes:
        checks: start-up checks that passed.
        load_seconds: reading the data and the model, quantising it on the way.
        start_seconds: all before the first update.
        step_ends: when each update was over, in seconds from the start.
        pairs_per_update: the recipe's.
        start_peak: bytes handed out at most until the first update.
        peak: in all.
        reserved: that the allocator held at most.
        context: the card's bytes that are no allocator's, at the end.
        folder: the run folder.
    """

    recipe: Recipe
    checks: int = 0
    load_seconds: float = 0.0
    start_seconds: float = 0.0
    step_ends: list[float] = field(default_factory=list)
    start_peak: int = 0
    peak: int = 0
    reserved: int = 0
    context: int = 0
    folder: RunDir | None = None

    @property
    def pairs_per_update(self) -> int:
        train = self.recipe.train
        return train.per_device_train_batch_size * train.gradient_accumulation_steps

    @property
    def pairs_per_hour(self) -> float | None:
        """Over all updates but the first, loading of data included; None for fewer than two."""
        if len(self.step_ends) < 2:
            return None
        seconds = self.step_ends[-1] - self.step_ends[0]
        return 3600 * self.pairs_per_update * (len(self.step_ends) - 1) / seconds

    def memory(self) -> dict[str, float]:
        """Its figures in GiB; nothing where nothing was measured."""
        if not self.peak:
            return {}
        named = {"peak": self.peak, "start": self.start_peak, "reserved": self.reserved, "context": self.context}
        return {f"{name}_gib": round(count / 2**30, 3) for name, count in named.items()}


def whole_run(recipe: Recipe, *, at_end: AtEnd | None = None) -> WholeRun:
    """Train a recipe from beginning to end.

    Args:
        at_end: called when training is over and model and optimizer are still there; what it does is not in the peaks.
    """
    found = WholeRun(recipe=recipe)
    on_cuda = torch.cuda.is_available() and not recipe.train.use_cpu
    began = time.monotonic()
    watch = _Watch(found, on_cuda, began, at_end)

    def say(line: str) -> None:
        if line.startswith("precision: "):  # the first line about the model when it is there
            found.load_seconds = time.monotonic() - began
        found.checks += line.startswith("check: ") and "FAILED" not in line and "skipped" not in line

    def stepped(_step: int, _steps: int, _numbers: Mapping[str, float]) -> None:
        if on_cuda:
            torch.cuda.synchronize()  # the host may be an update ahead
        found.step_ends.append(time.monotonic() - began)

    def with_watch(trainer: PreferenceTrainer) -> None:
        watch.trainer = trainer
        trainer.add_callback(watch)

    disable_progress_bar()  # of loading weights: a row a line is what the terminal shows
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    callbacks = RunCallbacks(say=say, progress=stepped, on_trainer=with_watch)
    found.folder = train(recipe, overwrite=recipe.output.exists(), callbacks=callbacks)
    watch.trainer = None
    if on_cuda and at_end is None:  # writing the model
        watch.note_peaks()
    return found


class _Watch(TrainerCallback):
    def __init__(self, found: WholeRun, on_cuda: bool, began: float, at_end: AtEnd | None) -> None:
        self._found, self._on_cuda, self._began, self._at_end = found, on_cuda, began, at_end
        self.trainer: PreferenceTrainer | None = None

    def note_peaks(self) -> None:
        found = self._found
        torch.cuda.synchronize()
        found.peak = max(found.peak, torch.cuda.max_memory_allocated())
        found.reserved = max(found.reserved, torch.cuda.max_memory_reserved())
        found.context = max(found.context, context_bytes())

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._found.start_seconds = time.monotonic() - self._began
        if self._on_cuda:
            self.note_peaks()
            self._found.start_peak = self._found.peak
            torch.cuda.reset_peak_memory_stats()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._on_cuda:
            self.note_peaks()
        if self._at_end is not None:
            assert self.trainer is not None
            self._at_end(self._found, self.trainer)
