"""Parts with learning rates of their own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmpref.errors import ConfigError
from mmpref.training.trainer.param_groups import refuse_idle_rates, split_by_part


def test_every_part_gets_its_rate_and_the_others_keep_theirs() -> None:
    tower, head, body = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = torch.optim.SGD(
        [{"params": [tower, body], "weight_decay": 0.1}, {"params": [head], "weight_decay": 0.0}], lr=1.0
    )
    split_by_part(optimizer, {tower: "vision", head: "projector", body: "language"}, {"vision": 0.25, "projector": 0.5})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.1, 0.0]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    for weight in (tower, head, body):
        weight.grad = torch.ones(2)
    optimizer.step()
    assert [float(weight.detach()[0]) for weight in (tower, head, body)] == [0.75, 0.5, 0.0]


def test_a_rate_for_a_part_that_does_not_train_is_refused() -> None:
    refuse_idle_rates({"vision": 1e-5}, ["vision", "language"])
    with pytest.raises(ConfigError, match=r"train\.learning_rates\.vision is given, and nothing in vision trains"):
        refuse_idle_rates({"vision": 1e-5}, ["language"])
