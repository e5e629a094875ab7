"""A device that is none: tensors say that they lie on it, and every operation on them runs on the CPU.

What a GPU alone can show otherwise is found here: each place where the host would wait for the device, with the line of
code that waits. A tensor is "on the device" when ``.to(DEVICE)`` put it there, or when it was made there or from such a
tensor. Values are real, so that code takes the branches it takes on a GPU.

The device is torch's own one for backends written in Python (``privateuseone``), whose autograd needs no hardware;
``cuda`` on a build without CUDA has none. Registering it cannot be undone: only processes of their own use this module.
"""

from __future__ import annotations

import functools
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretend"
ROOT = Path(__file__).resolve().parent.parent

# what reads values, or how many there are, before it can go on
_READS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "masked_scatter_backward"),
    *("bincount", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
_BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
_COPIES = {"_to_copy", "copy_", "copy"}


class _Module(_DummyBackendModule):
    """What torch and accelerate ask of a device's module; there is no state of its own to keep."""

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    @contextmanager
    def device(self, device: Any = None) -> Iterator[None]:
        yield

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def empty_cache(self) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...


_setup_privateuseone_for_python_backend(rename=NAME, backend_module=_Module())
DEVICE = torch.device(NAME, 0)


class OnDevice(Tensor):
    """A tensor that says it lies on the device; ``inner`` is its value on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    # torch's own refuse a subclass, or print it without a look at its values
    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return repr(self.detach().cpu())

    def __format__(self, spec: str) -> str:
        return format(self.detach().cpu(), spec)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, None)


class _MadeFromData(TorchFunctionMode):
    """``torch.tensor(data, device=...)`` fills host memory and copies it, below what a dispatch mode sees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor):
            default = args[0].device if func in (torch.as_tensor, Tensor.new_tensor) and _is_tensor(args[0]) else "cpu"
            device = torch.device(kwargs.pop("device", None) or default)
            if func is Tensor.new_tensor:
                return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(device)
            if func is torch.as_tensor and _is_tensor(args[0]):
                return args[0].to(device, **kwargs)
            args = _mapped(lambda x: x.item() if isinstance(x, OnDevice) else x, args)
            return func(*args, **kwargs, device="cpu").to(device)
        return func(*args, **kwargs)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Tensor)


@dataclass
class Waits(TorchDispatchMode):
    """While it is entered the device exists, and what would wait for it is counted: (operation, line) -> times."""

    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    is_counting: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        self._from_data = _MadeFromData()
        self._pinned: dict[int, Tensor] = {}  # by address of their memory, which they keep

    def __hash__(self) -> int:
        return id(self)

    def __enter__(self) -> Waits:
        self._from_data.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *what: Any) -> None:
        super().__exit__(*what)
        self._from_data.__exit__(*what)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name in ("pin_memory", "_pin_memory"):
            return self.pin(args[0])
        if name == "is_pinned":
            return self.is_pinned(args[0])
        return _run(func, args, kwargs, self)

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy that counts as page-locked."""
        copy = tensor.clone()
        self._pinned[copy.untyped_storage().data_ptr()] = copy
        return copy

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def note(self, what: str) -> None:
        if self.is_counting:
            self.found[what, _line()] += 1

    def note_copy(self, source: Tensor, to_device: bool, non_blocking: bool) -> None:
        if not to_device:
            self.note("copy from the device")
        elif not self.is_pinned(source) and source.numel():
            self.note("copy of pageable memory to the device")
        elif not non_blocking and source.numel():
            self.note("blocking copy to the device")

    def report(self) -> list[str]:
        """The waits as lines for an assertion."""
        return [f"{count} x {what} at {line}" for (what, line), count in sorted(self.found.items())]


def _run(func: Any, args: Any, kwargs: dict[str, Any], waits: Waits | None) -> Any:
    name, has_aliases = _facts(func)
    flat = [x for part in (args, kwargs.values()) for x in _tensors(part)]
    ours = any(type(x) is OnDevice for x in flat)
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    to_device = ours if asked is None else asked.type == DEVICE.type
    if name in _COPIES:
        to_device = _copying(name, args, kwargs, to_device, waits)
    elif ours and waits is not None:
        _look(name, args, flat, waits)
    if not (ours or to_device):
        return func(*args, **kwargs)
    plain = {key: _mapped(_inner, value) for key, value in kwargs.items() if key != "pin_memory"}
    if asked is not None:
        plain["device"] = torch.device("cpu")
    out = func(*_mapped(_inner, args), **plain)
    if not to_device:
        return out.clone() if any(out is _inner(x) for x in flat) else out  # a copy, whatever torch saves itself
    wrapped = _mapped(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, out)
    if not ours or not has_aliases or name in ("_to_copy", "copy"):
        return wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


@functools.cache
def _facts(func: Any) -> tuple[str, bool]:
    """Name of an operation, and whether what it returns may be what it was given."""
    return func._schema.name.partition("::")[2], any(ret.alias_info is not None for ret in func._schema.returns)


def _mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, (list, tuple)):
        return type(tree)([_mapped(change, entry) for entry in tree])
    return change(tree)


def _tensors(tree: Any) -> Iterator[Tensor]:
    for entry in tree:
        if isinstance(entry, Tensor):
            yield entry
        elif isinstance(entry, (list, tuple)):
            yield from _tensors(entry)


def _copying(name: str, args: Any, kwargs: dict[str, Any], to_device: bool, waits: Waits | None) -> bool:
    """Whether a copy ends on the device; one between the two is looked at."""
    if name == "_to_copy":
        source, there = args[0], to_device
        non_blocking = bool(kwargs.get("non_blocking"))
    else:
        source, there = args[1], isinstance(args[0], OnDevice)
        non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking"))
    if isinstance(source, OnDevice) != there and waits is not None:
        waits.note_copy(source, there, non_blocking)
    return there


def _look(name: str, args: Any, flat: list[Tensor], waits: Waits) -> None:
    if name in _READS and isinstance(flat[0], OnDevice):
        waits.note(name)
    elif name == "repeat_interleave" and len(flat) and not any(isinstance(x, int) for x in args[1:]):
        waits.note("repeat_interleave without its output's size")
    elif name in _BY_INDEX:
        for index in args[1]:
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                waits.note("boolean index")
            elif isinstance(index, Tensor) and not isinstance(index, OnDevice):
                waits.note("copy of pageable memory to the device")
    else:
        strays = [x for x in flat if not isinstance(x, OnDevice) and x.dim() > 0]
        if strays and not name.startswith(("_fused", "_foreach", "set_")):
            raise RuntimeError(f"{name}: tensors on the device and on the CPU at {_line()}")


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, OnDevice) else x


def _line() -> str:
    """Where the code of a library asked for it, and which line of ours led there."""
    own = Path(__file__).name
    frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename and not f.filename.endswith(own)]
    if not frames:
        return "backward"
    deepest = frames[-1]
    ours = [f for f in frames if "/mmpref/" in f.filename and f is not deepest]
    led = f" (from {_short(ours[-1].filename)}:{ours[-1].lineno})" if ours else ""
    return f"{_short(deepest.filename)}:{deepest.lineno} {deepest.line}{led}"


def _short(file: str) -> str:
    return file.partition("site-packages/")[2] or file.removeprefix(f"{ROOT}/")
