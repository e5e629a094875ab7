"""Where the reference log-probs come from.

The policy with its adapter off, the policy with a copy of the adapter that it starts from, or a copy of the policy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmpref.models.adapters.pissa import changed_its_base
from mmpref.models.adapters.switch import COPY, copy_adapter, has_copy, switched
from mmpref.models.adapters.weights import adapter_changes_nothing, has_adapter, is_adapter_weight
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.reference_rule import ReferenceModelKind, Start, choose
from mmpref.models.unwrap import unwrap
from mmpref.processing.batch import BySide, PairBatch

ReferenceKind = Literal["auto"] | ReferenceModelKind


class Reference(Protocol):
    """Whatever knows the reference log-probs of a batch."""

    @property
    def explanation(self) -> str:
        """Which way was taken and why, in one sentence."""
        ...

    @property
    def is_start(self) -> bool:
        """Whether it is the policy as it starts, so that every margin begins at 0."""
        ...

    def logps(self, batch: PairBatch) -> BySide:
        """Sums of answer log-probs, as the batch weighs them, of each side [B], without gradient."""
        ...


class ReferencePolicy:
    """The model that the policy is compared with; it never changes.

    Attributes:
        kind: ``adapter_off``, ``copied_adapter`` or ``frozen_copy``.
        explanation: which way was taken and why, in one sentence.
        is_start: whether it is the policy as it starts; False for the base of an adapter that was trained before.
    """

    def __init__(self, model: nn.Module, *, kind: ReferenceModelKind, explanation: str, is_start: bool = True) -> None:
        self.kind = kind
        self.explanation = explanation
        self.is_start = is_start
        self._model = model
        self._is_sharded = False

    def shard(self, shard: Callable[[nn.Module], nn.Module]) -> None:
        """Divide a frozen copy among the ranks, as the policy is; what is no copy is divided with the policy."""
        if self.kind == "frozen_copy" and not self._is_sharded:
            self._model, self._is_sharded = shard(self._model), True

    def logps(self, batch: PairBatch) -> BySide:
        """Sums of answer log-probs, as the batch weighs them, of each side [B], without gradient and dropout."""
        return batch.by_side(batch.sums(self.token_logps(batch)))

    def token_logps(self, batch: PairBatch) -> Tensor:
        """Log-probs of the answer tokens, [K] float32 in the batch's own order, without gradient and dropout."""
        if self.kind == "frozen_copy" and not self._is_sharded:
            self._model.to(batch.input_ids.device)  # the trainer moves the policy after the copy was made
        with torch.no_grad(), eval_mode(self._model), self._switched():
            found = answer_logps(self._model, batch)
        torch.clear_autocast_cache()  # half-precision copies of weights made here would carry no gradient
        return found

    def _switched(self) -> AbstractContextManager[None]:
        if self.kind == "frozen_copy":
            return nullcontext()
        return switched(self._model, COPY if self.kind == "copied_adapter" else None)


def choose_reference(
    model: nn.Module, needs_reference: bool = True, kind: ReferenceKind = "auto", *, start: Start | None = None
) -> ReferencePolicy | None:
    """The reference for a policy that has not been trained yet.

    Args:
        model: the policy, prepared for training.
        needs_reference: False gives None.
        kind: ``auto`` switches the adapter off where that gives the policy as it stands, copies the adapter where it
            was trained before, and copies all that trains otherwise. ``adapter_off`` for an adapter that was trained
            before means its bare base.
        start: what is known of the policy, as a recipe knows it (``reference_rule.start_of``); None looks at its
            weights, which are not all there once ZeRO-3 has divided them.

    Raises:
        ConfigError: ``adapter_off`` or ``copied_adapter`` for a model without an adapter, or with other weights that
            train: the reference would change with them.
    """
    if not needs_reference:
        return None
    inner = unwrap(model)
    choice = choose(kind, _start_of(inner) if start is None else start)
    if choice.kind == "copied_adapter" and not has_copy(inner):
        copy_adapter(inner)
    policy = _frozen_copy(inner) if choice.kind == "frozen_copy" else inner
    kind_used: ReferenceModelKind = choice.kind  # type: ignore[assignment]  # "none" and "cache" were not asked for
    return ReferencePolicy(policy, kind=kind_used, explanation=choice.explanation, is_start=choice.is_start)


def _start_of(model: nn.Module) -> Start:
    if not has_adapter(model):
        return Start(has_adapter=False)
    trained = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return Start(
        has_adapter=True,
        adds_nothing=adapter_changes_nothing(model),
        changed_base=changed_its_base(model),
        outside=next((name for name in trained if not is_adapter_weight(name)), ""),
    )


def _frozen_copy(model: nn.Module) -> nn.Module:
    # what does not train stays the same for both and is not copied
    shared = {id(parameter): parameter for parameter in model.parameters() if not parameter.requires_grad}
    twin = copy.deepcopy(model, shared)
    twin.requires_grad_(False)
    return twin.eval()


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, and afterwards every module in the mode it had (a tower may have been in eval on its own).

    Every step asks for it, and an adapted model has thousands of modules: flags are written where they lie, and only a
    module that does more than write them is asked to switch.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        if _only_writes_flags(module):
            vars(module)["training"] = False
        else:
            module.eval()
    try:
        yield
    finally:
        for module in training:
            vars(module)["training"] = True


def _only_writes_flags(module: nn.Module) -> bool:
    switch = type(module).train
    if switch is PreTrainedModel.train:  # which exchanges kernels of the hub, where they are used
        return not getattr(module, "use_kernels", False)
    return switch is nn.Module.train
