"""An evaluation by where pairs come from and by how far apart their scores are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmpref.records import PreferencePair
from mmpref.training.trainer.metrics import Gather, Meter, list_of_one

GAPS = ("low", "mid", "high")
_STATISTICS = ("loss", "rewards/accuracies", "rewards/margins")


class Breakdown:
    """Means of a few statistics for each group of pairs.

    Groups are ``source/NAME``, where there is more than one, and ``gap/low``, ``gap/mid``, ``gap/high``: thirds of the
    pairs by score difference, equal differences together. Pairs without scores are in no third.
    """

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        self._groups: dict[str, list[str]] = {pair.id: [] for pair in pairs}
        self._meters: dict[str, Meter] = {}
        self.edges: dict[str, float] = {}
        if len({pair.source for pair in pairs}) > 1:
            for pair in pairs:
                self._groups[pair.id].append(f"source/{pair.source or 'unnamed'}")
        gaps = {
            pair.id: pair.score_chosen - pair.score_rejected
            for pair in pairs
            if pair.score_chosen is not None and pair.score_rejected is not None
        }
        ordered = sorted(gaps.values())
        if len(set(ordered)) < 2:
            return
        cuts = [ordered[len(ordered) * k // 3 - 1] if len(ordered) >= 3 else ordered[0] for k in (1, 2)]
        for name, gap in gaps.items():
            self._groups[name].append(f"gap/{GAPS[sum(gap > cut for cut in cuts)]}")
        self.edges = {"gap/low_to": cuts[0], "gap/mid_to": cuts[1]}

    def add(self, pair_ids: Sequence[str], stats: Mapping[str, Tensor]) -> None:
        """Add a batch of per-pair values, each [B]."""
        members: dict[str, list[int]] = {}
        for place, name in enumerate(pair_ids):
            for group in self._groups.get(name, ()):
                members.setdefault(group, []).append(place)
        kept = {name: stats[name] for name in _STATISTICS if name in stats}
        for group, places in members.items():
            chosen = {name: values[torch.tensor(places, device=values.device)] for name, values in kept.items()}
            self._meters.setdefault(group, Meter()).add({**chosen, "pairs": torch.ones(len(places))})

    def take(self, gather: Gather = list_of_one) -> dict[str, float]:
        """Every group's means over all ranks, as ``GROUP/STATISTIC``, and where the thirds end; {} without groups."""
        found: dict[str, float] = {}
        for group in sorted({group for groups in self._groups.values() for group in groups}):
            means = self._meters.setdefault(group, Meter()).take(gather)
            found |= {f"{group}/{name}": value for name, value in means.items() if name != "pairs"}
        return {**found, **self.edges} if found else {}
