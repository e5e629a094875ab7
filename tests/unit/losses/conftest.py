"""Pairs for the loss tests: explicit ones in float64, and random ones that look like real answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from mmpref.losses import PairLogps

Numbers = Sequence[float]


@pytest.fixture
def pair() -> Callable[..., PairLogps]:
    """A batch written out as lists; lengths default to 1, so that sums are means. Policy log-probs want a gradient."""

    def make(
        chosen: Numbers,
        rejected: Numbers | None,
        lengths: tuple[Numbers, Numbers] | None = None,
        ref: tuple[Numbers, Numbers] | None = None,
        scores: tuple[Numbers, Numbers] | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> PairLogps:
        def leaf(x: Numbers) -> torch.Tensor:
            return torch.tensor(x, dtype=dtype).requires_grad_()

        def const(x: Numbers) -> torch.Tensor:
            return torch.tensor(x, dtype=dtype)

        ones = [1.0] * len(chosen)
        n = lengths or (ones, ones)
        return PairLogps(
            chosen=leaf(chosen),
            rejected=None if rejected is None else leaf(rejected),
            chosen_len=const(n[0]),
            rejected_len=None if rejected is None else const(n[1]),
            ref_chosen=None if ref is None else const(ref[0]),
            ref_rejected=None if ref is None else const(ref[1]),
            chosen_score=None if scores is None else const(scores[0]),
            rejected_score=None if scores is None else const(scores[1]),
        )

    return make


@pytest.fixture
def random_pairs() -> Callable[..., PairLogps]:
    def make(num_pairs: int = 16, seed: int = 0, dtype: torch.dtype = torch.float64) -> PairLogps:
        g = torch.Generator().manual_seed(seed)

        def uniform(low: float, high: float) -> torch.Tensor:
            return low + (high - low) * torch.rand(num_pairs, generator=g, dtype=torch.float64)

        n_w, n_l = (torch.randint(1, 120, (num_pairs,), generator=g) for _ in range(2))
        u_w, u_l = uniform(-2.5, -0.05), uniform(-2.5, -0.05)
        return PairLogps(
            chosen=(u_w * n_w).to(dtype).requires_grad_(),
            rejected=(u_l * n_l).to(dtype).requires_grad_(),
            chosen_len=n_w,
            rejected_len=n_l,
            ref_chosen=((u_w + uniform(-0.1, 0.1)) * n_w).to(dtype),
            ref_rejected=((u_l + uniform(-0.1, 0.1)) * n_l).to(dtype),
            chosen_score=uniform(1.0, 5.0),
            rejected_score=uniform(1.0, 5.0),
        )

    return make
