"""Floating-point operations of a step, counted where they are dispatched; a multiply-add is two.

torch's own counter sees every product of matrices, in forward, recomputation and backward alike. What it lacks is
added here: attention kernels by the places they look at (torch counts a causal one as if it saw everything, has no
formula for the CPU's, and reads some layouts wrongly), and bitsandbytes' product with a 4-bit weight, which is one
operation to the dispatcher. A kernel that is given a mask computes every place, and is counted so. The Triton kernels
of TRL's head make no products: they fold tiles that ``torch.mm`` made. Element-wise work is not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

FORWARD, BACKWARD = 2, 5
"""Products of an attention kernel: scores and sums; backward makes the scores again, and four gradients."""
_ATTENTION = {
    "_scaled_dot_product_flash_attention": True,
    "_scaled_dot_product_efficient_attention": True,
    "_scaled_dot_product_cudnn_attention": True,
    "_scaled_dot_product_flash_attention_for_cpu": True,
    "_flash_attention": False,
    "_efficient_attention": False,
}
"""Kernel -> whether heads come before tokens in its tensors."""
_FOUR_BIT = ("gemm_4bit", "gemv_4bit")


def count_flops(step: Callable[[], object]) -> int:
    """Operations of what is run."""
    with FlopCounterMode(display=False, custom_mapping=_formulas()) as counter:
        step()
    return int(counter.get_total_flops())


def _formulas() -> dict[Any, Any]:
    # torch's own formula fails on the form with another dtype for the result, which the output head uses on a GPU, and
    # it has none for the form in place, which the head uses on a CPU
    found: dict[Any, Any] = {torch.ops.aten.addmm: _raw(_added), torch.ops.aten.addmm_: _raw(_added)}
    for name, heads_first in _ATTENTION.items():
        forward = name if name.startswith("_scaled") else f"{name}_forward"
        for op, products in ((forward, FORWARD), (f"{name}_backward", BACKWARD)):
            packet = getattr(torch.ops.aten, op, None)
            if hasattr(packet, "default"):
                found[packet] = _raw(_Attention(packet, products, heads_first=heads_first))
    for op in _FOUR_BIT:
        try:
            found[getattr(torch.ops.bitsandbytes, op)] = _raw(_four_bit)
        except AttributeError:  # not loaded, or a release without it
            continue
    return found


class _Attention:
    """Operations of one attention kernel, from the arguments that its schema names."""

    def __init__(self, packet: Any, products: int, *, heads_first: bool) -> None:
        self.names = [argument.name for argument in packet.default._schema.arguments]
        self.products, self.heads_first = products, heads_first

    def __call__(self, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        query, key = given["query"].shape, given["key"].shape
        rows, columns = (query[2], key[2]) if self.heads_first else (query[-3], key[-3])
        heads = query[1] if self.heads_first else query[-2]
        batch = query[0] if len(query) == 4 else 1
        causal = bool(given.get("is_causal")) or int(given.get("custom_mask_type") or 0) > 0
        seen = rows * columns - (rows * (rows - 1) // 2 if causal else 0)
        return int(self.products * 2 * batch * heads * seen * query[-1])


def _added(into: Any, a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    """``into + a @ b``; the sum is not counted."""
    return 2 * int(a.shape[0]) * int(a.shape[1]) * int(b.shape[1])


def _four_bit(given: Any, packed: Any, shape: Any, *args: Any, **kwargs: Any) -> int:
    """A product with a 4-bit weight of ``shape`` [out, in]."""
    return 2 * int(given.numel()) * int(shape[0])


def _raw(formula: Any) -> Any:
    """Marked so that torch's counter hands it tensors and not their shapes."""

    def counted(*args: Any, **kwargs: Any) -> int:
        return int(formula(*args, **kwargs))

    counted._get_raw = True  # type: ignore[attr-defined]  # torch's own mark
    return counted
