"""Values, gradients and diagnostics against the tables of scripts/golden_losses.py, which knows nothing of mmpref."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from mmpref.losses import PairLogps, build_objective

TABLES = [
    pytest.param(content["pairs"], table, id=f"{path.stem}-{number}")
    for path in sorted((Path(__file__).parent / "golden").glob("*.json"))
    for content in [json.loads(path.read_text(encoding="utf-8"))]
    for number, table in enumerate(content["tables"])
]

TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-11}, torch.float32: {"rtol": 1e-3, "atol": 3e-5}}


def batch_of(rows: list[dict[str, float]], dtype: torch.dtype) -> PairLogps:
    def column(name: str, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.tensor([row[name] for row in rows], dtype=kind)

    return PairLogps(
        chosen=column("l_w").requires_grad_(),
        rejected=column("l_l").requires_grad_(),
        chosen_len=column("n_w", torch.int64),
        rejected_len=column("n_l", torch.int64),
        ref_chosen=column("rl_w"),
        ref_rejected=column("rl_l"),
        chosen_score=column("s_w"),
        rejected_score=column("s_l"),
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "table"), TABLES)
def test_loss_gradient_and_statistics_are_those_of_the_golden_table(rows, table, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objective = build_objective(table["loss"])
    x = batch_of(rows, dtype)
    out = objective(x)
    grad_chosen, grad_rejected = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))

    def same(got: torch.Tensor, want: list[float]) -> None:
        torch.testing.assert_close(got, torch.tensor(want, dtype=got.dtype), **TOLERANCE[dtype])

    assert out.per_pair.dtype == dtype
    same(out.per_pair.detach(), table["per_pair"])
    same(grad_chosen, table["grad_chosen"])
    same(grad_rejected, table["grad_rejected"])
    for name, want in table["stats"].items():
        if dtype == torch.float64 or name != "uni/nll_active":
            same(out.stats[name], want)
    if table["loss"].get("ada") is None:
        assert not any(name.startswith("ada/") for name in out.stats)


def test_every_pairwise_base_has_a_golden_table():
    names = {path.stem for path in (Path(__file__).parent / "golden").glob("*.json")}
    assert names == {"dpo", "robust", "hinge", "ipo", "rdpo", "simpo", "cpo", "orpo"}
