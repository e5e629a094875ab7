"""Draws the curves of docs/losses.md from the losses themselves.

    python scripts/make_loss_figures.py [--out docs/figures]

Every point comes out of ``build_objective`` or of autograd through it; no formula is written here a second time. The
files are the same bytes on every run with the same matplotlib.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective
from mmpref.losses.objective import Objective

STYLE = {
    "svg.hashsalt": "mmpref",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "path.simplify_threshold": 0.5,
}
COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#7a4fa3")
POINTS = 81


def build(loss: Mapping[str, Any]) -> Objective:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(loss)


def pairs(u_w: Tensor, u_l: Tensor, *, scores: tuple[Tensor, Tensor] | None = None) -> PairLogps:
    """Answers of one token each, with a reference that stands where the policy began: at u = -1 on both sides."""
    one, ref = torch.ones_like(u_w), torch.full_like(u_w, -1.0)
    high, low = scores or (torch.full_like(u_w, 4.0), torch.full_like(u_w, 2.0))
    return PairLogps(
        chosen=u_w.clone().requires_grad_(),
        rejected=u_l.clone().requires_grad_(),
        chosen_len=one,
        rejected_len=one,
        ref_chosen=ref,
        ref_rejected=ref,
        chosen_score=high,
        rejected_score=low,
    )


def around(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Mean log-probs with this difference, half of it on each side of -1."""
    return -1.0 + difference / 2, -1.0 - difference / 2


def gradients(loss: Mapping[str, Any], x: PairLogps) -> tuple[Tensor, Tensor]:
    assert x.rejected is not None
    one, other = torch.autograd.grad(build(loss)(x).per_pair.sum(), (x.chosen, x.rejected))
    return one.abs(), other.abs()


def quality(ax: Any) -> None:
    margin = torch.linspace(-5.0, 5.0, POINTS)
    u = torch.full_like(margin, -1.0)
    for colour, eta in zip(COLOURS, (0.3, 0.7, 1.5), strict=False):
        x = pairs(u, u, scores=(3.0 + margin / 2, 3.0 - margin / 2))
        ax.plot(
            margin, build({"name": "uni_dpo", "uni": {"eta": eta}})(x).stats["uni/w_qual"], colour, label=f"η = {eta}"
        )
    ax.set(xlabel="score of chosen − score of rejected", ylabel="w_qual", title="Weight from the judge's scores")


def performance(ax: Any) -> None:
    difference = torch.linspace(-2.0, 3.0, POINTS)
    x = pairs(*around(difference))
    for colour, (tau_ref, gamma) in zip(COLOURS, ((2.0, 3.0), (0.8, 3.0), (2.0, 1.0)), strict=False):
        stats = build({"name": "uni_dpo", "uni": {"tau_ref": tau_ref, "gamma": gamma}})(x).stats
        ax.plot(2.0 * difference, stats["uni/w_perf"], colour, label=f"τ_ref = {tau_ref}, γ = {gamma}")
    ax.set(xlabel="β(u_w − u_l)", ylabel="w_perf", title="Weight from the policy's own margin")


def pull(ax: Any) -> None:
    difference = torch.linspace(-2.0, 3.0, POINTS)
    plain = {"base": "dpo", "beta": 2.0, "length_normalize": True}
    uni = {"eta": None, "nll_lambda": 0.0}
    for colour, (label, loss) in zip(
        COLOURS,
        {
            "DPO per token": plain,
            "focal": {**plain, "uni": {**uni, "perf_mode": "focal"}},
            "stabilised (Uni-DPO)": {**plain, "uni": uni},
            "stabilised, detached": {**plain, "uni": {**uni, "perf_detach": True}},
        }.items(),
        strict=True,
    ):
        ax.plot(2.0 * difference, gradients(loss, pairs(*around(difference)))[0], colour, label=label)
    ax.set(xlabel="β(h̄_w − h̄_l)", ylabel="|dL / du_w|", title="How hard a pair pulls")


def balance(ax: Any) -> None:
    losses: dict[str, dict[str, Any]] = {
        "DPO": {"name": "dpo"},
        "AdaDPO (ceiling 2)": {"name": "adadpo"},
        "AdaDPO, no ceiling": {"name": "adadpo", "ada": {"clip": None}},
        "even split (10 on both sides)": {"name": "adadpo_split"},
    }
    difference = torch.linspace(-3.5, 3.5, POINTS)
    x = pairs(*around(difference))
    for colour, (label, loss) in zip(
        COLOURS,
        losses.items(),
        strict=False,
    ):
        one, other = gradients(loss, x)
        assert x.rejected is not None
        # dL/dp = dL/du / p: the gradient on the probability itself
        ratio = (one * torch.exp(-x.chosen.detach())) / (other * torch.exp(-x.rejected.detach()))
        ax.plot(difference, ratio, colour, label=label)
    # the reference lies at -1 on both sides, so that u_w − u_l is also the difference of the log-ratios
    ax.set(xlabel="u_w − u_l", ylabel="|dL/dp_w| / |dL/dp_l|", title="Chosen against rejected", yscale="log")


def coefficient(ax: Any) -> None:
    difference = torch.linspace(-2.0, 2.0, POINTS)
    x = pairs(*around(difference))
    curves = {
        "chosen, AdaDPO": ("adadpo", "chosen", COLOURS[0], "-"),
        "rejected, AdaDPO": ("adadpo", "rejected", COLOURS[0], "--"),
        "chosen, even split": ("adadpo_split", "chosen", COLOURS[1], "-"),
        "rejected, even split": ("adadpo_split", "rejected", COLOURS[1], "--"),
    }
    for label, (name, side, colour, line) in curves.items():
        stats = build({"name": name})(x).stats
        ax.plot(difference, stats[f"ada/coef_{side}"], color=colour, linestyle=line, label=label)
    ax.set(xlabel="log R", ylabel="coefficient", title="What the scores are multiplied with")


FIGURES = {"w_qual": quality, "w_perf": performance, "pull": pull, "balance": balance, "coefficient": coefficient}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs/figures")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name, draw in FIGURES.items():
            figure, ax = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
            draw(ax)
            ax.legend()
            path = out / f"loss_{name}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})
            plt.close(figure)
            print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
