"""``samples.jsonl`` of a run: what the model answers to the same prompts in the course of its training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from mmpref.files.hashes import Say
from mmpref.files.writing import open_to_append, write_text, writing_to
from mmpref.losses.objective import Objective
from mmpref.models.reference_rule import choose, start_of
from mmpref.recipe.sections import Recipe
from mmpref.rundir.content import SAMPLES
from mmpref.rundir.locking import has_vanished
from mmpref.training.parallel.world import World
from mmpref.training.run.sample_answers import Line, PromptSampler, metrics_of
from mmpref.training.run.setup import Setup
from mmpref.training.trainer.metrics import InCheckpoint
from mmpref.training.trainer.trainer import PreferenceTrainer


class Samples(InCheckpoint):
    """Answers at every evaluation or every few steps, into a file whose lines are in every checkpoint.

    It is there in every run: one that is resumed without ``train.samples`` keeps the lines that it has.

    Args:
        recipe: of the run.
        objective: of its loss.
        setup: the model with its pairs and its reference.
        trainer: that trains it.
        say: called with a line for what is to be known before the first step, and one each time.

    Raises:
        ConfigError: no prompt can be answered.
    """

    def __init__(
        self, recipe: Recipe, objective: Objective, setup: Setup, trainer: PreferenceTrainer, say: Say
    ) -> None:
        self.path = recipe.output / SAMPLES
        self._settings = recipe.train.samples
        self._trainer, self._say = trainer, say
        self._lines: list[str] = []
        self._done: set[int] = set()
        self._sampler: PromptSampler | None = None
        if self._settings is not None:
            self._sampler = PromptSampler(self._settings, setup, trainer, say)
            if self._sampler.reference is None and (why := why_no_kl(recipe, objective)):
                say(why)

    # ---- when -------------------------------------------------------------------------------------------------

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._settings is not None and self._settings.steps is None:
            self.take()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        every = None if self._settings is None else self._settings.steps
        if every is not None and state.global_step % every == 0:
            self.take()

    def take(self) -> None:
        """Answer at the step that was reached, if that was not done yet; all ranks must call it together.

        Raises:
            MMPrefError: the model cannot answer, or the disk is full.
        """
        step = self._trainer.state.global_step
        if self._sampler is None or step in self._done:
            return
        self._trainer.nonfinite.settle()
        lines = self._sampler.answers(step)
        self._done.add(step)
        world = self._trainer.world
        with world.fail_together():
            if world.is_first:
                self._append([json.dumps(line, ensure_ascii=False) for line in lines])
        metrics = metrics_of(lines)
        self._say(_sentence(step, lines, metrics))
        self._trainer.log(metrics)

    # ---- the file ---------------------------------------------------------------------------------------------

    def copy_to(self, checkpoint: Path) -> None:
        """Put the lines so far into a checkpoint that is being written; none where nothing was answered."""
        if self._lines:
            write_text(checkpoint / SAMPLES, "".join(f"{line}\n" for line in self._lines))

    def begin_from(self, checkpoint: Path | None, world: World) -> None:
        """Keep exactly the lines that a run has which starts at a checkpoint; what came after it is answered again.

        All ranks must call it together.

        Args:
            checkpoint: where the run goes on from; None where everything is done again.
        """
        self._done = set(world.on_first_rank(lambda: self._begin_from(checkpoint)))

    def _begin_from(self, checkpoint: Path | None) -> list[int]:
        kept = None if checkpoint is None else checkpoint / SAMPLES
        there = kept is not None and kept.is_file()
        self._lines = kept.read_text(encoding="utf-8").splitlines() if kept is not None and there else []
        if self._lines or self.path.is_file():
            write_text(self.path, "".join(f"{line}\n" for line in self._lines))
        return [int(json.loads(line)["step"]) for line in self._lines]

    def _append(self, lines: Sequence[str]) -> None:
        self._lines += lines
        if not lines or has_vanished(self.path.parent):
            return  # the next save says so, and has the lines
        with writing_to(self.path), open_to_append(self.path) as stream:
            stream.write("".join(f"{line}\n" for line in lines))


def why_no_kl(recipe: Recipe, objective: Objective) -> str:
    """Why the KL of ``train.samples`` is not measured where no reference model is kept, and what to write; empty where
    none was asked for."""
    samples = recipe.train.samples
    if samples is None or not samples.kl:
        return ""
    kind = choose("auto", start_of(recipe)).kind
    if objective.needs_reference:
        why = (
            "reference.kind cache keeps log-probs of the pairs' own answers, and no model that others can be read with"
        )
    else:
        why = "the loss has no reference"
    write = f"reference.kind={kind}"
    if recipe.reference.cache is not None:
        write = f"'reference={{kind: {kind}, cache: null}}'"
    return (
        f"train.samples: the KL to the reference is not measured ({why}): write `{write}`; or write "
        "`train.samples.kl=0`"
    )


def _sentence(step: int, lines: Sequence[Line], metrics: dict[str, float]) -> str:
    prompts = len({line["id"] for line in lines})
    text = f"step {step}  samples: {prompts} prompts answered"
    if "samples/kl_k3" not in metrics:
        return text
    both = [
        f"{name} {metrics[f'samples/kl_{name}']:.3g}"
        + (f" ± {metrics[f'samples/kl_{name}_se']:.2g}" if f"samples/kl_{name}_se" in metrics else "")
        for name in ("k1", "k3")
    ]
    return f"{text}, KL to the reference {', '.join(both)} nats an answer ({metrics['samples/n']:.0f} drawn)"
