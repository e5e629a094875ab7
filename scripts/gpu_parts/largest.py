"""The longest answers that still fit, found by trying: a training step and an update of the weights each time."""

from __future__ import annotations

import copy
import gc
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from gpu_parts.case import ran_out_of_memory
from gpu_parts.pairs_file import random_words
from mmpref.processing.batch import PairBatch
from mmpref.records import ImageRef, PreferencePair, user_turn
from mmpref.training.trainer.memory_errors import is_out_of_memory
from mmpref.training.trainer.trainer import PreferenceTrainer

GROWTH = (1.15, 1.5, 2.0)
"""Steps away from the first size, until it is between one that fits and one that does not."""
CLOSE = 0.02
"""Share of the size at which the search ends."""


@dataclass(kw_only=True)
class Largest:
    """What a search found.

    Attributes:
        fits: the largest size that fitted; 0 where none did.
        fails: the smallest that did not; None where all did.
        tries: each size, and whether it fitted.
    """

    fits: int = 0
    fails: int | None = None
    tries: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def resolution(self) -> float | None:
        """How much more may still fit, as a share of what does; None where there is no bound."""
        return None if self.fails is None or not self.fits else self.fails / self.fits - 1


def find_largest(
    works: Callable[[int], bool], start: int, *, limit: int, tries: int, seconds: float = math.inf
) -> Largest:
    """Search for the largest size that works: away from ``start`` in growing steps, then by halves.

    Args:
        works: whether a size does; a larger one takes longer, in proportion.
        start: the first size.
        limit: the largest that is of interest.
        tries, seconds: at most; the first try is made in any case.
    """
    found = Largest()
    size, steps = max(1, min(start, limit)), list(GROWTH)
    began = time.monotonic()
    for _ in range(tries):
        tried = time.monotonic()
        fitted = works(size)
        now = time.monotonic()
        found.tries.append((size, fitted))
        if fitted:
            found.fits = size
        else:
            found.fails = size
        following = _next(found, size, steps, limit)
        if following is None or now - began + (now - tried) * following / size > seconds:
            break
        size = following
    return found


def _next(found: Largest, size: int, steps: list[float], limit: int) -> int | None:
    """The size to try after ``size``; None where the search is over."""
    if found.fails is None:
        factor = steps.pop(0) if len(steps) > 1 else steps[0]
        return None if size >= limit else min(limit, math.ceil(size * factor))
    if found.fits == 0:
        factor = steps.pop(0) if len(steps) > 1 else steps[0]
        return None if size <= 1 else max(1, math.floor(size / factor))
    if found.fails - found.fits <= max(1, CLOSE * found.fits):
        return None
    return (found.fits + found.fails) // 2


class Updates:
    """Updates of a trained model with pairs of any length, as the trainer makes them.

    Args:
        trainer: at the end of its training: the optimizer has its state.
        image: of each pair, as its data names it.
    """

    def __init__(self, trainer: PreferenceTrainer, image: str, *, prompt_words: int) -> None:
        self._trainer, self._image, self._prompt_words = trainer, image, prompt_words
        # the plan's answers are not cut at processing.max_length, nor shall these be
        self._collator = copy.copy(trainer.collator)
        self._collator.encoder = copy.copy(trainer.collator.encoder)
        self._collator.encoder.max_length = None
        self.on_cuda = trainer.args.device.type == "cuda"

    def fits(self, answer_tokens: int) -> bool:
        """Whether an update with answers of that length gets through, with all memory freed before and after."""
        fitted = True
        self._free(collect=False)
        try:
            self._update(answer_tokens)
        except Exception as err:
            if not (ran_out_of_memory(err) or is_out_of_memory(err)):
                raise
            fitted = False
        self._free(collect=not fitted)  # outside of the except: its traceback holds the tensors
        return fitted

    def _update(self, answer_tokens: int) -> None:
        """One update; where the recipe accumulates, the gradients of a small micro-batch are there before."""
        trainer, args = self._trainer, self._trainer.args
        batches: list[Sequence[PairBatch]] = [self._batch(answer_tokens)]
        if args.gradient_accumulation_steps > 1:
            batches.insert(0, self._batch(2))
        model = trainer.model_wrapped
        count = trainer._get_num_items_in_batch(batches, args.device)
        for batch in batches:
            loss = trainer.training_step(model, batch, count)
        trainer.accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        trainer.optimizer.step()
        if self.on_cuda:
            torch.cuda.synchronize()
        assert bool(torch.isfinite(loss)), f"the loss of answers of {answer_tokens} tokens is {float(loss)}"

    def _batch(self, answer_tokens: int) -> tuple[PairBatch, ...]:
        draw = random.Random(answer_tokens)
        return self._collator.rows([
            PreferencePair(
                id=f"{answer_tokens} tokens, {number}", images=(ImageRef(path=self._image),),
                prompt=user_turn(random_words(draw, self._prompt_words), num_images=1),
                chosen=random_words(draw, answer_tokens - 1), rejected=random_words(draw, answer_tokens - 1),
                score_chosen=4.0, score_rejected=2.0,
            )
            for number in range(self._trainer.args.per_device_train_batch_size)
        ])  # fmt: skip

    def _free(self, *, collect: bool) -> None:
        """Give back gradients and cached blocks; ``collect`` also what a broken update left in reference cycles."""
        self._trainer.optimizer.zero_grad()
        self._trainer.model.zero_grad(set_to_none=True)
        if collect:
            gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()
