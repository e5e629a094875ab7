"""Two answers as a base compares them, balanced or not: what the text pair and the image pair have in common.

Shapes: every tensor is [B]. Letters: see ``sides``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from mmpref.losses.ada_dpo import AdaDPO, Coefficients, straight_through
from mmpref.losses.bases import Base, Margin
from mmpref.losses.sides import Scored, Side
from mmpref.losses.uni_dpo import UniDPO


@dataclass(frozen=True, slots=True, eq=False)
class Perf:
    """The argument of w_perf, and the coefficients that its gradient is balanced with."""

    z: Margin
    coefs: Coefficients | None  # None where that gradient is not balanced
    difference: Tensor  # of the two numbers z is made of, with the gradient of z


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
    """A better and a worse answer of every pair with the base's scores of them, which no balance has scaled."""

    base: Base
    better: Scored
    worse: Scored
    ada: AdaDPO | None
    coefs: Coefficients | None  # of the balance; None without one
    most: float  # bound of |log c|

    @classmethod
    def of(cls, base: Base, better: Side, worse: Side, *, ada: AdaDPO | None, most: float) -> Compared:
        """Scores of two answers, and their coefficients.

        Args:
            most: bound of |log c|, so that loss and gradient fit float32.
        """
        coefs = None if ada is None else ada.coefficients(base.score_kind, better, worse, most)
        scored = (Scored(side, base.score(side)) for side in (better, worse))
        return cls(base=base, better=next(scored), worse=next(scored), ada=ada, coefs=coefs, most=most)

    def balanced(self) -> tuple[Scored, Scored]:
        """Both with c_w s_w and c_l s_l as their scores."""
        if self.ada is None or self.coefs is None:
            return self.better, self.worse
        return (
            replace(self.better, score=self.ada.scale(self.better.score, self.coefs.chosen)),
            replace(self.worse, score=self.ada.scale(self.worse.score, self.coefs.rejected)),
        )

    def margin(self) -> Tensor:
        """M."""
        return self.base.margin(*self.balanced())

    def difference(self) -> Tensor:
        """c_w s_w - c_l s_l: M without gain, target and lengths."""
        better, worse = self.balanced()
        return better.score - worse.score

    def perf(self, uni: UniDPO) -> Perf:
        """z of w_perf with the coefficients of its gradient.

        z is made of unscaled numbers whatever the balance does; ``balance_perf`` scales only the gradient through it.
        """
        base, better, worse = self.base, self.better, self.worse
        is_focal, coefs = uni.perf_mode == "focal", None
        if not is_focal:
            better, worse = (Scored(answer.side, base.logp(answer.side)) for answer in (better, worse))
        if self.ada is not None and self.ada.balance_perf:
            # the balance of u differs from that of the base's score where the score is a log-odds
            is_same = is_focal or base.score_kind != "odds"
            coefs = self.coefs if is_same else self.ada.coefficients("mean", better.side, worse.side, self.most)
        if coefs is not None:
            better = replace(better, score=straight_through(better.score, coefs.chosen))
            worse = replace(worse, score=straight_through(worse.score, coefs.rejected))
        difference = better.score - worse.score
        if is_focal:
            return Perf(base.confidence(better, worse), coefs, difference)
        return Perf(Margin(base.beta * difference - uni.tau_ref, base.beta), coefs, difference)
