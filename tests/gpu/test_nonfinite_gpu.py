"""A bad update on a GPU is left out there, and the host waits for nothing while it hands the verdict on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerState

from mmpref.training.trainer.nonfinite import BeforeStep, UpdateGuard, can_leave_out
from mmpref.training.trainer.pair_log import PairLog
from mmpref.training.trainer.update_watch import UpdateNotes
from tests.gpu.device import needs_cuda

pytestmark = [pytest.mark.gpu, needs_cuda]


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_norm", [1.0, float("inf")])
def test_the_host_reads_no_verdict_before_the_next_update(tmp_path: Path, dtype: torch.dtype, max_norm: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(64, 64, dtype=dtype) for _ in range(8))).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 / (step + 1))
    guard, state, pairs = UpdateGuard(tmp_path, 1), TrainerState(), PairLog()
    running = torch.zeros((), device="cuda")
    factors = torch.tensor([1.0, 1.0, float("nan"), 1.0], device="cuda").unbind()
    inputs = torch.randn(4, 16, 64, device="cuda", dtype=dtype).unbind()
    kept = []
    for step in range(4):
        with no_waiting():
            guard.begin()
            loss = model(inputs[step]).float().square().mean() * factors[step]
            loss.backward()
            guard.add_loss(loss)
            running += loss.detach()
            norm = guard.clip(model, max_norm)
            guard.settle()
            update = guard.update(UpdateNotes(()), step=step + 1, learning_rate=0.1, norm=norm, norm_counts=True)
            assert can_leave_out(optimizer, update)
            guard.leave_to(optimizer, update, running, BeforeStep(state, schedule, optimizer, pairs))
            optimizer.step()
            schedule.step()
            model.zero_grad()
        assert guard.skipped == ([3] if step == 3 else [])
        kept.append(copy.deepcopy((list(model.parameters()), optimizer.state_dict()["state"])))
    guard.settle()
    assert guard.skipped == [3]
    assert (tmp_path / "nonfinite-step-3.json").is_file()
    assert bool(torch.isfinite(running))
    same = [all(torch.equal(a, b) for a, b in zip(one[0], two[0], strict=True)) for one, two in pairwise(kept)]
    assert same == [False, True, False]
    for place, before in kept[1][1].items():
        assert all(torch.equal(kept[2][1][place][name], value) for name, value in before.items())
