"""Work with a model that is loaded and not trained yet: start-up checks, reference cache, first evaluation.

Where weights are sharded, the Trainer divides them when training starts, and nothing can be run before that.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpref.errors import ConfigError, DistributedError
from mmpref.files.hashes import Say
from mmpref.files.rows import first_ids
from mmpref.models.logps.reference import ReferencePolicy
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel.sharded import prove_sharded, shard_like
from mmpref.training.run.reference_cache import ReferenceCache
from mmpref.training.run.setup import Setup, compute_reference
from mmpref.training.trainer.preflight import GRADIENTS, preflight
from mmpref.training.trainer.trainer import PreferenceTrainer


class FirstStep(TrainerCallback):
    """The methods can be called one by one; as a callback it does all of it when training starts, on every rank.

    Args:
        recipe: of the run.
        trainer: with the model.
        ready: the model with its pairs and its reference.
        new: whether the run starts; False where it resumes from a checkpoint, whose policy is not the reference.
        say: called with one line per check.
    """

    def __init__(self, recipe: Recipe, trainer: PreferenceTrainer, ready: Setup, *, new: bool, say: Say) -> None:
        self._recipe, self._trainer, self._ready = recipe, trainer, ready
        self._new, self._say = new, say

    def check(self) -> None:
        """The start-up checks, where the recipe wants them.

        Raises:
            ConfigError: one failed.
        """
        if not self._recipe.preflight:
            return
        trainer, ready = self._trainer, self._ready
        for check in preflight(
            trainer.model_wrapped,
            # no kept features: it blanks images to see whether the model looks at them
            trainer.collator.with_features(None).changed(need_mismatched=False),
            ready.train.pairs,
            trainer.reference,
            device=trainer.args.device,
            autocast=trainer.compute_loss_context_manager,
            args=trainer.args,
        ):
            self._say(check.describe())
            if check.name == GRADIENTS and trainer.world.strategy == "ddp":
                self._expect_gradients(check.unused)

    def _expect_gradients(self, unused: int) -> None:
        """DDP waits for every gradient, unless it looks in every step which of them will come."""
        trainer = self._trainer
        asked = self._recipe.train.extra.get("ddp_find_unused_parameters")
        if asked is None:
            some_may_not = any("expert" in name for name, _ in trainer.model.named_modules())
            trainer.accelerator.ddp_handler.find_unused_parameters = bool(unused) or some_may_not
        elif unused and not asked:
            raise DistributedError(
                f"{unused} trained tensors get no gradient, and train.extra.ddp_find_unused_parameters=false makes DDP "
                "wait for them for good: leave that key out"
            )

    def evaluate(self) -> None:
        """Evaluate before the first step, for comparison with what comes later."""
        if self._new and self._ready.eval.pairs:
            self._trainer.evaluate()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        trainer, world = self._trainer, self._trainer.world
        share = prove_sharded(trainer.model_wrapped, world.strategy)
        self._say(f"{world.size} processes, {world.strategy}: this one has {share}")
        if isinstance(trainer.reference, ReferencePolicy) and world.is_sharded:
            trainer.reference.shard(lambda model: shard_like(trainer.accelerator, model, world.strategy))
        if isinstance(trainer.reference, ReferenceCache):
            self._fill(trainer.reference)
        if self._new:
            self.check()
        self.evaluate()

    def _fill(self, cache: ReferenceCache) -> None:
        trainer, ready = self._trainer, self._ready
        pairs = [*ready.train.pairs, *ready.eval.pairs]
        if self._new:
            policy, collator = trainer.model_wrapped, trainer.collator
            compute_reference(cache, policy, collator, pairs, recipe=self._recipe, say=self._say, world=trainer.world)
            return
        workers = int(self._recipe.train.dataloader_num_workers)
        if lacking := cache.lacking(trainer.collator, pairs, world=trainer.world, workers=workers):
            raise ConfigError(
                f"the reference cache in {cache.folder} lacks {len(lacking)} answers (pairs "
                f"{first_ids(list(dict.fromkeys(lacking)))}), and the policy of a checkpoint is not the reference: "
                "bring the cache back, or start again with --overwrite"
            )
