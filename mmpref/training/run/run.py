"""From a recipe to a finished run folder: what ``mmpref train`` does, step by step.

Everything that can be refused is refused before the model is loaded, and nothing is left in ``model/`` unless the run
came to its end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mmpref.data.quarantine import Quarantine
from mmpref.errors import CheckpointError, StoppedError, Terminated
from mmpref.losses.objective import Objective
from mmpref.models.load import check_model
from mmpref.models.part_counts import as_facts
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.claim import Claim, check_output, claim_output, with_real_output
from mmpref.rundir.content import MODEL_FILES, files_of_model
from mmpref.rundir.folder import RunDir, State
from mmpref.rundir.locking import has_vanished
from mmpref.rundir.train_log import LossLines, TrainLog
from mmpref.rundir.vanished import VanishedError
from mmpref.training.loss_settings import (
    SettledScore,
    facts_for_manifest,
    line_of,
    loss_written_out,
    objective_of,
    settle,
    with_score,
)
from mmpref.training.parallel.run_lock import one_training_in
from mmpref.training.parallel.strategy import (
    refuse_launch_contradictions,
    refuse_other_than_asked,
    refuse_what_cannot_shard,
    restarted,
)
from mmpref.training.parallel.world import World, meet_on_cpu
from mmpref.training.precision import describe, describe_saved, resolved
from mmpref.training.run.data import RunData, load_data
from mmpref.training.run.first_step import FirstStep
from mmpref.training.run.images import ImageListKept, RunImages
from mmpref.training.run.lost_rows import kept_when_rows_are_lost
from mmpref.training.run.resume import (
    Say,
    check_pairs,
    choose_checkpoint,
    facts_at_start,
    files_in,
    late_facts,
    pairs_fact,
    step_of,
)
from mmpref.training.run.setup import Setup, set_up, smaller_weights
from mmpref.training.run.start_adapter import with_start_adapter
from mmpref.training.run.trackers import make_folder, tracked_in
from mmpref.training.trainer.alarms import Alarms
from mmpref.training.trainer.arguments import refused_by_transformers, rehearse, training_arguments
from mmpref.training.trainer.checkpoint import newest_complete
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.signals import defer_signals, terminating
from mmpref.training.trainer.trainer import PreferenceTrainer
from mmpref.training.trainer.update_watch import explain_oom

ProgressHook = Callable[[int, int, Mapping[str, float]], None]
TrainerHook = Callable[[PreferenceTrainer], None]


class Begin(Protocol):
    """Makes the run folder, or writes into one that was made what has been found out since."""

    def __call__(self, recipe: Recipe = ..., facts: Mapping[str, Any] | None = None) -> RunDir: ...


def train(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_data_change: bool = False,
    progress: ProgressHook | None = None,
    say: Say | None = None,
    losses: Say | None = None,
    on_trainer: TrainerHook | None = None,
) -> RunDir:
    """Run one recipe to its end.

    Args:
        recipe: what to do.
        overwrite: replace a run that is in the output folder.
        resume: go on from the newest complete checkpoint in the output folder.
        allow_data_change: resume although data files, pairs or library versions are not those of the checkpoint; other
            pairs come in a new order.
        progress: called after every step with (steps done, steps in all, last logged numbers).
        say: called with one line per event worth telling. Each is in ``train.log`` of the run folder too.
        losses: called with one line per ``logging_steps``, for where nobody sees ``progress``.
        on_trainer: called with the trainer before the start-up checks; callbacks of one's own may be added to it.

    Returns:
        The run folder, in state ``complete``, with the trained model in ``model/``.

    Raises:
        MMPrefError: anything refused or failed, with what to do; the manifest then says ``failed`` or ``stopped``.
    """
    if restarted():
        overwrite, resume = False, True
    recipe = resolved(with_real_output(recipe))
    refuse_launch_contradictions(recipe)
    objective, recipe = objective_of(recipe), loss_written_out(recipe)
    if recipe.train.use_cpu or not torch.cuda.is_available():
        wait = recipe.train.extra.get("ddp_timeout", 1800)
        meet_on_cpu(wait if isinstance(wait, int) else 1800)  # what is no number is refused below
    arguments = training_arguments(recipe)  # from here on the processes of a run know of each other
    world = World.of(arguments)
    if say is None or not world.is_first:
        say = _silent
    run = RunDir(recipe.output)
    log = TrainLog(is_first=world.is_first, rank=world.rank)
    with world.propagate_failures(), tracked_in(arguments.report_to, run.logs), log:
        say = log.saying(say)
        recipe = with_start_adapter(recipe)
        check_model(recipe.model.path)
        refuse_other_than_asked(world.strategy, world.size)
        refuse_what_cannot_shard(recipe, world.strategy)
        _use_one_gpu(arguments, say)
        world.first_does(lambda: check_output(recipe, overwrite=overwrite, resume=resume))  # a refusal leaves no trace
        with one_training_in(recipe.output, world, say) as alone:
            claim = world.first_does(lambda: claim_output(recipe, overwrite=overwrite, resume=resume, alone=alone))
            if claim.note:
                say(claim.note)
            return _claimed(
                recipe, claim, world, objective, arguments, resume, allow_data_change, progress, say,
                losses, log, on_trainer,
            )  # fmt: skip


def _claimed(
    recipe: Recipe,
    claim: Claim,
    world: World,
    objective: Objective,
    arguments: TrainingArguments,
    resume: bool,
    allow_data_change: bool,
    progress: ProgressHook | None,
    say: Say,
    losses: Say | None,
    log: TrainLog,
    on_trainer: TrainerHook | None,
) -> RunDir:
    with terminating(), _state_kept(claim, world, log) as begin:
        if not (claim.replaces or claim.continues):
            begin()  # an earlier run is touched only when everything was found in order
        # an earlier run keeps its own list until this one begins
        quarantine = Quarantine(None if claim.replaces or claim.continues else claim.run.quarantine_file)
        data = load_data(recipe, objective, quarantine, world=world, say=say)
        world.same_everywhere("training files", (data.train_hashes, len(data.train), len(data.eval)))
        quarantine.path = claim.run.quarantine_file
        goes_on = claim.run if claim.continues else None
        score = world.first_does(lambda: settle(recipe, data.train, goes_on, say))
        told = recipe if score is None else with_score(recipe, score)
        objective = objective_of(told)
        held_out = [f"held_out={recipe.data.held_out:g}"] if recipe.data.held_out else []
        images, facts = world.first_does(lambda: facts_at_start(told, data, held_out, claim.facts, world.size, say))
        run, checkpoint = claim.run, None
        if resume:
            checkpoint = world.first_does(
                lambda: choose_checkpoint(run, facts, allow_data_change=allow_data_change, say=say, images=images)
            )

        def with_pairs(pairs: Sequence[PreferencePair]) -> dict[str, Any]:
            fact = pairs_fact(pairs)
            world.same_everywhere("pairs that train", fact)
            known = {**facts, **fact, **world.first_does(lambda: late_facts(told, say))}
            if checkpoint is not None:
                start = checkpoint
                world.first_does(lambda: check_pairs(start, known, allow_data_change=allow_data_change, say=say))
            return known

        return _train(
            told, score, begin, world, objective, arguments, data, images, with_pairs, checkpoint, progress, say,
            losses, log, on_trainer,
        )  # fmt: skip


@contextmanager
def _state_kept(claim: Claim, world: World, log: TrainLog) -> Iterator[Begin]:
    """Gives the function that begins the run; from then on the manifest says how it ended, whatever happens."""
    begun: list[RunDir] = []

    def begin(recipe: Recipe = claim.recipe, facts: Mapping[str, Any] | None = None) -> RunDir:
        told = replace(claim, recipe=recipe, facts={**claim.facts, **(facts or {})})
        with defer_signals():  # a signal between the manifest and the note that it is there would leave it at "running"
            if not begun:
                begun.append(world.first_does(told.create))
                log.start(begun[0].log_file)
            elif facts is not None:
                world.first_does(told.update)
        return begun[0]

    def end(state: State, **facts: Any) -> None:
        # a disk too full for the manifest: the error on its way says more
        with defer_signals(discard=True), suppress(CheckpointError):
            for run in begun if world.is_first and not has_vanished(claim.recipe.output) else []:
                run.set_state(state, **facts)

    try:
        yield begin
    except (KeyboardInterrupt, StoppedError):
        end("stopped")
        raise
    except Terminated as stop:
        end("stopped")
        name = signal.Signals(stop.number).name
        message = f"stopped by {name} outside the training steps (run folder {claim.run.path}); go on with --resume"
        raise StoppedError(message, stop.number) from None
    except BaseException as err:
        end("failed", error=f"{type(err).__name__}: {err}")
        raise


def _train(
    recipe: Recipe,
    score: SettledScore | None,
    begin: Begin,
    world: World,
    objective: Objective,
    arguments: TrainingArguments,
    data: RunData,
    images: RunImages,
    facts_with: Callable[[Sequence[PreferencePair]], dict[str, Any]],
    checkpoint: Path | None,
    progress: ProgressHook | None,
    say: Say,
    losses: Say | None,
    log: TrainLog,
    on_trainer: TrainerHook | None,
) -> RunDir:
    ready = set_up(recipe, objective, data, arguments.device, say, world)
    facts = facts_with(ready.train.pairs)  # which of them the model can take is known by now
    line = line_of(recipe, reference=getattr(ready.reference, "kind", None), settled=score)
    say(line)
    logger = JsonlLogger(RunDir(recipe.output).metrics_file)
    moving = f"moving {recipe.model.path} to {arguments.device}"
    with explain_oom(lambda: moving, lambda: smaller_weights(recipe)), refused_by_transformers():
        trainer = PreferenceTrainer(
            ready.loaded.model,
            arguments,
            objective=objective,
            collator=ready.collator,
            train_pairs=ready.train.pairs,
            eval_pairs=ready.eval.pairs,
            reference=ready.reference,
            callbacks=[logger, ImageListKept(images), _ProgressCallback(progress if world.is_first else None)],
            checkpoint_facts=facts,
            learning_rates=recipe.train.learning_rates.model_dump(exclude_none=True),
            skip_nonfinite_steps=recipe.train.skip_nonfinite_steps,
            fault_folder=recipe.output / "faults",
            costs=[float(fit.work) for fit in ready.train.fits],
        )

    def event(step: int, name: str, message: str) -> None:
        logger.event(step, name, message)
        say(f"step {step}: {message}")

    trainer.is_alone = True  # it is in a run folder that this run holds
    trainer.run_folder = recipe.output
    if world.is_first:
        trainer.add_callback(Alarms(trainer.pair_log, event))
    lines = log.line if losses is None else log.saying(losses)
    trainer.add_callback(LossLines(lines, lambda: trainer.pairs_done))
    trainer.remove_callback(PrinterCallback)  # we have a display of our own
    if on_trainer is not None:
        on_trainer(trainer)
    rehearse(trainer)
    before = FirstStep(recipe, trainer, ready, new=checkpoint is None, say=say)
    if not world.model_is_wrapped_in_train:
        before.check()
    run = begin(recipe, {**facts_for_manifest(recipe, line, score), "start_files": files_in(facts)})
    if world.is_first:
        make_folder(trainer, run.logs)
        data.quarantine.write()
        logger.begin_from(checkpoint, -1 if checkpoint is None else step_of(checkpoint))
    if world.model_is_wrapped_in_train:
        trainer.add_callback(before)
    else:
        before.evaluate()
    with kept_when_rows_are_lost(trainer):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if (number := trainer.stop_signal()) is not None:
        trainer.checkpoint_here()
        raise StoppedError(
            f"stopped by {signal.Signals(number).name} at step {step} of {steps}, with a checkpoint; "
            f"go on with --resume (run folder {run.path})",
            number,
        )
    with _checkpoint_kept(trainer):
        if ready.eval.pairs and not trainer.eval_log.has_step(step):
            trainer.evaluate()
        trainer.refuse_vanished()
        trainer.pair_log.flush()
        with world.all_or_none():
            if world.is_first:
                trainer.pair_log.write(run.pairs_file)
                if ready.eval.pairs:
                    trainer.eval_log.write(run.eval_pairs_file)
        trainer.write_model(recipe.model.path, run.model, dtype=recipe.model.save_dtype)
    trainer.refuse_vanished()
    if world.is_first:
        if (written := describe_saved(recipe, run.model)) is not None:
            say(written)
        _complete(run, recipe, data, ready, world, step, trainer.swallowed.share)
        log.line(f"done: {run.path} (model in {run.model})")
    world.wait()
    return run


def _complete(
    run: RunDir, recipe: Recipe, data: RunData, ready: Setup, world: World, steps: int, swallowed: float | None
) -> None:
    run.set_state(
        "complete",
        pairs=len(ready.train.pairs),
        quarantined=len(data.quarantine),
        layout=ready.layout.explanation,
        fit=ready.train.report(),
        steps=steps,
        processes=world.size,
        strategy=world.strategy,
        data=dict(zip(recipe.data.train_paths, data.train_hashes, strict=True)),
        **({} if data.manifest is None else {"data_manifest": data.manifest}),
        reference=None if ready.reference is None else ready.reference.explanation,
        trained_parameters=ready.trained,
        parameters=ready.total,
        parts=as_facts(ready.parts),
        precision=describe(ready.loaded, recipe, is_deepspeed=world.is_deepspeed),
        updates_swallowed=swallowed,
        **{MODEL_FILES: files_of_model(run.model)},
    )


@contextmanager
def _checkpoint_kept(trainer: PreferenceTrainer) -> Iterator[None]:
    """Training is over; whatever keeps its result from being written leaves a checkpoint of it."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, Terminated) as err:
        try:
            kept = f"the trained weights are in {trainer.checkpoint_here()}: make room and go on with --resume"
        except VanishedError as vanished:
            raise vanished from err
        except CheckpointError as second:
            older, _ = newest_complete(Path(trainer.args.output_dir))
            kept = f"the checkpoint of the last step could not be written either ({second}); " + (
                "no other checkpoint is there (train.save_steps was null)"
                if older is None
                else f"the newest one is {older}: make room and go on with --resume"
            )
        if isinstance(err, CheckpointError):
            raise CheckpointError(f"{err}; {kept}") from err
        raise


def _use_one_gpu(arguments: TrainingArguments, say: Say) -> None:
    """One process uses one GPU: the Trainer would put nn.DataParallel around the model, which is slow and not exact."""
    if arguments.n_gpu > 1:
        say(f"{arguments.n_gpu} GPUs are here and one process uses one of them: --launch ddp or fsdp2 uses all")
        arguments._n_gpu = 1


def _silent(_: str) -> None:
    """Only the first process speaks."""


class _ProgressCallback(TrainerCallback):
    def __init__(self, progress: ProgressHook | None) -> None:
        self._progress = progress
        self._numbers: dict[str, float] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._numbers = dict(logs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress(state.global_step, state.max_steps, self._numbers)
