"""What the steps of a run work with: its recipe and processes, and what has been found out after each step."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from mmpref.files.hashes import Say
from mmpref.losses.objective import Objective
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir
from mmpref.rundir.train_log import TrainLog
from mmpref.training.loss_settings import SettledScore
from mmpref.training.parallel.world import World
from mmpref.training.run.callbacks import RunCallbacks
from mmpref.training.run.cost import Cost
from mmpref.training.run.data import RunData
from mmpref.training.run.images import RunImages
from mmpref.training.run.samples import Samples
from mmpref.training.run.setup import Setup
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.trainer import PreferenceTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """One run on one rank."""

    recipe: Recipe
    objective: Objective
    arguments: TrainingArguments
    world: World
    log: TrainLog
    say: Say
    """Prints a line, on rank 0 only; each is in ``train.log`` too."""
    callbacks: RunCallbacks
    resume: bool
    """Continue from the newest complete checkpoint."""
    allow_data_change: bool
    """Resume although data files, pairs or library versions are not those of the checkpoint."""
    begun: float = field(default_factory=time.monotonic)
    """When the run began, by ``time.monotonic()``."""

    @property
    def run(self) -> RunDir:
        """Its folder."""
        return RunDir(self.recipe.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A run whose data was read and whose checkpoint was chosen; its model is not loaded yet."""

    context: RunContext
    """Its recipe has the number that a quantile for ``loss.uni.tau_good`` gave."""
    score: SettledScore | None
    """Where that number comes from; None where the recipe gives the number itself."""
    data: RunData
    images: RunImages
    facts: Mapping[str, Any]
    """What must not change between a checkpoint and its resume, as far as it is known without the model."""
    checkpoint: Path | None
    """That training continues from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run whose model is loaded and whose trainer is built; the model has not learned yet."""

    prepared: PreparedRun
    setup: Setup
    trainer: PreferenceTrainer
    logger: JsonlLogger
    samples: Samples
    facts: Mapping[str, Any]
    """All of them, with the pairs that train and the files of a model from the hub."""
    loss_line: str
    groups_line: str | None
    """What ``train.group_pairs`` does to the order of its pairs; None where there is nothing to say."""
    cost: Cost
    """What it takes, for the manifest."""

    @property
    def context(self) -> RunContext:
        """That of the prepared run."""
        return self.prepared.context
