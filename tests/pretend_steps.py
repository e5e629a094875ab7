"""Whole training steps on the pretend device, each reported with what would wait for a GPU: a process of its own.

    python -m tests.pretend_steps out.json [name ...]     all cases, or those of these names

Written is {"waits": {case: [waits]}, "known": [names of all cases]}. What is looked at begins where a second step
begins: the first one makes what is made once.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import PartialState

from mmpref.models import Tuning, choose_reference, pair_logps
from mmpref.processing import PairBatch, PairCollator, PairEncoder
from mmpref.records import PreferencePair
from mmpref.training import PreferenceTrainer
from mmpref.training.trainer import nonfinite
from tests.plain_forward import video_rows
from tests.pretend_device import DEVICE, NAME, Waits
from tests.recomputing import recompute
from tests.tiny_vlms import draw, film, pair
from tests.training_steps import FULL, LORA, arguments, objective, rows_for, three_updates, tiny

FAMILIES = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "text")
OBJECTIVES = ("uni_dpo", "adadpo", "uni_adadpo", "dpo")
TOWER = Tuning(vision="full", projector="full", language="lora")


def step(
    name: str, *, tuning: Tuning = LORA, layout: Any = "shared_prefix", is_checkpointed: bool = False,
    dtype: str = "float32", change: Callable[[PairBatch], PairBatch] = lambda batch: batch,
    rows: Sequence[PreferencePair] = (),
) -> list[str]:  # fmt: skip
    """Three pairs: live reference, forward, every objective, backward, fused AdamW."""
    loaded = tiny(name, tuning, dtype)
    reference = choose_reference(loaded.model)
    if is_checkpointed:
        recompute(loaded.model)
    loaded.model.train()
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, film, layout=layout)
    losses = [objective(loss) for loss in OBJECTIVES]
    waits = Waits(is_counting=False)
    with waits:
        loaded.model.to(DEVICE)
        trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
        batch = change(collate(rows or rows_for(name, 3)))
        for waits.is_counting in (False, True):
            here = batch.map(waits.pin).to(DEVICE, non_blocking=True)
            logps = pair_logps(loaded.model, here, reference=reference)
            sum(loss(logps).per_pair.sum() for loss in losses).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        waits.is_counting = False
    return waits.report()


def run(name: str, *, is_cached: bool, tuning: Tuning = LORA, layout: Any = "shared_prefix") -> list[str]:
    """The second update of three of a real trainer, from the end of the first on."""
    waits = Waits(is_counting=False)

    class Pinning(PreferenceTrainer):
        def _prepare_inputs(self, inputs: PairBatch) -> PairBatch:  # the loader does this for a GPU
            return super()._prepare_inputs(inputs.map(waits.pin))

    def to_host(flag: Any) -> tuple[torch.Tensor, None]:  # page-locked memory and an event do this on a GPU
        return flag.inner.clone(), None

    kernels = patch.multiple(nonfinite, _DEVICES=(*nonfinite._DEVICES, NAME), _to_host=to_host)
    with tempfile.TemporaryDirectory() as folder, waits, kernels:
        args = arguments(Path(folder), use_cpu=True)
        assert args.device.type == "cpu"
        args.__dict__["_setup_devices"] = PartialState._shared_state["device"] = DEVICE
        three_updates(
            name, Path(folder), args, tuning=tuning, is_cached=is_cached, layout=layout, trainer_class=Pinning,
            begin=lambda: setattr(waits, "is_counting", True), end=lambda: setattr(waits, "is_counting", False),
        )  # fmt: skip
    return waits.report()


def planted() -> list[str]:
    """One of everything that waits, so that a test can see that it is found."""
    waits = Waits()
    with waits:
        x = torch.randn(4).pin_memory().to(DEVICE, non_blocking=True).requires_grad_()
        found = [x.sum().item(), x.tolist(), bool((x > 0).any()), f"{x.sum()}", x[x > 0], (x > 0).nonzero(), x.cpu()]
        moved = [torch.ones(3).to(DEVICE), torch.ones(3).pin_memory().to(DEVICE), torch.tensor([1], device=DEVICE)]
        (x * 2).masked_scatter(x > 9, x).sum().backward()
    assert len(found) + len(moved) == 10
    return waits.report()


def cases() -> dict[str, Callable[[], list[str]]]:
    found: dict[str, Callable[[], list[str]]] = {"planted": planted}
    for name in FAMILIES:
        for layout in ("shared_prefix", "plain"):
            found[f"{name}, {layout}"] = partial(step, name, layout=layout)
    found["llava, projector and language train"] = partial(step, "llava", tuning=FULL)
    found["qwen3_vl, projector and language train"] = partial(step, "qwen3_vl", tuning=FULL)
    found["qwen2_5_vl, tower trains, checkpointed"] = partial(step, "qwen2_5_vl", tuning=TOWER, is_checkpointed=True)
    images = [pair("image"), pair("image 2", images=("60x60-2",))]
    images, videos = (
        [replace(row, score_chosen=4.0, score_rejected=1.0) for row in of] for of in (images, video_rows())
    )
    found["qwen2_vl, images and videos"] = partial(step, "qwen2_vl", rows=[*images, *videos])
    found["qwen2_5_vl, images and videos"] = partial(step, "qwen2_5_vl", rows=[*images, *videos])
    found["qwen3_vl, videos"] = partial(step, "qwen3_vl", rows=videos[:4])
    found["qwen3_vl, bfloat16"] = partial(step, "qwen3_vl", dtype="bfloat16")
    for name in ("llava", "qwen3_vl"):  # as transformers alone would run it: this must wait
        alone = partial(replace, image_places=None, image_grids=())
        found[f"stock {name}"] = partial(step, name, change=alone)
    for name, tuning in (("llava", LORA), ("qwen2_5_vl", FULL)):
        for is_cached in (False, True):
            kind = "cached" if is_cached else "live"
            found[f"trainer, {name}, {kind}"] = partial(run, name, is_cached=is_cached, tuning=tuning)
    return found


def main() -> None:
    out, *names = sys.argv[1:]
    known = cases()
    found = {name: known[name]() for name in names or known}
    Path(out).write_text(json.dumps({"waits": found, "known": sorted(known)}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
