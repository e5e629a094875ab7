"""How far two balances of AdaDPO lie apart on made-up pairs: the paper's form, and the even split that was the default.

    python scripts/compare_balance.py [--pairs 4096]

Pairs of 20 to 400 tokens a side with mean log-probs of the reference between -0.3 and -1.5; the policy drifts from it
by a normal number of nats per token. Prints, per beta and drift: the cosine between the two gradients with respect to
all log-prob sums, and the difference of the two losses. Nothing is trained.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from mmpref.losses import PairLogps, build_objective


def pairs(count: int, drift: float) -> PairLogps:
    g = torch.Generator().manual_seed(0)
    n = torch.randint(20, 401, (2, count), generator=g)
    ref = -(0.3 + 1.2 * torch.rand(2, count, generator=g, dtype=torch.float64))
    u = (ref + drift * torch.randn(2, count, generator=g, dtype=torch.float64)).clamp(max=-1e-3)
    one, other = (u * n).unbind()
    return PairLogps(
        chosen=one.requires_grad_(),
        rejected=other.requires_grad_(),
        chosen_len=n[0],
        rejected_len=n[1],
        ref_chosen=ref[0] * n[0],
        ref_rejected=ref[1] * n[1],
    )


def run(name: str, beta: float, x: PairLogps) -> tuple[Tensor, Tensor]:
    """Losses [B] and the gradient with respect to both sides' sums [2B]."""
    assert x.rejected is not None
    losses = build_objective({"name": name, "beta": beta})(x).per_pair
    return losses.detach(), torch.cat(torch.autograd.grad(losses.sum(), (x.chosen, x.rejected)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4096)
    count = parser.parse_args().pairs
    print("beta   drift  cosine  mean |loss difference|  largest")
    for beta in (0.01, 0.1):
        for drift in (0.0, 0.02, 0.05, 0.1, 0.2):
            x = pairs(count, drift)
            (loss, grad), (other_loss, other_grad) = (run(name, beta, x) for name in ("adadpo", "adadpo_split"))
            cosine = torch.nn.functional.cosine_similarity(grad, other_grad, dim=0)
            apart = (loss - other_loss).abs()
            print(f"{beta:<6} {drift:<6} {cosine:<7.3f} {apart.mean():<23.3f} {apart.max():.2f}")


if __name__ == "__main__":
    main()
