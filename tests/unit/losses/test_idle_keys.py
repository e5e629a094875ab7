"""A key that changes neither loss nor gradient is warned of, and a key that is said to do nothing does nothing."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective, resolve
from mmpref.losses.loss_line import loss_line

UNI_VALUES: dict[str, tuple[Any, ...]] = {
    "eta": (0.9,), "tau_ref": (0.4,), "gamma": (1.5,), "nll_margin": (0.2,), "tau_good": (4.0, -9.0),
    "perf_detach": (True,),
}  # fmt: skip
ADA_VALUES: dict[str, tuple[Any, ...]] = {
    "share": (0.3,), "length_power": (0.4,), "clip_mode": ("both",), "balance_perf": (True, False),
}  # fmt: skip
UNI_CONTEXTS = [
    dict(zip(("perf_mode", "gamma", "eta", "nll_lambda", "perf_detach"), values, strict=True))
    for values in itertools.product(
        ("stabilized", "focal", "none"), (0.0, 3.0), (None, 0.0, 0.7), (0.0, 0.5), (False, True)
    )
]
ADA_CONTEXTS = [None, *(
    dict(zip(("granularity", "form", "clip"), values, strict=True))
    for values in itertools.product(("token", "power"), ("power", "sum"), (None, 1.05))
)]  # fmt: skip
Pairs = Callable[..., PairLogps]


def said(mapping: dict[str, Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", SuspiciousLossWarning)
        resolve(mapping)
    return [str(warning.message) for warning in found]


def numbers(mapping: dict[str, Any], pairs: PairLogps) -> list[Tensor]:
    """Loss and gradients of each pair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        loss = build_objective(mapping)(pairs).per_pair
    answers = [pairs.chosen, pairs.rejected]
    grads = torch.autograd.grad(loss.sum(), answers, allow_unused=True)
    return [loss.detach(), *(torch.zeros(()) if grad is None else grad for grad in grads)]


def agree(mapping: dict[str, Any], section: str, key: str, values: tuple[Any, ...], pairs: PairLogps) -> None:
    own = numbers(mapping, pairs)
    for value in values:
        other = {**mapping, section: {**mapping[section], key: value}}
        if resolve_quietly(other) == resolve_quietly(mapping):
            continue  # it says what holds anyway
        same = all(torch.equal(a, b) for a, b in zip(own, numbers(other, pairs), strict=True))
        warned = [line for line in said(other) if f"loss.{section}.{key}" in line and "has no effect" in line]
        assert same == bool(warned), (other, same, warned)


def resolve_quietly(mapping: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return resolve(mapping)


@pytest.mark.parametrize("key", UNI_VALUES)
def test_keys_of_uni(random_pairs: Pairs, key: str) -> None:
    pairs = random_pairs()
    for context in UNI_CONTEXTS:
        if key in ("eta", "gamma") and not context[key]:
            continue  # switching a part on is no idle key
        agree({"name": "uni_dpo", "uni": context}, "uni", key, UNI_VALUES[key], pairs)


def test_missing_scores_are_a_matter_only_where_scores_are_read(random_pairs: Pairs) -> None:
    for context in UNI_CONTEXTS:
        mapping = {"name": "uni_dpo", "uni": {**context, "on_missing_score": "neutral"}}
        reads = bool(context["eta"]) or context["nll_lambda"] > 0
        assert any("on_missing_score neutral has no effect" in line for line in said(mapping)) != reads, context
        line = loss_line(resolve_quietly(mapping), reference="none")
        assert ("pairs without scores neutral" in line) == reads


@pytest.mark.parametrize("key", ADA_VALUES)
def test_keys_of_ada(random_pairs: Pairs, key: str) -> None:
    pairs = random_pairs()
    for ada, uni in itertools.product(ADA_CONTEXTS[1:], (None, *UNI_CONTEXTS[::3])):
        mapping = {"base": "dpo", "beta": 0.7, "length_normalize": True, "uni": uni, "ada": ada}
        agree(mapping, "ada", key, ADA_VALUES[key], pairs)
