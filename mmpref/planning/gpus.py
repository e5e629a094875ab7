"""GPU cards: their memory and speed, and how much of the memory is not for the model."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmpref.errors import ConfigError

GIB = 2**30
FIXED = int(1.0 * GIB)
"""CUDA's own context and kernels; assumed. ``scripts/gpu_check.py`` measures it."""
SLACK = 0.05
"""Share of the card that its allocator loses to rounding; assumed. One H200's allocator reserved 3 to 11 % more than it
handed out in ten runs with checkpointing, 23 % in one without (docs/memory.md). That card had memory to spare: one that
is full gives cached blocks back before it fails, so what is lost there is that or less."""
UTILISATION = 0.35
"""Share of a card's peak rate that a training step reaches; assumed. ``scripts/gpu_check.py`` measures it."""
# card -> (GiB, dense half-precision TFLOP/s with float32 sums), from the makers' data sheets
GPUS: Mapping[str, tuple[int, float]] = {
    "RTX 3060": (12, 25.6), "RTX 4070": (12, 58.0), "T4": (16, 65.0), "RTX 4060 Ti 16GB": (16, 44.0),
    "RTX 4080": (16, 97.0), "RTX 3090": (24, 71.0), "RTX 4090": (24, 165.0), "L4": (24, 121.0), "A10": (24, 125.0),
    "A6000": (48, 155.0), "L40S": (48, 362.0), "A100 40GB": (40, 312.0), "A100 80GB": (80, 312.0),
    "H100": (80, 989.0), "H200": (141, 989.0),
}  # fmt: skip
LINKED: Mapping[str, str] = {"A100 40GB": "NVLink 3", "A100 80GB": "NVLink 3", "H100": "NVLink 4", "H200": "NVLink 4"}
"""Links between cards of one machine, for those that are sold with more than PCIe."""


def on_card(peak: int) -> int:
    """Bytes that a card must have for a peak: its context and what its allocator loses come on top."""
    return int((peak + FIXED) * (1 + SLACK))


def parse_memory(text: str) -> int:
    """``24GiB``, ``24GB`` or ``24`` as bytes; GB is taken as GiB, as card makers mean it.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(GiB|GB|G|MiB|MB|M)?\s*", text, flags=re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"'{text}' is not a size of memory; write 24GiB")
    unit = 2**20 if (found[2] or "G").upper().startswith("M") else GIB
    return int(float(found[1]) * unit)


def parse_card(text: str) -> tuple[int, str | None]:
    """Bytes of a card given by its memory or its name, and the name where it was one.

    Raises:
        ConfigError: neither a size of memory nor a card of the table.
    """
    if re.fullmatch(r"\s*[0-9].*", text):
        return parse_memory(text), None
    name, gib, _ = card_named(text, otherwise="its memory, 24GiB")
    return gib * GIB, name


def card_named(name: str, *, otherwise: str = "--gpu-memory alone") -> tuple[str, int, float]:
    """A card's name as the table writes it, its GiB and its TFLOP/s.

    Raises:
        ConfigError: a card that is not in the table.
    """
    for known, facts in GPUS.items():
        if known.lower().replace(" ", "") == name.lower().replace(" ", "").removeprefix("nvidia"):
            return (known, *facts)
    raise ConfigError(f"no card '{name}' in the table; known: {', '.join(GPUS)}; or give {otherwise}")
