"""What is known of the update that went wrong: which pairs, how large, what they did; as a file and as a sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from mmpref.errors import DataError, OutOfMemoryError
from mmpref.files.writing import write_json
from mmpref.models.adapters.weights import count_parameters
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch
from mmpref.processing.encode import PairEncoder
from mmpref.processing.pixels import num_pixels

# how allocators say it that raise a plain RuntimeError: torch's on the CPU, CUDA outside torch's own, cuBLAS
_SIGNS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_NAMED = 8  # pairs and weights that a message or a dump names one by one


@dataclass(frozen=True, slots=True)
class _Micro:
    """One micro-batch: what it was made of, and its statistics as far as they were computed."""

    pair_ids: tuple[str, ...]
    tokens: int
    pixels: int
    stats: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateNotes:
    """What is known of the micro-batches of one update. Holds no batch, and reads no tensor until asked."""

    micros: tuple[_Micro, ...]

    @property
    def pair_ids(self) -> tuple[str, ...]:
        """Pairs of the update, in the order they were run."""
        return tuple(name for micro in self.micros for name in micro.pair_ids)

    def dump(self, file: Path, *, step: int, reason: str, gradients: Mapping[str, Any], **facts: Any) -> None:
        """Write what is known as JSON; numbers that are not finite are written as words.

        Args:
            file: where.
            step: the update that was not made.
            reason: what was found.
            gradients: what :func:`gradient_facts` says of them.
            facts: whatever else is worth knowing.
        """
        pairs = []
        for micro in self.micros:
            columns = {name: values.tolist() for name, values in micro.stats.items()}
            for place, name in enumerate(micro.pair_ids):
                stats = {key: _number(values[place]) for key, values in columns.items()}
                pairs.append({"id": name, "batch_tokens": micro.tokens, "batch_pixels": micro.pixels, **stats})
        named = {key: _number(value) for key, value in facts.items()}
        write_json(file, {"step": step, "reason": reason, **named, "gradients": gradients, "pairs": pairs})


class UpdateWatch:
    """Remembers the micro-batches of the update under way."""

    def __init__(self) -> None:
        self._micros: list[_Micro] = []

    def begin(self) -> None:
        """A new update."""
        self._micros.clear()

    def enter(self, batch: PairBatch) -> None:
        """A micro-batch is about to be run."""
        self._micros.append(_Micro(batch.counted_ids, batch.input_ids.numel(), num_pixels(batch.vision)))

    def note(self, stats: Mapping[str, Tensor]) -> None:
        """Statistics [B] of the micro-batch entered last."""
        if self._micros:
            self._micros[-1].stats.update(stats)

    @property
    def notes(self) -> UpdateNotes:
        """Of the update so far; they stay as they are when the next one begins."""
        return UpdateNotes(tuple(self._micros))

    @property
    def pixels(self) -> int:
        """Of the micro-batch entered last."""
        return self._micros[-1].pixels if self._micros else 0

    def last_described(self) -> str:
        """The micro-batch entered last, in words."""
        if not self._micros:
            return "before the first batch"
        micro = self._micros[-1]
        return _described(micro.pair_ids, micro.tokens, micro.pixels)


def describe_batch(batch: PairBatch) -> str:
    """A batch in words: its first pairs, how many, tokens and pixels."""
    return _described(batch.pair_ids, batch.input_ids.numel(), num_pixels(batch.vision))


def _described(pair_ids: Sequence[str], tokens: int, pixels: int) -> str:
    names = ", ".join(pair_ids[:_NAMED]) + (", ..." if len(pair_ids) > _NAMED else "")
    of_pixels = f", {pixels:,} pixels" if pixels else ""
    return f"pairs {names} ({len(pair_ids)} in the batch, {tokens:,} tokens{of_pixels})"


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an error means that memory ran out; torch has no class of its own for the CPU's."""
    if isinstance(err, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(err, RuntimeError) and any(sign in str(err) for sign in _SIGNS)


def out_of_memory(where: str, remedies: Sequence[str]) -> OutOfMemoryError:
    """The error to raise: what was being done, and the two keys of ``remedies`` that would help most."""
    if not remedies:
        return OutOfMemoryError(f"out of memory while {where}; nothing is left to lower: take a smaller model")
    return OutOfMemoryError(f"out of memory while {where}; what would help most: {', then '.join(remedies[:2])}")


@contextmanager
def explain_oom(where: Callable[[], str], helps: Callable[[], Sequence[str]]) -> Iterator[None]:
    """Memory that runs out inside is told as one error; anything else passes as it is.

    Args:
        where: what was being done, asked only then.
        helps: recipe keys that would help, the best first; asked only then.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        raise out_of_memory(where(), helps()) from err


@contextmanager
def explain_worker_oom(where: Callable[[], str]) -> Iterator[None]:
    """A loader's worker process that died is told as one error; anything else passes as it is.

    Args:
        where: what was being done, asked only then.

    Raises:
        DataError: a worker was killed, or ended by itself.
    """
    try:
        yield
    except RuntimeError as err:  # torch raises it wherever this process is at that moment
        if not str(err).startswith("DataLoader worker"):
            raise
        raise DataError(
            f"a loader worker ended while {where()} ({' '.join(str(err).split())}): memory or /dev/shm ran out, or a "
            "image crashed its reader; lower train.dataloader_num_workers, or let mmpref data check find the image"
        ) from err


def remedies_for(
    model: nn.Module,
    args: TrainingArguments | None,
    encoder: PairEncoder,
    pixels: int,
    *,
    in_optimizer: bool = False,
    forward_only: bool = False,
) -> list[str]:
    """:func:`remedies` for what a trainer has; without its arguments, those that do not depend on them."""
    trained, total = count_parameters(model)
    checkpointing = getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)
    return remedies(
        batch_size=1 if args is None else args.per_device_train_batch_size,
        accumulation=1 if args is None else args.gradient_accumulation_steps,
        checkpointing=bool(checkpointing),
        quantized=bool(getattr(base_model(model), "is_quantized", False)),
        trained_share=trained / max(total, 1),
        optim="" if args is None else str(getattr(args.optim, "value", args.optim)),
        pixels=pixels,
        has_pixel_budget=encoder.family.has_pixel_budget,
        max_length=encoder.max_length,
        in_optimizer=in_optimizer,
        forward_only=forward_only,
    )


def eval_remedies(model: nn.Module, args: TrainingArguments, encoder: PairEncoder, batch: PairBatch) -> list[str]:
    """Recipe keys that make an evaluation smaller, the most helpful first."""
    size = args.per_device_eval_batch_size
    smaller = [f"train.per_device_eval_batch_size={size // 2}"] if size > 1 else []
    return [*smaller, *remedies_for(model, args, encoder, num_pixels(batch.vision), forward_only=True)]


def remedies(
    *,
    batch_size: int,
    accumulation: int,
    checkpointing: bool,
    quantized: bool,
    trained_share: float,
    optim: str,
    pixels: int = 0,
    has_pixel_budget: bool = False,
    max_length: int | None = None,
    in_optimizer: bool = False,
    forward_only: bool = False,
) -> list[str]:
    """Recipe keys that lower the peak, the most helpful first.

    Args:
        trained_share: trained weights over all weights.
        pixels: of the batch that did not fit.
        in_optimizer: memory ran out in the optimizer, whose state is what is too large then.
        forward_only: memory ran out where no gradient is kept and no optimizer is there yet, on a few pairs: the
            weights and the size of one pair are what is too large then.
    """
    smaller_state = []
    if trained_share > 0.2:
        smaller_state = ["adapter.kind=lora with tune.language=lora (train an adapter, not the weights)"]
        if "8bit" not in optim:
            smaller_state.append("train.optim=adamw_8bit (a quarter of the optimizer's memory)")
    activations = []
    if not checkpointing and not forward_only:
        activations.append("train.gradient_checkpointing=true (keeps one activation for each layer)")
    if batch_size > 1 and not forward_only:
        half = math.ceil(batch_size / 2)
        activations.append(
            f"train.per_device_train_batch_size={half} train.gradient_accumulation_steps="
            f"{math.ceil(batch_size * accumulation / half)} (the same update)"
        )
    if pixels and has_pixel_budget:
        activations.append("a lower processing.max_pixels (fewer image tokens)")
    if max_length is None:
        activations.append("processing.max_length (cuts the longest answers)")
    weights = [] if quantized else ["adapter.kind=qlora with tune.language=lora (weights in 4 bits)"]
    if in_optimizer:
        return [*smaller_state, *weights, *activations]
    if forward_only:
        return [*weights, *activations]
    first, rest = activations[:2], activations[2:]
    return [*first, *smaller_state, *weights, *rest]


def norms_by_name(model: nn.Module) -> list[tuple[str, float]]:
    """Every weight's name and the norm of its gradient; waits for the device."""
    return [
        (name, float(parameter.grad.float().norm()))
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    ]


def gradient_facts(norms: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """What a dump says of the gradients, given every weight's name and norm."""
    bad, largest = [], 0.0
    for name, norm in norms:
        if math.isfinite(norm):
            largest = max(largest, norm)
        else:
            bad.append(name)
    return {"not_finite": len(bad), "first": bad[:_NAMED], "largest_finite_norm": largest}


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
