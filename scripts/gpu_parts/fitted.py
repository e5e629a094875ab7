"""What ``mmpref plan`` says beside what was measured, and its assumed constants fitted to it."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_parts.case import GIB, Row
from mmpref.planning.gpus import FIXED, GPUS, SLACK, UTILISATION
from mmpref.planning.plan import Plan, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.sections import Recipe

_NEUTRAL = re.compile(r"nvidia|geforce|tesla|sxm\d*|hbm\d+e?|\d+gb", re.IGNORECASE)
"""Words of a card's name that say nothing of its speed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A training run or step that was measured.

    Attributes:
        recipe: what was run.
        shape: the arguments of ``make_plan`` that say what a pair was.
        peak, reserved: bytes handed out and held at most; zeros where nothing was measured.
        pairs_per_second: None where it is not known.
        counted: floating-point operations of a pair as they were counted; None where they were not.
    """

    name: str
    recipe: Recipe
    shape: Mapping[str, Any]
    peak: int = 0
    reserved: int = 0
    pairs_per_second: float | None = None
    counted: float | None = None


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A measurement with its plan."""

    measured: Measured
    plan: Plan

    @property
    def error(self) -> float | None:
        """Of the planned peak, as a share of the measured one."""
        return self.plan.memory.peak / self.measured.peak - 1 if self.measured.peak else None

    @property
    def slack(self) -> float | None:
        """What the allocator held beyond what it handed out."""
        peak, reserved = self.measured.peak, self.measured.reserved
        return reserved / peak - 1 if peak and reserved else None

    def row(self) -> Row:
        """Measured, planned, error; nothing of what was not measured."""
        found: Row = {}
        if self.error is not None:
            found = {"measured_gib": round(self.measured.peak / GIB, 3),
                     "planned_gib": round(self.plan.memory.peak / GIB, 3), "error": round(self.error, 4)}  # fmt: skip
        if self.slack is not None:
            found |= {"reserved_gib": round(self.measured.reserved / GIB, 3), "slack": round(self.slack, 4)}
        if self.plan.speed is not None and self.measured.pairs_per_second:
            hourly, planned = 3600 * self.measured.pairs_per_second, self.plan.speed.pairs_per_hour[1]
            found |= {"measured_pairs_per_hour": round(hourly, 1), "planned_pairs_per_hour": round(planned, 1),
                      "speed_error": round(planned / hourly - 1, 4)}  # fmt: skip
        return found


def beside(measured: Measured, card: str | None) -> Beside:
    """A measurement with what the plan says of it.

    Args:
        card: name in the plan's table, for its speed; None for one that is not there.
    """
    return Beside(measured=measured, plan=make_plan(measured.recipe, PlanInput(gpu=card, **measured.shape)))


def measured_in(part: str, row: Row) -> Measured | None:
    """What a part's row measured; None where it has no peak.

    Its ``planned`` says what was run; ``ms`` and ``flop`` there are of one micro-batch, ``pairs_per_hour`` of the row
    is that of a whole run.
    """
    facts = row.get("planned") or {}
    if not facts.get("peak_bytes"):
        return None
    recipe = build_recipe(facts["recipe"], where=f"{part}, {row['case']}")
    batch, hourly = recipe.train.per_device_train_batch_size, row.get("pairs_per_hour")
    return Measured(
        name=f"{part}: {row['case']}", recipe=recipe,
        shape={"prompt_tokens": facts["prompt_tokens"], "answer_tokens": facts["answer_tokens"],
               "image_size": tuple(facts["image"])},
        peak=int(facts["peak_bytes"]), reserved=int(facts.get("reserved_bytes") or 0),
        pairs_per_second=batch * 1000 / facts["ms"] if facts.get("ms") else hourly / 3600 if hourly else None,
        counted=facts["flop"] / batch if facts.get("flop") else None,
    )  # fmt: skip


def table_card(name: str, memory_gib: float | None) -> str | None:
    """The name in ``gpus.GPUS`` for what CUDA calls a card; None where the table has no such card.

    Only a whole name counts: an H100 PCIe, a laptop's RTX 4090 or an RTX 4080 SUPER have other rates.
    """
    words = [word for word in re.split(r"[\s-]+", name) if not _NEUTRAL.fullmatch(word)]
    if words[:1] == ["A100"]:  # PCIe and SXM are as fast
        words = [word for word in words if word != "PCIe" and word != "PCIE"]
    if words == ["RTX", "A6000"]:
        words = ["A6000"]
    plain = " ".join(words)
    for known, (size, _) in GPUS.items():
        bare = re.sub(r"\s*\d+GB$", "", known)
        if bare.lower() == plain.lower() and (memory_gib is None or 0.85 * size <= memory_gib <= 1.05 * size):
            return known
    return None


def utilisation(one: Beside, card: str) -> tuple[float | None, float | None]:
    """Share of the card's data-sheet rate: (by the plan's operations, by counted ones)."""
    rate, pairs = GPUS[card][1] * 1e12, one.measured.pairs_per_second
    if not pairs:
        return None, None
    counted = one.measured.counted
    return one.plan.flops_per_pair * pairs / rate, None if counted is None else counted * pairs / rate


def constants(found: Sequence[Beside], contexts: Sequence[float], card: str | None) -> Row:
    """The plan's assumed constants beside what they were; ``paste`` has them as ``gpus.py`` writes them.

    FIXED is the largest context, SLACK the worst with checkpointing (a plan that says "fits" must be right, and all
    shipped recipes checkpoint), UTILISATION the median by the plan's own operations.

    Args:
        contexts: GiB of CUDA contexts, one of each run.
        card: its name in the plan's table; None where it is not there.
    """
    context: Row = {"assumed": FIXED / GIB}
    slack: Row = {"assumed": SLACK}
    used: Row = {"assumed": UTILISATION}
    paste = []
    if contexts:
        context["measured"] = round(max(contexts), 3)
        paste.append(f"FIXED = int({math.ceil(max(contexts) * 10) / 10:.1f} * GIB)")
    with_it, without = (
        [one.slack for one in found if one.slack is not None and one.plan.recipe.train.gradient_checkpointing is on]
        for on in (True, False)
    )
    if with_it or without:
        slack |= {"median": round(statistics.median([*with_it, *without]), 4),
                  "worst": round(max([*with_it, *without]), 4)}  # fmt: skip
    for name, values in (("worst_checkpointing", with_it), ("worst_without", without)):
        if values:
            slack[name] = round(max(values), 4)
    if with_it:
        paste.append(f"SLACK = {math.ceil(round(max(with_it) * 100, 6)) / 100:.2f}")
    if card is not None:
        shares = [utilisation(one, card) for one in found]
        planned = [share for share, _ in shares if share is not None]
        counted = [share for _, share in shares if share is not None]
        if planned:
            used |= {"measured": round(statistics.median(planned), 4), "lowest": round(min(planned), 4),
                     "highest": round(max(planned), 4)}  # fmt: skip
            paste.append(f"UTILISATION = {statistics.median(planned):.2f}")
        if counted:
            used["counted"] = round(statistics.median(counted), 4)
    row: Row = {"case": "constants", "context_gib": context, "slack": slack, "utilisation": used}
    return row | ({"paste": "; ".join(paste)} if paste else {})
