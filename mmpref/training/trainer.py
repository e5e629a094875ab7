"""``PreferenceTrainer``: transformers' Trainer with a preference objective in place of its loss.

What differs from the stock Trainer, and nothing else:

- the loss is the sum over pairs divided by the pairs of the *whole update* (all micro-batches, all ranks), so
  8 x 1 and 1 x 8 are the same update and an uneven last batch is weighed rightly;
- the objective's per-pair statistics are averaged over pairs and logged, and kept for ``pairs.parquet``;
- a non-finite loss or gradient stops before the optimizer step (or that update is left out, when asked), with a dump
  of its pairs; memory that runs out is told with the pairs and the keys that would help;
- checkpoints are written whole or not at all, and hold what trains under the names it has in memory (the stock resume
  silently keeps the start weights of vision-language models, because their files use other names);
- SIGINT and SIGTERM save a checkpoint at the next step boundary and stop.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from mmpref.errors import CheckpointError, ConfigError, NonFiniteError, OutOfMemoryError
from mmpref.losses import LossOutput, build_objective
from mmpref.losses.objective import Objective
from mmpref.models.adapter import AdapterSettings, Tuning, plain_name
from mmpref.models.policy import pair_logps
from mmpref.models.reference import Reference, choose_reference
from mmpref.models.save import save_model
from mmpref.models.unwrap import unwrap
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.records import PreferencePair
from mmpref.rundir import replacing_folder
from mmpref.training.assemble import Model, PairsOrFile, as_collator, as_model, as_pairs
from mmpref.training.breakdown import Breakdown
from mmpref.training.checkpoint import WEIGHTS, is_complete, load_trained, prune, save_trained, seal, verify
from mmpref.training.faults import (
    UpdateWatch,
    describe_batch,
    is_out_of_memory,
    memory_told,
    num_pixels,
    out_of_memory,
    remedies_for,
)
from mmpref.training.metrics import Meter, PairLog, read_pair_log
from mmpref.training.rates import refuse_idle_rates, split_by_part
from mmpref.training.stopping import StopAtStepEnd

logger = logging.getLogger(__name__)

PAIRS = "pairs.parquet"
EVAL_PAIRS = "pairs_eval.parquet"


class Pairs(Dataset[PreferencePair]):
    """Pairs as a torch dataset. Rows are references; images are opened by the collator, in the worker."""

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PreferencePair:
        return self.pairs[index]


class PreferenceTrainer(Trainer):
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
    ) -> None:
        self.objective = build_objective(objective) if isinstance(objective, Mapping) else objective
        model, loaded = as_model(model, tuning, adapter)
        self._source = None if loaded is None else loaded.path
        pairs, root = as_pairs(train_pairs, self.objective)
        held_out, _ = as_pairs(eval_pairs, self.objective)
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
        super().__init__(
            model=model,
            args=args,
            data_collator=collator.rows,
            train_dataset=Pairs(pairs),
            eval_dataset=Pairs(held_out) if held_out else None,
            callbacks=callbacks,
        )
        self.collator = collator
        self.reference = reference
        # compute_loss divides by the pairs of the whole update. Older releases know that by the first name only, and
        # would divide by the accumulation steps once more.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.meter = Meter()
        self.pair_log = PairLog()
        self.eval_log = PairLog()
        self.watch = UpdateWatch()
        self.skipped_steps: list[int] = []
        self._rates = dict(learning_rates or {})
        refuse_idle_rates(self._rates, (part for p, part in _parts(model, collator).items() if p.requires_grad))
        self._may_skip = skip_nonfinite_steps
        self._poisoned: str | None = None  # why the update under way must not be made
        self._loss_sum: Tensor | None = None  # of the update under way
        self._fault_folder = fault_folder or Path(args.output_dir) / "faults"
        self._facts = dict(checkpoint_facts or {})
        self.signals = StopAtStepEnd()
        self.add_callback(self.signals)

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
        try:
            output = self._objective(model, inputs)
        except NonFiniteError as err:
            if return_outputs:
                raise
            self._poisoned = str(err)
            return torch.zeros((), device=self.args.device, requires_grad=True)
        pairs = len(inputs) if num_items_in_batch is None else num_items_in_batch
        # Data-parallel wrappers average gradients over ranks; the division above is already over all ranks' pairs.
        loss = output.per_pair.sum() * (self.args.world_size / pairs)
        self._loss_sum = loss.detach() if self._loss_sum is None else self._loss_sum + loss.detach()
        self.meter.add(output.stats)
        self.pair_log.add(self.state.global_step + 1, inputs.pair_ids, output.stats)
        return (loss, output) if return_outputs else loss

    def _objective(self, model: nn.Module, batch: PairBatch) -> LossOutput:
        reference = self.reference if self.objective.needs_reference else None
        logps = pair_logps(model, batch, reference=reference)
        # Both sides are told whatever the objective reads: SFT moves the rejected answers too.
        sides = {"logps/chosen": logps.chosen, "logps/rejected": logps.rejected}
        lengths = {"len/chosen": logps.chosen_len, "len/rejected": logps.rejected_len}
        told = {name: value.detach().float() for name, value in (sides | lengths).items() if value is not None}
        if self.is_in_train:
            self.watch.note(told)
        try:
            output = self.objective(logps)
        except NonFiniteError as err:
            where = f"step {self.state.global_step + 1}, pairs {', '.join(batch.pair_ids)}"
            raise NonFiniteError(f"{where}: {err}") from err
        stats = {**told, **output.stats}
        if self.is_in_train:
            self.watch.note({**stats, "loss": output.per_pair.detach()})
        return LossOutput(per_pair=output.per_pair, stats=stats)

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
        try:
            losses = [super(PreferenceTrainer, self).training_step(model, part, num_items_in_batch) for part in inputs]
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
        self, batch_samples: Sequence[Sequence[PairBatch]], device: torch.device
    ) -> Tensor | int | None:
        self.watch.begin()
        self._poisoned, self._loss_sum = None, None
        pairs = sum(len(part) for batch in batch_samples for part in batch)
        if self.args.world_size > 1:
            counts: Tensor = self.accelerator.gather(torch.tensor([pairs], device=device))
            return counts.sum()
        return pairs

    def _prepare_inputs(self, inputs: PairBatch) -> PairBatch:
        return inputs.to(self.args.device, non_blocking=True)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        norm: Tensor | float | None = super()._get_grad_norm(model, grad_norm=grad_norm)
        reason = self._poisoned
        if reason is None:
            finite = torch.isfinite(torch.as_tensor(0.0 if self._loss_sum is None else self._loss_sum))
            if norm is not None and getattr(self.accelerator, "scaler", None) is None:  # fp16's scaler skips by itself
                finite = finite & torch.isfinite(torch.as_tensor(norm, device=finite.device))
            if bool(finite):
                return norm
            reason = (
                f"step {self.state.global_step + 1}, pairs {', '.join(self.watch.pair_ids[:8])}: the loss or the "
                "gradient is not finite"
            )
        self._leave_out(model, reason, norm)
        return None

    def _leave_out(self, model: nn.Module, reason: str, norm: Tensor | float | None) -> None:
        """Write the dump of an update that must not be made, then stop, or go on without it.

        Raises:
            NonFiniteError: as many updates as may be were left out already.
        """
        step = self.state.global_step + 1
        dump = self._fault_folder / f"nonfinite-step-{step}.json"
        rate = self._get_learning_rate()
        self.watch.dump(dump, step=step, reason=reason, model=model, learning_rate=rate, gradient_norm=norm)
        if len(self.skipped_steps) >= self._may_skip:
            told = f" ({self._may_skip} updates were left out before)" if self._may_skip else ""
            raise NonFiniteError(
                f"{reason}; nothing was updated{told}. Statistics of the update are in {dump}: look at its pairs, or "
                "lower train.learning_rate; train.skip_nonfinite_steps=N goes on without up to N such updates"
            )
        self.skipped_steps.append(step)
        logger.warning("%s; this update was left out (%s)", reason, dump)
        model.zero_grad(set_to_none=True)  # an optimizer leaves weights without a gradient as they are
        if isinstance(running := getattr(self, "_tr_loss", None), Tensor):
            running.nan_to_num_(0.0, 0.0, 0.0)  # the Trainer's own sum since the last line

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
        if "loss" in logs:
            logs.update(self.meter.take(self._sum_over_ranks))
            self.pair_log.flush()
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
        if isinstance(eval_dataset, Sequence) and not isinstance(eval_dataset, str):
            eval_dataset = Pairs(eval_dataset)
        loader = self._evaluation_loader(eval_dataset)
        model = self._wrap_model(self.model, training=False)
        was_training = model.training
        model.eval()
        meter, breakdown = Meter(), Breakdown(getattr(loader.dataset, "pairs", ()))
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                for batch in (part for parts in loader for part in parts):
                    output = self._evaluated(model, batch)
                    stats = {**output.stats, "loss": output.per_pair.detach()}
                    meter.add(stats)
                    breakdown.add(batch.pair_ids, stats)
                    self.eval_log.add(self.state.global_step, batch.pair_ids, stats)
        except BaseException:
            self.eval_log.drop_pending()  # half an evaluation is none
            raise
        finally:
            model.train(was_training)
        self.eval_log.flush()
        found = {**meter.take(self._sum_over_ranks), **breakdown.take(self._sum_over_ranks)}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _evaluated(self, model: nn.Module, batch: PairBatch) -> LossOutput:
        def helps() -> list[str]:
            size = self.args.per_device_eval_batch_size
            smaller = [f"train.per_device_eval_batch_size={size // 2}"] if size > 1 else []
            pixels = num_pixels(batch.vision)
            return [*smaller, *remedies_for(self.model, self.args, self.collator.encoder, pixels, forward_only=True)]

        with memory_told(lambda: f"evaluating {describe_batch(batch)}", helps):
            return self._objective(model, self._prepare_inputs(batch))

    def _evaluation_loader(self, pairs: Any) -> DataLoader[tuple[PairBatch, ...]]:
        for_training: Any = self.collator.rows
        looked_at = self.eval_dataset if pairs is None else pairs
        demonstrated = any(pair.rejected is None for pair in getattr(looked_at, "pairs", ()))
        both = self.objective.needs_rejected or not demonstrated
        self.data_collator = self.collator.changed(need_rejected=both).rows
        try:
            loader: DataLoader[tuple[PairBatch, ...]] = self.get_eval_dataloader(pairs)
            return loader
        finally:
            self.data_collator = for_training

    def _sum_over_ranks(self, values: Tensor) -> Tensor:
        return self.accelerator.reduce(values, reduction="sum") if self.args.world_size > 1 else values

    # ---- checkpoints and stopping -----------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        root = Path(self.args.output_dir)
        try:
            with replacing_folder(root / f"step-{self.state.global_step}") as folder:
                save_trained(self.accelerator.unwrap_model(self.model), folder / WEIGHTS)
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                self._save_rng_state(str(folder))
                self.pair_log.write(folder / PAIRS)
                self.eval_log.write(folder / EVAL_PAIRS)
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                seal(folder, self._facts)
        except (RuntimeError, SafetensorError) as err:  # what torch and safetensors raise when the disk is full
            raise CheckpointError(f"the checkpoint of step {self.state.global_step} was not written: {err}") from err
        if self.args.save_total_limit is not None:
            prune(root, self.args.save_total_limit)

    def checkpoint_here(self) -> Path:
        """A complete checkpoint of the step that was reached; it may be there already.

        Raises:
            CheckpointError: it cannot be written.
        """
        folder = Path(self.args.output_dir) / f"step-{self.state.global_step}"
        if not is_complete(folder):
            self._save_checkpoint(self.model, None)
        return folder

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model (of an adapted one: the adapter) with its base's processor files, whole or not at all.

        Raises:
            ConfigError: a bare model, whose processor files are not known; ``models.save_model`` takes their place.
        """
        if self._source is None:
            raise ConfigError(
                "where the processor files are is not known; use mmpref.models.save_model(model, base, out)"
            )
        save_model(self.accelerator.unwrap_model(self.model), self._source, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        verify(folder)
        load_trained(self.accelerator.unwrap_model(self.model if model is None else model), folder / WEIGHTS)
        self.pair_log.restore(read_pair_log(folder / PAIRS))
        self.eval_log.restore(read_pair_log(folder / EVAL_PAIRS))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; afterwards ``self.signals.received`` is the signal that stopped the run early, or None.

        A checkpoint of the last step is only loaded: the stock Trainer would make one more step.
        """
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= state.max_steps > 0:
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        with self.signals.listening():
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except (RuntimeError, MemoryError) as err:  # outside a micro-batch: the optimizer makes its state
                if not is_out_of_memory(err):
                    raise
                raise self._memory_error("updating the weights", in_optimizer=True) from err


def _parts(model: nn.Module, collator: PairCollator) -> dict[nn.Parameter, str]:
    part_of = collator.encoder.family.part_of
    return {parameter: part_of(plain_name(name)) for name, parameter in unwrap(model).named_parameters()}
