"""Image terms, anchors and single answers against the tables of scripts/golden_image_losses.py."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch

from mmpref.losses import PairLogps, build_objective
from mmpref.losses.presets import BASES

HOME = Path(__file__).parent / "golden_image"
CONTENT = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(HOME.glob("*.json"))}
TABLES = [
    pytest.param(content["pairs"], table, id=f"{name}-{number}")
    for name, content in CONTENT.items()
    for number, table in enumerate(content["tables"])
]


def batch_of(rows: list[dict], *, single: bool) -> PairLogps:
    def column(name: str) -> torch.Tensor:
        # what an absent answer's place has in it must not matter
        return torch.tensor([math.nan if row[name] is None else row[name] for row in rows], dtype=torch.float64)

    also = {"kl": column("kl"), "desirable": column("desirable"), "rejected": None, "rejected_len": None}
    if not single:
        also = {
            "rejected": column("l_l").requires_grad_(),
            "rejected_len": column("n_l"),
            "ref_rejected": column("rl_l"),
            "chosen_score": column("s_w"),
            "rejected_score": column("s_l"),
            "other": column("l_o").requires_grad_(),
            "ref_other": column("rl_o"),
            "has_other": torch.tensor([row["l_o"] is not None for row in rows]),
            "anchor_shift": column("d"),
        }
    return PairLogps(
        chosen=column("l_w").requires_grad_(),
        chosen_len=column("n_w"),
        ref_chosen=column("rl_w"),
        weight=column("weight"),
        **also,
    )


@pytest.mark.parametrize(("rows", "table"), TABLES)
def test_loss_gradients_and_statistics_are_those_of_the_golden_table(rows, table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        objective = build_objective(table["loss"])
    x = batch_of(rows, single=objective.needs_labels)
    out = objective(x)

    def same(got: torch.Tensor, want: list[float | None]) -> None:
        wanted = torch.tensor([math.nan if value is None else value for value in want], dtype=torch.float64)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11, equal_nan=True)

    same(out.per_pair.detach(), table["per_pair"])
    answers = [x.chosen] if objective.needs_labels else [x.chosen, x.rejected, x.other]
    grads = torch.autograd.grad(out.per_pair.sum(), answers, allow_unused=True)
    for grad, want in zip(grads, table["grads"], strict=False):
        same(torch.zeros(len(want), dtype=torch.float64) if grad is None else grad, want)
    for name, want in table["stats"].items():
        same(out.stats[name], want)


def test_every_base_and_every_preset_of_this_kind_has_a_golden_table():
    assert set(CONTENT) == set(BASES) - {"sft"}
    named = {table["loss"].get("name") for content in CONTENT.values() for table in content["tables"]}
    assert named >= {"mdpo", "chip", "ddpo", "ddpo_masked", "hsa", "mpo", "kto"}
