"""Time and memory of what runs on a device, without making it wait in between."""

from __future__ import annotations

import time
from typing import Any

import torch


class Clock:
    """Marks in the device's own queue: CUDA events on a card, the clock on a CPU."""

    def __init__(self, device: str) -> None:
        self.on_cuda = device == "cuda"

    def mark(self) -> Any:
        """This moment, as the device reaches it."""
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Milliseconds from one mark to another; waits until the device has reached the later one."""
        if not self.on_cuda:
            return float(end - start) * 1000
        end.synchronize()
        return float(start.elapsed_time(end))


class Peak:
    """Bytes that torch's allocator handed out at most while it was open; zeros on a CPU.

    Attributes:
        before: bytes handed out when it was opened.
        peak: at most, in all.
        reserved: that the allocator held at most, handed out or not.
    """

    def __init__(self, device: str) -> None:
        self.on_cuda = device == "cuda"
        self.before = self.peak = self.reserved = 0

    def __enter__(self) -> Peak:
        if self.on_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        if self.on_cuda:
            torch.cuda.synchronize()
            self.peak = torch.cuda.max_memory_allocated()
            self.reserved = torch.cuda.max_memory_reserved()

    @property
    def over_rest(self) -> int:
        """Bytes above what was there before: activations, gradients, whatever the step made."""
        return self.peak - self.before


def context_bytes() -> int:
    """Bytes of the card that are this process's and not its allocator's: CUDA's context and kernels.

    What other processes hold counts too, so the card must be free of them.
    """
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()
