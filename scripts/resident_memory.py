"""Memory of a step on the CPU: what the system gave the process beyond what stood before."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

ONE_BY_ONE = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""Environment of a process that is measured: each tensor goes back to the system when it is freed.

Without it glibc keeps freed blocks of up to 32 MiB for itself, and the peak is largely that of its leftovers: with
checkpointing they are some 700 MiB of a step that needs 114.
"""


def step_memory(step: Callable[[], object]) -> dict[str, float]:
    """MiB of the peak while it runs, and how much of it was not there before; Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what an earlier step freed goes back, or it would hide what this one takes
    rest = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    step()
    peak = _status("VmHWM")
    return {"peak": peak, "over_rest": peak - rest}


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key} on this system")
