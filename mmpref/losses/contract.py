"""What goes into a loss and what comes out of it.

Shapes: B = pairs in the batch. Every tensor in this file is [B].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from mmpref.errors import DataError, NonFiniteError

MissingScores = Literal["error", "neutral", "ignore"]

_SHOWN_POSITIONS = 8
_FLAGS = ("has_other", "desirable")


class NonFiniteInputError(NonFiniteError, DataError):
    """A log-prob or score that is NaN or infinite: bad data and a non-finite value at once (exit 4)."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PairLogps:
    """What a loss may look at: one row per preference pair.

    Shapes, types and devices are checked here without reading a value, so nothing waits for an accelerator.
    The values are checked by ``validate``.
    """

    chosen: Tensor  # sum over answer tokens of log p_policy
    rejected: Tensor | None  # None only for the chosen-side-only base `sft`
    chosen_len: Tensor  # answer tokens that were counted, or the sum of their weights; > 0
    rejected_len: Tensor | None
    ref_chosen: Tensor | None = None  # None when the objective says needs_reference = False
    ref_rejected: Tensor | None = None
    chosen_score: Tensor | None = None  # score of the answer; NaN on both sides of a pair = that pair has none
    rejected_score: Tensor | None = None
    router_balance: Tensor | None = (
        None  # load-balancing loss of the pair's tokens; no loss reads it, the trainer adds it
    )
    # the chosen answer under another image: the same tokens, so its length is chosen_len
    other: Tensor | None = None
    ref_other: Tensor | None = None
    has_other: Tensor | None = None  # bool: which pairs have one; None where all have
    # what a loss takes as a constant, from all pairs of the update
    anchor_shift: Tensor | None = None  # d of the anchors, where loss.anchor.delta is running
    kl: Tensor | None = None  # z of KTO, at least 0
    desirable: Tensor | None = None  # of a single answer: 1 or 0 (KTO)
    weight: Tensor | None = None  # of the pair's whole loss; None: 1 each
    # with token weights the lengths above are sums of weights, and these are numbers of tokens
    chosen_tokens: Tensor | None = None
    rejected_tokens: Tensor | None = None

    def __post_init__(self) -> None:
        present = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        for name, value in present.items():
            if not isinstance(value, Tensor):
                raise DataError(f"PairLogps.{name} must be a tensor of shape [B], got {type(value).__name__}")
        if "chosen" not in present or "chosen_len" not in present:
            raise DataError("PairLogps needs chosen and chosen_len: the sums and token counts of the chosen answers")
        want = tuple(present["chosen"].shape)
        if len(want) != 1:
            raise DataError(f"PairLogps.chosen must be [B], one number per pair, got shape {want}")
        for name, value in present.items():
            if tuple(value.shape) != want:
                raise DataError(f"PairLogps.{name} has shape {tuple(value.shape)}, want {want} like chosen")
            if value.device != present["chosen"].device:
                raise DataError(f"PairLogps.{name} is on {value.device}, chosen is on {present['chosen'].device}")
            if value.is_complex() or (value.dtype == torch.bool and name not in _FLAGS):
                raise DataError(f"PairLogps.{name} must hold real numbers, got {value.dtype}")
            is_logp = not name.endswith(("_len", "_score", "_tokens")) and name not in (*_FLAGS, "weight")
            if is_logp and not value.is_floating_point():
                raise DataError(f"PairLogps.{name} holds log-probs and must be floating point, got {value.dtype}")
        self._check_partners(present)

    @staticmethod
    def _check_partners(present: dict[str, Tensor]) -> None:
        for one, other in (
            ("rejected", "rejected_len"),
            ("ref_chosen", "ref_rejected"),
            ("chosen_score", "rejected_score"),
        ):
            if other == "ref_rejected" and "rejected" not in present and other not in present:
                continue  # chosen side only
            if (one in present) != (other in present):
                given, missing = (one, other) if one in present else (other, one)
                raise DataError(f"PairLogps.{given} is given without {missing}: give both or neither")
        if "ref_rejected" in present and "rejected" not in present:
            raise DataError("PairLogps.ref_rejected is given without rejected: give both or neither")
        for name, needed in (("ref_other", "other"), ("has_other", "other"), ("rejected_tokens", "rejected"),
                             ("rejected_tokens", "chosen_tokens")):  # fmt: skip
            if name in present and needed not in present:
                raise DataError(f"PairLogps.{name} is given without {needed}: give both or neither")

    @property
    def num_pairs(self) -> int:
        """B."""
        return self.chosen.shape[0]

    def validate(self, missing_scores: MissingScores = "ignore") -> None:
        """Read the values and refuse what would spoil a step; waits for the device, so call it where that is cheap.

        Args:
            missing_scores: ``error`` refuses a pair without scores, ``neutral`` accepts a pair where both are NaN,
                ``ignore`` does not look at the scores.
        """
        for name in ("chosen", "rejected", "ref_chosen", "ref_rejected", "kl", "anchor_shift"):
            if (value := getattr(self, name)) is not None:
                what = "NaN or infinite log-probs" if name.startswith(("chosen", "re")) else "NaN or infinite values"
                _refuse(~torch.isfinite(value), name, what, NonFiniteInputError)
        for name in ("chosen_len", "rejected_len"):
            if (length := getattr(self, name)) is not None:
                _refuse(~(length > 0), name, "answers without a single counted token", DataError)
                _refuse(torch.isinf(length), name, "infinite token counts", NonFiniteInputError)
        for name in ("chosen_tokens", "rejected_tokens"):
            if (count := getattr(self, name)) is not None:
                _refuse(~(count >= 1), name, "answers without a single token", DataError)
        self._validate_terms()
        if missing_scores != "ignore":
            self._validate_scores(missing_scores)

    def _validate_terms(self) -> None:
        for name in ("other", "ref_other"):
            if (value := getattr(self, name)) is not None:
                bad = ~torch.isfinite(value)
                bad = bad if self.has_other is None else bad & self.has_other.to(torch.bool)
                _refuse(bad, name, "NaN or infinite log-probs", NonFiniteInputError)
        if self.kl is not None:
            _refuse(self.kl < 0, "kl", "negative values, where KTO's estimate is at least 0,", DataError)
        if self.weight is not None:
            _refuse(~torch.isfinite(self.weight), "weight", "NaN or infinite weights", NonFiniteInputError)
            _refuse(self.weight < 0, "weight", "negative weights", DataError)
        if self.desirable is not None:
            bad = (self.desirable != 0) & (self.desirable != 1)
            _refuse(bad, "desirable", "a label that is neither 1 nor 0", DataError)

    def _validate_scores(self, policy: MissingScores) -> None:
        if self.chosen_score is None or self.rejected_score is None:
            if policy == "error":
                raise DataError("PairLogps.chosen_score and rejected_score are needed by this loss and were not given")
            return
        for name in ("chosen_score", "rejected_score"):
            _refuse(torch.isinf(getattr(self, name)), name, "infinite scores", NonFiniteInputError)
        no_chosen, no_rejected = torch.isnan(self.chosen_score), torch.isnan(self.rejected_score)
        for name, alone in (("chosen_score", no_chosen & ~no_rejected), ("rejected_score", no_rejected & ~no_chosen)):
            _refuse(alone, name, "no score although the other answer of the pair has one,", DataError)
        if policy == "error":
            hint = "; drop these pairs or set loss.uni.on_missing_score: neutral"
            _refuse(no_chosen, "chosen_score and rejected_score", "no scores", DataError, hint)


def _refuse(bad: Tensor, field: str, what: str, kind: type[DataError], hint: str = "") -> None:
    if bool(bad.any()):
        where = torch.nonzero(bad.cpu()).flatten().tolist()
        raise kind(f"PairLogps.{field}: {what} at {name_positions(where)} of {bad.shape[0]}{hint}")


def name_positions(where: Sequence[int]) -> str:
    """``pairs [1, 3]``, shortened when there are many."""
    shown = ", ".join(str(i) for i in where[:_SHOWN_POSITIONS])
    more = f", ... {len(where) - _SHOWN_POSITIONS} more" if len(where) > _SHOWN_POSITIONS else ""
    return f"pair{'s' if len(where) > 1 else ''} [{shown}{more}]"


@dataclass(frozen=True, slots=True, eq=False)
class LossOutput:
    """What a loss gives back; the trainer reduces ``per_pair`` over the pairs of the whole update."""

    per_pair: Tensor  # [B], carries the graph
    stats: dict[str, Tensor]  # name -> [B], detached; nothing here waits for the device
