"""From a recipe to a finished run folder: what ``mmpref train`` does.

The steps are in the order of the file: :func:`prepare` (data, checkpoint), :func:`build_trainer` (model, reference,
trainer), :func:`first_step` (start-up checks, run folder, first evaluation), :func:`fit` and :func:`finish`. Everything
that can be refused is refused before the model is loaded, and ``model/`` is written only at the end of a whole run.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from mmpref.data.quarantine import Quarantine
from mmpref.errors import StoppedError
from mmpref.models.load import check_model
from mmpref.models.part_counts import as_facts
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.rundir.claim import Claim, check_output, claim_output, with_real_output
from mmpref.rundir.content import MODEL_FILES, PAIR_TEXTS, files_of_model
from mmpref.rundir.folder import RunDir
from mmpref.rundir.locking import has_vanished
from mmpref.rundir.train_log import TrainLog
from mmpref.training.loss_settings import (
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
from mmpref.training.parallel.world import World, init_process_group_on_cpu
from mmpref.training.precision import describe, describe_saved, resolved
from mmpref.training.run.callbacks import ProgressCallback, RunCallbacks
from mmpref.training.run.context import LoadedRun, PreparedRun, RunContext
from mmpref.training.run.cost import Cost
from mmpref.training.run.data import load_data
from mmpref.training.run.facts import facts_at_start, files_in, late_facts, pairs_fact
from mmpref.training.run.first_step import FirstStep
from mmpref.training.run.images import ImageListKept
from mmpref.training.run.last_checkpoint import checkpoint_on_failed_write, checkpoint_on_unreadable_row
from mmpref.training.run.other_images import eval_other_image_of
from mmpref.training.run.pair_groups import describe_groups, works_of
from mmpref.training.run.pair_texts import write_pair_texts
from mmpref.training.run.resume import check_pairs, choose_checkpoint, step_of
from mmpref.training.run.samples import Samples
from mmpref.training.run.setup import Setup, set_up, smaller_weights
from mmpref.training.run.start_adapter import with_start_adapter
from mmpref.training.run.state import RunState, state_kept
from mmpref.training.run.trackers import make_folder, tracked_in
from mmpref.training.trainer.alarms import Alarms
from mmpref.training.trainer.arguments import dry_run_optimizer_and_loader, refused_by_transformers, training_arguments
from mmpref.training.trainer.log_lines import LossLines
from mmpref.training.trainer.memory_errors import explain_oom
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.options import TrainerOptions
from mmpref.training.trainer.signals import terminating
from mmpref.training.trainer.trainer import PreferenceTrainer

_DDP_TIMEOUT = 1800
"""Seconds; the default of ``ddp_timeout`` in transformers."""
_NO_CALLBACKS = RunCallbacks()


def train(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_data_change: bool = False,
    callbacks: RunCallbacks = _NO_CALLBACKS,
) -> RunDir:
    """Run one recipe to its end.

    Args:
        recipe: what to train, on what, and where to write it.
        overwrite: replace a run that is in the output folder.
        resume: continue from the newest complete checkpoint in the output folder.
        allow_data_change: resume although data files, pairs or library versions are not those of the checkpoint; other
            pairs come in a new order.
        callbacks: functions that are called with progress, lines of text, and the trainer.

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
    arguments = _arguments_of(recipe)
    world = World.of(arguments)
    log = TrainLog(is_first=world.is_first, rank=world.rank)
    with world.propagate_failures(), tracked_in(arguments.report_to, RunDir(recipe.output).logs), log:
        context = RunContext(
            recipe=with_start_adapter(recipe),
            objective=objective,
            arguments=arguments,
            world=world,
            log=log,
            say=log.saying(callbacks.say if callbacks.say is not None and world.is_first else _silent),
            callbacks=callbacks,
            resume=resume,
            allow_data_change=allow_data_change,
        )
        recipe, say = context.recipe, context.say
        _refuse_before_data(context)
        world.on_first_rank(
            lambda: check_output(recipe, overwrite=overwrite, resume=resume)
        )  # a refusal leaves no trace
        with one_training_in(recipe.output, world, say) as alone:
            claim = world.on_first_rank(lambda: claim_output(recipe, overwrite=overwrite, resume=resume, alone=alone))
            if claim.note:
                say(claim.note)
            with terminating(), state_kept(claim, world, log) as state:
                loaded = build_trainer(prepare(context, claim, state))
                first_step(loaded, state)
                fit(loaded)
                return finish(loaded)


def _arguments_of(recipe: Recipe) -> TrainingArguments:
    """The recipe's ``TrainingArguments``; making them connects the processes of the run."""
    if recipe.train.use_cpu or not torch.cuda.is_available():
        wait = recipe.train.extra.get("ddp_timeout", _DDP_TIMEOUT)
        init_process_group_on_cpu(wait if isinstance(wait, int) else _DDP_TIMEOUT)  # what is no number is refused below
    return training_arguments(recipe)


def _refuse_before_data(context: RunContext) -> None:
    recipe, world = context.recipe, context.world
    check_model(recipe.model.path)
    refuse_other_than_asked(world.strategy, world.size)
    refuse_what_cannot_shard(recipe, world.strategy)
    _use_one_gpu(context)


def _use_one_gpu(context: RunContext) -> None:
    """One process uses one GPU: the Trainer would put nn.DataParallel around the model, which is slow and not exact."""
    arguments = context.arguments
    if arguments.n_gpu > 1:
        found = f"found {arguments.n_gpu} GPUs, but one process uses only one"
        context.say(f"{found}; add --launch ddp or fsdp2 to use all")
        arguments._n_gpu = 1


def prepare(context: RunContext, claim: Claim, state: RunState) -> PreparedRun:
    """Read the data, settle the loss, and choose the checkpoint that training continues from.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: the run cannot be resumed.
    """
    recipe, world, say = context.recipe, context.world, context.say
    has_earlier_run = claim.replaces or claim.continues
    if not has_earlier_run:
        state.create()  # an earlier run is changed only when everything was found in order
    # an earlier run keeps its own list until this one starts
    quarantine = Quarantine(None if has_earlier_run else claim.run.quarantine_file)
    data = load_data(recipe, context.objective, quarantine, world=world, say=say)
    world.require_same("training files", (data.train_hashes, len(data.train), len(data.eval)))
    quarantine.path = claim.run.quarantine_file
    score = world.on_first_rank(lambda: settle(recipe, data.train, claim.run if claim.continues else None, say))
    settled = with_score(recipe, score)
    held_out = [f"held_out={recipe.data.held_out:g}"] if recipe.data.held_out else []
    objective = objective_of(settled)
    images, facts = world.on_first_rank(lambda: facts_at_start(settled, data, held_out, claim.facts, world.size, say))
    checkpoint = None
    if context.resume:
        allowed = context.allow_data_change
        checkpoint = world.on_first_rank(
            lambda: choose_checkpoint(claim.run, facts, allow_data_change=allowed, say=say, images=images)
        )
    return PreparedRun(
        context=replace(context, recipe=settled, objective=objective),
        score=score,
        data=data,
        images=images,
        facts=facts,
        checkpoint=checkpoint,
    )


def build_trainer(prepared: PreparedRun) -> LoadedRun:
    """Load model and reference, and build the trainer with its callbacks.

    Raises:
        MMPrefError: the model cannot be loaded or trained as the recipe asks.
    """
    context = prepared.context
    recipe, world, say = context.recipe, context.world, context.say
    setup = set_up(recipe, context.objective, prepared.data, say, world)
    facts = _facts_with_pairs(prepared, setup.train.pairs)  # which of them the model can take is known by now
    kind = getattr(setup.reference, "kind", None) if context.objective.needs_reference else None
    loss_line = line_of(recipe, reference=kind, settled=prepared.score)
    say(loss_line)
    logger = JsonlLogger(context.run.metrics_file)
    moving = f"moving {recipe.model.path} to {context.arguments.device}"
    with explain_oom(lambda: moving, lambda: smaller_weights(recipe)), refused_by_transformers():
        trainer = _trainer_of(prepared, setup, facts, logger)
    samples = Samples(recipe, context.objective, setup, trainer, say)
    trainer.add_callback(samples)
    _add_callbacks(trainer, context, logger)
    cost = _cost_of(trainer, context)
    return LoadedRun(
        prepared=prepared,
        setup=setup,
        trainer=trainer,
        logger=logger,
        samples=samples,
        facts=facts,
        loss_line=loss_line,
        groups_line=_groups_line(context, trainer),
        cost=cost,
    )


def _cost_of(trainer: PreferenceTrainer, context: RunContext) -> Cost:
    def record(**facts: Any) -> None:
        if not has_vanished(context.recipe.output):  # what has its name now is not ours
            context.run.set_state("running", **facts)

    cost = Cost(
        context.begun,
        record,
        pairs_done=lambda: trainer.pairs_done,
        held_out_seconds=lambda: trainer.held_out_seconds,
    )
    trainer.add_callback(cost)
    return cost


def _groups_line(context: RunContext, trainer: PreferenceTrainer) -> str | None:
    """What ``train.group_pairs`` does to this run, which is said as well."""
    args = context.arguments
    line = describe_groups(
        trainer.loaders.groups_of(trainer.train_dataset),
        grouped=context.recipe.train.group_pairs == "prompt",
        pairs_per_update=args.per_device_train_batch_size * args.gradient_accumulation_steps * context.world.size,
        seed=args.seed if args.data_seed is None else args.data_seed,
        row_tokens=context.recipe.processing.row_tokens,
    )
    if line is not None:
        context.say(line)
    return line


def _facts_with_pairs(prepared: PreparedRun, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
    """All facts of the run; refuses other pairs than those of the checkpoint."""
    context, checkpoint = prepared.context, prepared.checkpoint
    world, say, allowed = context.world, context.say, context.allow_data_change
    fact = pairs_fact(pairs)
    world.require_same("pairs that train", fact)
    facts = {**prepared.facts, **fact, **world.on_first_rank(lambda: late_facts(context.recipe, say))}
    if checkpoint is not None:
        world.on_first_rank(lambda: check_pairs(checkpoint, facts, allow_data_change=allowed, say=say))
    return facts


def _trainer_of(prepared: PreparedRun, setup: Setup, facts: dict[str, Any], logger: JsonlLogger) -> PreferenceTrainer:
    context = prepared.context
    recipe = context.recipe
    progress = context.callbacks.progress if context.world.is_first else None
    options = TrainerOptions(
        collator=setup.collator,
        reference=setup.reference,
        callbacks=[logger, ImageListKept(prepared.images), ProgressCallback(progress)],
        learning_rates=recipe.train.learning_rates.model_dump(exclude_none=True),
        skip_nonfinite_steps=recipe.train.skip_nonfinite_steps,
        router_aux_loss_coef=recipe.model.router_aux_loss_coef,
        fault_folder=recipe.output / "faults",
        costs=works_of(setup.train, setup.layout.name, need_rejected=setup.collator.need_rejected),
        group_pairs=recipe.train.group_pairs,
        checkpoint_facts=facts,
        run_folder=recipe.output,  # locked for this run
        eval_other_image=eval_other_image_of(recipe),
        pair_log=recipe.train.pair_log,
    )
    return PreferenceTrainer(
        setup.loaded.model,
        context.arguments,
        objective=context.objective,
        train_pairs=setup.train.pairs,
        eval_pairs=setup.eval.pairs,
        options=options,
    )


def _add_callbacks(trainer: PreferenceTrainer, context: RunContext, logger: JsonlLogger) -> None:
    def event(step: int, name: str, message: str) -> None:
        logger.event(step, name, message)
        context.say(f"step {step}: {message}")

    callbacks = context.callbacks
    if not context.recipe.train.pair_log:
        context.say("train.pair_log=0: there is no pairs.parquet, and no alarm looks at lengths")
    if context.world.is_first:
        trainer.add_callback(Alarms(trainer.pair_log, event))
    lines = context.log.line if callbacks.losses is None else context.log.saying(callbacks.losses)
    trainer.add_callback(LossLines(lines, lambda: trainer.pairs_done))
    trainer.remove_callback(PrinterCallback)  # we have a display of our own
    if callbacks.on_trainer is not None:
        callbacks.on_trainer(trainer)


def first_step(loaded: LoadedRun, state: RunState) -> None:
    """Check that the model can learn, create the run folder or bring it up to date, and evaluate once before training.

    Where weights are sharded the Trainer divides them when training starts, and checks and evaluation run then.

    Raises:
        ConfigError: a start-up check failed.
        CheckpointError: the run folder cannot be written.
    """
    context, prepared, trainer = loaded.context, loaded.prepared, loaded.trainer
    recipe, world, checkpoint = context.recipe, context.world, prepared.checkpoint
    dry_run_optimizer_and_loader(trainer)
    before = FirstStep(recipe, trainer, loaded.setup, new=checkpoint is None, say=context.say)
    if not world.model_is_wrapped_in_train:
        before.check()
    loss_facts = facts_for_manifest(recipe, loaded.loss_line, prepared.score)
    start_facts = {"start_files": files_in(loaded.facts), "group_pairs": loaded.groups_line}
    run = state.create_or_update(recipe, {**loss_facts, **start_facts})
    if world.is_first:
        make_folder(trainer, run.logs)
        prepared.data.quarantine.write()
        loaded.logger.begin_from(checkpoint, -1 if checkpoint is None else step_of(checkpoint))
        _write_pair_texts(loaded, new=checkpoint is None)
    loaded.samples.begin_from(checkpoint, world)
    if world.model_is_wrapped_in_train:
        trainer.add_callback(before)
    else:
        before.evaluate()
        if checkpoint is None:
            loaded.samples.take()


def _write_pair_texts(loaded: LoadedRun, *, new: bool) -> None:
    """Some pairs to read; a resumed run keeps those that are there."""
    file = loaded.context.run.path / PAIR_TEXTS
    if new or not file.is_file():
        write_pair_texts(file, loaded.setup.train.pairs, loaded.setup.eval.pairs)


def fit(loaded: LoadedRun) -> None:
    """All training steps.

    Raises:
        StoppedError: a signal ended them, after a checkpoint.
        DataError: a row cannot be read any more.
        MMPrefError: whatever else ends a training.
    """
    trainer, checkpoint = loaded.trainer, loaded.prepared.checkpoint
    with checkpoint_on_unreadable_row(trainer):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if (number := trainer.stop_signal()) is not None:
        trainer.checkpoint_here()
        raise StoppedError(
            f"stopped by {signal.Signals(number).name} at step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}, with a checkpoint; go on with --resume (run folder {loaded.context.run.path})",
            number,
        )


def finish(loaded: LoadedRun) -> RunDir:
    """Evaluate once more, and write statistics, model and the final manifest.

    Raises:
        CheckpointError: something cannot be written; the message names a checkpoint of the last step.
    """
    context, trainer, has_eval = loaded.context, loaded.trainer, bool(loaded.setup.eval.pairs)
    recipe, world, run = context.recipe, context.world, context.run
    with checkpoint_on_failed_write(trainer):
        if has_eval and not trainer.eval_log.has_step(trainer.state.global_step):
            trainer.evaluate()
        loaded.samples.take()
        trainer.checkpointer.refuse_vanished()
        trainer.pair_log.flush()
        with world.fail_together():
            if world.is_first:
                if recipe.train.pair_log or len(trainer.pair_log):  # of a part that kept some
                    trainer.pair_log.write(run.pairs_file)
                if has_eval:
                    trainer.eval_log.write(run.eval_pairs_file)
        trainer.checkpointer.write_model(recipe.model.path, run.model, dtype=recipe.model.save_dtype)
    trainer.checkpointer.refuse_vanished()
    if loaded.setup.features is not None:
        context.say(loaded.setup.features.summary(world))
    if world.is_first:
        if (written := describe_saved(recipe, run.model)) is not None:
            context.say(written)
        run.set_state("complete", **_facts_of_result(loaded))
        context.log.line(f"done: {run.path} (model in {run.model})")
    world.barrier()
    return run


def _facts_of_result(loaded: LoadedRun) -> dict[str, Any]:
    """What the manifest of a complete run has beside the facts of its start."""
    context, setup, data = loaded.context, loaded.setup, loaded.prepared.data
    recipe, world = context.recipe, context.world
    return {
        "pairs": len(setup.train.pairs),
        "quarantined": len(data.quarantine),
        "layout": setup.layout.explanation,
        "fit": setup.train.report(),
        "steps": loaded.trainer.state.global_step,
        "processes": world.size,
        "strategy": world.strategy,
        "data": dict(zip(recipe.data.train_paths, data.train_hashes, strict=True)),
        **({} if data.manifest is None else {"data_manifest": data.manifest}),
        "reference": None if setup.reference is None else setup.reference.explanation,
        "trained_parameters": setup.trained,
        "parameters": setup.total,
        "parts": as_facts(setup.parts),
        "precision": describe(setup.loaded, recipe, is_deepspeed=world.is_deepspeed),
        "updates_swallowed": loaded.trainer.swallowed.share,
        "skipped_steps": loaded.trainer.skipped_steps,
        "cost": loaded.cost.facts(device=context.arguments.device, processes=world.size),
        MODEL_FILES: files_of_model(context.run.model),
    }


def _silent(_: str) -> None:
    """Only the first rank prints."""
