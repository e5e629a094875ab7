"""One pair whose log-probs are made of leaves, so that autograd measures the balance on probabilities themselves."""

from __future__ import annotations

import math
import warnings

import torch

from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective

DOUBLE = torch.float64
BASES = {
    "dpo": {"base": "dpo", "beta": 0.1},
    "dpo smoothed": {"base": "dpo", "beta": 0.1, "label_smoothing": 0.2},
    "dpo per token": {"base": "dpo", "beta": 2.0, "length_normalize": True},
    "robust": {"base": "robust", "beta": 0.1, "label_smoothing": 0.1},
    "rdpo": {"base": "rdpo", "beta": 0.1, "length_weight": 0.05},
    "ipo": {"base": "ipo", "beta": 0.3},
    "ipo on sums": {"base": "ipo", "beta": 0.3, "length_normalize": False},
    "hinge": {"base": "hinge", "beta": 0.02},
    "simpo": {"base": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.5},
    "cpo": {"base": "cpo", "beta": 0.1, "nll_weight": 0.0},
    "orpo": {"base": "orpo", "beta": 0.5},
}
REFERENCE_FREE = {"simpo", "cpo", "orpo"}
PER_TOKEN = {"dpo per token", "ipo", "simpo", "orpo"}
"""Bases whose score is a mean over tokens, or the log-odds of one."""


def build(loss: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(loss)


def pair_term(objective, x: PairLogps) -> torch.Tensor:
    """The loss without the NLL of the chosen answer, which pulls on one side by design."""
    out = objective(x).per_pair.sum()
    return out + objective.base.nll_weight * (x.chosen / x.chosen_len).sum()


class Leaves:
    """The variables q of one pair.

    token       every token's own probability where the score is a sum, the per-token probability where it is a mean
    geomean     the per-token probability
    sequence    the probability of the answer
    power       n^a e^(l / n^a) where the score is a sum, e^(l / n^a) where it is a mean

    Args:
        power: a.
        spread: how far the two answers' mean log-probs lie from their middle, -0.9.
        n: tokens of chosen and rejected.
    """

    def __init__(
        self, granularity: str, *, per_token_score: bool, power: float = 1.0, spread: float = 0.4, n: tuple = (7, 4)
    ) -> None:
        g = torch.Generator().manual_seed(5)
        self.n, self.leaves, self.sums = n, [], []
        self.power = {"sequence": 0.0, "power": power}.get(granularity, 1.0)
        for length, level in zip(n, (-0.9 + spread, -0.9 - spread), strict=True):
            unit = length**self.power  # log q is l / unit
            factor = unit if granularity == "power" and not per_token_score else 1.0
            if granularity == "token" and not per_token_score:
                leaf = torch.exp(level + 0.3 * torch.randn(length, generator=g, dtype=DOUBLE)).requires_grad_()
                total = leaf.log().sum()
            else:
                leaf = torch.tensor(factor * math.exp(level * length / unit), dtype=DOUBLE).requires_grad_()
                total = unit * (leaf / factor).log()
            self.leaves.append(leaf)
            self.sums.append(total)
        self.ref = [s.detach() + shift * length for s, shift, length in zip(self.sums, (0.11, -0.07), n, strict=True)]

    def batch(self) -> PairLogps:
        def vec(x) -> torch.Tensor:
            return torch.as_tensor(x, dtype=DOUBLE).reshape(1)

        return PairLogps(
            chosen=self.sums[0].reshape(1),
            rejected=self.sums[1].reshape(1),
            chosen_len=vec(self.n[0]),
            rejected_len=vec(self.n[1]),
            ref_chosen=vec(self.ref[0]),
            ref_rejected=vec(self.ref[1]),
            chosen_score=vec(4.0),
            rejected_score=vec(2.0),
        )

    def _relative(self) -> list[torch.Tensor]:
        """log q_ref of each answer: the variable relative to the reference is x = q / q_ref."""
        return [ref / length**self.power for ref, length in zip(self.ref, self.n, strict=True)]

    def ratio(self, loss: torch.Tensor, *, relative_to_reference: bool = False) -> float:
        """|dL/dq_w| / |dL/dq_l|; where every token is a leaf, of the geometric means over tokens."""
        sizes = [grad.abs().log().mean() for grad in torch.autograd.grad(loss, self.leaves, retain_graph=True)]
        if relative_to_reference:  # dL/dx = q_ref dL/dq
            sizes = [size + ref for size, ref in zip(sizes, self._relative(), strict=True)]
        return (sizes[0] - sizes[1]).exp().item()

    def log_weights(self, objective, *, relative_to_reference: bool = False) -> list[float]:
        """v = log dq/ds of each answer, by autograd through the base's own score."""
        from mmpref.losses.sides import chosen_side, rejected_side

        x = self.batch()
        scores = [objective.base.score(side(x)) for side in (chosen_side, rejected_side)]
        out = []
        for score, leaf, ref in zip(scores, self.leaves, self._relative(), strict=True):
            (grad,) = torch.autograd.grad(score, leaf, retain_graph=True)
            slope = grad.abs().log().mean() + (ref if relative_to_reference else 0.0)
            out.append(-slope.item())
        return out
