"""A Trainer whose checkpoints are written atomically, and hold what trains under the names it has in memory.

One process writes, or every rank its own part where weights are sharded; what one way wrote, another can go on from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from mmpref.errors import CheckpointError, ConfigError
from mmpref.files.temporary import remove_abandoned
from mmpref.files.writing import real_path, replacing_folder, writing_to
from mmpref.models.precision import dtype_to_save
from mmpref.models.save import save_model
from mmpref.rundir.folder import RunDir
from mmpref.rundir.locking import has_vanished
from mmpref.rundir.vanished import as_error, kept_in
from mmpref.training.parallel.run_lock import one_training_in
from mmpref.training.parallel.sharded import (
    load_sharded,
    load_sharded_weights,
    load_whole_optimizer,
    save_sharded,
    saved_weights,
)
from mmpref.training.parallel.world import ALONE, World, pass_on_lost_partner
from mmpref.training.parallel.zero import is_zero_checkpoint, load_zero_weights, make_whole
from mmpref.training.trainer.checkpoint import (
    WEIGHTS,
    is_complete,
    keep_others,
    load_trained,
    prune,
    save_trained,
    seal,
    verify,
)
from mmpref.training.trainer.metrics import InCheckpoint, PairLog, read_pair_log

logger = logging.getLogger(__name__)

PAIRS = "pairs.parquet"
EVAL_PAIRS = "pairs_eval.parquet"
SHARDS = "sharded"
"""Folder with the parts that the ranks wrote; in place of the weights and the optimizer's file."""
_USE_CACHE, _ABSENT = "use_cache", object()


class CheckpointedTrainer(Trainer):
    """``transformers.Trainer`` with checkpoints of our own; ``PreferenceTrainer`` is what to use."""

    world: World = ALONE
    pair_log: PairLog
    eval_log: PairLog
    is_alone: bool = False
    """The run around this trainer has seen to it that no other process writes where this one does."""
    run_folder: Path | None = None
    """The folder of the run around this trainer, which may vanish."""
    _facts: Mapping[str, Any]
    _source: str | None  # where the model was loaded from

    def __init__(self, model: nn.Module, **given: Any) -> None:
        with _use_cache_kept(model):
            super().__init__(model=model, **given)

    # ---- writing ----------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No second process writes into the folder of the checkpoints; what killed ones left there is removed."""
        if self.is_alone:
            yield
            return
        folder = real_path(Path(self.args.output_dir))
        with one_training_in(folder, self.world, logger.warning):
            if self.world.is_first:
                remove_abandoned(folder, "step-*")
            yield

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, place = self.run_folder, self._kept_in()
        root = Path(self.args.output_dir) if place is None else RunDir(place).checkpoints
        self._save_below(root)
        if run is not None and place is not None:
            error = as_error(run, place, root / f"step-{self.state.global_step}")
            with self.world.all_or_none():
                if self.world.is_first:
                    RunDir(place).set_state("failed", error=str(error))
            raise error
        if self.args.save_total_limit is not None and self.world.is_first:
            prune(root, self.args.save_total_limit, newest=self.state.global_step)

    def _kept_in(self) -> Path | None:
        """None while the run folder is where it was; else the one that a last checkpoint goes to."""
        folder = self.run_folder
        if folder is None:
            return None
        return self.world.first_does(lambda: kept_in(folder) if has_vanished(folder) else None)

    def refuse_vanished(self) -> None:
        """Write a last checkpoint and stop where the run folder was deleted or moved; all ranks must call it together.

        Raises:
            VanishedError: says where the checkpoint is.
        """
        if self._kept_in() is not None:
            self._save_checkpoint(self.model, None)

    def _save_below(self, root: Path) -> None:
        for log in (self.pair_log, self.eval_log):
            log.flush()  # rows of all ranks come together
        try:
            with self._together(root / f"step-{self.state.global_step}") as folder:
                self._write_weights(folder)
                with self.world.all_or_none(), _disk_errors():
                    self._save_rng_state(str(folder))
                    self._save_scaler(str(folder))
                    if self.world.is_first:
                        self.pair_log.write(folder / PAIRS)
                        self.eval_log.write(folder / EVAL_PAIRS)
                        for kept in self.callback_handler.callbacks:
                            if isinstance(kept, InCheckpoint):
                                kept.copy_to(folder)
                        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                with self.world.all_or_none():
                    if self.world.is_first:
                        seal(folder, self._facts, step=self.state.global_step)
        except (RuntimeError, SafetensorError) as err:  # what torch and safetensors raise when the disk is full
            pass_on_lost_partner(err)
            reason = " ".join(str(err).split())
            raise CheckpointError(
                f"the checkpoint of step {self.state.global_step} was not written: {reason}; those in {root} are "
                "as they were: make room and go on with --resume"
            ) from err

    @contextmanager
    def _together(self, path: Path) -> Iterator[Path]:
        """One folder that all ranks write into, in place of ``path`` when all of them got through."""
        with ExitStack() as opened:
            folder: Path | None = None
            with self.world.all_or_none():
                if self.world.is_first:
                    with writing_to(path):
                        aside = keep_others(path)
                    if aside is not None:
                        logger.warning("%s held something else than a checkpoint; it is %s now", path, aside)
                    folder = opened.enter_context(replacing_folder(path))
            shared = self.world.share(folder)
            assert shared is not None
            yield shared
        self.world.wait()  # nobody looks for it before it is there

    def _write_weights(self, folder: Path) -> None:
        inner = self.accelerator.unwrap_model(self.model)
        if self.world.strategy == "fsdp2":
            save_sharded(inner, self._raw_optimizer, folder / SHARDS)
            with self.world.all_or_none(), _disk_errors():
                if self.world.is_first:
                    torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
        elif self.is_deepspeed_enabled:
            with _disk_errors():
                self._save_optimizer_and_scheduler(str(folder))  # the weights too, by DeepSpeed's own means
        else:
            with self.world.all_or_none(), _disk_errors():
                if self.world.is_first:
                    save_trained(inner, folder / WEIGHTS)
                self._save_optimizer_and_scheduler(str(folder))

    @property
    def _raw_optimizer(self) -> torch.optim.Optimizer:
        found: Any = self.optimizer
        return getattr(found, "optimizer", found)  # type: ignore[no-any-return]

    def checkpoint_here(self) -> Path:
        """A complete checkpoint of the step that was reached; it may be there already.

        Raises:
            CheckpointError: it cannot be written.
        """
        self.refuse_vanished()
        folder = Path(self.args.output_dir) / f"step-{self.state.global_step}"
        if not self.world.first_does(lambda: is_complete(folder)):
            self._save_checkpoint(self.model, None)
        return folder

    # ---- the result -------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model (of an adapted one: the adapter) with its base's processor files, written atomically.

        Raises:
            ConfigError: a bare model, whose processor files are not known; ``models.save_model`` takes their place.
        """
        if self._source is None:
            raise ConfigError(
                "where the processor files are is not known; use mmpref.models.save_model(model, base, out)"
            )
        self.write_model(self._source, Path(output_dir or self.args.output_dir))

    def write_model(self, source: str | Path, out: Path, *, dtype: str = "auto") -> None:
        """Write the trained model with the processor files of ``source``; all ranks must call it together.

        Args:
            dtype: of a whole model's weights; ``auto`` writes what was trained, so that nothing is rounded.

        Raises:
            CheckpointError: it cannot be written; on all ranks.
        """
        inner = self.accelerator.unwrap_model(self.model)
        weights = saved_weights(inner, keep=self.world.is_first) if self.world.is_sharded else None
        with self.world.all_or_none():
            if self.world.is_first:
                save_model(inner, source, out, weights=weights, dtype=dtype_to_save(inner, dtype))

    # ---- reading ----------------------------------------------------------------------------------------------

    def restore_logs(self, folder: Path) -> None:
        """Start the per-pair logs from those of a checkpoint, whose files are checked first.

        Raises:
            CheckpointError: not complete, or changed since.
        """
        self.world.first_does(lambda: verify(folder))
        self.pair_log.restore(read_pair_log(folder / PAIRS))
        self.eval_log.restore(read_pair_log(folder / EVAL_PAIRS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if (folder / SHARDS).is_dir():
            return  # read together with the optimizer
        load_trained(self.accelerator.unwrap_model(self.model if model is None else model), folder / WEIGHTS)

    def _load_finished(self, checkpoint: str) -> None:
        """Weights and logs of a checkpoint that no step follows."""
        folder, inner = Path(checkpoint), self.accelerator.unwrap_model(self.model)
        self.restore_logs(folder)
        if (folder / SHARDS).is_dir():
            load_sharded_weights(inner, folder / SHARDS)
        elif is_zero_checkpoint(folder):
            load_zero_weights(inner, folder)
        else:
            load_trained(inner, folder / WEIGHTS)
        make_whole(inner)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder, inner = Path(checkpoint), self.accelerator.unwrap_model(self.model)
        if (folder / SHARDS).is_dir():
            load_sharded(inner, self._raw_optimizer, folder / SHARDS)
        elif self.world.strategy == "fsdp2":
            load_whole_optimizer(inner, self._raw_optimizer, _read(folder / OPTIMIZER_NAME))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        self.lr_scheduler.load_state_dict(_read(folder / SCHEDULER_NAME))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Random states of this rank; a checkpoint of another number of ranks has none for it."""
        if checkpoint is not None:
            single = self.world.size == 1
            wanted = "rng_state.pth" if single else f"rng_state_{self.world.rank}.pth"
            other = "rng_state_0.pth" if single else "rng_state.pth"
            extra = f"rng_state_{self.world.size}.pth"
            folder = Path(checkpoint)
            if (folder / other).is_file() or not (folder / wanted).is_file() or (folder / extra).is_file():
                if self.world.is_first:
                    logger.warning(
                        "the checkpoint is of another number of processes: the order of pairs and the updates go on as "
                        "they were, and random draws inside the model (dropout) are new ones"
                    )
                return
        super()._load_rng_state(checkpoint)


@contextmanager
def _use_cache_kept(model: nn.Module) -> Iterator[None]:
    """The Trainer writes into the model's config that no cache is to be used, and it would be saved with the model.

    Every forward of training says so by itself (``models.policy``).
    """
    config: Any = getattr(model, "config", None)
    before = vars(config).get(_USE_CACHE, _ABSENT) if config is not None else _ABSENT
    try:
        yield
    finally:
        if before is not _ABSENT:
            setattr(config, _USE_CACHE, before)
        elif config is not None and _USE_CACHE in vars(config):
            delattr(config, _USE_CACHE)


def _read(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError) as err:
        raise CheckpointError(f"{file} cannot be read: {' '.join(str(err).split())}") from err


@contextmanager
def _disk_errors() -> Iterator[None]:
    """What torch, safetensors and the system say of a full disk, as our own error."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as err:
        pass_on_lost_partner(err)
        raise CheckpointError(f"a checkpoint was not written: {' '.join(str(err).split())}") from err
