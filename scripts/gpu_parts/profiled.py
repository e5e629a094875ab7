"""Where the time of one step goes: the longest kernels, and how long the card was busy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # not in its __all__
from torch.profiler import ProfilerActivity, profile

NAME = 100
"""Characters of a kernel's name that are kept."""


was_open: set[str] = set()
"""Devices that this process has profiled: CUDA's profiler stays attached, and launching kernels takes the host longer
from then on."""


@dataclass(frozen=True)
class Profile:
    """One profiled step.

    Attributes:
        top: (kernel, milliseconds, calls), the longest first. On a CPU: operators, with those they call.
        busy: milliseconds in which some kernel or copy ran; None where the profiler saw none.
    """

    top: list[tuple[str, float, int]]
    busy: float | None


def profile_step(step: Callable[[], object], device: str, *, top: int = 10) -> Profile:
    """Profile what is run."""
    on_cuda = device == "cuda"
    was_open.add(device)
    if on_cuda:
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as found:
        step()
        if on_cuda:
            torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    spans: list[tuple[float, float]] = []
    kind = DeviceType.CUDA if on_cuda else DeviceType.CPU
    for event in found.profiler.kineto_results.events():  # as recorded: events() would first build their tree, slowly
        if event.device_type() != kind or event.is_user_annotation() or not event.duration_ns():
            continue
        start, length = event.start_ns() / 1e6, event.duration_ns() / 1e6
        times[event.name()] += length
        calls[event.name()] += 1
        spans.append((start, start + length))
    longest = sorted(times, key=lambda name: -times[name])[:top]
    return Profile(
        top=[(name[:NAME], round(times[name], 3), calls[name]) for name in longest],
        busy=_union(spans) if spans else None,
    )


def _union(spans: list[tuple[float, float]]) -> float:
    """Length of what any of the spans covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered
