"""From a recipe to a finished run folder: what ``mmpref train`` does, step by step.

Everything that can be refused is refused before the model is loaded, and nothing is left in ``model/`` unless the run
came to its end.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from mmpref.config import Recipe, SourceSection
from mmpref.data.images import ImageLoader
from mmpref.data.loading import PairSource, load_each, load_pairs
from mmpref.data.manifest import verify
from mmpref.data.mixture import RootedImages, repeat
from mmpref.data.opening import recipe_sources, weights
from mmpref.data.quarantine import Quarantine
from mmpref.data.split import split_by_image
from mmpref.errors import ConfigError, DataError, DistributedError, StoppedError
from mmpref.losses import build_objective
from mmpref.losses.objective import Objective
from mmpref.models.adapter import AdapterSettings, Tuning, count_parameters, prepare
from mmpref.models.load import LoadedModel, load, save_model
from mmpref.models.reference import choose_reference
from mmpref.processing.collate import PairCollator
from mmpref.processing.encode import PairEncoder
from mmpref.records import PreferencePair
from mmpref.rundir import RunDir, sha256, start_run
from mmpref.training.metrics import JsonlLogger
from mmpref.training.resume import Say, choose_checkpoint, facts_of, step_of
from mmpref.training.trainer import PreferenceTrainer

_SET_BY_US = ("output_dir", "seed", "save_strategy", "remove_unused_columns", "logging_nan_inf_filter")
ProgressHook = Callable[[int, int, Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class _Data:
    train: list[PreferencePair]
    eval: list[PreferencePair]
    images: ImageLoader | RootedImages
    quarantined: int
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
    run = start_run(recipe, overwrite=overwrite, resume=resume)
    try:
        data = _load_data(recipe, objective, run)
        held_out = [f"held_out={recipe.data.held_out:g}"] if recipe.data.held_out else []
        facts = facts_of(recipe, [*data.train_hashes, *held_out])
        checkpoint = choose_checkpoint(run, facts, allow_data_change=allow_data_change, say=say) if resume else None
        return _train(recipe, run, objective, arguments, data, facts, checkpoint, progress, say)
    except (KeyboardInterrupt, StoppedError):
        run.set_state("stopped")
        raise
    except BaseException as err:
        run.set_state("failed", error=f"{type(err).__name__}: {err}")
        raise


def _train(
    recipe: Recipe,
    run: RunDir,
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
    loaded = _load_model(recipe)
    trained, total = count_parameters(loaded.model)
    say(f"{len(data.train)} pairs, {data.quarantined} rows in quarantine; {trained:,} of {total:,} parameters train")
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
    logger = JsonlLogger(run.metrics_file)
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
    )
    trainer.remove_callback(PrinterCallback)  # we have a display of our own
    if checkpoint is not None:
        logger.forget_after(step_of(checkpoint))
    elif data.eval:
        trainer.evaluate()  # before the first step, so that a change can be told
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    step, steps = trainer.state.global_step, trainer.state.max_steps
    if trainer.signals.received is not None and step < steps:
        number = trainer.signals.received
        raise StoppedError(
            f"stopped by {signal.Signals(number).name} at step {step} of {steps}, with a checkpoint; "
            f"go on with --resume (run folder {run.path})",
            number,
        )
    trainer.pair_log.write(run.pairs_file)
    if data.eval:
        trainer.evaluate()
        trainer.eval_log.write(run.eval_pairs_file)
    save_model(loaded.model, Path(recipe.model.path), run.model)
    run.set_state(
        "complete",
        pairs=len(data.train),
        quarantined=data.quarantined,
        steps=step,
        data=dict(zip(recipe.data.train_paths, data.train_hashes, strict=True)),
        **({} if data.manifest is None else {"data_manifest": data.manifest}),
        reference=None if reference is None else reference.explanation,
        trained_parameters=trained,
        parameters=total,
    )
    return run


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The recipe's ``train`` section as ``TrainingArguments``.

    Raises:
        ConfigError: a key of ``train.extra`` that transformers does not know, or a value it refuses.
    """
    section = recipe.train
    known = {field.name for field in fields(TrainingArguments)}
    ours = {
        "output_dir",
        "save_strategy",
        "remove_unused_columns",
        "logging_nan_inf_filter",
        "seed",
        *type(section).model_fields,
    }
    for key in section.extra:
        if key not in known:
            raise ConfigError(f"'train.extra.{key}' is not a name of transformers.TrainingArguments")
        if key in ours:
            raise ConfigError(f"'train.extra.{key}' is set elsewhere in the recipe; remove it from train.extra")
    given: dict[str, Any] = section.model_dump(exclude={"extra", "save_steps"})
    given["report_to"] = section.report_to or "none"
    given["save_strategy"] = "no" if section.save_steps is None else "steps"
    if section.save_steps is not None:
        given["save_steps"] = section.save_steps
    if "activation_checkpointing" in known:  # the name that newer releases of transformers give it
        given["activation_checkpointing"] = given.pop("gradient_checkpointing")
    settings = {"eval_strategy": "no", "disable_tqdm": True, **given, **section.extra}
    try:
        return TrainingArguments(output_dir=str(RunDir(recipe.output).checkpoints), seed=recipe.seed, **settings)
    except (ValueError, TypeError, ImportError) as err:
        raise ConfigError(f"train: transformers refuses these settings: {err}") from err


def _load_data(recipe: Recipe, objective: Objective, run: RunDir) -> _Data:
    section = recipe.data
    if section.eval and section.held_out:
        raise ConfigError("data.eval and data.held_out are both given; keep one of them")
    quarantine = Quarantine(run.quarantine_file)
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
        checked.verify_images(train_sources, lists, full=section.verify == "full")
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
    return _Data(pairs, evaluated, images, len(quarantine), train_hashes, manifest)


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
        quantization="nf4" if adapter.kind == "qlora" else None,
        attn_implementation=recipe.model.attn_implementation,
        min_pixels=recipe.processing.min_pixels,
        max_pixels=recipe.processing.max_pixels,
        trainable=True,
    )
    return prepare(
        loaded,
        Tuning(vision=tune.vision, projector=tune.projector, language=tune.language),
        AdapterSettings(**adapter.model_dump(exclude={"kind"})) if adapter.kind != "none" else None,
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
