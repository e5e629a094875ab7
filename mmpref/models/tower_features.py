"""What a frozen tower makes of images, kept: looked up by image, and put in place of the tower's own outputs.

The first time that images come, the tower runs and its outputs are watched. Only tensors that the rest of the model
reads are kept (of LLaVA's tower the hidden states of one layer, of Qwen's the merged features and what its deepstack
needs; where Qwen's merger trains, what the merger is given), each divided among the rows of the batch. The next time,
:class:`~mmpref.models.frozen_tower.FrozenForward` returns objects of the same classes made of them, and the tower does
not run. A tensor that nobody read is replaced by one without values, and whoever reads it all the same is stopped.

Shapes: a batch has N rows with images, of u_1 ... u_N units (patches, or images and tiles); a kept tensor has q * u_n
entries of its first dimension for each row, with the same q for all.
"""

from __future__ import annotations

import copy
import importlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from mmpref.errors import CheckpointError
from mmpref.models.frozen_tower import FrozenForward
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch
from mmpref.processing.image_rows import ImageRow

FAMILIES = frozenset(
    {
        "llava",
        "llava_next",
        "llava_onevision",
        "internvl",
        "gemma3",
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_vl",
    }
)
"""Names of families whose tower looks at every image by itself and puts out its features in order: proved by tests."""

Form = dict[str, Any]
"""How the outputs of one forward are made of kept tensors, in values that JSON has."""


class Store(Protocol):
    """Where features are kept."""

    def read_form(self) -> Form | None:
        """What :meth:`write_form` wrote last."""
        ...

    def write_form(self, form: Form) -> None:
        """Keep how outputs are made of the tensors that :meth:`write` keeps."""
        ...

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of one row of images, where they are not there yet."""
        ...

    def say(self, line: str) -> None:
        """Tell the user."""
        ...


def attach(model: nn.Module, store: Store) -> TowerFeatures:
    """Let the frozen towers of a model use a store: from now on, in every forward of a batch whose images are named.

    Copies of the model made later or before (a reference) use it too.
    """
    features = TowerFeatures(store)
    for forward in _forwards(model).values():
        forward.queue.features = features
    return features


def kept_modules(model: nn.Module) -> list[str]:
    """Paths of the frozen modules whose outputs are kept."""
    return list(_forwards(model))


@contextmanager
def tower_features(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Around a forward of this batch: features that it brings take the tower's place, others are kept."""
    forwards = _forwards(model) if batch.image_rows else {}
    features = next((forward.queue.features for forward in forwards.values()), None)
    if features is None:
        yield
        return
    given = features.outputs(batch)
    if given is not None:
        is_reference = any(forward.queue.is_recording for forward in forwards.values())  # the policy comes next
        features.used += 0 if is_reference else len(batch.image_rows)
        try:
            for name, output in given:
                forwards[name].queue.given.append(output)
            yield
        finally:
            for forward in forwards.values():
                forward.queue.given.clear()
        return
    watch = _Watch(features.needed)
    try:
        for name, forward in forwards.items():
            forward.queue.observer = _Observer(name, watch)
        yield
    finally:
        for forward in forwards.values():
            forward.queue.observer = None
    if watch.calls:  # none where the reference ran it a moment ago
        features.keep(batch.image_rows, watch)


_FORWARDS: weakref.WeakKeyDictionary[nn.Module, dict[str, FrozenForward]] = weakref.WeakKeyDictionary()


def _forwards(model: nn.Module) -> dict[str, FrozenForward]:
    """Frozen modules by path. One without weights, or that looks up a row of a table, is as cheap as reading a file."""
    base = base_model(model)
    if base not in _FORWARDS:
        found = {}
        for name, module in base.named_modules():
            forward = module.__dict__.get("forward")
            is_work = not isinstance(module, nn.Embedding) and next(module.parameters(), None) is not None
            if isinstance(forward, FrozenForward) and is_work:
                found[name] = forward
        _FORWARDS[base] = found
    return _FORWARDS[base]


class TowerFeatures:
    """Features of frozen towers, between a model and a store.

    Attributes:
        computed: rows of images that the tower ran over, and whose features were written.
        used: rows whose features were there.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._form: Form | None = None
        self.computed = self.used = 0
        self._said: set[str] = set()

    @property
    def needed(self) -> frozenset[str] | None:
        """Names of the tensors that are kept; None before any forward was watched."""
        form = self._known()
        return None if form is None else frozenset(form["kept"])

    def _known(self) -> Form | None:
        if self._form is None:
            self._form = self._store.read_form()
        return self._form

    def outputs(self, batch: PairBatch) -> list[tuple[str, Any]] | None:
        """(module, output) for each call of a forward; None where the batch does not bring all that is needed."""
        form = self._known() if batch.features else None
        if form is None or not batch.features.keys() >= set(form["kept"]):
            return None
        units = sum(row.units for row in batch.image_rows)
        return [(call["module"], _made(call["output"], batch.features, units)) for call in form["calls"]]

    def keep(self, rows: Sequence[ImageRow], watch: _Watch) -> None:
        """Write what a forward computed, row by row."""
        try:
            form = watch.form(sum(row.units for row in rows))
            parts = {name: _divided(watch.leaves[name], rows) for name in form["kept"]}
        except _NotKeptError as err:
            self._once(f"features of some images are not kept, and their tower runs each time: {err}")
            return
        known = self._known()
        if known is not None and known["calls"] != form["calls"]:
            self._once(
                "features of some images are not kept, and their tower runs each time: its outputs differ in form"
            )
            return
        kept = sorted({*form["kept"], *([] if known is None else known["kept"])})
        if known is None or kept != known["kept"]:
            self._form = {"calls": form["calls"], "kept": kept}
            self._store.write_form(self._form)
        if any(watch.leaves[name].value is None for name in kept):  # read for the first time, and let go already
            return
        parts |= {name: _divided(watch.leaves[name], rows) for name in kept if name not in parts}
        for number, row in enumerate(rows):
            self._store.write(row.key, {name: part[number] for name, part in parts.items()})
        self.computed += len(rows)

    def _once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._store.say(f"feature cache: {line}")


class _NotKeptError(Exception):
    """Outputs that cannot be divided among rows, or not be made again."""


# ---- watching a forward ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Leaf:
    """One tensor that a frozen module put out."""

    name: str
    value: Tensor | None  # on the host; None where it is known that nobody reads it
    shape: tuple[int, ...]
    dtype: torch.dtype
    is_read: bool = False


@dataclass(slots=True)
class _Watch:
    """The calls of frozen modules in one forward. Names of tensors are ``CALL.NUMBER``."""

    needed: frozenset[str] | None
    calls: list[tuple[str, Any]] = field(default_factory=list)
    leaves: dict[str, _Leaf] = field(default_factory=dict)

    def add(self, module: str, output: Any) -> Any:
        """Note an output; returns one whose tensors tell when they are read."""
        call, names = len(self.calls), iter(range(1_000_000))

        def watched(tensor: Tensor) -> Tensor:
            name = f"{call}.{next(names)}"
            wanted = self.needed is None or name in self.needed
            value = tensor.detach().to("cpu", copy=True) if wanted else None
            self.leaves[name] = _Leaf(name, value, tuple(tensor.shape), tensor.dtype)
            seen = tensor.as_subclass(_Watched)
            seen.leaf = self.leaves[name]
            return seen

        with torch._C.DisableTorchFunctionSubclass():
            found = _changed(output, watched)
            self.calls.append((module, _form_of(found)))
        return found

    def form(self, units: int) -> Form:
        """How the outputs are made of tensors that were read.

        Raises:
            _NotKeptError: outputs of other kinds than tensors in lists, tuples, mappings and outputs of transformers.
        """

        def finished(node: Any) -> Any:
            if isinstance(node, list):
                return [finished(one) for one in node]
            if not isinstance(node, dict):
                return node
            if "unknown" in node:
                raise _NotKeptError(f"the tower puts out {node['unknown']}")
            if (name := node.get("tensor")) is None:
                return {key: finished(value) for key, value in node.items()}
            leaf = self.leaves[name]
            share = Fraction(leaf.shape[0] if leaf.shape else 0, units)
            dtype = str(leaf.dtype).removeprefix("torch.")
            return {"tensor": name, "a_unit": str(share), "shape": list(leaf.shape[1:]), "dtype": dtype}

        calls = [{"module": module, "output": finished(node)} for module, node in self.calls]
        return {"calls": calls, "kept": sorted(name for name, leaf in self.leaves.items() if leaf.is_read)}


class _Observer:
    """Of one module in one forward."""

    def __init__(self, module: str, watch: _Watch) -> None:
        self._module, self._watch = module, watch

    def inputs(self, args: Any, kwargs: Any) -> Any:
        """Bare tensors: what only another kept module is given needs not be kept."""
        with torch._C.DisableTorchFunctionSubclass():
            return _changed((args, kwargs), _bare)

    def output(self, output: Any) -> Any:
        """The same, whose tensors tell when they are read."""
        return self._watch.add(self._module, output)


class _Watched(Tensor):
    """A tensor that notes that it was read; all that is made of it is plain."""

    leaf: _Leaf

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if _looks_only(func):
                found = func(*args, **(kwargs or {}))
                if not isinstance(found, Tensor) or found is args[0]:
                    return found
            _changed((args, kwargs), _noted)
            return func(*_changed(args, _bare), **_changed(kwargs or {}, _bare))


class _WithoutValues(Tensor):
    """Stands for a tensor that nobody read when features were kept."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {})) if _looks_only(func) else None
        if not _looks_only(func) or (isinstance(found, Tensor) and found is not args[0]):
            raise CheckpointError(
                "the model reads an output of its vision tower that it did not read when features were kept; delete "
                "the folder of processing.feature_cache"
            )
        return found


def _looks_only(func: Any) -> bool:
    """Whether a function of a tensor reads none of its values: its shape, dtype, device and flags."""
    return getattr(func, "__name__", "") in _LOOKS


_LOOKS = frozenset(
    {"__get__", "size", "dim", "numel", "requires_grad_", "is_floating_point", "is_complex", "__len__", "is_contiguous"}
)


def _noted(tensor: Tensor) -> Tensor:
    if isinstance(tensor, _Watched):
        tensor.leaf.is_read = True
    return tensor


def _bare(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor) if isinstance(tensor, _Watched) else tensor


# ---- outputs and their forms -------------------------------------------------------------------------------------


def _changed(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same nested value with every tensor changed; containers are new, whatever else there is is the same."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, ModelOutput):
        found = copy.copy(value)  # models write into the object that they are given
        for key, item in value.items():
            found[key] = _changed(item, change)
        return found
    if type(value) in (list, tuple):
        return type(value)(_changed(item, change) for item in value)
    if type(value) is dict:
        return {key: _changed(item, change) for key, item in value.items()}
    return value


def _form_of(value: Any) -> Any:
    if isinstance(value, _Watched):
        return {"tensor": value.leaf.name}
    if isinstance(value, ModelOutput):
        kind = type(value)
        items = {key: _form_of(item) for key, item in value.items()}
        return {"class": [kind.__module__, kind.__qualname__], "items": items}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_form_of(item) for item in value]}
    if type(value) is dict:
        return {"mapping": {key: _form_of(item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    return {"unknown": type(value).__name__}


def _made(node: Mapping[str, Any], tensors: Mapping[str, Tensor], units: int) -> Any:
    """A module's output from the form of it."""
    if "tensor" in node:
        if (found := tensors.get(node["tensor"])) is not None:
            return found.detach()
        shape = [int(Fraction(node["a_unit"]) * units), *node["shape"]]
        device = next(iter(tensors.values())).device
        empty = torch.zeros((), dtype=getattr(torch, node["dtype"]), device=device)
        return empty.expand(shape).as_subclass(_WithoutValues)
    if "class" in node:
        items = {key: _made(item, tensors, units) for key, item in node["items"].items()}
        return _output_class(*node["class"])(**items)
    for kind in (list, tuple):
        if kind.__name__ in node:
            return kind(_made(item, tensors, units) for item in node[kind.__name__])
    if "mapping" in node:
        return {key: _made(item, tensors, units) for key, item in node["mapping"].items()}
    return node["value"]


def _output_class(module: str, name: str) -> type[ModelOutput]:
    """A class of outputs of transformers, and never anything else that a file may name."""
    found = getattr(importlib.import_module(module), name, None) if module.startswith("transformers.") else None
    if not (isinstance(found, type) and issubclass(found, ModelOutput)):
        raise CheckpointError(
            f"the feature cache names {module}.{name}, which this release of transformers does not have; delete the "
            "folder of processing.feature_cache"
        )
    return found


def _divided(leaf: _Leaf, rows: Sequence[ImageRow]) -> Sequence[Tensor]:
    """A kept tensor as one for each row.

    Raises:
        _NotKeptError: it has not as many entries for a unit in every row.
    """
    if leaf.value is None:
        return []
    units = sum(row.units for row in rows)
    share = Fraction(leaf.shape[0] if leaf.shape else 0, units)
    sizes = [share * row.units for row in rows]
    if not share or any(size.denominator != 1 for size in sizes):
        raise _NotKeptError(f"an output of shape {leaf.shape} cannot be divided among images of {units} units")
    return [
        part.clone(memory_format=torch.contiguous_format) for part in leaf.value.split([int(size) for size in sizes])
    ]
