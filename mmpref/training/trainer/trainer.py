"""``PreferenceTrainer``: transformers' Trainer with a preference objective in place of its loss.

What differs from the stock Trainer, and nothing else:

- the loss is the sum over pairs divided by the pairs of the *whole update* (all micro-batches, all ranks), so
  8 x 1 and 1 x 8 are the same update and an uneven last batch is weighed rightly;
- the objective's per-pair statistics are averaged over pairs and logged, and kept for ``pairs.parquet``;
- a non-finite loss or gradient stops before the optimizer step (or that update is left out, when asked), with a dump
  of its pairs; memory that runs out is explained with the pairs and the keys that would help;
- checkpoints are written atomically, and hold what trains under the names it has in memory (the stock resume
  silently keeps the start weights of vision-language models, because their files use other names);
- SIGINT, SIGTERM and SIGHUP save a checkpoint at the next step boundary and stop;
- several processes take each pair of an epoch once, in the order that one process would, and run the same parts of the
  model whatever their pairs are, so that none waits for another in vain;
- pairs of one prompt may travel together (``TrainerOptions.group_pairs``): batches of an update are then of about equal
  work instead of equally many pairs, and may be empty.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from mmpref.errors import ConfigError, NonFiniteError, OutOfMemoryError
from mmpref.losses import LossOutput, PairLogps
from mmpref.losses.objective import Objective
from mmpref.models.adapters.weights import plain_name
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.logps.reference import Reference, eval_mode
from mmpref.models.logps.router_balance import find_routers
from mmpref.models.unwrap import unwrap
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.training.parallel.sharded import layer_classes
from mmpref.training.parallel.watchdog import watching
from mmpref.training.parallel.world import World
from mmpref.training.parallel.zero import refuse_other_way
from mmpref.training.trainer.checkpointer import Checkpointer
from mmpref.training.trainer.image_lift import image_lift, logps_under_other
from mmpref.training.trainer.inputs import AdapterOrFolder, Given, Model, PairsOrFile, TrainerInputs, as_rows_of
from mmpref.training.trainer.learning import refuse_balance_without_graph
from mmpref.training.trainer.loaders import Loaders, Pairs
from mmpref.training.trainer.memory_errors import (
    MemorySituation,
    Where,
    eval_remedies,
    explain_oom,
    explain_worker_oom,
    is_out_of_memory,
    out_of_memory,
    remedies,
)
from mmpref.training.trainer.nonfinite import UpdateGuard
from mmpref.training.trainer.nonfinite_policy import NonFinitePolicy
from mmpref.training.trainer.options import TrainerOptions
from mmpref.training.trainer.own_arguments import own_arguments
from mmpref.training.trainer.pair_facts import pair_facts
from mmpref.training.trainer.pair_log import PairLog
from mmpref.training.trainer.param_groups import refuse_idle_rates, split_by_part
from mmpref.training.trainer.recorder import StatsRecorder
from mmpref.training.trainer.signals import StopAtStepEnd
from mmpref.training.trainer.swallowed import SwallowedUpdates
from mmpref.training.trainer.train_mode import use_cache_kept
from mmpref.training.trainer.update_constants import UpdateConstants
from mmpref.training.trainer.update_watch import UpdateWatch, describe_batch


class PreferenceTrainer(Trainer):
    """Trains a policy on preference pairs, text or image.

    Args:
        model: the policy, on any device, with the parts that shall train already marked (``models.prepare``), bare or
            with its processor (``LoadedModel``); or a folder or hub id, which is loaded and prepared.
        args: ``transformers.TrainingArguments``; batch sizes count pairs. They are copied, not changed.
        objective: an objective, or the mapping that ``mmpref.losses.build_objective`` takes.
        train_pairs: what is trained on: pairs, or a file of them.
        eval_pairs: held-out pairs for :meth:`evaluate`, or a file of them.
        adapter: of a model given by its path: settings of a new LoRA adapter; or the folder (or run) of one that is
            trained further.
        options: everything else; a bare model needs ``collator`` there, and ``reference`` where the objective reads it.
        former: options given one by one, as scripts did before there were any; a warning says how to give them.

    Attributes:
        world: the ranks that train together.
        objective, reference, collator: as they are used.
        recorder: per-pair statistics; ``pair_log`` and ``eval_log`` are its tables.
        loaders: batches of this process.
        constants: what the loss takes as constants from all pairs of an update.
        nonfinite: what becomes of an update with a loss or gradient that is not finite.
        checkpointer: writes and reads checkpoints and the result.
        signals, swallowed: callbacks of the trainer's own.
        pairs_done: trained on by this process since it began, over all ranks.
        held_out_seconds: that evaluations on held-out pairs took so far.

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
        adapter: AdapterOrFolder | None = None,
        options: TrainerOptions | None = None,
        **former: Any,
    ) -> None:
        options = (options or TrainerOptions()).with_former_keywords(former)
        half = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        given = Given(model=model, objective=objective, train_pairs=train_pairs, eval_pairs=eval_pairs, adapter=adapter)
        inputs = TrainerInputs.of(given, options, autocast=half, seed=args.seed)
        args = own_arguments(args)
        self.world = World.of(args)
        self.objective, self.reference = inputs.objective, inputs.reference
        self.loaders = Loaders(inputs, args, self.world, options)
        self.collator = self.loaders.collator
        with use_cache_kept(inputs.model):
            super().__init__(
                model=inputs.model,
                args=args,
                data_collator=self.collator.rows,
                train_dataset=Pairs(inputs.train_pairs),
                eval_dataset=Pairs(inputs.eval_pairs) if inputs.eval_pairs else None,
                callbacks=list(options.callbacks),
            )
        if self.world.strategy == "fsdp2" and self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap is None:
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = layer_classes(inputs.model)
        # compute_loss divides by the pairs of the whole update. Older releases know that by the first name only, and
        # would divide by the accumulation steps once more.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self._rates = dict(options.learning_rates or {})
        trained = (part for p, part in _parts(inputs.model, inputs.collator).items() if p.requires_grad)
        refuse_idle_rates(self._rates, trained)
        self.pairs_done = 0
        self.held_out_seconds = 0.0
        self._balance = options.router_aux_loss_coef
        self._routers = find_routers(inputs.model) if self._balance else None
        if self._routers is not None:
            refuse_balance_without_graph(args)
        self._add_parts(inputs, options)

    def _add_parts(self, inputs: TrainerInputs, options: TrainerOptions) -> None:
        """What this trainer is made of beside the stock one; the overrides below only call it."""
        self.signals = StopAtStepEnd(together=self.world.size > 1)
        self.swallowed = SwallowedUpdates(self.log)
        self.recorder = StatsRecorder(self.world.gather, share=options.pair_log)
        self._lifts = options.eval_other_image is not None
        self.watch = UpdateWatch()
        self.constants = UpdateConstants(self.objective, self.world)
        self.nonfinite = NonFinitePolicy(
            self,
            world=self.world,
            guard=UpdateGuard(
                options.fault_folder or Path(str(self.args.output_dir)) / "faults",
                options.skip_nonfinite_steps,
                self.world.rank if self.world.size > 1 else None,
            ),
            watch=self.watch,
            pair_log=self.recorder.pair_log,
            signals=self.signals,
        )
        self.checkpointer = Checkpointer(
            self,
            world=self.world,
            recorder=self.recorder,
            facts=options.checkpoint_facts or {},
            source=inputs.source,
            run_folder=options.run_folder,
        )
        self.add_callback(self.signals)
        self.add_callback(self.swallowed)
        self.add_callback(self.constants)

    @property
    def pair_log(self) -> PairLog:
        """Statistics of the training pairs that are kept, step by step (``pairs.parquet``)."""
        return self.recorder.pair_log

    @property
    def eval_log(self) -> PairLog:
        """Every held-out pair's statistics, evaluation by evaluation (``pairs_eval.parquet``)."""
        return self.recorder.eval_log

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
        logps = self._logps(model, inputs, self.constants.reference(self._reference))
        logps = self.constants.added(logps, inputs.counted)
        try:
            output, without_weight = self._objective(logps, inputs)
        except NonFiniteError as err:
            if return_outputs:
                raise
            return self.nonfinite.refuse(str(err), logps)
        pairs = inputs.counted if num_items_in_batch is None else num_items_in_batch
        # Data-parallel wrappers average gradients over ranks; the division above is already over all ranks' pairs.
        loss = (output.per_pair.sum() + without_weight) * (self.world.size / pairs)
        self.nonfinite.add_loss(loss)
        facts = pair_facts(inputs, output)
        self.recorder.add(self.state.global_step + 1, inputs.counted_ids, output.stats, facts)
        self.world.report_progress(self.state.global_step + 1, "exchanging gradients", inputs.counted_ids)
        return (loss, output) if return_outputs else loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """The precision of training for whatever is run. accelerate puts it around the policy's own forward, and only
        once training begins: a reference that is a copy, and every check and evaluation before, would have another.
        """
        found: AbstractContextManager[Any] = self.accelerator.autocast()
        return found

    @property
    def _reference(self) -> Reference | None:
        return self.reference if self.objective.needs_reference else None

    def _logps(self, model: nn.Module, batch: PairBatch, reference: Reference | None) -> PairLogps:
        return pair_logps(model, batch, reference=reference, routers=self._routers)

    @property
    def _unwrapped(self) -> nn.Module:
        """The model for a forward that no backward follows."""
        found: nn.Module = self.model_wrapped if self.world.is_deepspeed else self._wrap_model(self.model, False)
        return found

    def _looked_at(self, batch: PairBatch, doing: str) -> PairLogps:
        """Log-probs that the update under way, or an evaluation, takes constants from."""
        self.watch.enter(batch)
        self.world.report_progress(self.state.global_step + 1, doing, batch.counted_ids)
        model = self._unwrapped
        try:
            with torch.no_grad(), eval_mode(model), self.compute_loss_context_manager():
                found = pair_logps(model, self._prepare_inputs(batch), reference=self._reference)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            raise self._out_of_memory(f"{doing} on {self.watch.last_described()}", Where.FORWARD) from err
        torch.clear_autocast_cache()  # half-precision copies of weights made here would carry no gradient
        return found

    def _objective(self, logps: PairLogps, batch: PairBatch) -> tuple[LossOutput, Tensor]:
        """The objective of the pairs that count, and a zero that keeps the graph of those that do not."""
        count = batch.counted
        # Both sides are reported whatever the objective reads: SFT moves the rejected answers too.
        sides = {"logps/chosen": logps.chosen, "logps/rejected": logps.rejected}
        lengths = {"len/chosen": logps.chosen_len, "len/rejected": logps.rejected_len}
        plain = {name: value.detach().float()[:count] for name, value in (sides | lengths).items() if value is not None}
        if self.is_in_train:
            self.watch.note(plain)
        try:
            output = self.objective(logps)
        except NonFiniteError as err:
            where = f"step {self.state.global_step + 1}, pairs {', '.join(batch.pair_ids)}"
            raise NonFiniteError(f"{where}: {err}") from err
        whole, stats = output.per_pair, {**plain, **{name: value[:count] for name, value in output.stats.items()}}
        if logps.router_balance is not None:
            whole = whole + self._balance * logps.router_balance
            stats["router/aux_loss"] = logps.router_balance.detach()[:count]
        weighting = self.collator.encoder.token_weights
        if weighting is not None and (share := batch.share_weighted(weighting.plain)) is not None:
            stats["weights/changed_share"] = share[:count]
        per_pair = whole[:count]
        if self.is_in_train:
            self.watch.note({**stats, "loss": per_pair.detach()})
        return LossOutput(per_pair=per_pair, stats=stats), whole[count:].sum() * 0.0

    def training_step(
        self,
        model: nn.Module,
        inputs: Sequence[PairBatch],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One batch of pairs, run in as many parts as the collator made of it, or none; gradients and loss add up.

        Raises:
            OutOfMemoryError: memory ran out; names the pairs, their size and what to change.
        """
        if num_items_in_batch is None:
            num_items_in_batch = self._get_num_items_in_batch([inputs], self.args.device)
        losses = []
        try:
            for number, part in enumerate(inputs, start=1):
                self.world.report_progress(self.state.global_step + 1, "training", part.counted_ids)
                with self.loaders.no_sync_except_last(self.accelerator, model, is_last=number == len(inputs)):
                    losses.append(super().training_step(model, part, num_items_in_batch))
            return torch.stack(losses).sum() if losses else torch.zeros((), device=self.args.device)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            raise self._out_of_memory(f"training on {self.watch.last_described()}", Where.BACKWARD) from err

    def _out_of_memory(self, doing: str, where: Where) -> OutOfMemoryError:
        encoder = self.collator.encoder
        pixels, frames = self.watch.image_pixels, self.watch.frames
        tokens = self.watch.divisible_tokens
        situation = MemorySituation.of(
            where, self.model, self.args, encoder, pixels=pixels, frames=frames, tokens=tokens
        )
        return out_of_memory(f"{doing}, step {self.state.global_step + 1}", remedies(situation))

    def _get_num_items_in_batch(
        self, batch_samples: list[Sequence[PairBatch]], device: torch.device
    ) -> Tensor | int | None:
        if self.constants.needs_shift:
            self._settle()
        self.nonfinite.begin()
        self.world.report_progress(self.state.global_step + 1, "waiting for the others' batches", ())
        batch_samples[:] = self.loaders.pad_to_longest_rank(batch_samples)
        [pairs] = self.world.sum_over_ranks([sum(part.counted for parts in batch_samples for part in parts)])
        self.pairs_done += pairs
        step = self.state.global_step + 1
        batch_samples[:] = self.constants.begin(batch_samples, pairs, step, self._looked_at)
        self.watch.begin()
        return pairs

    def _settle(self) -> None:
        """The last update is made or left out."""
        self.nonfinite.settle()
        left_out = self.nonfinite.last_was_skipped or self.accelerator.optimizer_step_was_skipped
        self.constants.settle(self.state.global_step, left_out=left_out)

    def _prepare_inputs(self, inputs: PairBatch) -> PairBatch:
        return inputs.to(self.args.device, non_blocking=True)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float | None:
        if self.nonfinite.is_plain:
            return self.nonfinite.clip(model, self.args.max_grad_norm)
        norm: Tensor | float | None = super()._clip_grad_norm(model)
        return norm

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        """The norm, or None where the update is left out; none is made before the verdict on the last one is known."""
        self.nonfinite.settle()
        if grad_norm is None and self.nonfinite.is_plain:
            grad_norm = self.nonfinite.clip(model)
        return self.nonfinite.decide(model, super()._get_grad_norm(model, grad_norm=grad_norm))

    @property
    def skipped_steps(self) -> list[int]:
        """Steps whose update was left out because its loss or gradient was not finite."""
        return self.nonfinite.skipped

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
        self.nonfinite.settle()
        if "loss" in logs:
            if self.nonfinite.last_was_skipped:
                logs.pop("grad_norm", None)  # of an update that was not made
            logs.update(self.recorder.take_means())
            if (imbalance := self.loaders.take_imbalance()) is not None:
                logs["imbalance"] = imbalance
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Mean loss and statistics over held-out pairs, each pair counted once (``eval_rewards/accuracies``, ...).

        Loss, accuracy and margin are reported by source and by score gap as well (``eval_source/NAME/...``,
        ``eval_gap/low/...``), and with ``TrainerOptions.eval_other_image`` what the images are worth to both answers
        (``eval_lift/chosen``, ``eval_lift/rejected``, ``eval_lift/helps``).

        Raises:
            ConfigError: there are no held-out pairs.
        """
        self._settle()
        if isinstance(eval_dataset, Sequence) and not isinstance(eval_dataset, str):
            eval_dataset = Pairs(as_rows_of(self.objective, eval_dataset, seed=self.args.seed))
        loader = self.get_eval_dataloader(eval_dataset)
        model = self._unwrapped
        was_training = model.training
        model.eval()
        begun = time.monotonic()
        try:
            pairs = getattr(loader.dataset, "pairs", ())
            self.constants.begin_evaluation(lambda: self._parts_of(loader), self._looked_at)
            recording = self.recorder.evaluation(self.state.global_step, pairs)
            with recording as found, torch.no_grad(), self.compute_loss_context_manager():
                for batch in self._parts_of(loader):
                    output = self._evaluated(model, batch)
                    facts = pair_facts(batch, output)
                    found.add(batch.counted_ids, {**output.stats, "loss": facts["loss"]}, facts)
        finally:
            model.train(was_training)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.take().items()}
        self.held_out_seconds += time.monotonic() - begun
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _parts_of(self, loader: Iterable[tuple[PairBatch, ...]]) -> Iterator[PairBatch]:
        for parts in loader:
            yield from self.loaders.pad_to_longest_rank([parts], training=False)[0]

    def _evaluated(self, model: nn.Module, batch: PairBatch) -> LossOutput:
        self.world.report_progress(self.state.global_step, "evaluating", batch.counted_ids)
        doing = f"evaluating {describe_batch(batch)}"
        with explain_oom(lambda: doing, lambda: eval_remedies(self.model, self.args, self.collator.encoder, batch)):
            here = self._prepare_inputs(replace(batch, mismatched=None))  # they were looked at before
            logps = self.constants.added_in_evaluation(self._logps(model, here, self._reference))
            output = self._objective(logps, here)[0]
            if not self._lifts:
                return output
            other = logps_under_other(model, here, always=self.world.is_sharded)
            lift = {} if other is None else image_lift(logps, other, here)
            return replace(output, stats={**output.stats, **{name: lift[name][: here.counted] for name in lift}})

    def get_train_dataloader(self) -> DataLoader[tuple[PairBatch, ...]]:
        """This process's batches of training pairs."""
        return self.loaders.training(self.train_dataset)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[tuple[PairBatch, ...]]:
        """This process's share of the held-out pairs.

        Raises:
            ConfigError: there are none.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise ConfigError("there are no held-out pairs to evaluate on; give eval_pairs")
        return self.loaders.evaluation(dataset)

    # ---- checkpoints and the result ---------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self._settle()
        self.checkpointer.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.checkpointer.load_weights(Path(resume_from_checkpoint), model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.checkpointer.load_optimizer(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self.checkpointer.has_random_states(Path(checkpoint)):
            super()._load_rng_state(checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model (of an adapted one: the adapter) with its base's processor files, atomically.

        Raises:
            ConfigError: a bare model, whose processor files are not known; ``models.save_model`` takes their place.
        """
        self.checkpointer.save_model(Path(output_dir) if output_dir else None)

    def checkpoint_here(self) -> Path:
        """A complete checkpoint of the step that was reached; it may be there already.

        Raises:
            CheckpointError: it cannot be written.
        """
        return self.checkpointer.here()

    # ---- the end ----------------------------------------------------------------------------------------------

    def stop_signal(self) -> int | None:
        """The signal that any rank was sent while it trained; None when there was none."""
        return int(self.world.max_over_ranks([self.signals.received or 0])[0]) or None

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train; afterwards :meth:`stop_signal` is the signal that stopped the run early, or None.

        A checkpoint of the last step is only loaded: the stock Trainer would make one more step.

        Raises:
            ConfigError: another process trains into ``args.output_dir``.
        """
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
            if state.global_step >= state.max_steps > 0:
                self.checkpointer.load_finished(Path(resume_from_checkpoint))
                self.constants.restore(Path(resume_from_checkpoint))
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
            refuse_other_way(Path(resume_from_checkpoint), self.world)
            self.checkpointer.restore_logs(Path(resume_from_checkpoint))
            self.constants.restore(Path(resume_from_checkpoint))
        if self.world.size > 1:  # dropout must not draw the same on every rank
            torch.manual_seed(self.args.seed + self.world.rank)
        on_gpus = self.world.size > 1 and self.args.device.type == "cuda"
        watched = watching(self.world, self.args.ddp_timeout) if on_gpus else nullcontext()
        workers = explain_worker_oom(lambda: f"training, step {self.state.global_step + 1}")
        locked, settling = self.checkpointer.locked(), self.nonfinite.settling()
        with locked, workers, self.signals.listening(), watched, settling:
            try:
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
            except (RuntimeError, MemoryError) as err:  # outside a micro-batch: the optimizer makes its state
                if not is_out_of_memory(err):
                    raise
                raise self._out_of_memory("updating the weights", Where.OPTIMIZER) from err


def _parts(model: nn.Module, collator: PairCollator) -> dict[nn.Parameter, str]:
    part_of = collator.encoder.family.part_of
    return {parameter: part_of(plain_name(name)) for name, parameter in unwrap(model).named_parameters()}
