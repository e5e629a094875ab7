"""Which recipe keys an out-of-memory error names, by what was running, and what counts as one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmpref.errors import DataError, OutOfMemoryError
from mmpref.recipe.loading import load_recipe
from mmpref.training.trainer.memory_errors import (
    MemorySituation,
    Where,
    eval_remedies,
    explain_oom,
    explain_worker_oom,
    is_out_of_memory,
    remedies,
)
from tests.plain_forward import build_deep, collator_for
from tests.tiny_vlms import pair

FULL = MemorySituation(
    where=Where.BACKWARD, batch_size=5, accumulation=2, checkpointing=False, quantized=False, trained_share=0.9,
    optim="adamw_torch", pixels=1000, has_pixel_budget=True,
)  # fmt: skip
CHECKPOINTING = "train.gradient_checkpointing=true (keeps one activation for each layer)"
HALF = "train.per_device_train_batch_size=3 train.gradient_accumulation_steps=4 (the same update)"
PIXELS = "a lower processing.max_pixels (fewer image tokens)"
LENGTH = "processing.max_length (cuts the longest answers)"
LORA = "adapter.kind=lora with tune.language=lora (train an adapter, not the weights)"
EIGHT_BIT = "train.optim=adamw_8bit (a quarter of the optimizer's memory)"
PARTS = "processing.row_tokens=451 (the pairs of a prompt in parts, the same update)"
QLORA = "adapter.kind=qlora with tune.language=lora (weights in 4 bits)"


@pytest.mark.parametrize(
    ("where", "want"),
    [
        (Where.BACKWARD, [CHECKPOINTING, HALF, LORA, EIGHT_BIT, QLORA, PIXELS, LENGTH]),
        (Where.OPTIMIZER, [LORA, EIGHT_BIT, QLORA, CHECKPOINTING, HALF, PIXELS, LENGTH]),
        (Where.FORWARD, [QLORA, PIXELS, LENGTH]),
    ],
)
def test_what_was_running_orders_the_keys(where: Where, want: list[str]) -> None:
    assert remedies(replace(FULL, where=where)) == want


def test_what_is_done_already_is_not_named() -> None:
    least = MemorySituation(
        where=Where.BACKWARD, batch_size=1, accumulation=8, checkpointing=True, quantized=True, trained_share=0.01,
        optim="paged_adamw_8bit", pixels=1000, has_pixel_budget=False, max_length=512,
    )  # fmt: skip
    assert remedies(least) == []
    assert remedies(replace(least, trained_share=0.5)) == [LORA]
    assert remedies(replace(least, has_pixel_budget=True)) == [PIXELS]
    assert remedies(replace(least, pixels=0, has_pixel_budget=True)) == []
    assert remedies(replace(least, frames=8)) == ["a lower processing.video_max_frames (fewer video tokens)"]
    of_qwen = remedies(replace(least, frames=8, has_pixel_budget=True))
    assert of_qwen[0] == "a lower processing.video_max_frames or processing.video_max_pixels (fewer video tokens)"
    assert remedies(replace(least, tokens=901)) == [PARTS]
    assert remedies(replace(FULL, tokens=901)) == remedies(FULL), "fewer pairs in a batch come first"


@pytest.mark.parametrize("images", [(), ("60x60-1",)])
def test_a_batch_of_videos_alone_is_told_nothing_of_images(images: tuple[str, ...]) -> None:
    model = build_deep("qwen2_vl")
    collator = collator_for(model)
    row = pair("film", images=images, videos=("60x60x4-1",))
    args: Any = SimpleNamespace(
        per_device_eval_batch_size=1, per_device_train_batch_size=1, gradient_accumulation_steps=1, optim="adamw_torch"
    )
    found = eval_remedies(model.model, args, collator.encoder, collator([row]))
    assert (PIXELS in found) == bool(images)
    assert "a lower processing.video_max_frames or processing.video_max_pixels (fewer video tokens)" in found


@pytest.mark.parametrize("where", Where)
def test_keys_with_a_value_are_taken_by_a_recipe(where: Where) -> None:
    for text in [*remedies(replace(FULL, where=where)), *remedies(replace(FULL, where=where, batch_size=1, tokens=9))]:
        words = [word for word in text.partition(" (")[0].replace(" with ", " ").split() if "=" in word]
        load_recipe("demo_dpo", words)


@pytest.mark.parametrize(
    ("err", "want"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(err: Exception, want: bool) -> None:
    assert is_out_of_memory(err) is want


def test_the_error_names_what_ran_and_two_keys() -> None:
    with pytest.raises(OutOfMemoryError) as raised, explain_oom(lambda: "training", lambda: remedies(FULL)):
        raise MemoryError
    assert str(raised.value) == f"out of memory while training; what would help most: {CHECKPOINTING}, then {HALF}"
    with pytest.raises(OutOfMemoryError, match="nothing is left to lower"), explain_oom(lambda: "it", list):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes differ"), explain_oom(lambda: "it", list):
        raise RuntimeError("shapes differ")


def test_a_worker_that_was_killed_is_explained() -> None:
    with pytest.raises(DataError, match="a loader worker ended while training"), explain_worker_oom(lambda: "training"):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(RuntimeError, match="another"), explain_worker_oom(lambda: "training"):
        raise RuntimeError("another")
