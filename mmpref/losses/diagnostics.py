"""What a pair did to the loss, per pair, detached, with nothing read back to the host.

Shapes: every tensor is [B]. Letters: see ``sides``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmpref.losses.sides import MAX_ODDS_MEAN, ScoreKind, Side, log1mexp

_MAX_LOG = 80.0  # e^80 still fits float32; log-magnitudes are held within it


@torch.no_grad()
def pair_stats(beta: float, score_w: Tensor, score_r: Tensor | None, w: Side, r: Side | None) -> dict[str, Tensor]:
    """Rewards (beta times the base's own score, never scaled by a balance), log-probs as sums, and lengths."""
    stats = {"logps/chosen": w.total, "len/chosen": w.length, "rewards/chosen": beta * score_w}
    if w.ref_total is not None:
        stats["ref_logps/chosen"] = w.ref_total
    if r is None or score_r is None:
        return stats
    stats |= {"logps/rejected": r.total, "len/rejected": r.length, "rewards/rejected": beta * score_r}
    if r.ref_total is not None:
        stats["ref_logps/rejected"] = r.ref_total
    stats["rewards/margins"] = stats["rewards/chosen"] - stats["rewards/rejected"]
    # strict: a tie, such as policy = reference at the first step, is not a win
    stats["rewards/accuracies"] = (stats["rewards/chosen"] > stats["rewards/rejected"]).to(score_w.dtype)
    return stats


@dataclass(frozen=True, slots=True, eq=False)
class Pull:
    """One path by which a pair's loss pulls on its two answers: |dL/ds| is ``force * coef`` on each side."""

    force: Tensor  # the part both sides share
    chosen_coef: Tensor
    rejected_coef: Tensor
    through_score: bool  # True: taken in the base's score; False: in the mean log-prob u


@torch.no_grad()
def gradient_stats(pulls: list[Pull], kind: ScoreKind, w: Side, r: Side) -> dict[str, Tensor]:
    """Size of the pair term's gradient on each answer, in closed form, and their ratio.

    The variable q of an answer is that of AdaDPO's token granularity: pbar = e^u for scores that are means or log-odds,
    and for sums the geometric mean over the answer's tokens of |dL/dp_t|. The pair term is w_qual w_perf link(M) with
    the gradient of w_perf where it flows; NLL terms, which pull on the chosen answer only, are left out.

    ``grad/ratio_to_ref`` is the ratio with p / p_ref in place of p, where there is a reference: 1 at the start, and as
    long as AdaDPO balances against the reference; under DPO it drifts as 2404.04626 derives.

    Where the pair has no gradient at all (a satisfied hinge) the ratio is its limit, that of the coefficients.
    Magnitudes are kept within e^+-80 so that a mean over pairs stays finite.
    """
    slope_w, slope_r = _score_slope(kind, w), _score_slope(kind, r)
    pull_w, pull_r = torch.zeros_like(w.mean), torch.zeros_like(r.mean)
    for pull in pulls:
        by_w, by_r = (slope_w, slope_r) if pull.through_score else (1.0, 1.0)
        pull_w = pull_w + pull.force * pull.chosen_coef * by_w
        pull_r = pull_r + pull.force * pull.rejected_coef * by_r
    still = pull_w == 0  # then so is the other, or the limit is the same
    limit = (pulls[0].chosen_coef * slope_w).log() - (pulls[0].rejected_coef * slope_r).log()
    limit = torch.nan_to_num(limit, nan=0.0)  # log-odds of two certain answers: neither pulls, call it even
    log_w, log_r = pull_w.abs().log() - w.mean, pull_r.abs().log() - r.mean
    log_ratio = torch.where(still, limit, pull_w.abs().log() - pull_r.abs().log()) - w.mean + r.mean
    stats = {"grad/chosen": _exp(log_w), "grad/rejected": _exp(log_r), "grad/ratio": _exp(log_ratio)}
    if w.ref_total is not None and r.ref_total is not None:
        # dL/d(p/p_ref) = p_ref dL/dp
        stats["grad/ratio_to_ref"] = _exp(log_ratio + w.ref_total / w.length - r.ref_total / r.length)
    return stats


def _score_slope(kind: ScoreKind, side: Side) -> Tensor:
    """ds/du for log-odds, 1 / (1 - p), and 0 where they are held; 1 otherwise (per answer for sums)."""
    if kind != "odds":
        return torch.ones_like(side.mean)
    slope = torch.exp(-log1mexp(side.mean))
    return torch.where(side.mean > MAX_ODDS_MEAN, torch.zeros_like(slope), slope)


def _exp(log: Tensor) -> Tensor:
    """e^log within bounds; e^-inf stays 0."""
    return torch.where(torch.isneginf(log), torch.zeros_like(log), log.clamp(-_MAX_LOG, _MAX_LOG).exp())
