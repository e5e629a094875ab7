"""``PreferenceTrainer``: transformers' Trainer with a preference objective in place of its loss.

What differs from the stock Trainer, and nothing else:

- the loss is the sum over pairs divided by the pairs of the *whole update* (all micro-batches, all ranks), so
  8 x 1 and 1 x 8 are the same update and an uneven last batch is weighed rightly;
- the objective's per-pair statistics are averaged over pairs and logged, and kept for ``pairs.parquet``;
- a non-finite loss or gradient stops before the optimizer step, with the ids of the pairs;
- checkpoints are written whole or not at all, and hold what trains under the names it has in memory (the stock resume
  silently keeps the start weights of vision-language models, because their files use other names);
- SIGINT and SIGTERM save a checkpoint at the next step boundary and stop.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from mmpref.errors import CheckpointError, ConfigError, NonFiniteError
from mmpref.losses import LossOutput, build_objective
from mmpref.losses.objective import Objective
from mmpref.models.policy import pair_logps
from mmpref.models.reference import ReferencePolicy
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.records import PreferencePair
from mmpref.rundir import replacing_folder
from mmpref.training.checkpoint import WEIGHTS, load_trained, prune, save_trained, seal, verify
from mmpref.training.metrics import Meter, PairLog, read_pair_log

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
        model: the policy, on any device, with the parts that shall train already marked (``models.adapter.prepare``).
        objective: an objective, or the mapping that ``mmpref.losses.build_objective`` takes.
        collator: turns pairs into a ``PairBatch`` (``processing.collate.PairCollator``).
        train_pairs: what is trained on.
        eval_pairs: held-out pairs for :meth:`evaluate`.
        reference: where reference log-probs come from (``models.reference.choose_reference``); needed when the
            objective says so.
        args: ``transformers.TrainingArguments``; batch sizes count pairs.
        checkpoint_facts: stored in every checkpoint; whoever resumes compares them (``checkpoint.differences``).

    Raises:
        ConfigError: the objective needs a reference and none is given, or there is nothing to train on.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        args: TrainingArguments,
        *,
        objective: Objective | Mapping[str, Any],
        collator: PairCollator,
        train_pairs: Sequence[PreferencePair],
        eval_pairs: Sequence[PreferencePair] = (),
        reference: ReferencePolicy | None = None,
        callbacks: list[TrainerCallback] | None = None,
        checkpoint_facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.objective = build_objective(objective) if isinstance(objective, Mapping) else objective
        if self.objective.needs_reference and reference is None:
            raise ConfigError("the loss needs reference log-probs; pass reference=choose_reference(model, ...)")
        if not train_pairs:
            raise ConfigError("there are no pairs to train on")
        # Ours to set: rows carry no model arguments to filter by, and a NaN must never be replaced in the log.
        args.remove_unused_columns = False
        args.logging_nan_inf_filter = False
        super().__init__(
            model=model,
            args=args,
            data_collator=collator.rows,
            train_dataset=Pairs(train_pairs),
            eval_dataset=Pairs(eval_pairs) if eval_pairs else None,
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
        self._batch_ids: tuple[str, ...] = ()
        self._facts = dict(checkpoint_facts or {})
        self.signals = _StopAtStepEnd()
        self.add_callback(self.signals)

    # ---- one update -------------------------------------------------------------------------------------------

    def training_step(
        self,
        model: nn.Module,
        inputs: Sequence[PairBatch],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One batch of pairs, run in as many parts as the collator made of it; gradients and loss add up."""
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        losses = [super(PreferenceTrainer, self).training_step(model, part, num_items_in_batch) for part in inputs]
        return torch.stack(losses).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: PairBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, LossOutput]:
        """Sum of the objective over this micro-batch, divided by the pairs of the update."""
        self._batch_ids = inputs.pair_ids
        output = self._objective(model, inputs)
        pairs = len(inputs) if num_items_in_batch is None else num_items_in_batch
        # Data-parallel wrappers average gradients over ranks; the division above is already over all ranks' pairs.
        loss = output.per_pair.sum() * (self.args.world_size / pairs)
        self.meter.add(output.stats)
        self.pair_log.add(self.state.global_step + 1, inputs.pair_ids, output.stats)
        return (loss, output) if return_outputs else loss

    def _objective(self, model: nn.Module, batch: PairBatch) -> LossOutput:
        reference = self.reference if self.objective.needs_reference else None
        try:
            logps = pair_logps(model, batch, reference=reference)
            output = self.objective(logps)
        except NonFiniteError as err:
            where = f"step {self.state.global_step + 1}, pairs {', '.join(batch.pair_ids)}"
            raise NonFiniteError(f"{where}: {err}") from err
        # Both sides are told whatever the objective reads: SFT moves the rejected answers too.
        sides = {"logps/chosen": logps.chosen, "logps/rejected": logps.rejected}
        lengths = {"len/chosen": logps.chosen_len, "len/rejected": logps.rejected_len}
        told = {name: value.detach().float() for name, value in (sides | lengths).items() if value is not None}
        return LossOutput(per_pair=output.per_pair, stats={**told, **output.stats})

    def _get_num_items_in_batch(
        self, batch_samples: Sequence[Sequence[PairBatch]], device: torch.device
    ) -> Tensor | int | None:
        pairs = sum(len(part) for batch in batch_samples for part in batch)
        if self.args.world_size > 1:
            counts: Tensor = self.accelerator.gather(torch.tensor([pairs], device=device))
            return counts.sum()
        return pairs

    def _prepare_inputs(self, inputs: PairBatch) -> PairBatch:
        return inputs.to(self.args.device, non_blocking=True)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        norm: Tensor | float | None = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not torch.isfinite(torch.as_tensor(norm)):
            raise NonFiniteError(
                f"step {self.state.global_step + 1}: the gradient is not finite; nothing was updated. "
                f"Last pairs seen: {', '.join(self._batch_ids)}. Look at them, or lower train.learning_rate"
            )
        return norm

    def floating_point_ops(self, inputs: Sequence[PairBatch]) -> int:
        """Not counted: the stock estimate does not know pairs, images or shared prompts."""
        return 0

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

        Both answers are run whatever the objective reads, so that models trained by different objectives compare.
        """
        if isinstance(eval_dataset, Sequence) and not isinstance(eval_dataset, str):
            eval_dataset = Pairs(eval_dataset)
        loader = self._loader_with_both_sides(eval_dataset)
        model = self._wrap_model(self.model, training=False)
        was_training = model.training
        model.eval()
        meter = Meter()
        try:
            with torch.no_grad(), self.compute_loss_context_manager():
                for batch in (part for parts in loader for part in parts):
                    output = self._objective(model, self._prepare_inputs(batch))
                    stats = {**output.stats, "loss": output.per_pair.detach()}
                    meter.add(stats)
                    self.eval_log.add(self.state.global_step, batch.pair_ids, stats)
        finally:
            model.train(was_training)
        self.eval_log.flush()
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in meter.take(self._sum_over_ranks).items()}
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _loader_with_both_sides(self, pairs: Any) -> DataLoader[tuple[PairBatch, ...]]:
        for_training: Any = self.collator.rows
        self.data_collator = self.collator.changed(need_rejected=True).rows
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

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        verify(folder)
        load_trained(self.accelerator.unwrap_model(self.model if model is None else model), folder / WEIGHTS)
        self.pair_log.restore(read_pair_log(folder / PAIRS))
        self.eval_log.restore(read_pair_log(folder / EVAL_PAIRS))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; afterwards ``self.signals.received`` is the signal that stopped the run early, or None."""
        with self.signals.listening():
            return super().train(*args, **kwargs)


class _StopAtStepEnd(TrainerCallback):
    """Turns SIGINT and SIGTERM into a checkpoint and a stop at the next step boundary; a second one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.received = None
        try:
            before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: signals stay with whoever has them
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received is not None and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
