"""What a pair did to the loss, per pair, detached, with nothing read back to the host.

Shapes: every tensor is [B]. Letters: see ``sides``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmpref.losses.sides import MAX_ODDS_MEAN, Scored, ScoreKind, Side, log1mexp

_MAX_LOG = 80.0  # e^80 still fits float32; log-magnitudes are clamped to it


@torch.no_grad()
def pair_stats(beta: float, chosen: Scored, rejected: Scored | None) -> dict[str, Tensor]:
    """Rewards (beta times the base's own score, never scaled by a balance), log-probs as sums, and lengths."""
    stats = _answer_stats("chosen", beta, chosen)
    if rejected is None:
        return stats
    stats |= _answer_stats("rejected", beta, rejected)
    stats["rewards/margins"] = stats["rewards/chosen"] - stats["rewards/rejected"]
    # strict: a tie, such as policy = reference at the first step, is not a win
    stats["rewards/accuracies"] = (stats["rewards/chosen"] > stats["rewards/rejected"]).to(chosen.score.dtype)
    return stats


def _answer_stats(which: str, beta: float, answer: Scored) -> dict[str, Tensor]:
    side = answer.side
    stats = {f"logps/{which}": side.total, f"len/{which}": side.length, f"rewards/{which}": beta * answer.score}
    if side.ref_total is not None:
        stats[f"ref_logps/{which}"] = side.ref_total
    return stats


@dataclass(frozen=True, slots=True, eq=False)
class Pull:
    """One path by which a pair's loss pulls on its two answers: |dL/ds| is ``force * coef`` on each side."""

    force: Tensor  # the part both sides share
    chosen_coef: Tensor
    rejected_coef: Tensor
    through_score: bool  # True: taken in the base's score; False: in the mean log-prob u


@torch.no_grad()
def gradient_stats(pulls: list[Pull], kind: ScoreKind, chosen: Side, rejected: Side) -> dict[str, Tensor]:
    """Size of the pair term's gradient on each answer, in closed form, and their ratio.

    The variable q of an answer is that of AdaDPO's token granularity: pbar = e^u for scores that are means or log-odds,
    and for sums the geometric mean over the answer's tokens of |dL/dp_t|. The pair term is w_qual w_perf link(M) with
    the gradient of w_perf where it flows; NLL terms, which pull on the chosen answer only, are left out.

    ``grad/ratio_to_ref`` is the ratio with p / p_ref in place of p, where there is a reference: 1 at the start, and as
    long as AdaDPO balances against the reference; under DPO it drifts as 2404.04626 derives.

    Where the pair has no gradient at all (a satisfied hinge) the ratio is its limit, that of the coefficients.
    Magnitudes are kept within e^+-80 so that a mean over pairs stays finite.
    """
    chosen_slope, rejected_slope = _score_slope(kind, chosen), _score_slope(kind, rejected)
    on_chosen, on_rejected = torch.zeros_like(chosen.mean), torch.zeros_like(rejected.mean)  # |dL/du| of each answer
    for pull in pulls:
        by_chosen, by_rejected = (chosen_slope, rejected_slope) if pull.through_score else (1.0, 1.0)
        on_chosen = on_chosen + pull.force * pull.chosen_coef * by_chosen
        on_rejected = on_rejected + pull.force * pull.rejected_coef * by_rejected
    still = on_chosen == 0  # then so is the other, or the limit is the same
    limit = (pulls[0].chosen_coef * chosen_slope).log() - (pulls[0].rejected_coef * rejected_slope).log()
    limit = torch.nan_to_num(limit, nan=0.0)  # log-odds of two certain answers: neither pulls, call it even
    log_chosen, log_rejected = on_chosen.abs().log() - chosen.mean, on_rejected.abs().log() - rejected.mean
    log_ratio = torch.where(still, limit, on_chosen.abs().log() - on_rejected.abs().log())
    log_ratio = log_ratio - chosen.mean + rejected.mean
    stats = {"grad/chosen": _exp(log_chosen), "grad/rejected": _exp(log_rejected), "grad/ratio": _exp(log_ratio)}
    if chosen.ref_total is not None and rejected.ref_total is not None:
        # dL/d(p/p_ref) = p_ref dL/dp
        to_ref = log_ratio + chosen.ref_total / chosen.length - rejected.ref_total / rejected.length
        stats["grad/ratio_to_ref"] = _exp(to_ref)
    return stats


def _score_slope(kind: ScoreKind, side: Side) -> Tensor:
    """ds/du for log-odds, 1 / (1 - p), and 0 where they are clamped; 1 otherwise (per answer for sums)."""
    if kind != "odds":
        return torch.ones_like(side.mean)
    slope = torch.exp(-log1mexp(side.mean))
    return torch.where(side.mean > MAX_ODDS_MEAN, torch.zeros_like(slope), slope)


def _exp(log: Tensor) -> Tensor:
    """e^log within bounds; e^-inf stays 0."""
    return torch.where(torch.isneginf(log), torch.zeros_like(log), log.clamp(-_MAX_LOG, _MAX_LOG).exp())
