"""The benchmark questions about scenes, drawn the way POPE draws them.

Negatives are kinds that are not in the image: any (random), the most frequent in the training images (popular), or
those that most often stand with the asked positive there (adversarial).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from mmpref.demo.annotate import Row, question
from mmpref.demo.scenes import KINDS, Scene

WAYS = ("random", "popular", "adversarial")


@dataclass(frozen=True, slots=True)
class Companionship:
    """How often kinds stand in the training images, alone and in pairs; POPE's popular and adversarial need it."""

    alone: Counter[str]
    together: Counter[tuple[str, str]]  # both orders are counted

    @classmethod
    def of(cls, scenes: Iterable[Scene]) -> Companionship:
        """Counted over scenes."""
        alone: Counter[str] = Counter()
        together: Counter[tuple[str, str]] = Counter()
        for scene in scenes:
            alone.update(scene.kinds)
            for a, b in combinations(sorted(scene.kinds), 2):
                together.update([(a, b), (b, a)])
        return cls(alone, together)


def _negatives(rng: Random, way: str, scene: Scene, positives: Sequence[str], seen: Companionship) -> list[str]:
    """One absent kind per positive, chosen POPE's way; all different."""
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    if way == "random":
        return rng.sample(absent, len(positives))
    if way == "popular":
        return sorted(absent, key=lambda kind: -seen.alone[kind])[: len(positives)]
    chosen: list[str] = []
    for positive in positives:
        left = [kind for kind in absent if kind not in chosen]
        chosen.append(max(left, key=lambda kind: seen.together[positive, kind]))
    return chosen


def pope_rows(scenes: Sequence[Scene], seen: Companionship, *, seed: int, per_label: int) -> dict[str, list[Row]]:
    """Rows in POPE's format for each of the three ways, which share their positives; as many no as yes."""
    split = scenes[0].split
    pick = Random(f"{seed}/{split}/positives")
    rngs = {way: Random(f"{seed}/{split}/{way}") for way in WAYS}
    rows: dict[str, list[Row]] = {way: [] for way in WAYS}
    for scene in scenes:
        positives = pick.sample([thing.kind for thing in scene.things], min(per_label, len(scene.things)))
        for way, out in rows.items():
            negatives = _negatives(rngs[way], way, scene, positives, seen)
            for yes, no in zip(positives, negatives, strict=True):
                for kind, label in ((yes, "yes"), (no, "no")):
                    number = len(out) + 1
                    out.append({"question_id": number, "image": scene.image, "text": question(kind), "label": label})
    return rows
