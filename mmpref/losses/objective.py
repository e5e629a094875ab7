"""The whole loss: scores -> balance -> margin -> link -> weights -> NLL terms. Every arrow is [B].

The same function serves text and image pairs: it never sees a model, a config file, text or an image.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmpref.errors import ConfigError, DataError
from mmpref.losses.ada_dpo import AdaDPO, Coefficients, straight_through
from mmpref.losses.bases import SFT, Base, make_base
from mmpref.losses.contract import LossOutput, MissingScores, PairLogps
from mmpref.losses.diagnostics import Pull, gradient_stats, pair_stats
from mmpref.losses.settings import resolve
from mmpref.losses.sides import Side, chosen_side, rejected_side
from mmpref.losses.uni_dpo import UniDPO

_MAX_LOG_COEF = 60.0  # |log| of all coefficients multiplied; the rest is for the log-probs, up to 1e4 of them squared


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The two answers of every pair and the base's scores of them, before any balance."""

    w: Side
    r: Side
    score_w: Tensor
    score_r: Tensor


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
        """Judge scores are read; whether every pair must have them is ``requires_scores``."""
        return self.uni is not None and self.uni.reads_scores

    @property
    def requires_scores(self) -> bool:
        """A pair without judge scores is an error (loss.uni.on_missing_score: error)."""
        return self.missing_scores == "error"

    @property
    def needs_rejected(self) -> bool:
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
        w, r = chosen_side(x), rejected_side(x)
        pair = Scored(w=w, r=r, score_w=base.score(w), score_r=base.score(r))
        stats = pair_stats(base.beta, pair.score_w, pair.score_r, w, r)

        coefs, balanced_w, balanced_r = None, pair.score_w, pair.score_r
        if self.ada is not None:
            coefs = self.ada.coefficients(base.score_kind, w, r, self._max_log_coef(base))
            balanced_w = self.ada.scale(pair.score_w, coefs.chosen)
            balanced_r = self.ada.scale(pair.score_r, coefs.rejected)
            stats["ada/coef_chosen"], stats["ada/coef_rejected"] = coefs.chosen, coefs.rejected
            stats["ada/log_ratio"], stats["ada/clipped"] = coefs.log_ratio, coefs.clipped
        margin = base.margin(balanced_w, balanced_r, w, r)
        if self.ada is not None:
            stats["ada/margin"] = margin
        linked = base.link.loss(margin)
        slope = base.link.slope(margin) * base.gain

        if self.uni is None:
            per_pair, pulls = linked, [_pull(slope, coefs, through_score=True)]
        else:
            scores = self.uni.scores(x, like=linked)
            w_qual = self.uni.quality(scores, like=linked)
            z, z_slope, z_coefs = self._performance_argument(self.uni, base, pair, coefs)
            w_perf = self.uni.performance(z)
            if self.uni.perf_mode == "none":
                w_perf = torch.ones_like(linked)
            elif self.uni.perf_detach:
                w_perf = w_perf.detach()  # ablation: the weight still weighs, but the loss no longer steers it
            per_pair = w_qual * w_perf * linked
            through_score = self.uni.perf_mode == "focal"
            pulls = [_pull(w_qual * w_perf * slope, coefs, through_score=True)]
            if self.uni.perf_has_gradient:
                force = w_qual * linked * self.uni.performance_slope(z) * z_slope
                pulls.append(_pull(force, z_coefs, through_score=through_score))
            active = torch.zeros_like(linked)
            if self.uni.nll_lambda > 0:
                active = self.uni.gates(w, scores)
                per_pair = per_pair - self.uni.nll_lambda * active * base.logp(w)
            stats |= {"uni/w_qual": w_qual, "uni/w_perf": w_perf, "uni/nll_active": active}

        nll = base.nll(w)
        if nll is not None:
            per_pair = per_pair + nll
        stats |= gradient_stats(pulls, base.score_kind, w, r)
        return LossOutput(per_pair, {name: value.detach() for name, value in stats.items()})

    def _max_log_coef(self, base: Base) -> float:
        """Largest |log c| whose loss and gradient still fit float32.

        A gradient through w_perf that is balanced too is the loss times c: one more power.
        """
        balanced_perf = self.ada is not None and self.ada.balance_perf
        powers = base.link.degree + (balanced_perf and self.uni is not None and self.uni.perf_has_gradient)
        return _MAX_LOG_COEF / powers

    def _performance_argument(
        self, uni: UniDPO, base: Base, pair: Scored, coefs: Coefficients | None
    ) -> tuple[Tensor, float, Coefficients | None]:
        """z of w_perf, its slope, and the coefficients of its gradient.

        z is made of unscaled numbers whatever the balance does; ``balance_perf`` scales only the gradient through it.
        """
        focal = uni.perf_mode == "focal"
        w, r, z_coefs = pair.w, pair.r, None
        one, other = (pair.score_w, pair.score_r) if focal else (base.logp(w), base.logp(r))
        if self.ada is not None and self.ada.balance_perf:
            # the balance of u differs from that of the base's score where the score is a log-odds
            same = focal or base.score_kind != "odds"
            z_coefs = coefs if same else self.ada.coefficients("mean", w, r, self._max_log_coef(base))
        if z_coefs is not None:
            one, other = straight_through(one, z_coefs.chosen), straight_through(other, z_coefs.rejected)
        if focal:
            return base.confidence(one, other, w, r), base.confidence_gain, z_coefs
        return base.beta * (one - other) - uni.tau_ref, base.beta, z_coefs


def _pull(force: Tensor, coefs: Coefficients | None, *, through_score: bool) -> Pull:
    one = torch.ones_like(force)
    chosen, rejected = (one, one) if coefs is None else (coefs.chosen, coefs.rejected)
    return Pull(force=force.detach(), chosen_coef=chosen, rejected_coef=rejected, through_score=through_score)


def _chosen_only(base: SFT, x: PairLogps) -> LossOutput:
    w = chosen_side(x)
    r = None if x.rejected is None else rejected_side(x)
    score = base.score(w)
    stats = pair_stats(base.beta, score, None if r is None else base.score(r), w, r)
    return LossOutput(-score, {name: value.detach() for name, value in stats.items()})


def build_objective(mapping: Mapping[str, Any], *, score_scale: tuple[float, float] | None = None) -> Objective:
    """The objective of a recipe's ``loss:`` section; see ``settings.resolve`` for the keys and their defaults.

    Args:
        mapping: the section as plain values.
        score_scale: lowest and highest judge score of the data where it is declared; ``tau_good`` must lie inside.
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
