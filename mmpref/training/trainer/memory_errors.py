"""Memory that ran out, as one error: what was running, and the recipe keys that lower the peak."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
from torch import nn
from transformers import TrainingArguments

from mmpref.errors import DataError, OutOfMemoryError
from mmpref.models.adapters.weights import count_parameters
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch
from mmpref.processing.encode import PairEncoder
from mmpref.processing.pixels import num_pixels

# how allocators say it that raise a plain RuntimeError: torch's on the CPU, CUDA outside torch's own, cuBLAS
_SIGNS = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


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
    """Turn memory that runs out inside the block into one error; anything else passes unchanged.

    Args:
        where: what was being done; called only then.
        helps: recipe keys that would help, the best first; called only then.

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
    """Turn the death of a loader's worker process into one error; anything else passes unchanged.

    Args:
        where: what was being done; called only then.

    Raises:
        DataError: a worker was killed, or ended by itself.
    """
    try:
        yield
    except RuntimeError as err:  # torch raises it wherever this process is at that moment
        if not str(err).startswith("DataLoader worker"):
            raise
        raise DataError(
            f"a loader worker ended while {where()} ({' '.join(str(err).split())}): memory or /dev/shm ran out, or an "
            "image crashed its reader; lower train.dataloader_num_workers, or let mmpref data check find the image"
        ) from err


class Where(Enum):
    """What was running when memory ran out."""

    FORWARD = "forward"
    """A few pairs, no gradient kept and no optimizer state yet: the weights and the size of one pair are too large."""
    BACKWARD = "backward"
    """A micro-batch of training: its activations are too large."""
    OPTIMIZER = "optimizer"
    """The update of the weights: the optimizer's state is too large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemorySituation:
    """What decides which recipe keys lower the peak.

    Attributes:
        checkpointing: activations are recomputed in the backward (gradient checkpointing).
        quantized: the frozen weights are stored in 4 or 8 bits.
        trained_share: trained weights over all weights.
        optim: the name of the optimizer, as ``train.optim`` has it.
        pixels: of the images of the batch that did not fit.
        frames: of all videos of that batch.
        tokens: of that batch, if it has several pairs: it can be run in parts. 0 for one pair.
        has_pixel_budget: the processor resizes images to a number of pixels that the recipe can lower.
        max_length: of a pair in tokens; None where nothing is cut.
    """

    where: Where
    batch_size: int
    accumulation: int
    checkpointing: bool
    quantized: bool
    trained_share: float
    optim: str
    pixels: int = 0
    frames: int = 0
    tokens: int = 0
    has_pixel_budget: bool = False
    max_length: int | None = None

    @classmethod
    def of(
        cls,
        where: Where,
        model: nn.Module,
        args: TrainingArguments | None,
        encoder: PairEncoder,
        *,
        pixels: int,
        frames: int = 0,
        tokens: int = 0,
    ) -> MemorySituation:
        """The situation of a trainer; without its arguments the settings that depend on them are left at the least."""
        trained, total = count_parameters(model)
        checkpointing = getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)
        return cls(
            where=where,
            batch_size=1 if args is None else args.per_device_train_batch_size,
            accumulation=1 if args is None else args.gradient_accumulation_steps,
            checkpointing=bool(checkpointing),
            quantized=bool(getattr(base_model(model), "is_quantized", False)),
            trained_share=trained / max(total, 1),
            optim="" if args is None else str(getattr(args.optim, "value", args.optim)),
            pixels=pixels,
            frames=frames,
            tokens=tokens,
            has_pixel_budget=encoder.family.has_pixel_budget,
            max_length=encoder.max_length,
        )


def remedies(situation: MemorySituation) -> list[str]:
    """Recipe keys that lower the peak, the most helpful first."""
    state, weights, activations = _smaller_state(situation), _smaller_weights(situation), _fewer_activations(situation)
    if situation.where is Where.OPTIMIZER:
        return [*state, *weights, *activations]
    if situation.where is Where.FORWARD:
        return [*weights, *activations]
    return [*activations[:2], *state, *weights, *activations[2:]]


def eval_remedies(model: nn.Module, args: TrainingArguments, encoder: PairEncoder, batch: PairBatch) -> list[str]:
    """Recipe keys that make an evaluation smaller, the most helpful first."""
    size = args.per_device_eval_batch_size
    smaller = [f"train.per_device_eval_batch_size={size // 2}"] if size > 1 else []
    pixels, frames = num_pixels(batch.vision, of_videos=False), sum(batch.video_frames)
    situation = MemorySituation.of(Where.FORWARD, model, args, encoder, pixels=pixels, frames=frames)
    return [*smaller, *remedies(situation)]


def _smaller_state(situation: MemorySituation) -> list[str]:
    """Keys for a smaller state of the optimizer."""
    if situation.trained_share <= 0.2:
        return []
    found = ["adapter.kind=lora with tune.language=lora (train an adapter, not the weights)"]
    if "8bit" not in situation.optim:
        found.append("train.optim=adamw_8bit (a quarter of the optimizer's memory)")
    return found


def _smaller_weights(situation: MemorySituation) -> list[str]:
    return [] if situation.quantized else ["adapter.kind=qlora with tune.language=lora (weights in 4 bits)"]


def _fewer_activations(situation: MemorySituation) -> list[str]:
    found = []
    trains = situation.where is not Where.FORWARD
    if trains and not situation.checkpointing:
        found.append("train.gradient_checkpointing=true (keeps one activation for each layer)")
    if trains and situation.batch_size > 1:
        half = math.ceil(situation.batch_size / 2)
        found.append(
            f"train.per_device_train_batch_size={half} train.gradient_accumulation_steps="
            f"{math.ceil(situation.batch_size * situation.accumulation / half)} (the same update)"
        )
    elif trains and situation.tokens:  # pairs of one prompt, which a batch size of 1 does not hold back
        half = math.ceil(situation.tokens / 2)
        found.append(f"processing.row_tokens={half} (the pairs of a prompt in parts, the same update)")
    if situation.frames:
        smaller = " or processing.video_max_pixels" if situation.has_pixel_budget else ""
        found.append(f"a lower processing.video_max_frames{smaller} (fewer video tokens)")
    if situation.pixels and situation.has_pixel_budget:
        found.append("a lower processing.max_pixels (fewer image tokens)")
    if situation.max_length is None:
        found.append("processing.max_length (cuts the longest answers)")
    return found
