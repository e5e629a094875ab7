"""``PreferenceTrainer``: transformers' Trainer with a preference objective in place of its loss.

What differs from the stock Trainer, and nothing else:

- the loss is the sum over pairs divided by the pairs of the *whole update* (all micro-batches, all ranks), so
  8 x 1 and 1 x 8 are the same update and an uneven last batch is weighed rightly;
- the objective's per-pair statistics are averaged over pairs and logged, and kept for ``pairs.parquet``;
- a non-finite loss or gradient stops before the optimizer step (or that update is left out, when asked), with a dump
  of its pairs; memory that runs out is told with the pairs and the keys that would help;
- checkpoints are written atomically, and hold what trains under the names it has in memory (the stock resume
  silently keeps the start weights of vision-language models, because their files use other names);
- SIGINT, SIGTERM and SIGHUP save a checkpoint at the next step boundary and stop;
- several processes take each pair of an epoch once, in the order that one process would, and run the same parts of the
  model whatever their pairs are, so that none waits for another in vain.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from mmpref.errors import ConfigError, NonFiniteError, OutOfMemoryError
from mmpref.losses import LossOutput, PairLogps
from mmpref.losses.objective import Objective
from mmpref.models.adapters.weights import plain_name
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.logps.reference import Reference, choose_reference
from mmpref.models.tuning import AdapterSettings, Tuning
from mmpref.models.unwrap import unwrap
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.records import PreferencePair
from mmpref.training.loss_settings import objective_for, objective_from
from mmpref.training.parallel.batches import GlobalBatches, loader_of
from mmpref.training.parallel.lockstep import DummyBatches, dummy_batches_for
from mmpref.training.parallel.sharded import layer_classes, let_cpus_shard
from mmpref.training.parallel.watchdog import watching
from mmpref.training.parallel.world import World
from mmpref.training.parallel.zero import let_recipe_decide, refuse_other_way
from mmpref.training.trainer.breakdown import Breakdown
from mmpref.training.trainer.checkpointing_trainer import CheckpointedTrainer
from mmpref.training.trainer.inputs import Model, PairsOrFile, as_collator, as_model, as_pairs
from mmpref.training.trainer.metrics import Meter, PairLog
from mmpref.training.trainer.nonfinite import BeforeStep, UpdateGuard, can_leave_out
from mmpref.training.trainer.param_groups import refuse_idle_rates, split_by_part
from mmpref.training.trainer.signals import StopAtStepEnd
from mmpref.training.trainer.swallowed import SwallowedUpdates
from mmpref.training.trainer.update_watch import (
    UpdateWatch,
    describe_batch,
    eval_remedies,
    explain_oom,
    explain_worker_oom,
    is_out_of_memory,
    out_of_memory,
    remedies_for,
)


class Pairs(Dataset[PreferencePair]):
    """Pairs as a torch dataset. Rows are references; images are opened by the collator, in the worker."""

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PreferencePair:
        return self.pairs[index]


class PreferenceTrainer(CheckpointedTrainer):
    """Trains a policy on preference pairs, text or image.

    Args:
        model: the policy, on any device, with the parts that shall train already marked (``models.adapter.prepare``),
            bare or with its processor (``LoadedModel``); or a folder or hub id, which is loaded and prepared.
        objective: an objective, or the mapping that ``mmpref.losses.build_objective`` takes.
        train_pairs: what is trained on: pairs, or a file of them.
        eval_pairs: held-out pairs for :meth:`evaluate`.
        collator: turns pairs into a ``PairBatch`` (``processing.collate.PairCollator``); needed for a bare model.
        reference: where reference log-probs come from (``models.reference.choose_reference``); needed for a bare model
            when the objective says so.
        tuning, adapter: for a model given by its path; by default its language model trains, or LoRA on it. An adapter
            given by its folder (or run) is trained further.
        image_root: image paths start here; default: the folder of ``train_pairs``.
        args: ``transformers.TrainingArguments``; batch sizes count pairs.
        learning_rates: of ``vision``, ``projector`` or ``language`` where they are not ``args.learning_rate``.
        skip_nonfinite_steps: so many updates with a loss or gradient that is not finite are left out; the next one
            stops the run, as the first does by default. Each writes a dump.
        fault_folder: where dumps of such updates go; default: beside the checkpoints, in ``faults/``.
        checkpoint_facts: stored in every checkpoint; whoever resumes compares them (``checkpoint.differences``).
        costs: the work that each training pair is, in any unit; several processes share it evenly.

    Raises:
        ConfigError: the objective needs a reference and none is given, or there is nothing to train on.
    """

    def __init__(
        self,
        model: Model,
        args: TrainingArguments,
        *,
        objective: Objective | Mapping[str, Any],
        train_pairs: PairsOrFile,
        eval_pairs: PairsOrFile = (),
        collator: PairCollator | None = None,
        reference: Reference | None = None,
        tuning: Tuning | None = None,
        adapter: AdapterSettings | str | Path | None = None,
        image_root: Path | None = None,
        callbacks: list[TrainerCallback] | None = None,
        checkpoint_facts: Mapping[str, Any] | None = None,
        learning_rates: Mapping[str, float] | None = None,
        skip_nonfinite_steps: int = 0,
        fault_folder: Path | None = None,
        costs: Sequence[float] | None = None,
    ) -> None:
        self.objective = objective_from(objective) if isinstance(objective, Mapping) else objective
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        model, loaded = as_model(model, tuning, adapter, autocast=half)
        self._source = None if loaded is None else loaded.path
        pairs, root = as_pairs(train_pairs, self.objective, image_root)
        if isinstance(objective, Mapping):
            self.objective = objective_for(objective, pairs)
        held_out, _ = as_pairs(eval_pairs, self.objective, image_root)
        if not pairs:
            raise ConfigError("there are no pairs to train on")
        if collator is None:
            collator = as_collator(loaded, self.objective, image_root or root)
        if self.objective.needs_reference and reference is None:
            if loaded is None:
                raise ConfigError("the loss needs reference log-probs; pass reference=choose_reference(model, ...)")
            reference = choose_reference(model)
        # Ours to set: rows carry no model arguments to filter by, and a NaN must never be replaced in the log.
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False
        if args.ddp_find_unused_parameters is None:  # an expert without tokens, the last layer of LLaVA's tower
            args.ddp_find_unused_parameters = True
        if args.ddp_broadcast_buffers is None:  # they are constants
            args.ddp_broadcast_buffers = False
            warnings.filterwarnings(
                "ignore", message="`broadcast_buffers` is deprecated"
            )  # until accelerate renames it
        self.world = World.of(args)
        if self.world.strategy == "fsdp2":
            let_cpus_shard()
            # gradients that wait for the last micro-batch would be whole on every rank
            args.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True}
        if self.world.is_deepspeed:
            let_recipe_decide(args)
        self.dummies: DummyBatches = dummy_batches_for(self.world, model, collator, pairs, held_out, costs)
        self.collator = self.dummies.collator
        super().__init__(
            model=model,
            args=args,
            data_collator=self.collator.rows,
            train_dataset=Pairs(pairs),
            eval_dataset=Pairs(held_out) if held_out else None,
            callbacks=callbacks,
        )
        if self.world.strategy == "fsdp2" and self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap is None:
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = layer_classes(model)
        self.reference = reference
        # compute_loss divides by the pairs of the whole update. Older releases know that by the first name only, and
        # would divide by the accumulation steps once more.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.meter = Meter()
        self.pair_log = PairLog(self.world.gather)
        self.eval_log = PairLog(self.world.gather)
        self._costs = costs
        self._batches: GlobalBatches | None = None
        self.pairs_done = 0  # by this process since it began, over all ranks
        self.watch = UpdateWatch()
        self.guard = UpdateGuard(
            fault_folder or Path(args.output_dir) / "faults",
            skip_nonfinite_steps,
            self.world.rank if self.world.size > 1 else None,
        )
        self._rates = dict(learning_rates or {})
        refuse_idle_rates(self._rates, (part for p, part in _parts(model, collator).items() if p.requires_grad))
        self._facts = dict(checkpoint_facts or {})
        self.signals = StopAtStepEnd(together=self.world.size > 1)
        self.add_callback(self.signals)
        self.swallowed = SwallowedUpdates(self.log)
        self.add_callback(self.swallowed)

    # ---- one update -------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: PairBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, LossOutput]:
        """Sum of the objective over this micro-batch, divided by the pairs of the update."""
        self.watch.enter(inputs)
        logps = self._logps(model, inputs)
        try:
            output, without_weight = self._objective(logps, inputs)
        except NonFiniteError as err:
            if return_outputs:
                raise
            self.guard.refuse(str(err))
            # DeepSpeed updates before anybody is asked, and leaves an update out by itself where gradients are NaN
            return _nothing_of(logps) * (math.nan if self.world.is_deepspeed else 1.0)
        pairs = inputs.counted if num_items_in_batch is None else num_items_in_batch
        # Data-parallel wrappers average gradients over ranks; the division above is already over all ranks' pairs.
        loss = (output.per_pair.sum() + without_weight) * (self.world.size / pairs)
        self.guard.add_loss(loss)
        self.meter.add(output.stats)
        self.pair_log.add(self.state.global_step + 1, inputs.counted_ids, output.stats)
        self.world.report_progress(self.state.global_step + 1, "exchanging gradients", inputs.counted_ids)
        return (loss, output) if return_outputs else loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """The precision of training for whatever is run. accelerate puts it around the policy's own forward, and only
        once training begins: a reference that is a copy, and every check and evaluation before, would have another.
        """
        found: AbstractContextManager[Any] = self.accelerator.autocast()
        return found

    def _logps(self, model: nn.Module, batch: PairBatch) -> PairLogps:
        return pair_logps(model, batch, reference=self.reference if self.objective.needs_reference else None)

    def _objective(self, logps: PairLogps, batch: PairBatch) -> tuple[LossOutput, Tensor]:
        """The objective of the pairs that count, and a zero that holds the graph of those that do not."""
        count = batch.counted
        # Both sides are told whatever the objective reads: SFT moves the rejected answers too.
        sides = {"logps/chosen": logps.chosen, "logps/rejected": logps.rejected}
        lengths = {"len/chosen": logps.chosen_len, "len/rejected": logps.rejected_len}
        told = {name: value.detach().float()[:count] for name, value in (sides | lengths).items() if value is not None}
        if self.is_in_train:
            self.watch.note(told)
        try:
            output = self.objective(logps)
        except NonFiniteError as err:
            where = f"step {self.state.global_step + 1}, pairs {', '.join(batch.pair_ids)}"
            raise NonFiniteError(f"{where}: {err}") from err
        per_pair = output.per_pair[:count]
        stats = {**told, **{name: value[:count] for name, value in output.stats.items()}}
        if self.is_in_train:
            self.watch.note({**stats, "loss": per_pair.detach()})
        return LossOutput(per_pair=per_pair, stats=stats), output.per_pair[count:].sum() * 0.0

    def training_step(
        self,
        model: nn.Module,
        inputs: Sequence[PairBatch],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One batch of pairs, run in as many parts as the collator made of it; gradients and loss add up.

        Memory that runs out is told with the pairs, their size and what to change.
        """
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        losses = []
        try:
            for number, part in enumerate(inputs, start=1):
                self.world.report_progress(self.state.global_step + 1, "training", part.counted_ids)
                with self.dummies.no_sync_except_last(self.accelerator, model, is_last=number == len(inputs)):
                    losses.append(super().training_step(model, part, num_items_in_batch))
            return torch.stack(losses).sum()
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            raise self._memory_error(f"training on {self.watch.last_described()}", in_optimizer=False) from err

    def _memory_error(self, where: str, *, in_optimizer: bool) -> OutOfMemoryError:
        return out_of_memory(
            f"{where}, step {self.state.global_step + 1}",
            remedies_for(self.model, self.args, self.collator.encoder, self.watch.pixels, in_optimizer=in_optimizer),
        )

    def _get_num_items_in_batch(
        self, batch_samples: list[Sequence[PairBatch]], device: torch.device
    ) -> Tensor | int | None:
        self.watch.begin()
        self.guard.begin()
        self.world.report_progress(self.state.global_step + 1, "waiting for the others' batches", ())
        batch_samples[:] = self.dummies.pad_to_longest_rank(batch_samples)
        [pairs] = self.world.total([sum(part.counted for parts in batch_samples for part in parts)])
        self.pairs_done += pairs
        return pairs

    def _prepare_inputs(self, inputs: PairBatch) -> PairBatch:
        return inputs.to(self.args.device, non_blocking=True)

    @property
    def _is_plain(self) -> bool:
        """One process, whose gradients are whole and as they were computed."""
        return self.world.strategy == "single" and self.accelerator.scaler is None

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float | None:
        if self._is_plain:
            return self.guard.clip(model, self.args.max_grad_norm)
        norm: Tensor | float | None = super()._clip_grad_norm(model)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """The norm, or None where the update is left out; none is made before the verdict on the last one is known."""
        self.guard.settle()
        if grad_norm is None and self._is_plain:
            grad_norm = self.guard.clip(model, math.inf)
        norm: Tensor | float | None = super()._get_grad_norm(model, grad_norm=grad_norm)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        # fp16's scaler skips by itself
        scaled = self.args.fp16 if self.world.is_deepspeed else self.accelerator.scaler is not None
        step, rate = self.state.global_step + 1, self._get_learning_rate()
        update = self.guard.update(self.watch.notes, step=step, learning_rate=rate, norm=norm, norm_counts=not scaled)
        running = getattr(self, "_tr_loss", torch.zeros(()))  # the Trainer's own sum since the last line
        if update.refused is None and self._is_plain and can_leave_out(self._raw_optimizer, update):
            before = BeforeStep(self.state, self.lr_scheduler, self._raw_optimizer, self.pair_log)
            self.guard.leave_to(self._raw_optimizer, update, running, before)
            return norm
        reason = update.why_not()
        bad, self.signals.agreed = self.world.highest([reason is not None, self.signals.received or 0])
        if not bad:
            return norm
        reason = next(found for found in self.world.gather(reason) if found is not None)
        self.guard.leave_out(update, reason, model)
        if not self.world.is_deepspeed:  # which has left the update out already
            model.zero_grad(set_to_none=True)  # an optimizer leaves weights without a gradient as they are
        running.nan_to_num_(0.0, 0.0, 0.0)
        return None

    @property
    def skipped_steps(self) -> list[int]:
        """Steps whose update was left out because its loss or gradient was not finite."""
        self.guard.settle()
        return self.guard.skipped

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.guard.settle()
        super()._save_checkpoint(model, trial)

    def floating_point_ops(self, inputs: Sequence[PairBatch]) -> int:
        """Not counted: the stock estimate does not know pairs, images or shared prompts."""
        return 0

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The stock optimizer; its groups are split by part where parts have learning rates of their own."""
        made = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if made and self._rates:
            split_by_part(optimizer, _parts(self.model if model is None else model, self.collator), self._rates)
        return optimizer

    # ---- logging and evaluation -------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the per-pair statistics since the last line."""
        self.guard.settle()
        if "loss" in logs:
            if self.guard.last == self.state.global_step:
                logs.pop("grad_norm", None)  # of an update that was not made
            logs.update(self.meter.take(self.world.gather))
            self.pair_log.flush()
            if self._batches is not None and (imbalance := self._batches.take_imbalance()) is not None:
                logs["imbalance"] = imbalance
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss and statistics over held-out pairs, each pair counted once (``eval_rewards/accuracies``, ...).

        Loss, accuracy and margin are told by source and by score gap as well (``eval_source/NAME/...``,
        ``eval_gap/low/...``).

        Both answers are run whatever the objective reads, so that models trained by different objectives compare; only
        the good one where the objective reads no other and some of the pairs are demonstrations.
        """
        self.guard.settle()
        if isinstance(eval_dataset, Sequence) and not isinstance(eval_dataset, str):
            eval_dataset = Pairs(eval_dataset)
        loader = self._evaluation_loader(eval_dataset)
        model = self.model_wrapped if self.world.is_deepspeed else self._wrap_model(self.model, training=False)
        was_training = model.training
        model.eval()
        meter, breakdown = Meter(), Breakdown(getattr(loader.dataset, "pairs", ()))
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                for batch in (part for parts in loader for part in self.dummies.pad_to_longest_rank([parts])[0]):
                    output = self._evaluated(model, batch)
                    stats = {**output.stats, "loss": output.per_pair.detach()}
                    meter.add(stats)
                    breakdown.add(batch.counted_ids, stats)
                    self.eval_log.add(self.state.global_step, batch.counted_ids, stats)
        except BaseException:
            self.eval_log.drop_pending()  # half an evaluation is none
            raise
        finally:
            model.train(was_training)
        self.eval_log.flush()
        found = {**meter.take(self.world.gather), **breakdown.take(self.world.gather)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluated(self, model: nn.Module, batch: PairBatch) -> LossOutput:
        self.world.report_progress(self.state.global_step, "evaluating", batch.counted_ids)
        told = f"evaluating {describe_batch(batch)}"
        with explain_oom(lambda: told, lambda: eval_remedies(self.model, self.args, self.collator.encoder, batch)):
            here = self._prepare_inputs(batch)
            return self._objective(self._logps(model, here), here)[0]

    def get_train_dataloader(self) -> DataLoader[tuple[PairBatch, ...]]:
        """This process's batches; all processes together take the batches that one would (``GlobalBatches``)."""
        self._batches = GlobalBatches(
            len(self.train_dataset),
            self.args.per_device_train_batch_size,
            rank=self.world.rank,
            size=self.world.size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            costs=self._costs,
        )
        return loader_of(self.train_dataset, self._batches, self.collator.rows, self.args)

    def _evaluation_loader(self, pairs: Any) -> DataLoader[tuple[PairBatch, ...]]:
        dataset = self.eval_dataset if pairs is None else pairs
        if dataset is None:
            raise ConfigError("there are no held-out pairs to evaluate on; give eval_pairs")
        size = self.args.per_device_eval_batch_size
        batches = GlobalBatches(len(dataset), size, rank=self.world.rank, size=self.world.size, shuffle=False)
        demonstrated = any(pair.rejected is None for pair in getattr(dataset, "pairs", ()))
        both = self.objective.needs_rejected or not demonstrated
        return loader_of(dataset, batches, self.collator.changed(need_rejected=both).rows, self.args)

    # ---- the end ----------------------------------------------------------------------------------------------

    def stop_signal(self) -> int | None:
        """The signal that any rank was sent while it trained; None when there was none."""
        return int(self.world.highest([self.signals.received or 0])[0]) or None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; afterwards :meth:`stop_signal` is the signal that stopped the run early, or None.

        A checkpoint of the last step is only loaded: the stock Trainer would make one more step.

        Raises:
            ConfigError: another process trains into ``args.output_dir``.
        """
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= state.max_steps > 0:
                self._load_finished(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
            refuse_other_way(Path(resume_from_checkpoint), self.world)
            self.restore_logs(Path(resume_from_checkpoint))
        if self.world.size > 1:  # dropout must not draw the same on every rank
            torch.manual_seed(self.args.seed + self.world.rank)
        on_gpus = self.world.size > 1 and self.args.device.type == "cuda"
        watched = watching(self.world, self.args.ddp_timeout) if on_gpus else nullcontext()
        workers = explain_worker_oom(lambda: f"training, step {self.state.global_step + 1}")
        with self._alone(), workers, self.signals.listening(), watched, self.guard.settling():
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except (RuntimeError, MemoryError) as err:  # outside a micro-batch: the optimizer makes its state
                if not is_out_of_memory(err):
                    raise
                raise self._memory_error("updating the weights", in_optimizer=True) from err


def _parts(model: nn.Module, collator: PairCollator) -> dict[nn.Parameter, str]:
    part_of = collator.encoder.family.part_of
    return {parameter: part_of(plain_name(name)) for name, parameter in unwrap(model).named_parameters()}


def _nothing_of(logps: PairLogps) -> Tensor:
    """A zero to run backward from: every rank must, for an update that none of them will make."""
    sides = [side for side in (logps.chosen, logps.rejected) if side is not None and side.requires_grad]
    return torch.stack([torch.nan_to_num(side, 0.0, 0.0, 0.0).sum() * 0.0 for side in sides]).sum()
