"""The checkpoints of a trainer: written atomically, with what trains under the names it has in memory.

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
from mmpref.training.parallel.world import World, raise_if_partner_lost
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
from mmpref.training.trainer.metrics import InCheckpoint
from mmpref.training.trainer.recorder import StatsRecorder

logger = logging.getLogger(__name__)

SHARDS = "sharded"
"""Folder with the parts that the ranks wrote; in place of the weights and the optimizer's file."""


class Checkpointer:
    """Writes and reads the checkpoints and the result of one trainer.

    Args:
        trainer: whose model, optimizer, schedule and state they are.
        world: the ranks that write together.
        recorder: its per-pair statistics are in every checkpoint.
        facts: stored in every checkpoint; whoever resumes compares them (``checkpoint.differences``).
        source: where the model was loaded from, for its processor files; None where that is not known.
        run_folder: the run folder around ``args.output_dir``, which its caller has locked, and which may vanish while
            it trains; None where there is none, and ``args.output_dir`` is locked here.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        world: World,
        recorder: StatsRecorder,
        facts: Mapping[str, Any],
        source: str | Path | None,
        run_folder: Path | None,
    ) -> None:
        self._trainer = trainer
        self._world = world
        self._recorder = recorder
        self._facts = dict(facts)
        self._source = source
        self._run_folder = run_folder

    @property
    def _step(self) -> int:
        return int(self._trainer.state.global_step)

    @property
    def _root(self) -> Path:
        return Path(str(self._trainer.args.output_dir))

    @property
    def _model(self) -> nn.Module:
        """The model under what data parallelism wraps around it."""
        found: nn.Module = self._trainer.accelerator.unwrap_model(self._trainer.model)
        return found

    # ---- writing ----------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No second process writes into the folder of the checkpoints; what killed ones left there is removed.

        Raises:
            ConfigError: another process trains into it.
        """
        if self._run_folder is not None:
            yield
            return
        folder = real_path(self._root)
        with one_training_in(folder, self._world, logger.warning):
            if self._world.is_first:
                remove_abandoned(folder, "step-*")
            yield

    def save(self) -> None:
        """Write a checkpoint of the step that was reached; all ranks must call it together.

        Raises:
            CheckpointError: it cannot be written.
            VanishedError: the run folder was deleted or moved; says where the checkpoint is.
        """
        run, place = self._run_folder, self._kept_in()
        root = self._root if place is None else RunDir(place).checkpoints
        self._save_below(root)
        if run is not None and place is not None:
            error = as_error(run, place, root / f"step-{self._step}")
            with self._world.fail_together():
                if self._world.is_first:
                    RunDir(place).set_state("failed", error=str(error))
            raise error
        limit = self._trainer.args.save_total_limit
        if limit is not None and self._world.is_first:
            prune(root, limit, newest=self._step)

    def _kept_in(self) -> Path | None:
        """None while the run folder is where it was; else the one that a last checkpoint goes to."""
        folder = self._run_folder
        if folder is None:
            return None
        return self._world.on_first_rank(lambda: kept_in(folder) if has_vanished(folder) else None)

    def refuse_vanished(self) -> None:
        """Write a last checkpoint and stop where the run folder was deleted or moved; all ranks must call it together.

        Raises:
            VanishedError: says where the checkpoint is.
        """
        if self._kept_in() is not None:
            self._save_through_trainer()

    def _save_through_trainer(self) -> None:
        """As the Trainer saves by itself, with whatever its subclass does before."""
        self._trainer._save_checkpoint(self._trainer.model, None)

    def _save_below(self, root: Path) -> None:
        self._recorder.flush()  # rows of all ranks come together
        try:
            with self._together(root / f"step-{self._step}") as folder:
                self._write_weights(folder)
                with self._world.fail_together(), _disk_errors():
                    self._trainer._save_rng_state(str(folder))
                    self._trainer._save_scaler(str(folder))
                    if self._world.is_first:
                        self._recorder.write(folder)
                        for kept in self._trainer.callback_handler.callbacks:
                            if isinstance(kept, InCheckpoint):
                                kept.copy_to(folder)
                        self._trainer.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                with self._world.fail_together():
                    if self._world.is_first:
                        seal(folder, self._facts, step=self._step)
        except (RuntimeError, SafetensorError) as err:  # what torch and safetensors raise when the disk is full
            raise_if_partner_lost(err)
            reason = " ".join(str(err).split())
            raise CheckpointError(
                f"the checkpoint of step {self._step} was not written: {reason}; those in {root} are "
                "as they were: make room and go on with --resume"
            ) from err

    @contextmanager
    def _together(self, path: Path) -> Iterator[Path]:
        """One folder that all ranks write into, in place of ``path`` when all of them got through."""
        with ExitStack() as opened:
            folder: Path | None = None
            with self._world.fail_together():
                if self._world.is_first:
                    with writing_to(path):
                        aside = keep_others(path)
                    if aside is not None:
                        logger.warning(
                            "%s contained something other than a checkpoint; it was moved to %s", path, aside
                        )
                    folder = opened.enter_context(replacing_folder(path))
            shared = self._world.broadcast(folder)
            assert shared is not None
            yield shared
        self._world.barrier()  # nobody looks for it before it is there

    def _write_weights(self, folder: Path) -> None:
        inner = self._model
        if self._world.strategy == "fsdp2":
            save_sharded(inner, raw_optimizer(self._trainer), folder / SHARDS)
            with self._world.fail_together(), _disk_errors():
                if self._world.is_first:
                    torch.save(self._trainer.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
        elif self._trainer.is_deepspeed_enabled:
            with _disk_errors():
                self._trainer._save_optimizer_and_scheduler(str(folder))  # the weights too, by DeepSpeed's own means
        else:
            with self._world.fail_together(), _disk_errors():
                if self._world.is_first:
                    save_trained(inner, folder / WEIGHTS)
                self._trainer._save_optimizer_and_scheduler(str(folder))

    def here(self) -> Path:
        """A complete checkpoint of the step that was reached; it may be there already.

        Raises:
            CheckpointError: it cannot be written.
        """
        self.refuse_vanished()
        folder = self._root / f"step-{self._step}"
        if not self._world.on_first_rank(lambda: is_complete(folder)):
            self._save_through_trainer()
        return folder

    # ---- the result -------------------------------------------------------------------------------------------

    def save_model(self, out: Path | None = None) -> None:
        """Write the model (of an adapted one: the adapter) with its base's processor files, atomically.

        Raises:
            ConfigError: a bare model, whose processor files are not known; ``models.save_model`` takes their place.
        """
        if self._source is None:
            raise ConfigError(
                "where the processor files are is not known; use mmpref.models.save_model(model, base, out)"
            )
        self.write_model(self._source, out or self._root)

    def write_model(self, source: str | Path, out: Path, *, dtype: str = "auto") -> None:
        """Write the trained model with the processor files of ``source``; all ranks must call it together.

        Args:
            dtype: of a whole model's weights; ``auto`` writes what was trained, so that nothing is rounded.

        Raises:
            CheckpointError: it cannot be written; on all ranks.
        """
        inner = self._model
        weights = saved_weights(inner, keep=self._world.is_first) if self._world.is_sharded else None
        with self._world.fail_together():
            if self._world.is_first:
                save_model(inner, source, out, weights=weights, dtype=dtype_to_save(inner, dtype))

    # ---- reading ----------------------------------------------------------------------------------------------

    def restore_logs(self, folder: Path) -> None:
        """Start the per-pair logs from those of a checkpoint, whose files are checked first.

        Raises:
            CheckpointError: not complete, or changed since.
        """
        self._world.on_first_rank(lambda: verify(folder))
        self._recorder.restore(folder)

    def load_weights(self, folder: Path, model: nn.Module | None = None) -> None:
        """The trained weights of a checkpoint, into ``model`` or the trainer's own.

        Raises:
            CheckpointError: it holds other weights, or cannot be read.
        """
        if (folder / SHARDS).is_dir():
            return  # read together with the optimizer
        inner = self._model if model is None else self._trainer.accelerator.unwrap_model(model)
        load_trained(inner, folder / WEIGHTS)

    def load_finished(self, folder: Path) -> None:
        """Weights and logs of a checkpoint that no step follows."""
        inner = self._model
        self.restore_logs(folder)
        if (folder / SHARDS).is_dir():
            load_sharded_weights(inner, folder / SHARDS)
        elif is_zero_checkpoint(folder):
            load_zero_weights(inner, folder)
        else:
            load_trained(inner, folder / WEIGHTS)
        make_whole(inner)

    def load_optimizer(self, folder: Path) -> bool:
        """Optimizer and schedule where sharded weights are read or will be; False where the stock Trainer reads them.

        Raises:
            CheckpointError: a file cannot be read.
        """
        if self._trainer.is_deepspeed_enabled:
            return False
        if (folder / SHARDS).is_dir():
            load_sharded(self._model, raw_optimizer(self._trainer), folder / SHARDS)
        elif self._world.strategy == "fsdp2":
            load_whole_optimizer(self._model, raw_optimizer(self._trainer), _read(folder / OPTIMIZER_NAME))
        else:
            return False
        self._trainer.lr_scheduler.load_state_dict(_read(folder / SCHEDULER_NAME))
        return True

    def has_random_states(self, folder: Path) -> bool:
        """Whether a checkpoint has those of this rank; one of another number of ranks has not, which is warned of."""
        single = self._world.size == 1
        wanted = "rng_state.pth" if single else f"rng_state_{self._world.rank}.pth"
        other = "rng_state_0.pth" if single else "rng_state.pth"
        extra = f"rng_state_{self._world.size}.pth"
        found = not (folder / other).is_file() and (folder / wanted).is_file() and not (folder / extra).is_file()
        if not found and self._world.is_first:
            logger.warning(
                "the checkpoint is of another number of processes: the order of pairs and the updates go on as "
                "they were, and random draws inside the model (dropout) are new ones"
            )
        return found


def raw_optimizer(trainer: Trainer) -> torch.optim.Optimizer:
    """torch's own optimizer under accelerate's."""
    found: Any = trainer.optimizer
    return getattr(found, "optimizer", found)  # type: ignore[no-any-return]


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
        raise_if_partner_lost(err)
        raise CheckpointError(f"a checkpoint was not written: {' '.join(str(err).split())}") from err
