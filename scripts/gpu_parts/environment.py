"""What the checks run on: the card and its driver, the versions, how fast one big product of matrices is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import shutil
import subprocess
import warnings
from collections.abc import Mapping
from typing import Any

from gpu_parts.case import GIB, Context, Row, first_line

TITLE = "what is here"
FLOORS = {"torch": (2, 11), "transformers": (5, 17)}
LIBRARIES = ("torch", "transformers", "accelerate", "peft", "datasets", "bitsandbytes", "flash_attn", "trl", "triton",
             "torchvision", "pytest")  # fmt: skip
OPTIONAL = {
    "bitsandbytes": "NF4 is not measured; pip install bitsandbytes",
    "flash_attn": "flash_attention_2 is not measured; SDPA has flash kernels of its own",
    "trl": "nothing is compared with TRL; pip install trl",
    "pytest": "tests/gpu is not run; pip install pytest",
}
BF16_FROM = 8.0
"""Compute capability from which a card has bfloat16 and flash kernels."""
BUSY = 0.1
"""Share of a card's memory that may be taken before it counts as busy."""


class UnusableError(Exception):
    """Nothing can be measured here: one line that says why and what to do."""


def look(context: Context) -> Row:
    """Card, driver, versions, and ``notes``: lines about what is missing or in the way.

    Raises:
        UnusableError: libraries that are too old; no CUDA device, or a driver that is too old for it.
    """
    found: dict[str, Any] = {"python": platform.python_version(), "libraries": versions(), "notes": []}
    refuse_old_libraries(found["libraries"])
    for library, loss in OPTIONAL.items():
        if found["libraries"][library] is None:
            found["notes"].append(f"{library} is not installed: {loss}")
    if context.device == "cuda":
        found |= card()
        found["notes"] += in_the_way(found)
    else:
        found |= {"card": "CPU", "driver": None, "memory_gib": None, "free_gib": None}
    if context.dry_run:
        found["notes"].append("toy sizes: these figures say nothing about speed or memory")
    found["bf16_tflops"] = 0.0
    try:
        found["bf16_tflops"] = float(f"{product_rate(context):.4g}")  # of a busy CPU a hundredth
    except RuntimeError as err:  # a full card, or one whose libraries have no such product
        found["notes"].append(
            f"a product of bfloat16 matrices failed, no share of its rate is known: {first_line(err)}"
        )
    return found


def versions() -> dict[str, str | None]:
    """Of each library; None where it is not installed. torchvision is named and never used."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name.replace("_", "-"))
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def refuse_old_libraries(found: Mapping[str, str | None]) -> None:
    """Refuse what is older than mmpref's floors.

    Raises:
        UnusableError: names the library, its version and the one that is needed.
    """
    for name, floor in FLOORS.items():
        needed = ".".join(map(str, floor))
        version = found[name]
        if version is None:
            raise UnusableError(f"{name} is not installed; pip install 'mmpref' brings it")
        if tuple(int(number) for number in re.findall(r"\d+", version)[:2]) < floor:
            raise UnusableError(f"{name} {version} is too old; pip install '{name}>={needed}'")


def card() -> dict[str, Any]:
    """The first visible CUDA device.

    Raises:
        UnusableError: there is none, or its driver cannot run this torch.
    """
    import torch

    before = from_smi()  # while nothing of this process is on the card
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            torch.zeros(1, device="cuda")
        except (RuntimeError, AssertionError) as err:
            reasons = [*(first_line(one.message) for one in told if isinstance(one.message, Warning)), first_line(err)]
            raise UnusableError(_why_no_card(reasons)) from err
    properties = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info()
    driver, busy, taken = of_card(before, str(getattr(properties, "uuid", "")))
    return {
        "card": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": driver,
        "busy_percent": busy,
        "taken_gib": taken,
        "cuda": torch.version.cuda,
        "memory_gib": round(total / GIB, 2),
        "free_gib": round((free + torch.cuda.memory_reserved()) / GIB, 2),
        "cards": torch.cuda.device_count(),
    }


def in_the_way(found: Mapping[str, Any]) -> list[str]:
    """Lines about a card that somebody else uses, or of which there are several."""
    notes = []
    used = 1 - found["free_gib"] / found["memory_gib"]
    if used > BUSY or found["busy_percent"] > 10:
        notes.append(
            f"the card is busy: {used:.0%} of its memory is taken, and it works {found['busy_percent']:.0f}% of the "
            "time; speeds are too low, and large parts may not fit"
        )
    if float(found["capability"]) < BF16_FROM:
        notes.append(
            f"this card (compute capability {found['capability']}) has no bfloat16 of its own: bfloat16 is worked out "
            "in float32, so speeds say little, and tests of flash kernels fail or are skipped"
        )
    if found["cards"] > 1:
        notes.append(f"there are {found['cards']} cards; the first is measured (CUDA_VISIBLE_DEVICES chooses another)")
    return notes


def _why_no_card(reasons: list[str]) -> str:
    dry = "`--dry-run` runs every part at toy size without one"
    reason = next((one for one in reasons if "driver" in one.lower()), reasons[-1])
    if "not compiled with CUDA" in reason:
        return f"this torch is a build without CUDA; install one with it (pytorch.org says how), or {dry}"
    if "too old" in reason:
        return f"the NVIDIA driver is too old for this torch ({reason}); update the driver, or {dry}"
    return f"no CUDA device can be used: {reason}; {dry}"


def from_smi() -> list[list[str]]:
    """Of each card of the machine: uuid, driver, percent of the last second that it was busy, MiB that are taken."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    asked = [program, "--query-gpu=uuid,driver_version,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in lines if line.count(",") == 3]


def of_card(cards: list[list[str]], uuid: str) -> tuple[str | None, float, float | None]:
    """(driver version, percent that the card was busy, GiB of it that others hold) of one card, or of one that stands
    for it where none has its uuid (a part of a card); None for what is not known.
    """
    mine = [one for one in cards if one[0].removeprefix("GPU-") == uuid.removeprefix("GPU-")]
    if not mine and not cards:
        return None, 0.0, None
    _, driver, busy, taken = (mine or cards)[0]
    held = round(int(taken) / 1024, 3) if mine and taken.isdigit() else None
    return driver, float(busy) if busy.isdigit() else 0.0, held


def product_rate(context: Context) -> float:
    """TFLOP/s of one big product of bfloat16 matrices: the rate that a training step can come near to at best."""
    import torch

    from gpu_parts.clock import Clock

    size = 256 if context.dry_run else 8192
    a, b = (torch.randn(size, size, device=context.device, dtype=torch.bfloat16) for _ in range(2))
    clock = Clock(context.device)
    for _ in range(3):
        a @ b
    rounds = 10
    start = clock.mark()
    for _ in range(rounds):
        a @ b
    milliseconds = clock.between(start, clock.mark())
    return rounds * 2 * size**3 / (milliseconds / 1000) / 1e12
