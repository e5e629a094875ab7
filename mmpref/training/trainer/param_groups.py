"""Learning rates of their own for parts of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from mmpref.errors import ConfigError


def refuse_idle_rates(rates: Mapping[str, float], trained: Iterable[str]) -> None:
    """Raises ConfigError for a rate of a part in which nothing trains."""
    for part in sorted(rates.keys() - set(trained)):
        raise ConfigError(
            f"train.learning_rates.{part} is given, and nothing in {part} trains; write "
            f"`train.learning_rates.{part}=null`, or let it train by tune.{part}"
        )


def split_by_part(
    optimizer: torch.optim.Optimizer, part_of: Mapping[nn.Parameter, str], rates: Mapping[str, float]
) -> None:
    """Split the groups of a fresh optimizer so that every part of ``rates`` has its rate; the others keep theirs.

    Args:
        optimizer: it has made no step yet, so that nothing but its groups knows its weights.
        part_of: part of every weight.
        rates: learning rate by part.
    """
    groups = []
    for group in optimizer.param_groups:
        by_part: dict[str, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_part.setdefault(part_of[parameter], []).append(parameter)
        for part, parameters in by_part.items():
            groups.append({**group, "params": parameters, "lr": rates.get(part, group["lr"])})
    optimizer.param_groups[:] = groups
