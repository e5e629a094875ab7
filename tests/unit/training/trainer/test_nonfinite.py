"""Which optimizers may decide on an update themselves, and the norms that the guard takes of gradients."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmpref.training.trainer.gradient_norms import GradientNorms
from mmpref.training.trainer.nonfinite import UpdateGuard, can_leave_out
from mmpref.training.trainer.update_watch import UpdateNotes


def model_with_gradients(*dtypes: torch.dtype, bad: bool = False) -> nn.ModuleDict:
    generator = torch.Generator().manual_seed(0)
    model = nn.ModuleDict()
    for number in range(6):
        layer = nn.Linear(7, 5, dtype=dtypes[number % len(dtypes)])
        for parameter in layer.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        model[f"layer_{number}"] = layer
    model["frozen"] = nn.Linear(3, 3)
    if bad:
        model["layer_2"].bias.grad[1] = math.nan  # type: ignore[index, union-attr]
    return model


def judged(model: nn.Module, guard: UpdateGuard, loss: float = 1.0) -> Any:
    guard.begin()
    guard.add_loss(torch.tensor(loss))
    norm = guard.clip(model, 1.0)
    return guard.update(UpdateNotes(()), step=1, learning_rate=0.1, norm=norm, norm_counts=True)


OPTIMIZERS = [
    (torch.optim.AdamW, {"fused": True}, True),
    (torch.optim.Adam, {"fused": True, "amsgrad": True, "weight_decay": 0.1}, True),
    (torch.optim.Adagrad, {"fused": True, "lr_decay": 0.1}, True),
    (torch.optim.SGD, {"fused": True, "weight_decay": 0.1}, True),
    (torch.optim.SGD, {"fused": True, "momentum": 0.9}, False),
    (torch.optim.AdamW, {}, False),
    (torch.optim.AdamW, {"foreach": True}, False),
    (torch.optim.AdamW, {"fused": True, "lr": torch.tensor(0.1)}, False),
    (torch.optim.RMSprop, {}, False),
    (type("Own", (torch.optim.AdamW,), {}), {"fused": True}, False),
]


@pytest.mark.parametrize(("kind", "settings", "can"), OPTIMIZERS)
def test_only_kernels_that_read_the_verdict_are_given_it(
    kind: Any, settings: dict[str, Any], can: bool, tmp_path: Path
) -> None:
    model = model_with_gradients(torch.float32)
    update = judged(model, UpdateGuard(tmp_path, 0))
    assert can_leave_out(kind(model.parameters(), **{"lr": 0.1, **settings}), update) == can


def test_one_group_that_is_not_fused_is_enough_to_ask_first(tmp_path: Path) -> None:
    model = model_with_gradients(torch.float32)
    one, *others = model.parameters()
    optimizer = torch.optim.AdamW([{"params": [one], "fused": True}, {"params": others}], lr=0.1, fused=True)
    update = judged(model, UpdateGuard(tmp_path, 0))
    assert can_leave_out(optimizer, update)
    optimizer.param_groups[1]["fused"] = False
    assert not can_leave_out(optimizer, update)


def test_an_optimizer_in_eight_bits_is_asked_first(tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = model_with_gradients(torch.float32)
    update = judged(model, UpdateGuard(tmp_path, 0))
    assert not can_leave_out(bitsandbytes.optim.AdamW8bit(model.parameters(), lr=0.1), update)


@pytest.mark.parametrize(("kind", "settings"), [row[:2] for row in OPTIMIZERS if row[2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_that_the_kernel_leaves_out_changes_neither_weights_nor_state(
    kind: Any, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    model = model_with_gradients(dtype)
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    optimizer.step()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.fill_(math.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    weights, states = model.state_dict(), optimizer.state_dict()["state"]
    assert all(torch.equal(weights[name], value) for name, value in before[0].items())
    assert states.keys() == before[1].keys()
    for place, state in before[1].items():
        assert all(torch.equal(states[place][name], value) for name, value in state.items())


@pytest.mark.parametrize("max_norm", [1.0, 0.01, 1e6, math.inf])
@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.bfloat16,)])
def test_clipping_is_torch_s_own_to_the_bit(tmp_path: Path, dtypes: tuple[torch.dtype, ...], max_norm: float) -> None:
    ours, stock = model_with_gradients(*dtypes), model_with_gradients(*dtypes)
    norm = UpdateGuard(tmp_path, 0).clip(ours, max_norm)
    assert torch.equal(norm, torch.nn.utils.clip_grad_norm_(stock.parameters(), max_norm))
    for one, other in zip(ours.parameters(), stock.parameters(), strict=True):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)  # type: ignore[arg-type]


def test_gradients_of_several_types_are_measured_each_in_its_own(tmp_path: Path) -> None:
    mixed = (torch.float32, torch.bfloat16)
    model, stock = model_with_gradients(*mixed), model_with_gradients(*mixed)
    norms = GradientNorms.of(model)
    wanted = [
        (name, float(parameter.grad.norm()))
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    ]
    assert norms.by_name() == wanted
    torch.testing.assert_close(norms.total, torch.nn.utils.clip_grad_norm_(stock.parameters(), 1.0))


def test_a_model_without_gradients_has_a_norm_of_zero(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    guard = UpdateGuard(tmp_path, 0)
    assert float(guard.clip(model, 1.0)) == 0.0
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    assert not can_leave_out(optimizer, judged(model, guard))
    assert judged(model, guard).why_not() is None


@pytest.mark.parametrize(("loss", "bad"), [(math.nan, False), (1.0, True), (math.inf, True)])
def test_a_bad_loss_and_a_bad_gradient_are_the_same_verdict(tmp_path: Path, loss: float, bad: bool) -> None:
    update = judged(model_with_gradients(torch.float32, bad=bad), UpdateGuard(tmp_path, 0), loss)
    assert update.why_not() == "step 1, pairs : the loss or the gradient is not finite"
    by_name = dict(update.gradients.by_name())
    assert [name for name, norm in by_name.items() if not math.isfinite(norm)] == ["layer_2.bias"] * bad
