"""Where the reference log-probs come from: the policy with its adapter off, or a copy of it made before training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from mmpref.errors import ConfigError
from mmpref.models.adapter import adapter_changes_nothing, has_adapter, is_adapter_weight
from mmpref.models.policy import answer_sums
from mmpref.models.unwrap import unwrap
from mmpref.processing.batch import PairBatch

ReferenceKind = Literal["auto", "adapter_off", "frozen_copy"]


class Reference(Protocol):
    """Whatever knows the reference log-probs of a batch."""

    @property
    def explanation(self) -> str:
        """Which way was taken and why, in one sentence."""
        ...

    def logps(self, batch: PairBatch) -> tuple[Tensor, Tensor | None]:
        """Sums of answer log-probs, (chosen [B], rejected [B] or None), without gradient."""
        ...


class ReferencePolicy:
    """The model that the policy is compared with; it never changes.

    Attributes:
        kind: ``adapter_off`` or ``frozen_copy``.
        explanation: which way was taken and why, in one sentence.
    """

    def __init__(self, model: nn.Module, *, kind: Literal["adapter_off", "frozen_copy"], explanation: str) -> None:
        self.kind = kind
        self.explanation = explanation
        self._model = model
        self._is_sharded = False

    def shard(self, shard: Callable[[nn.Module], nn.Module]) -> None:
        """Divide a frozen copy among the ranks, as the policy is; what is no copy is divided with the policy."""
        if self.kind == "frozen_copy" and not self._is_sharded:
            self._model, self._is_sharded = shard(self._model), True

    def logps(self, batch: PairBatch) -> tuple[Tensor, Tensor | None]:
        """Sums of answer log-probs, (chosen [B], rejected [B] or None), without gradient and without dropout."""
        if self.kind == "frozen_copy" and not self._is_sharded:
            self._model.to(batch.input_ids.device)  # the trainer moves the policy after the copy was made
        adapter_off = self._model.disable_adapter() if self.kind == "adapter_off" else nullcontext()  # type: ignore[operator]
        with torch.no_grad(), eval_mode(self._model), adapter_off:
            return batch.halves(answer_sums(self._model, batch))


def choose_reference(
    model: nn.Module, needs_reference: bool = True, kind: ReferenceKind = "auto"
) -> ReferencePolicy | None:
    """The reference for a policy that has not been trained yet.

    Args:
        model: the policy, prepared for training.
        needs_reference: False gives None.
        kind: ``auto`` switches the adapter off where that gives the policy as it stands, and copies the model
            otherwise.

    Raises:
        ConfigError: ``adapter_off`` for a model without an adapter, or with other weights that train: the reference
            would change with them.
    """
    if not needs_reference:
        return None
    inner = unwrap(model)
    obstacle = _why_not_adapter_off(inner)
    if kind == "adapter_off" and obstacle is not None:
        raise ConfigError(f"reference.kind: adapter_off is not possible: {obstacle}; use auto or frozen_copy")
    if kind == "adapter_off":
        return ReferencePolicy(inner, kind="adapter_off", explanation="the base model with the adapter switched off")
    if kind == "auto" and obstacle is None:
        if adapter_changes_nothing(inner):
            why = "the policy with its adapter switched off: no second model in memory"
            return ReferencePolicy(inner, kind="adapter_off", explanation=why)
        obstacle = "the adapter does not start at zero (trained before, or PiSSA)"
    why = f"a frozen copy of the policy as it starts ({obstacle or 'asked for'}): a second model in memory"
    return ReferencePolicy(_frozen_copy(inner), kind="frozen_copy", explanation=why)


def _why_not_adapter_off(model: nn.Module) -> str | None:
    if not has_adapter(model):
        return "the weights themselves are trained"
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not is_adapter_weight(name):
            return f"weights outside the adapter are trained ({name})"
    return None


def _frozen_copy(model: nn.Module) -> nn.Module:
    # what does not train stays the same for both and is not held twice
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    twin = copy.deepcopy(model, shared)
    twin.requires_grad_(False)
    return twin.eval()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, and afterwards every module in the mode it had (a tower may have been in eval on its own)."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
