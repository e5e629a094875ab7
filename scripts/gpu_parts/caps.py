"""A large card as if it were a small one: how much torch's allocator may take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gpu_parts.case import GIB
from gpu_parts.clock import context_bytes

USABLE = {24: 23.6, 16: 15.7, 12: 11.6}
"""GB on the box -> GiB that CUDA reports as the card's total. What torch's out-of-memory messages call "total capacity"
on GeForce cards under Linux: 23.6 to 23.7 (RTX 3090, 4090), 15.7 (RTX 4060 Ti, 4080), 11.6 to 11.8 (RTX 4070, 3060).
Cards with ECC have less (L4 and A10 22.0, T4 14.6) and run their own."""
OWN = 0.9
"""A card with at least this share of a size on the box is of that size."""
TAKEN = 2 * GIB
"""More than a CUDA context takes: somebody else is on the card."""


class CapError(Exception):
    """This card cannot stand for a card of that size; says why."""


@dataclass(frozen=True, kw_only=True)
class Cap:
    """What a card of some size has.

    Attributes:
        size: GB on the box.
        usable: bytes in all.
        is_own: the card is of that size itself, and nothing limits it but the card.
    """

    size: int
    usable: int
    is_own: bool

    def share(self, total: int, context: int) -> float:
        """Share of a card of ``total`` bytes that the allocator may take beside a CUDA context."""
        return 1.0 if self.is_own else min(1.0, max(0.0, (self.usable - context) / total))


def cap_of(size: int, *, total: int, free: int, context: int) -> Cap:
    """The cap for a size on the box.

    Args:
        total, free: bytes of the card that is here.
        context: bytes of it that are no allocator's.

    Raises:
        CapError: the card is smaller, or somebody else is on it.
    """
    if total < OWN * size * GIB:
        raise CapError(f"this card has {total / GIB:.1f} GiB, which is no {size} GB")
    if context > TAKEN:
        raise CapError(
            f"{context / GIB:.1f} GiB of the card are not this process's tensors: others are on it, and what a "
            f"{size} GB card would have cannot be told"
        )
    if total <= size * GIB:
        return Cap(size=size, usable=total, is_own=True)
    cap = Cap(size=size, usable=int(USABLE[size] * GIB), is_own=False)
    if free < cap.usable - context:
        raise CapError(f"a {size} GB card would have {USABLE[size]} GiB, and {free / GIB:.1f} GiB are free here")
    return cap


def cap_here(size: int) -> Cap:
    """:func:`cap_of` for the card that is here, with a context that exists."""
    torch.zeros(1, device="cuda")
    free, total = torch.cuda.mem_get_info()
    return cap_of(size, total=total, free=free + torch.cuda.memory_reserved(), context=context_bytes())


def hold_to(cap: Cap) -> None:
    """Let the allocator take what the cap leaves beside the context as it is now; kernels that were loaded since the
    last time are in it."""
    torch.cuda.set_per_process_memory_fraction(cap.share(torch.cuda.mem_get_info()[1], context_bytes()))


@contextmanager
def held_to(cap: Cap | None) -> Iterator[None]:
    """Inside, the cap holds; None is no cap."""
    if cap is None:
        yield
        return
    hold_to(cap)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
