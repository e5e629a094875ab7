"""The base losses: score of an answer -> margin of a pair -> link.

A base is a row of facts and a link. The balance works on the scores and the weights on the linked loss, so both fit
between the stages of every base. Adding one is a row in ``make_base`` and, where its curve is new, a link.
Shapes: every tensor is [B]. Letters: see ``sides``; s is the score, M the margin, e the label smoothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpref.losses.kto import KTO
from mmpref.losses.sides import Scored, ScoreKind, Side, log_odds


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """A difference of the two scores of every pair, and how fast it grows with one of them."""

    value: Tensor
    slope: float  # d value / ds


class Link(ABC):
    """A curve from the margin of a pair to its loss."""

    __slots__ = ()

    degree: ClassVar[int] = 1
    """Power of the margin by which the loss grows, and with it the coefficients of a balance inside the margin."""

    @abstractmethod
    def loss(self, margin: Tensor) -> Tensor:
        """The loss of each pair."""

    @abstractmethod
    def slope(self, margin: Tensor) -> Tensor:
        """d loss / dM in closed form, for the diagnostics."""

    def confidence(self, margin: Margin, rewards: Margin) -> Margin:
        """The log-odds that a pair is ranked right, for the focal weight: M itself.

        Args:
            margin: M.
            rewards: the difference of the two rewards, beta (s_w - s_l).
        """
        return margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic(Link):
    """-(1-e) log s(M) - e log s(-M): the Bradley-Terry likelihood, with label smoothing it is cDPO.

    Args:
        smoothing: e, the chance that a label is wrong. [0, 0.5).
        weight: in front of the whole; ORPO's beta.
    """

    smoothing: float = 0.0
    weight: float = 1.0

    def loss(self, margin: Tensor) -> Tensor:
        agree, disagree = logsigmoid(margin), logsigmoid(-margin)
        return -self.weight * ((1.0 - self.smoothing) * agree + self.smoothing * disagree)

    def slope(self, margin: Tensor) -> Tensor:
        agree, disagree = torch.sigmoid(-margin), torch.sigmoid(margin)
        return self.weight * (self.smoothing * disagree - (1.0 - self.smoothing) * agree)


@dataclass(frozen=True, slots=True, kw_only=True)
class Robust(Link):
    """[ -(1-e) log s(M) + e log s(-M) ] / (1 - 2e) (Chowdhury et al. 2024): unbiased when a share e of the labels is
    flipped. It can be negative.
    """

    smoothing: float

    def loss(self, margin: Tensor) -> Tensor:
        e = self.smoothing
        return (e * logsigmoid(-margin) - (1.0 - e) * logsigmoid(margin)) / (1.0 - 2.0 * e)

    def slope(self, margin: Tensor) -> Tensor:
        e = self.smoothing
        return -(e * torch.sigmoid(margin) + (1.0 - e) * torch.sigmoid(-margin)) / (1.0 - 2.0 * e)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hinge(Link):
    """max(0, 1 - M) (SLiC, Zhao et al. 2023)."""

    def loss(self, margin: Tensor) -> Tensor:
        return torch.relu(1.0 - margin)

    def slope(self, margin: Tensor) -> Tensor:
        return -(margin < 1.0).to(margin.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Square(Link):
    """M^2 (IPO, Azar et al. 2023), where M is measured from the target 1/(2 beta)."""

    degree: ClassVar[int] = 2

    def loss(self, margin: Tensor) -> Tensor:
        return margin.square()

    def slope(self, margin: Tensor) -> Tensor:
        return 2.0 * margin

    def confidence(self, margin: Margin, rewards: Margin) -> Margin:
        """The reward margin: M is a distance here, 0 where the pair is exactly on target."""
        return rewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A pairwise base:  M = gain (s_w - s_l) - target + a (n_w - n_l);  loss = link(M) [ - nll_weight u_w ].

    The score s is h or hbar with a reference, l or u without, and log( p / (1-p) ) with p = e^u for "odds".

    Args:
        beta: the base's own beta; scales the logged rewards and the argument of Uni-DPO's w_perf. > 0.
        score_kind: how the score depends on the tokens.
        needs_reference: whether the score is measured against the reference.
        gain: dM/ds; beta except for IPO (beta sits in the target) and ORPO (beta weighs the loss).
        target: the margin at which the pair counts as even.
        length_weight: a of R-DPO. The sign is +: a longer chosen answer already has the larger margin, so it is
            pushed less.
        nll_weight: weight of -u_w, a mean over that answer's own tokens, outside the weights and the balance.
    """

    beta: float
    score_kind: ScoreKind
    needs_reference: bool
    gain: float
    link: Link
    target: float = 0.0
    length_weight: float = 0.0
    nll_weight: float = 0.0

    def score(self, side: Side) -> Tensor:
        """s."""
        if self.needs_reference:
            return side.ratio(per_token=self.score_kind == "mean")
        if self.score_kind == "odds":
            return log_odds(side.mean)
        return side.mean if self.score_kind == "mean" else side.total

    def logp(self, side: Side) -> Tensor:
        """The answer's log-prob as Uni-DPO's own terms read it: l where the scores are sums, else u."""
        return side.total if self.score_kind == "sum" else side.mean

    def margin(self, chosen: Scored, rejected: Scored) -> Tensor:
        """M of two scores; the lengths of the answers add the constants."""
        margin = self.gain * (chosen.score - rejected.score) - self.target
        if not self.length_weight:
            return margin
        return margin + self.length_weight * (chosen.side.length - rejected.side.length)

    def confidence(self, chosen: Scored, rejected: Scored) -> Margin:
        """The log-odds that the pair is ranked right, for the focal weight."""
        return self.link.confidence(
            margin=Margin(self.margin(chosen, rejected), self.gain),
            rewards=Margin(self.beta * (chosen.score - rejected.score), self.beta),
        )

    def nll(self, chosen: Side) -> Tensor | None:
        """The term -nll_weight u_w; None where the base has none."""
        return -self.nll_weight * chosen.mean if self.nll_weight else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SFT:
    """Supervised fine-tuning on the chosen answer:  loss = -u_w, or -l_w when not length-normalised.

    Not a pairwise base: the rejected answer is never needed. beta only scales the logged rewards.
    """

    beta: float
    length_normalize: bool
    needs_reference: ClassVar[bool] = False

    def score(self, side: Side) -> Tensor:
        """u, or l when not length-normalised."""
        return side.mean if self.length_normalize else side.total


def make_base(settings: Mapping[str, Any]) -> Base | SFT | KTO:
    """The base of a resolved ``loss:`` mapping.

    dpo (Rafailov et al. 2023), rdpo (Park et al. 2024), simpo (Meng et al. 2024), cpo (Xu et al. 2024),
    orpo (Hong et al. 2024); the others are named at their link.
    """
    name, beta = settings["base"], settings["beta"]
    if name == "sft":
        return SFT(beta=beta, length_normalize=settings["length_normalize"])
    if name == "kto":
        return KTO(beta=beta, length_normalize=settings["length_normalize"], **settings["kto"])
    return make_pair_base(settings, beta)


def make_pair_base(settings: Mapping[str, Any], beta: float) -> Base:
    """A base that compares two answers.

    Args:
        settings: the resolved ``loss:`` mapping.
        beta: in the place of its own.
    """
    kind: ScoreKind = "mean" if settings["length_normalize"] else "sum"
    logistic = Logistic(smoothing=settings["label_smoothing"] or 0.0)
    nll = settings["nll_weight"] or 0.0

    def compare(link: Link, *, gain: float = beta, target: float = 0.0, length_weight: float = 0.0) -> Base:
        return Base(beta=beta, score_kind=kind, needs_reference=True, gain=gain, link=link, target=target,
                    length_weight=length_weight, nll_weight=nll)  # fmt: skip

    match settings["base"]:
        case "dpo" | "rdpo":
            return compare(logistic, length_weight=settings["length_weight"] or 0.0)
        case "robust":
            return compare(Robust(smoothing=settings["label_smoothing"]))
        case "hinge":
            return compare(Hinge())
        case "ipo":
            return compare(Square(), gain=1.0, target=1.0 / (2.0 * beta))
        case "simpo":
            return replace(compare(logistic, target=beta * settings["gamma_beta_ratio"]), needs_reference=False)
        case "cpo":
            return replace(compare(logistic), needs_reference=False)
        case "orpo":
            return Base(beta=beta, score_kind="odds", needs_reference=False, gain=1.0, link=Logistic(weight=beta),
                        nll_weight=1.0)  # fmt: skip
    raise ValueError(f"no base is called {settings['base']!r}")
