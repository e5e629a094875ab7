"""Which layers get LoRA, and which modules train as whole copies beside it."""

from __future__ import annotations

import dis
import functools
import inspect
import re
import types
from collections import Counter

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mmpref.models.tuning import Tuning
from mmpref.models.unwrap import submodule
from mmpref.processing.family import Family, PartName


def lora_layers(model: PreTrainedModel, family: Family, tuning: Tuning) -> list[str]:
    """Names of the layers that get an adapter: every linear one of the parts tuned by LoRA that a gradient
    reaches, but never the head.

    What only looks like one is left out: layers with a ``forward`` of their own that gives something else (routers of
    experts), layers whose weight is read past their ``forward`` (in scans of state spaces), where an adapter would
    not be run in training and be added when it is merged, and layers that share one weight (Zamba), to which the
    adapters of all of them would be added.
    """
    head = model.get_output_embeddings()
    owners = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    read = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in _read_past_forward(type(module))  # type: ignore[arg-type]
    }
    unreached = tuple(f"{name}." for name, module in model.named_modules() if _runs_without_gradient(module))
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, Conv1D) or (isinstance(module, nn.Linear) and _is_linear(module)))
        and module is not head
        and name not in read
        and owners[id(module.weight)] == 1
        and tuning.of(family.part_of(name)) == "lora"
        and not name.startswith(unreached)
    ]


def _runs_without_gradient(module: nn.Module) -> bool:
    """Whether a module's forward stands under ``torch.no_grad``, as those do that choose which tokens are attended to
    (sparse attention of DeepSeek's kind): nothing in it could learn."""
    forward = type(module).forward
    cells = inspect.getclosurevars(forward).nonlocals.values() if inspect.isfunction(forward) else ()
    return any(isinstance(getattr(value, "__self__", None), torch.no_grad) for value in cells)


def _is_linear(layer: nn.Linear) -> bool:
    """Whether a layer gives what a linear layer gives: routers of experts (Llama 4) are its subclass and give more."""
    kind = type(layer)
    if kind.forward is nn.Linear.forward or not kind.__module__.startswith("transformers.models."):
        return True
    on_meta = {name: value.to("meta") for name, value in layer.state_dict().items()}
    rows = torch.empty(2, layer.in_features, device="meta", dtype=layer.weight.dtype)
    try:
        found = torch.func.functional_call(layer, on_meta, (rows,))
    except (RuntimeError, IndexError, TypeError):  # it takes other shapes than rows (DeepSeek V4's groups)
        return False
    return isinstance(found, Tensor) and found.shape == (2, layer.out_features)


_DESCRIBES = ("dtype", "device", "shape", "size", "ndim")
"""Reads nothing of a weight's values."""


@functools.cache
def _read_past_forward(kind: type[nn.Module]) -> frozenset[str]:
    """What a module of a model's own code has of its own and reads the ``weight`` of: ``self.dt_proj.weight``."""
    if not kind.__module__.startswith("transformers.models."):
        return frozenset()
    found: set[str] = set()
    for name, member in vars(kind).items():
        plain = inspect.unwrap(member) if callable(member) else member
        if name == "__init__" or not isinstance(plain, types.FunctionType):
            continue
        steps = [(step.opname, step.argval) for step in dis.get_instructions(plain)]
        for (_, owner), (how, inner), (then, last), (_, of) in zip(*(steps[n:] for n in range(4)), strict=False):
            if owner == "self" and how == then == "LOAD_ATTR" and last == "weight" and of not in _DESCRIBES:
                found.add(str(inner))
    return frozenset(found)


def exact_pattern(names: list[str], model: nn.Module) -> str:
    """A regular expression for exactly these modules, with layer numbers made general so that it stays short."""
    every = [name for name, _ in model.named_modules()]
    by_shape: dict[str, set[str]] = {}
    for name in names:
        shape = r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in name.split("."))
        by_shape.setdefault(shape, set()).add(name)
    patterns: list[str] = []
    for shape, wanted in by_shape.items():
        is_exact = {name for name in every if re.fullmatch(shape, name)} == wanted
        patterns += [shape] if is_exact else sorted(re.escape(name) for name in wanted)
    return "|".join(patterns)


def modules_to_save(model: nn.Module, family: Family, tuning: Tuning) -> list[str]:
    """Paths of the modules that train fully beside the adapter.

    Single tensors (image_newline) cannot, and stay frozen.
    """
    found: list[str] = []
    parts: tuple[PartName, ...] = ("vision", "projector")
    for part in parts:
        if tuning.of(part) != "full":
            continue
        for path in family.paths_of(part):
            module = submodule(model, path)
            if module is None or any(path.startswith(outer + ".") for outer in found):
                continue
            if isinstance(module, nn.ModuleList):  # peft copies modules that can be called
                found += [f"{path}.{index}" for index in range(len(module))]
            else:
                found.append(path)
    return found
