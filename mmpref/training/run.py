"""From a recipe to a finished run folder: what ``mmpref train`` does, step by step.

Everything that can be refused is refused before the model is loaded, and nothing is left in ``model/`` unless the run
came to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from mmpref.config import AdapterSection, Recipe, SourceSection
from mmpref.data.images import ImageLoader
from mmpref.data.loading import PairSource, load_each, load_pairs
from mmpref.data.manifest import verify
from mmpref.data.mixture import RootedImages, repeat
from mmpref.data.opening import recipe_sources, weights
from mmpref.data.quarantine import Quarantine
from mmpref.data.split import split_by_image
from mmpref.errors import CheckpointError, ConfigError, DataError, DistributedError, StoppedError
from mmpref.losses import build_objective
from mmpref.losses.objective import Objective
from mmpref.models.adapter import AdapterSettings, Tuning, count_parameters, prepare
from mmpref.models.load import LoadedModel, load, save_model
from mmpref.models.quantize import QuantizationSettings
from mmpref.models.reference import choose_reference
from mmpref.processing.collate import PairCollator
from mmpref.processing.encode import PairEncoder
from mmpref.records import PreferencePair
from mmpref.rundir import Claim, RunDir, State, claim_output, sha256
from mmpref.training.alarms import Alarms
from mmpref.training.arguments import refused_by_transformers, rehearse, training_arguments
from mmpref.training.checkpoint import newest_complete
from mmpref.training.faults import is_out_of_memory, out_of_memory
from mmpref.training.metrics import JsonlLogger
from mmpref.training.resume import Say, choose_checkpoint, facts_of, step_of
from mmpref.training.stopping import Terminated, terminating
from mmpref.training.trainer import PreferenceTrainer

ProgressHook = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class _Data:
    train: list[PreferencePair]
    eval: list[PreferencePair]
    images: ImageLoader | RootedImages
    quarantine: Quarantine
    train_hashes: tuple[str, ...]
    manifest: str | None
    """Hash of the manifest that the data was proved to match."""


def train(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    allow_data_change: bool = False,
    progress: ProgressHook | None = None,
    say: Say | None = None,
) -> RunDir:
    """Run one recipe to its end.

    Args:
        recipe: what to do.
        overwrite: replace a run that is in the output folder.
        resume: go on from the newest complete checkpoint in the output folder.
        allow_data_change: resume although the data files or the library versions are not those of the checkpoint.
        progress: called after every step with (steps done, steps in all, last logged numbers).
        say: called with one line per event worth telling.

    Returns:
        The run folder, in state ``complete``, with the trained model in ``model/``.

    Raises:
        MMPrefError: anything refused or failed, with what to do; the manifest then says ``failed`` or ``stopped``.
    """
    say = say or (lambda _: None)
    _refuse_many_processes()
    objective = build_objective(recipe.loss.as_mapping())
    arguments = training_arguments(recipe)
    claim = claim_output(recipe, overwrite=overwrite, resume=resume, inputs=_inputs(recipe))
    with terminating(), _state_kept(claim) as begin:
        if not (claim.replaces or claim.continues):
            begin()  # an earlier run is touched only when everything was found in order
        data = _load_data(recipe, objective, claim)
        held_out = [f"held_out={recipe.data.held_out:g}"] if recipe.data.held_out else []
        facts = facts_of(recipe, [*data.train_hashes, *held_out])
        run = claim.run
        checkpoint = choose_checkpoint(run, facts, allow_data_change=allow_data_change, say=say) if resume else None
        return _train(recipe, begin, objective, arguments, data, facts, checkpoint, progress, say)


def _inputs(recipe: Recipe) -> list[str]:
    """Everything on the disk that a run reads."""
    data = recipe.data
    entries = [entry for entry in (*data.train, *data.eval) if isinstance(entry, SourceSection)]
    roots = [str(root) for root in (data.root, data.manifest, *(entry.root for entry in entries)) if root is not None]
    return [recipe.model.path, *data.train_paths, *data.eval_paths, *roots]


@contextmanager
def _state_kept(claim: Claim) -> Iterator[Callable[[], RunDir]]:
    """Gives the function that begins the run; from then on the manifest says how it ended, whatever happens."""
    begun: list[RunDir] = []

    def begin() -> RunDir:
        if not begun:
            begun.append(claim.begin())
        return begun[0]

    def end(state: State, **facts: Any) -> None:
        with suppress(CheckpointError):  # a disk too full for the manifest; the error on its way says more
            for run in begun:
                run.set_state(state, **facts)

    try:
        yield begin
    except (KeyboardInterrupt, StoppedError):
        end("stopped")
        raise
    except Terminated:
        end("stopped")
        message = f"stopped by SIGTERM outside the training steps (run folder {claim.run.path}); go on with --resume"
        raise StoppedError(message, signal.SIGTERM) from None
    except BaseException as err:
        end("failed", error=f"{type(err).__name__}: {err}")
        raise


def _train(
    recipe: Recipe,
    begin: Callable[[], RunDir],
    objective: Objective,
    arguments: TrainingArguments,
    data: _Data,
    facts: Mapping[str, Any],
    checkpoint: Path | None,
    progress: ProgressHook | None,
    say: Say,
) -> RunDir:
    if recipe.cpu_threads is not None:
        torch.set_num_threads(recipe.cpu_threads)
    set_seed(recipe.seed)  # before the model: a fresh adapter is drawn at random
    try:
        loaded = _load_model(recipe)
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        helps = ["adapter.kind=qlora with tune.language=lora", "model.dtype=bfloat16"]
        raise out_of_memory(f"loading {recipe.model.path}", helps) from err
    trained, total = count_parameters(loaded.model)
    aside = len(data.quarantine)
    say(f"{len(data.train)} pairs, {aside} rows in quarantine; {trained:,} of {total:,} parameters train")
    reference = choose_reference(loaded.model, objective.needs_reference, kind=recipe.reference.kind)
    if reference is not None:
        say(f"reference: {reference.explanation}")
    processing = recipe.processing
    encoder = PairEncoder(
        loaded.processor,
        loaded.family,
        max_length=processing.max_length,
        min_pixels=processing.min_pixels,
        max_pixels=processing.max_pixels,
        pixel_cache_bytes=processing.pixel_cache_mib * 2**20,
    )
    collator = PairCollator(encoder, data.images.open, need_rejected=objective.needs_rejected)
    logger = JsonlLogger(RunDir(recipe.output).metrics_file)
    with refused_by_transformers():
        trainer = PreferenceTrainer(
            loaded.model,
            arguments,
            objective=objective,
            collator=collator,
            train_pairs=data.train,
            eval_pairs=data.eval,
            reference=reference,
            callbacks=[logger, _ProgressCallback(progress)],
            checkpoint_facts=facts,
            learning_rates=recipe.train.learning_rates.model_dump(exclude_none=True),
            skip_nonfinite_steps=recipe.train.skip_nonfinite_steps,
            fault_folder=recipe.output / "faults",
        )

    def event(step: int, name: str, message: str) -> None:
        logger.event(step, name, message)
        say(f"step {step}: {message}")

    trainer.add_callback(Alarms(trainer.pair_log, event))
    trainer.remove_callback(PrinterCallback)  # we have a display of our own
    rehearse(trainer)
    run = begin()
    data.quarantine.write()
    logger.forget_after(-1 if checkpoint is None else step_of(checkpoint))
    if checkpoint is None and data.eval:
        trainer.evaluate()  # before the first step, so that a change can be told
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if trainer.signals.received is not None:
        number = trainer.signals.received
        raise StoppedError(
            f"stopped by {signal.Signals(number).name} at step {step} of {steps}, with a checkpoint; "
            f"go on with --resume (run folder {run.path})",
            number,
        )
    with _checkpoint_kept(trainer):
        trainer.pair_log.write(run.pairs_file)
        if data.eval:
            if not trainer.eval_log.has_step(step):
                trainer.evaluate()
            trainer.eval_log.write(run.eval_pairs_file)
        save_model(loaded.model, Path(recipe.model.path), run.model)
    run.set_state(
        "complete",
        pairs=len(data.train),
        quarantined=aside,
        steps=step,
        data=dict(zip(recipe.data.train_paths, data.train_hashes, strict=True)),
        **({} if data.manifest is None else {"data_manifest": data.manifest}),
        reference=None if reference is None else reference.explanation,
        trained_parameters=trained,
        parameters=total,
    )
    return run


@contextmanager
def _checkpoint_kept(trainer: PreferenceTrainer) -> Iterator[None]:
    """Training is over; whatever keeps its result from being written leaves a checkpoint of it."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt, Terminated) as err:
        try:
            kept = f"the trained weights are in {trainer.checkpoint_here()}: make room and go on with --resume"
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


def _load_data(recipe: Recipe, objective: Objective, claim: Claim) -> _Data:
    section = recipe.data
    if section.eval and section.held_out:
        raise ConfigError("data.eval and data.held_out are both given; keep one of them")
    # an earlier run keeps its own list until this one begins
    earlier = claim.replaces or claim.continues
    quarantine = Quarantine(None if earlier else claim.run.quarantine_file)
    train_sources, eval_sources, images = recipe_sources(section)
    demonstrations = not objective.needs_rejected
    checked = None
    if section.manifest is not None:
        checked = verify(section.manifest, train_sources, demonstrations=demonstrations)
    lists = load_each(
        train_sources,
        allow_demonstrations=demonstrations,
        quarantine=quarantine,
        max_bad_fraction=section.max_bad_fraction,
        skip=None if checked is None else checked.skip,
    )
    if checked is not None:
        checked.verify_images(train_sources, lists)
    evaluated: list[PreferencePair] = []
    if eval_sources:
        evaluated = load_pairs(eval_sources, allow_demonstrations=False, quarantine=Quarantine(), max_bad_fraction=0.0)
    elif section.held_out:
        lists, evaluated = _hold_out(lists, section.held_out, recipe.seed)
    pairs = [
        pair
        for found, weight in zip(lists, weights(section), strict=True)
        for pair in (found if weight == 1 else repeat(found, weight, seed=recipe.seed))
    ]
    _refuse_trained_pairs(pairs, evaluated)
    if objective.requires_scores:
        _refuse_missing_scores([*pairs, *evaluated])
    train_hashes = tuple(_hash(entry, source) for entry, source in zip(section.train, train_sources, strict=True))
    manifest = None if checked is None else checked.hash
    quarantine.path = claim.run.quarantine_file
    return _Data(pairs, evaluated, images, quarantine, train_hashes, manifest)


def _refuse_trained_pairs(pairs: Sequence[PreferencePair], evaluated: Sequence[PreferencePair]) -> None:
    trained = {(pair.id, pair.chosen, pair.rejected) for pair in pairs}
    twice = [pair.id for pair in evaluated if (pair.id, pair.chosen, pair.rejected) in trained]
    if twice:
        raise DataError(
            f"{len(twice)} of the {len(evaluated)} pairs of data.eval are trained on too (first id {twice[0]!r}), so "
            "an evaluation on them would say nothing; give other pairs, or data.held_out=0.05 in place of data.eval"
        )


def _refuse_missing_scores(pairs: Sequence[PreferencePair]) -> None:
    missing = [pair.id for pair in pairs if pair.score_chosen is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(pairs)} pairs have no score_chosen and score_rejected (first id {missing[0]!r}), "
            "and this loss reads them; use loss.name=dpo or adadpo, switch the quality weight off (loss.uni.eta=null, "
            "loss.uni.nll_lambda=0), or take pairs without scores as neutral (loss.uni.on_missing_score=neutral)"
        )


def _hold_out(
    lists: Sequence[list[PreferencePair]], share: float, seed: int
) -> tuple[list[list[PreferencePair]], list[PreferencePair]]:
    """Split by image over all sources together, before weights repeat anything."""
    _, evaluated = split_by_image([pair for pairs in lists for pair in pairs], held_out=share, seed=seed)
    taken = {pair.id for pair in evaluated}
    kept = [[pair for pair in pairs if pair.id not in taken] for pairs in lists]
    evaluated = [pair for pair in evaluated if pair.rejected is not None]
    if not any(kept) or not evaluated:
        raise ConfigError(f"data.held_out={share:g} leaves nothing on one side: {sum(map(len, lists))} pairs in all")
    return kept, evaluated


def _hash(entry: str | SourceSection, source: PairSource) -> str:
    """What a source holds and how it is read: a plain file by its bytes, as everything else by what is known of it."""
    hashes = [sha256(file) for file in source.rows.files]
    if isinstance(entry, str) and len(hashes) == 1:
        return hashes[0]
    said = {} if isinstance(entry, str) else entry.model_dump(mode="json", exclude={"path", "root"})
    return hashlib.sha256(json.dumps([hashes or source.rows.spec, said]).encode()).hexdigest()


def _load_model(recipe: Recipe) -> LoadedModel:
    tune, adapter = recipe.tune, recipe.adapter
    loaded = load(
        recipe.model.path,
        dtype=recipe.model.dtype,
        quantization=_quantization(adapter),
        attn_implementation=recipe.model.attn_implementation,
        min_pixels=recipe.processing.min_pixels,
        max_pixels=recipe.processing.max_pixels,
        trainable=True,
    )
    return prepare(
        loaded,
        Tuning(vision=tune.vision, projector=tune.projector, language=tune.language),
        _adapter_settings(adapter) if adapter.kind != "none" else None,
    )


def _adapter_settings(section: AdapterSection) -> AdapterSettings:
    return AdapterSettings(**section.model_dump(include={"rank", "alpha", "dropout", "use_rslora", "use_dora", "init"}))


def _quantization(section: AdapterSection) -> QuantizationSettings | None:
    if section.stored_as is None:
        return None
    return QuantizationSettings(
        kind=section.stored_as, double_quant=section.double_quant, compute_dtype=section.compute_dtype
    )


def _refuse_many_processes() -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1:
        raise DistributedError(
            f"this version trains in one process, and {world} were started; start one (README, status of capabilities)"
        )


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
