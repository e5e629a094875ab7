"""The share of updates that rounding swallows is that of a float32 twin, for any optimizer; the run stays as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from mmpref.training.trainer.swallowed import STEPS, SWALLOWED, SwallowedUpdates

BF16 = torch.bfloat16
RATE = 2e-4


def weights(dtype: torch.dtype = BF16) -> list[nn.Parameter]:
    """Two tensors of the size of usual weights, all of whose elements are sampled."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter((0.05 * torch.randn(shape, generator=generator)).to(dtype)) for shape in ((16, 16), (32,))]


def optimizer_of(name: str, parameters: Any) -> torch.optim.Optimizer:
    args = TrainingArguments(output_dir="unused", optim=name, use_cpu=True, learning_rate=RATE, report_to=[])
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, nn.Linear(1, 1))
    made: torch.optim.Optimizer = kind(parameters, **{**settings, "lr": RATE})
    return made


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        gradient.flatten()[: len(gradient.flatten()) // 4] = 0.0  # rows of words that do not occur
        parameter.grad = gradient.to(parameter.dtype)


def measured(optimizer: Any, parameters: list[nn.Parameter], steps: int) -> tuple[SwallowedUpdates, list[Any]]:
    logged: list[dict[str, float]] = []
    watch = SwallowedUpdates(logged.append)
    state, control = TrainerState(), TrainerControl()
    args: Any = None
    watch.on_train_begin(args, state, control, optimizer=optimizer)
    for step in range(steps):
        give_gradients(parameters, step)
        optimizer.step()
        watch.on_step_end(args, state, control)
    watch.on_train_end(args, state, control)
    return watch, logged


@pytest.mark.parametrize("name", ["adamw_torch", "adamw_torch_fused", "sgd", "adafactor", "adamw_8bit", "lion_8bit"])
def test_the_run_is_the_same_to_the_bit_and_the_optimizer_as_it_was(name: str) -> None:
    if "8bit" in name:
        pytest.importorskip("bitsandbytes")
    watched, alone = weights(), weights()
    optimizer, other = optimizer_of(name, watched), optimizer_of(name, alone)
    watch, logged = measured(optimizer, watched, STEPS + 2)
    for step in range(STEPS + 2):
        give_gradients(alone, step)
        other.step()
    assert all(torch.equal(one, two) for one, two in zip(watched, alone, strict=True))
    assert len(optimizer.param_groups[0]["params"]) == 2
    assert len(optimizer.state_dict()["state"]) == len(other.state_dict()["state"])
    assert watch.share is not None
    assert 0.02 < watch.share < 1
    assert logged == [{SWALLOWED: watch.share}]


@pytest.mark.parametrize("name", ["adamw_torch", "sgd"])
def test_the_share_is_that_of_a_twin_in_float32(name: str) -> None:
    """Recounted without the probe: a twin of all weights in float32, set to the stored ones before every step."""
    parameters = weights()
    watch, _ = measured(optimizer_of(name, parameters), parameters, STEPS)
    stored = weights()
    twin = [nn.Parameter(parameter.detach().float()) for parameter in stored]
    half, whole = optimizer_of(name, stored), optimizer_of(name, twin)
    lost = moved = 0
    for step in range(STEPS):
        with torch.no_grad():
            for wide, narrow in zip(twin, stored, strict=True):
                wide.copy_(narrow)
        before = [parameter.detach().clone() for parameter in stored]
        give_gradients(stored, step)
        for wide, narrow in zip(twin, stored, strict=True):
            assert narrow.grad is not None
            wide.grad = narrow.grad.float()
        half.step()
        whole.step()
        for wide, narrow, was in zip(twin, stored, before, strict=True):
            change = wide.detach() != was.float()
            moved += int(change.sum())
            lost += int((change & (narrow.detach() == was)).sum())
    assert moved
    assert watch.share == pytest.approx(lost / moved, abs=1e-6)


def test_a_larger_rate_swallows_less_and_nothing_is_said_of_float32_or_of_no_rate() -> None:
    shares = []
    for rate in (1e-6, 1e-4, 1e-2):
        parameters = weights()
        watch, _ = measured(torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0), parameters, STEPS)
        assert watch.share is not None
        shares.append(watch.share)
    assert shares[0] > 0.97
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.05
    for dtype, rate in ((torch.float32, 1e-6), (BF16, 0.0)):
        parameters = weights(dtype)
        watch, logged = measured(torch.optim.AdamW(parameters, lr=rate), parameters, STEPS)
        assert watch.share is None
        assert logged == []


def test_large_tensors_are_sampled_and_count_by_their_size() -> None:
    torch.manual_seed(0)
    large, ones = nn.Parameter((0.01 * torch.randn(100, 300)).to(BF16)), nn.Parameter(torch.ones(300, dtype=BF16))
    watch, _ = measured(torch.optim.SGD([large, ones], lr=1e-3), [large, ones], 3)  # before STEPS: told at the end
    assert watch.share is not None
    copies = copy.deepcopy(large.detach())
    give_gradients([large, ones], 99)
    torch.optim.SGD([large, ones], lr=1e-3).step()
    assert large.grad is not None
    had = large.grad != 0
    exact = float((had & (large.detach() == copies)).sum() / had.sum())
    assert watch.share == pytest.approx(exact + 0.01, abs=0.02)  # the ones lose everything, and are one in a hundred


def test_a_resumed_run_keeps_what_was_measured() -> None:
    parameters = weights()
    logged: list[dict[str, float]] = []
    watch = SwallowedUpdates(logged.append)
    state = TrainerState(log_history=[{"loss": 1.0}, {SWALLOWED: 0.4}])
    args: Any = None
    watch.on_train_begin(args, state, TrainerControl(), optimizer=torch.optim.AdamW(parameters, lr=1e-3))
    assert watch.share == 0.4
    watch.on_train_end(args, state, TrainerControl())
    assert logged == []


@pytest.mark.parametrize("left_out", [0, 3])
def test_an_update_that_is_left_out_is_not_one_that_rounding_swallowed(left_out: int) -> None:
    """Neither where its gradients were taken away, nor where the optimizer left it out by itself."""

    def share(how: str) -> tuple[float | None, torch.Tensor]:
        parameters = weights()
        optimizer = optimizer_of("adamw_torch_fused", parameters)
        watch = SwallowedUpdates(lambda _: None)
        args: Any = None
        watch.on_train_begin(args, TrainerState(), TrainerControl(), optimizer=optimizer)
        for step in range(STEPS):
            give_gradients(parameters, step)
            if step == left_out and how == "taken away":
                optimizer.zero_grad(set_to_none=True)
            elif step == left_out:
                parameters[0].grad.fill_(float("nan"))  # type: ignore[union-attr]
                optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.__dict__.pop("found_inf", None)
        watch.on_train_end(args, TrainerState(), TrainerControl())
        return watch.share, torch.cat([parameter.detach().flatten() for parameter in parameters])

    taken, by_itself = share("taken away"), share("by itself")
    assert taken[0] is not None
    assert taken[0] == by_itself[0]
    assert torch.equal(taken[1], by_itself[1])
