"""Whether everything that is said to train gets a gradient, in the setting of training: one backward, part by part.

A part may get none without a word. Reentrant gradient checkpointing cuts off layers whose input asks for no gradient (a
vision tower under LoRA: its patches come from frozen weights); a module that the loss does not depend on gets none
either. Some tensors never get one in a model that is right (LLaVA reads the tower's last layer but one), so a part is
judged as a whole, and against the same backward without checkpointing.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from mmpref.errors import ConfigError
from mmpref.models.adapters.weights import is_adapter_weight, plain_name
from mmpref.models.unwrap import base_model, unwrap
from mmpref.processing.family import Family, PartName

REENTRANT = "train.extra={gradient_checkpointing_kwargs: {use_reentrant: false}}"
"""What undoes reentrant checkpointing, as the command line takes it."""
_SCALES_OF_HALF = tuple(2.0**power for power in range(16, -9, -4))
"""Of the loss in float16: from where the scaler of training starts, down as it goes where a gradient overflows."""


@dataclass(frozen=True, slots=True)
class Trained:
    """One tensor that is said to train, and the size of its gradient: 0 where it got none."""

    name: str
    part: PartName
    role: str
    """``LoRA``, ``weights``, ``embeddings`` or ``output head``."""
    size: float
    waits: bool = False
    """The first factor of an adapter whose second one is still zero: its gradient begins with the second step."""

    @property
    def reached(self) -> bool:
        """Whether it got a gradient other than 0."""
        return self.size != 0


@dataclass(frozen=True, slots=True)
class Learning:
    """What one backward in the setting of training reached."""

    tensors: tuple[Trained, ...]
    unused: int
    """Tensors that the loss does not depend on at all."""
    lost: tuple[str, ...]
    """Names of tensors that get a gradient without checkpointing, and none with it."""
    reentrant: bool

    @property
    def broken(self) -> list[str]:
        """Names of tensors whose gradient is not finite."""
        return [one.name for one in self.tensors if not math.isfinite(one.size)]

    @property
    def idle(self) -> list[PartName]:
        """Parts that are said to train and of which nothing got a gradient."""
        parts = dict.fromkeys(one.part for one in self.tensors)
        return [part for part in parts if not any(one.reached for one in self.tensors if one.part == part)]

    def counts(self) -> str:
        """Tensors with a gradient, of those that may have one, by part and role."""
        judged = [one for one in self.tensors if not one.waits]
        total = Counter((one.part, one.role) for one in judged)
        reached = Counter((one.part, one.role) for one in judged if one.reached)
        return ", ".join(
            f"{part} {'' if role == 'weights' else role + ' '}{reached[part, role]} of {number}"
            for (part, role), number in total.items()
        )

    def not_reached(self) -> str:
        """Tensors of parts that do train without a gradient of their own, by their places in the model; "" for none."""
        idle = self.idle
        missed = [one for one in self.tensors if not (one.reached or one.waits or one.part in idle)]
        return in_places([one.name for one in missed])


def in_places(names: Sequence[str], most: int = 3) -> str:
    """Names of tensors by module, layer numbers left out, with their number."""
    places = Counter(re.sub(r"\.\d+(?=\.)", ".*", _place(name)) for name in names)
    named = [f"{place} ({number})" for place, number in places.most_common(most)]
    more = len(places) - most
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _place(name: str) -> str:
    plain = re.sub(r"\.lora_(embedding_)?[AB]\.\w+(\.weight)?$|\.lora_magnitude_vector\..*$", "", plain_name(name))
    return re.sub(r"\.(weight|bias)$", "", plain)


def look(
    model: nn.Module, family: Family, loss_of: Callable[[], Tensor], args: TrainingArguments | None = None
) -> Learning:
    """Run one backward as a training step does, and look at what each tensor that trains got.

    Nothing is left behind: gradients, modes, checkpointing and running statistics are as before.

    Args:
        model: prepared for training, maybe sharded; all ranks must call it together then.
        family: with the model's own parts.
        loss_of: runs the forward; something that depends on every answer.
        args: say whether activations are checkpointed, and how, and whether the loss is scaled (fp16); None takes the
            model as it is.
    """
    scales = _SCALES_OF_HALF if getattr(args, "fp16", False) else (1.0,)
    with modes_kept(model), _checkpointing(model, args):
        model.train()  # as the trainer does; layers are checkpointed in this mode only
        tensors, unused = _scaled_backward(model, family, loss_of, scales)
        reentrant = is_reentrant(model)
        missed = [one.name for one in tensors if not (one.reached or one.waits)]
        lost: tuple[str, ...] = ()
        if missed and (reentrant or _idle_role(tensors)) and _flags(model):
            with _without_checkpointing(model):
                other, _ = _scaled_backward(model, family, loss_of, scales)
            found = {one.name for one in other if one.reached}
            lost = tuple(name for name in missed if name in found)
    return Learning(tuple(tensors), unused, lost, reentrant)


def refuse_balance_without_graph(args: TrainingArguments) -> None:
    """Refuse reentrant checkpointing beside a loss on routers: their logits would be made without a graph.

    Raises:
        ConfigError: it is asked for.
    """
    names = ("activation_checkpointing_kwargs", "gradient_checkpointing_kwargs")
    given = [getattr(args, name, None) or {} for name in names]
    wanted = getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)
    if wanted and any(one.get("use_reentrant") for one in given):
        raise ConfigError(
            "model.router_aux_loss_coef would teach nothing under reentrant checkpointing, which runs layers without a "
            f"graph; write `'{REENTRANT}'`"
        )


def is_reentrant(model: nn.Module) -> bool:
    """Whether layers are checkpointed the old way, which needs an input that asks for a gradient."""
    functions = [getattr(module, "_gradient_checkpointing_func", None) for module in _flags(model)]
    return any(getattr(one, "keywords", {}).get("use_reentrant", False) for one in functions)


def _idle_role(tensors: Sequence[Trained]) -> bool:
    judged = [one for one in tensors if not one.waits]
    return any(
        not any(one.reached for one in judged if (one.part, one.role) == key)
        for key in {(one.part, one.role) for one in judged}
    )


def _scaled_backward(
    model: nn.Module, family: Family, loss_of: Callable[[], Tensor], scales: Sequence[float]
) -> tuple[list[Trained], int]:
    """At the first scale at which every gradient is finite; the last one where none is."""
    for scale in scales:
        tensors, unused = _backward(model, family, loss_of, scale)
        if all(math.isfinite(one.size) for one in tensors):
            break
    return tensors, unused


def _backward(
    model: nn.Module, family: Family, loss_of: Callable[[], Tensor], scale: float
) -> tuple[list[Trained], int]:
    trained = [(name, value) for name, value in unwrap(model).named_parameters() if value.requires_grad]
    before = [value.grad for _, value in trained]
    for _, value in trained:
        value.grad = None
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="None of the inputs have requires_grad"
            )  # it is what is looked at
            loss = loss_of()
            if loss.requires_grad:
                (scale * loss).backward()
        sizes = {name: _size(value.grad) / scale for name, value in trained if value.grad is not None}
    finally:
        for (_, value), gradient in zip(trained, before, strict=True):
            value.grad = gradient
    roles = _roles(model)
    zero = {name for name, value in trained if _is_second(name) and not _any(value)}
    found = [
        Trained(
            name=name,
            part=family.part_of(plain_name(name)),
            role=_role(name, value, roles),
            size=sizes.get(name, 0.0),
            waits=_second_of(name) in zero,
        )
        for name, value in trained
    ]
    return found, len(trained) - len(sizes)


def _roles(model: nn.Module) -> Mapping[int, str]:
    inner: Any = base_model(model)
    found: dict[int, str] = {}
    for role, module in (("output head", inner.get_output_embeddings()), ("embeddings", inner.get_input_embeddings())):
        found |= {id(value): role for value in module.parameters()} if isinstance(module, nn.Module) else {}
    return found


def _role(name: str, value: Tensor, roles: Mapping[int, str]) -> str:
    if is_adapter_weight(name) and ".modules_to_save." not in name:
        return "LoRA"
    return roles.get(id(value), "weights")


def _is_second(name: str) -> bool:
    return ".lora_B." in name or ".lora_embedding_B." in name


def _second_of(name: str) -> str:
    """Name of the factor that starts at zero; "" for what is no first factor."""
    if ".lora_A." in name or ".lora_embedding_A." in name:
        return name.replace(".lora_A.", ".lora_B.").replace(".lora_embedding_A.", ".lora_embedding_B.")
    return ""


def _any(value: Tensor) -> bool:
    found = value.detach().float().norm()
    return bool(found.full_tensor() if isinstance(found, DTensor) else found)


def _size(gradient: Tensor) -> float:
    """Its norm; over all ranks where it is sharded."""
    norm = gradient.float().norm()
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


# ---- the setting of training --------------------------------------------------------------------------------------


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module has its mode, and a batch norm the statistics it had."""
    modes = {module: module.training for module in model.modules()}
    norms = [module for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [[buffer.clone() for buffer in module.buffers(recurse=False)] for module in norms]
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, buffers in zip(norms, kept, strict=True):
            for buffer, value in zip(module.buffers(recurse=False), buffers, strict=True):
                buffer.copy_(value)


def _flags(model: nn.Module) -> list[Any]:
    """Modules that are checkpointed now."""
    return [module for module in model.modules() if getattr(module, "gradient_checkpointing", False) is True]


@contextmanager
def _without_checkpointing(model: nn.Module) -> Iterator[None]:
    on = _flags(model)
    for module in on:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in on:
            module.gradient_checkpointing = True


@contextmanager
def _checkpointing(model: nn.Module, args: TrainingArguments | None) -> Iterator[None]:
    """Checkpointing as the Trainer turns it on when it begins, and off again; nothing where it is on already."""
    wanted = getattr(args, "activation_checkpointing", None) or getattr(args, "gradient_checkpointing", None)
    inner: Any = base_model(model)
    if not wanted or _flags(inner):
        yield
        return
    given = getattr(args, "activation_checkpointing_kwargs", None) or getattr(
        args, "gradient_checkpointing_kwargs", None
    )
    settings = dict(given or {})
    newer = {name: settings.pop(name) for name in ("every_n_layers", "offload") if name in settings}
    had_hooks = bool(getattr(inner, "_require_grads_hooks", None))
    if hasattr(inner, "activation_checkpointing_enable"):
        inner.activation_checkpointing_enable(activation_checkpointing_kwargs=settings or None, **newer)
    else:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings or None, **newer)
    try:
        yield
    finally:
        for module in _flags(inner):
            module.gradient_checkpointing = False
        if not had_hooks and getattr(inner, "_require_grads_hooks", None):
            inner.disable_input_require_grads()
