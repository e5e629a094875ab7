"""The norm of every weight's gradient: which of them are not finite, and by what name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_NAMED = 8  # weights that a dump names one by one


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """The norm of every gradient, as the update had it before it was clipped; read by nobody unless asked."""

    model: nn.Module
    parameters: list[nn.Parameter]  # those that have a gradient
    norms: Tensor  # [parameters], on the device of the first
    total: Tensor  # scalar
    devices: frozenset[str]  # kinds of device that the gradients are on

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module) -> GradientNorms:
        """One pass over the gradients; nothing waits for the device."""
        parameters, gradients = [], []
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameters.append(parameter)
                gradients.append(parameter.grad)
        if not gradients:
            return cls(model, [], torch.zeros(0), torch.zeros(()), frozenset())
        # one kernel takes many tensors of one kind, and falls back to one after another where kinds are mixed
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for place, gradient in enumerate(gradients):
            kinds.setdefault((gradient.device, gradient.dtype), []).append(place)
        found = [gradients[0]] * len(gradients)
        for places in kinds.values():
            for place, norm in zip(places, torch._foreach_norm([gradients[at] for at in places]), strict=True):
                found[place] = norm
        norms = torch.stack([norm.to(gradients[0].device, non_blocking=True) for norm in found])
        devices = frozenset(device.type for device, _ in kinds)
        return cls(model, parameters, norms, torch.linalg.vector_norm(norms), devices)

    def by_name(self) -> list[tuple[str, float]]:
        """Every weight's name and norm; waits for the device."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [(names[id(one)], norm) for one, norm in zip(self.parameters, self.norms.tolist(), strict=True)]


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
