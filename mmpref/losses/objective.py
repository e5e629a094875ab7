"""The whole loss: scores -> balance -> margin -> link -> weights -> NLL terms. Every arrow is [B].

The same function serves text and image pairs: it never sees a model, a config file, text or an image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmpref.errors import ConfigError, DataError
from mmpref.losses.ada_dpo import AdaDPO, Coefficients, straight_through
from mmpref.losses.bases import SFT, Base, Margin, make_base
from mmpref.losses.contract import LossOutput, MissingScores, PairLogps
from mmpref.losses.diagnostics import Pull, gradient_stats, pair_stats
from mmpref.losses.settings import resolve
from mmpref.losses.sides import Scored, Side, chosen_side, rejected_side
from mmpref.losses.uni_dpo import UniDPO

_MAX_LOG_COEF = 60.0  # |log| of all coefficients multiplied; the rest is for the log-probs, up to 1e4 of them squared


@dataclass(frozen=True, slots=True, eq=False)
class Perf:
    """The argument of w_perf, and the coefficients that its gradient is balanced with."""

    z: Margin
    coefs: Coefficients | None  # None where that gradient is not balanced


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A base, optionally balanced (AdaDPO), optionally weighted (Uni-DPO).

    Pure: the same log-probs give the same loss, and one pair never touches another.
    """

    base: Base | SFT
    uni: UniDPO | None = None
    ada: AdaDPO | None = None
    resolved: Mapping[str, Any]

    @property
    def needs_reference(self) -> bool:
        """Reference log-probs must be given: for the score, or for the gate of the calibrated NLL."""
        return self.base.needs_reference or (self.uni is not None and self.uni.nll_lambda > 0)

    @property
    def needs_scores(self) -> bool:
        """The scores of the pairs are read; whether every pair must have them is ``requires_scores``."""
        return self.uni is not None and self.uni.reads_scores

    @property
    def requires_scores(self) -> bool:
        """A pair without scores is an error (loss.uni.on_missing_score: error)."""
        return self.missing_scores == "error"

    @property
    def needs_rejected(self) -> bool:
        """Rejected answers are read: for every base but sft."""
        return isinstance(self.base, Base)

    @property
    def missing_scores(self) -> MissingScores:
        """How ``PairLogps.validate`` is to look at the scores."""
        return self.uni.on_missing_score if self.uni is not None and self.uni.reads_scores else "ignore"

    @property
    def settings(self) -> dict[str, Any]:
        """Every key of the loss with its value; building from it gives this objective again."""
        return copy.deepcopy(dict(self.resolved))

    def __call__(self, logps: PairLogps, *, check: bool | None = None) -> LossOutput:
        """Loss per pair and its diagnostics.

        Args:
            check: read the values and refuse bad ones with the field and the pair positions. That waits for the device,
                so None checks on the CPU only; a trainer on an accelerator calls ``logps.validate`` when it suits it.
        """
        self._require(logps)
        if check or (check is None and logps.chosen.device.type == "cpu"):
            logps.validate(missing_scores=self.missing_scores)
        # float32 whatever surrounds the call: sums of log-probs do not survive half precision
        with torch.autocast(device_type=logps.chosen.device.type, enabled=False):
            if isinstance(self.base, SFT):
                return _chosen_only(self.base, logps)
            return self._pairs(self.base, logps)

    def _require(self, x: PairLogps) -> None:
        if self.needs_rejected and x.rejected is None:
            raise DataError("PairLogps.rejected and rejected_len are needed: only base sft does without them")
        if self.needs_reference and x.ref_chosen is None:
            raise DataError("PairLogps.ref_chosen and ref_rejected are needed: this loss compares with the reference")

    def _pairs(self, base: Base, x: PairLogps) -> LossOutput:
        chosen, rejected = _scored(base, chosen_side(x)), _scored(base, rejected_side(x))
        stats = pair_stats(base.beta, chosen, rejected)
        coefs = None
        if self.ada is None:
            margin = base.margin(chosen, rejected)
        else:
            coefs = self.ada.coefficients(base.score_kind, chosen.side, rejected.side, self._max_log_coef(base))
            margin = base.margin(
                replace(chosen, score=self.ada.scale(chosen.score, coefs.chosen)),
                replace(rejected, score=self.ada.scale(rejected.score, coefs.rejected)),
            )
            stats |= {
                "ada/coef_chosen": coefs.chosen,
                "ada/coef_rejected": coefs.rejected,
                "ada/log_ratio": coefs.log_ratio,
                "ada/clipped": coefs.clipped,
                "ada/margin": margin,
            }
        linked = base.link.loss(margin)
        slope = base.link.slope(margin) * base.gain
        if self.uni is None:
            per_pair, pulls = linked, [_pull(slope, coefs, through_score=True)]
        else:
            uni, perf = self.uni, self._perf(self.uni, base, chosen, rejected, coefs)
            weights = uni.weights(x, chosen.side, perf.z.value, like=linked)
            per_pair = weights.quality * weights.performance * linked
            pulls = [_pull(weights.quality * weights.performance * slope, coefs, through_score=True)]
            if uni.perf_has_gradient:
                force = weights.quality * linked * uni.performance_slope(perf.z.value) * perf.z.slope
                pulls.append(_pull(force, perf.coefs, through_score=uni.perf_mode == "focal"))
            if uni.nll_lambda > 0:
                per_pair = per_pair - uni.nll_lambda * weights.nll_active * base.logp(chosen.side)
            stats |= {
                "uni/w_qual": weights.quality,
                "uni/w_perf": weights.performance,
                "uni/nll_active": weights.nll_active,
            }
        nll = base.nll(chosen.side)
        if nll is not None:
            per_pair = per_pair + nll
        stats |= gradient_stats(pulls, base.score_kind, chosen.side, rejected.side)
        return LossOutput(per_pair, {name: value.detach() for name, value in stats.items()})

    def _max_log_coef(self, base: Base) -> float:
        """Largest |log c| whose loss and gradient still fit float32.

        A gradient through w_perf that is balanced too is the loss times c: one more power.
        """
        balanced_perf = self.ada is not None and self.ada.balance_perf
        powers = base.link.degree + (balanced_perf and self.uni is not None and self.uni.perf_has_gradient)
        return _MAX_LOG_COEF / powers

    def _perf(self, uni: UniDPO, base: Base, chosen: Scored, rejected: Scored, coefs: Coefficients | None) -> Perf:
        """z of w_perf with the coefficients of its gradient.

        z is made of unscaled numbers whatever the balance does; ``balance_perf`` scales only the gradient through it.
        """
        is_focal, z_coefs = uni.perf_mode == "focal", None
        if not is_focal:
            chosen, rejected = (Scored(answer.side, base.logp(answer.side)) for answer in (chosen, rejected))
        if self.ada is not None and self.ada.balance_perf:
            # the balance of u differs from that of the base's score where the score is a log-odds
            is_same = is_focal or base.score_kind != "odds"
            z_coefs = (
                coefs
                if is_same
                else self.ada.coefficients("mean", chosen.side, rejected.side, self._max_log_coef(base))
            )
        if z_coefs is not None:
            chosen = replace(chosen, score=straight_through(chosen.score, z_coefs.chosen))
            rejected = replace(rejected, score=straight_through(rejected.score, z_coefs.rejected))
        if is_focal:
            return Perf(base.confidence(chosen, rejected), z_coefs)
        return Perf(Margin(base.beta * (chosen.score - rejected.score) - uni.tau_ref, base.beta), z_coefs)


def _scored(base: Base | SFT, side: Side) -> Scored:
    return Scored(side, base.score(side))


def _pull(force: Tensor, coefs: Coefficients | None, *, through_score: bool) -> Pull:
    one = torch.ones_like(force)
    chosen, rejected = (one, one) if coefs is None else (coefs.chosen, coefs.rejected)
    return Pull(force=force.detach(), chosen_coef=chosen, rejected_coef=rejected, through_score=through_score)


def _chosen_only(base: SFT, x: PairLogps) -> LossOutput:
    chosen = _scored(base, chosen_side(x))
    rejected = None if x.rejected is None else _scored(base, rejected_side(x))
    stats = pair_stats(base.beta, chosen, rejected)
    return LossOutput(-chosen.score, {name: value.detach() for name, value in stats.items()})


def build_objective(mapping: Mapping[str, Any], *, score_scale: tuple[float, float] | None = None) -> Objective:
    """The objective of a recipe's ``loss:`` section; see ``settings.resolve`` for the keys and their defaults.

    Args:
        mapping: the section as plain values.
        score_scale: lowest and highest score of the data where it is declared; ``tau_good`` must lie inside.
    """
    settings = resolve(mapping, score_scale=score_scale)
    uni = ada = None
    if settings["uni"] is not None:
        uni = UniDPO(**_with_known_tau_good(settings["uni"]))
    if settings["ada"] is not None:
        keys = dict(settings["ada"])
        ada = AdaDPO(value_preserving=keys.pop("value_mode") == "value_preserving", **keys)
    return Objective(base=make_base(settings), uni=uni, ada=ada, resolved=settings)


def _with_known_tau_good(uni: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(uni["tau_good"], str):
        return uni
    if uni["nll_lambda"] == 0.0:
        return {**uni, "tau_good": math.inf}  # nothing reads it
    raise ConfigError(
        f"loss.uni.tau_good {uni['tau_good']} is a quantile of the training scores and not yet a number; give the "
        "section through mmpref.losses.resolve_tau_good(section, chosen_scores) first (mmpref train does), or write a "
        "number"
    )
