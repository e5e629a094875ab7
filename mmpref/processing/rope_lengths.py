"""Lengths at which a model turns its rotary positions at other speeds.

With LongRoPE (Phi-3, Phi-4) every token of a sequence longer than the one that the model was first trained on is turned
by other frequencies than those of a shorter one, and with dynamic NTK scaling each length beyond that has its own. So
what a prompt's tokens are depends on the length of the answer behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

ROPES = "rope_parameters"
_SWITCHES, _GROWS = "longrope", "dynamic"
_FIRST = "original_max_position_embeddings"
Reading = tuple[int, int]
"""How a model reads sequences of a length: those with the same one have the same frequencies."""
AS_SHORT: Reading = (0, 0)


@dataclass(frozen=True, slots=True)
class RopeLengths:
    """Lengths are counted in positions, up to the largest of the sequence."""

    switches: tuple[int, ...] = ()
    """Sequences longer than one of these have other frequencies than those that are not."""
    grows: int | None = None
    """Every length beyond this has frequencies of its own."""

    def all_alike(self, longest: int) -> bool:
        """Whether all sequences up to this length have the same frequencies."""
        grows = self.grows is not None and longest > self.grows
        return not grows and not any(longest > step for step in self.switches)

    def reading(self, length: int) -> Reading:
        """Of sequences of this length."""
        grown = length if self.grows is not None and length > self.grows else 0
        return sum(length > step for step in self.switches), grown


def rope_lengths(config: Any) -> RopeLengths | None:
    """Of the config of a language model; None where frequencies are the same for sequences of every length."""
    switches: set[int] = set()
    grows: int | None = None
    first: Any = getattr(config, "max_position_embeddings", None)
    for rope in ropes(getattr(config, ROPES, None)):
        kind = str(rope.get("rope_type", ""))
        if kind == _SWITCHES:
            switches.add(int(rope.get(_FIRST) or getattr(config, _FIRST, None) or first))
        elif _GROWS in kind and not rope.get("alpha"):  # HunYuan's own scale, which is the same for every length
            grows = int(first)
    return RopeLengths(tuple(sorted(switches)), grows) if switches or grows is not None else None


def length_in_positions(positions: Tensor) -> int:
    """Of a sequence, from the positions of its tokens, [T] or [3, T]."""
    return int(positions.max()) + 1


def ropes(found: Any) -> Iterator[Mapping[str, Any]]:
    """What a config has under ``ROPES``: one set of settings, or one of each kind of layer."""
    if not isinstance(found, Mapping):
        return
    yield found
    yield from (value for value in found.values() if isinstance(value, Mapping))
