"""The whole loss: scores -> balance -> margin -> link -> weights -> further terms. Every arrow is [B].

    L = weight { p w_qual w_perf f(M) + image.weight w_img f(M_img) + anchors + nll_weight (-u_w) + cNLL }

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
from mmpref.losses.ada_dpo import AdaDPO, Coefficients
from mmpref.losses.anchors import Anchors
from mmpref.losses.bases import SFT, Base, Margin, make_base, make_pair_base
from mmpref.losses.contract import LossOutput, MissingScores, PairLogps
from mmpref.losses.diagnostics import Pull, gradient_stats, pair_stats
from mmpref.losses.image_term import ImageTerm, Shown, image_stats, only, other_stats
from mmpref.losses.kto import KTO, answer_stats
from mmpref.losses.pair_term import Compared
from mmpref.losses.settings import resolve
from mmpref.losses.sides import Scored, chosen_side, other_side, rejected_side
from mmpref.losses.term_settings import RUNNING
from mmpref.losses.uni_dpo import UniDPO, Weights

_OF_THE_LOSS = ("loss/", "grad/chosen", "grad/rejected")  # statistics that the pair's weight multiplies
_MAX_LOG_COEF = 60.0  # |log| of all coefficients multiplied; the rest is for the log-probs, up to 1e4 of them squared


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A base, optionally balanced (AdaDPO), optionally weighted (Uni-DPO), with the terms that stand beside its own.

    Pure: the same log-probs give the same loss, and one pair never touches another. What comes from other pairs
    (``anchor_shift``, ``kl``) is given with the log-probs.
    """

    base: Base | SFT | KTO
    uni: UniDPO | None = None
    ada: AdaDPO | None = None
    pair_weight: float = 1.0
    image: ImageTerm | None = None
    anchors: Anchors | None = None
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
        """Rejected answers are read: for every base but sft and kto."""
        return isinstance(self.base, Base)

    @property
    def needs_other(self) -> bool:
        """The chosen answers under another image are read: for the image term, also where it is only measured, or
        their anchor.
        """
        return self.image is not None or (self.anchors is not None and self.anchors.other > 0)

    @property
    def needs_labels(self) -> bool:
        """Rows are single answers, each of which must be said to be desirable or not (base kto)."""
        return isinstance(self.base, KTO)

    @property
    def needs_kl(self) -> bool:
        """KTO's z must be given: at least 0, the mean of ``answer_scores`` of answers under other prompts."""
        return isinstance(self.base, KTO)

    @property
    def needs_shift(self) -> bool:
        """The anchors' d must be given (loss.anchor.delta: running): the mean of ``anchor_rewards`` so far."""
        return self.anchors is not None and self.anchors.delta is None

    @property
    def token_weights(self) -> Mapping[str, Any] | None:
        """How tokens of answers are weighted before they are summed; None where they are not."""
        found: Mapping[str, Any] | None = self.settings["token_weights"]
        return found

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
                return _finished(logps, _chosen_only(self.base, logps))
            if isinstance(self.base, KTO):
                return _finished(logps, _single_answers(self.base, logps))
            return _finished(logps, self._pairs(self.base, logps))

    @torch.no_grad()
    def answer_scores(self, logps: PairLogps) -> Tensor:
        """The base's score of each chosen answer, [B], detached: KTO's z is the mean of these over answers that stand
        under other prompts, and 0 where that is negative.
        """
        return self.base.score(chosen_side(logps)).detach()

    @torch.no_grad()
    def anchor_rewards(self, logps: PairLogps) -> Tensor:
        """Mean over the two answers of each pair of their rewards as the anchors see them, [B], detached: d where
        ``loss.anchor.delta`` is running is the mean of these over all pairs so far.

        Raises:
            ConfigError: the loss has no anchors.
        """
        if self.anchors is None:
            raise ConfigError("this loss has no anchors; write `loss.anchor.chosen=1`")
        both = self.base.score(chosen_side(logps)) + self.base.score(rejected_side(logps))
        return 0.5 * self.anchors.beta * both.detach()

    def _require(self, x: PairLogps) -> None:
        if self.needs_rejected and x.rejected is None:
            raise DataError("PairLogps.rejected and rejected_len are needed: only bases sft and kto do without them")
        if self.needs_labels and x.rejected is not None:
            raise DataError(
                "PairLogps.rejected is given to base kto, which reads single answers: give a pair as two rows"
            )
        if self.needs_reference and x.ref_chosen is None:
            raise DataError("PairLogps.ref_chosen and ref_rejected are needed: this loss compares with the reference")
        if self.needs_other and x.other is None:
            raise DataError("PairLogps.other is needed: this loss looks at the chosen answer under another image")
        if self.needs_other and self.base.needs_reference and x.ref_other is None:
            raise DataError("PairLogps.ref_other is needed: this loss compares with the reference")
        if self.needs_labels and x.desirable is None:
            raise DataError("PairLogps.desirable is needed: base kto is told of each answer whether it is desirable")
        if self.needs_kl and x.kl is None:
            raise DataError("PairLogps.kl is needed: base kto compares with the mean of answers under other prompts")
        if self.needs_shift and x.anchor_shift is None:
            raise DataError("PairLogps.anchor_shift is needed: loss.anchor.delta is running")

    def _pairs(self, base: Base, x: PairLogps) -> Terms:
        most = self._max_log_coef(base)
        text = Compared.of(base, chosen_side(x), rejected_side(x), ada=self.ada, most=most)
        stats = pair_stats(base.beta, text.better, text.worse)
        shown, margin = None, text.margin()
        if self.image is not None:
            shown = self.image.shown(x, text.better.side, ada=self.ada, most=most)
            stats |= image_stats(self.image.base.beta, shown)
            if self.image.joint:
                margin = margin + base.gain * self.image.weight * only(shown.has, shown.pair.difference(), 0.0)
        if text.coefs is not None:
            stats |= {
                "ada/coef_chosen": text.coefs.chosen,
                "ada/coef_rejected": text.coefs.rejected,
                "ada/log_ratio": text.coefs.log_ratio,
                "ada/clipped": text.coefs.clipped,
                "ada/margin": margin,
            }
        terms: dict[str, Tensor] = {}
        pulls: list[Pull] = []
        nll = base.nll(text.better.side)
        terms["pair"], weights = self._pair_term(x, text, shown, margin, pulls)
        if self.image is not None and shown is not None and not self.image.joint:
            terms["image"] = self.image.loss(shown, self.uni)
        if self.anchors is not None:
            terms["anchor"], anchored = _anchored(self.anchors, base, x, text)
            stats = anchored | stats  # rewards of the image term are with its own beta
        if self.uni is not None and weights is not None:
            stats |= {
                "uni/w_qual": weights.quality,
                "uni/w_perf": weights.performance,
                "uni/nll_active": weights.nll_active,
            }
            if self.uni.nll_lambda > 0:
                calibrated = -self.uni.nll_lambda * weights.nll_active * base.logp(text.better.side)
                nll = calibrated if nll is None else calibrated + nll
        if nll is not None:
            terms["nll"] = nll
        stats |= gradient_stats(pulls, base.score_kind, text.better.side, text.worse.side)
        if len(terms) > 1:
            stats |= {f"loss/{name}": value if name != "image" or shown is None else only(shown.has, value, math.nan)
                      for name, value in terms.items()}  # fmt: skip
        return Terms(sum(terms.values(), start=torch.zeros_like(margin)), stats)

    def _pair_term(
        self, x: PairLogps, text: Compared, shown: Shown | None, margin: Tensor, pulls: list[Pull]
    ) -> tuple[Tensor, Weights | None]:
        """p w_qual w_perf f(M), and Uni-DPO's weights where it is on.

        Args:
            shown: the image pair, where there is one; a focal weight sees it in the joint margin.
            margin: M, the joint one where that is asked for.
            pulls: takes the ways in which the term pulls on the two answers.
        """
        base, uni = text.base, self.uni
        linked = self.pair_weight * base.link.loss(margin)
        slope = self.pair_weight * base.link.slope(margin) * base.gain
        if uni is None:
            pulls.append(_pull(slope, text.coefs, through_score=True))
            return linked, None
        perf = text.perf(uni)
        z = perf.z
        if self.image is not None and shown is not None and self.image.joint and uni.perf_mode == "focal":
            also = z.slope * self.image.weight * only(shown.has, shown.pair.perf(uni).difference, 0.0)
            z = Margin(z.value + also, z.slope)
        weights = uni.weights(x, text.better.side, z.value, like=linked)
        pulls.append(_pull(weights.quality * weights.performance * slope, text.coefs, through_score=True))
        if uni.perf_has_gradient:
            force = weights.quality * linked * uni.performance_slope(z.value) * z.slope
            pulls.append(_pull(force, perf.coefs, through_score=uni.perf_mode == "focal"))
        return weights.quality * weights.performance * linked, weights

    def _max_log_coef(self, base: Base) -> float:
        """Largest |log c| whose loss and gradient still fit float32.

        A gradient through w_perf that is balanced too is the loss times c: one more power.
        """
        balanced_perf = self.ada is not None and self.ada.balance_perf
        powers = base.link.degree + (balanced_perf and self.uni is not None and self.uni.perf_has_gradient)
        return _MAX_LOG_COEF / powers


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """The loss of each pair before its own weight, and its statistics."""

    loss: Tensor
    stats: dict[str, Tensor]


def _finished(x: PairLogps, found: Terms) -> LossOutput:
    """The loss with the pair's weight; lengths as numbers of tokens, where tokens have weights."""
    loss, stats = found.loss, found.stats
    if x.weight is not None:
        weight = x.weight.detach().to(loss)
        loss = weight * loss
        stats |= {name: weight * value for name, value in stats.items() if name.startswith(_OF_THE_LOSS)}
    for side, tokens, name in (
        ("chosen", x.chosen_tokens, "weights/effective_len"),
        ("rejected", x.rejected_tokens, "weights/effective_len_rejected"),
    ):
        if tokens is not None and f"len/{side}" in stats:
            stats[name], stats[f"len/{side}"] = stats[f"len/{side}"], tokens.to(loss)
    return LossOutput(loss, {name: value.detach() for name, value in stats.items()})


def _anchored(anchors: Anchors, base: Base, x: PairLogps, text: Compared) -> tuple[Tensor, dict[str, Tensor]]:
    """The anchors of each pair, and what is said of them."""
    chosen, rejected = text.better.score, text.worse.score
    has = None if x.has_other is None else x.has_other.to(torch.bool)
    other, of_other = None, {}
    if anchors.other:
        pair = Compared.of(base, text.better.side, other_side(x), ada=None, most=text.most)
        other, of_other = pair.worse.score, other_stats(base.beta, Shown(pair, has))
    shift = anchors.shift(x.anchor_shift, like=chosen)
    stats = {**of_other, "anchor/below": anchors.below(shift, chosen)}
    if anchors.delta is None:
        stats["anchor/shift"] = shift
    return anchors.loss(shift, chosen, rejected, other, has), stats


def _pull(force: Tensor, coefs: Coefficients | None, *, through_score: bool) -> Pull:
    one = torch.ones_like(force)
    chosen, rejected = (one, one) if coefs is None else (coefs.chosen, coefs.rejected)
    return Pull(force=force.detach(), chosen_coef=chosen, rejected_coef=rejected, through_score=through_score)


def _chosen_only(base: SFT, x: PairLogps) -> Terms:
    chosen = Scored(chosen_side(x), base.score(chosen_side(x)))
    rejected = None if x.rejected is None else Scored(rejected_side(x), base.score(rejected_side(x)))
    return Terms(-chosen.score, pair_stats(base.beta, chosen, rejected))


def _single_answers(base: KTO, x: PairLogps) -> Terms:
    side = chosen_side(x)
    answer = Scored(side, base.score(side))
    assert x.kl is not None
    assert x.desirable is not None
    kl, desirable = (value.detach().to(answer.score) for value in (x.kl, x.desirable))
    return Terms(base.loss(answer.score, kl, desirable), answer_stats(base.beta, answer, kl, desirable))


def build_objective(mapping: Mapping[str, Any], *, score_scale: tuple[float, float] | None = None) -> Objective:
    """The objective of a recipe's ``loss:`` section; see ``settings.resolve`` for the keys and their defaults.

    Args:
        mapping: the section as plain values.
        score_scale: lowest and highest score of the data where it is declared; ``tau_good`` must lie inside.
    """
    settings = resolve(mapping, score_scale=score_scale)
    uni = ada = image = anchors = None
    if settings["uni"] is not None:
        uni = UniDPO(**_with_known_tau_good(settings["uni"]))
    if settings["ada"] is not None:
        keys = dict(settings["ada"])
        ada = AdaDPO(value_preserving=keys.pop("value_mode") == "value_preserving", **keys)
    if (found := settings["image"]) is not None:
        image = ImageTerm(
            weight=found["weight"],
            base=make_pair_base(settings, found["beta"] or settings["beta"]),
            joint=found["combine"] == "joint",
            detach=found["detach"],
            own_weight=found["uni"] == "own",
        )
    if (found := settings["anchor"]) is not None:
        delta = None if found["delta"] == RUNNING else found["delta"]
        anchors = Anchors(**{**found, "beta": found["beta"] or settings["beta"], "delta": delta})
    return Objective(
        base=make_base(settings),
        uni=uni,
        ada=ada,
        pair_weight=1.0 if settings["pair_weight"] is None else settings["pair_weight"],
        image=image,
        anchors=anchors,
        resolved=settings,
    )


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
