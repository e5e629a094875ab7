"""TRL's losses of ``loss_type`` as keys of ours: ms-swift has them as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mmpref.errors import ConfigError

PAIR_LOSSES: Final[Mapping[str, Mapping[str, Any]]] = {
    "sigmoid": {"loss.name": "dpo"},
    "sigmoid_norm": {"loss.name": "dpo", "loss.length_normalize": True},
    "hinge": {"loss.name": "hinge"},
    "ipo": {"loss.name": "ipo"},
    "robust": {"loss.name": "robust"},
}
"""Losses of a pair that are ours by another name; tests compare them with TRL's own."""


def known_losses() -> str:
    """Names of the losses that have a counterpart."""
    return ", ".join((*PAIR_LOSSES, "bco_pair", "sft"))


def combined(kinds: Sequence[str], weights: Sequence[float] | None, where: str) -> dict[str, Any] | None:
    """Keys of ours for a sum of losses: one that compares, anchors without a shift, a likelihood; None where a part of
    it has no counterpart.

    Raises:
        ConfigError: as many weights as losses are needed.
    """
    if weights is not None and len(weights) != len(kinds):
        raise ConfigError(f"{where}: loss_weights has {len(weights)} numbers for {len(kinds)} of loss_type")
    weighed = dict(zip(kinds, weights or [1.0] * len(kinds), strict=True))
    pairs = [kind for kind in kinds if kind in PAIR_LOSSES]
    is_known = all(kind in (*PAIR_LOSSES, "bco_pair", "sft") for kind in kinds)
    per_answer = "bco_pair" in weighed and bool({"ipo", "sigmoid_norm"} & {*kinds})
    if not is_known or per_answer or len(pairs) > 1 or len(weighed) != len(kinds):
        return None
    if not pairs and "bco_pair" not in weighed:
        return {"loss.name": "sft"}
    kind = pairs[0] if pairs else None
    ours = dict(PAIR_LOSSES[kind or "sigmoid"])
    weight = weighed[kind] if kind else 0.0
    if weight != 1:
        ours["loss.pair_weight"] = weight
    if (anchor := weighed.get("bco_pair")) is not None:
        ours |= {"loss.anchor.chosen": anchor, "loss.anchor.rejected": anchor}
    if (likelihood := weighed.get("sft")) is not None:
        ours["loss.nll_weight"] = likelihood
    return ours
