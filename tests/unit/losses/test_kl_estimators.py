"""k1 and k3 against the exact KL of all answers over a tiny vocabulary."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mmpref.losses.kl_estimators import k1_and_k3

TOKENS, LONGEST, END = 4, 3, 0


class Language:
    """Log-probs of the next token after every beginning of an answer; an answer ends with END, or is cut."""

    def __init__(self, seed: int, *, like: Language | None = None, off: float = 1.0) -> None:
        drawn = torch.Generator().manual_seed(seed)
        self.logits: dict[tuple[int, ...], Tensor] = {}
        for length in range(LONGEST):
            for before in itertools.product(range(1, TOKENS), repeat=length):
                own = off * torch.randn(TOKENS, generator=drawn, dtype=torch.float64)
                self.logits[before] = own if like is None else like.logits[before] + own

    def of(self, answer: tuple[int, ...]) -> Tensor:
        """Log-probs of the answer's tokens, zeros behind it: [LONGEST]."""
        found = torch.zeros(LONGEST, dtype=torch.float64)
        for place, token in enumerate(answer):
            found[place] = self.logits[answer[:place]].log_softmax(-1)[token]
        return found


def answers() -> list[tuple[int, ...]]:
    """All of them: each ends with END, or has as many tokens as are allowed."""
    ended = [
        (*before, END) for length in range(LONGEST) for before in itertools.product(range(1, TOKENS), repeat=length)
    ]
    return [*ended, *itertools.product(range(1, TOKENS), repeat=LONGEST)]


def all_of(policy: Language, reference: Language) -> tuple[Tensor, Tensor, Tensor, float]:
    """Probabilities of all answers, k1 and k3 of each, and the exact KL."""
    own = torch.stack([policy.of(answer) for answer in answers()])
    other = torch.stack([reference.of(answer) for answer in answers()])
    probs = own.sum(-1).exp()
    assert float(probs.sum()) == pytest.approx(1.0, abs=1e-12)
    exact = float((probs * (own.sum(-1) - other.sum(-1))).sum())
    return probs, *k1_and_k3(own, other), exact


@pytest.mark.parametrize("off", [0.1, 1.0, 2.0])
def test_both_means_over_all_answers_are_the_exact_kl(off: float) -> None:
    policy = Language(0)
    probs, k1, k3, exact = all_of(policy, Language(1, like=policy, off=off))
    assert exact > 0
    assert float((probs * k1).sum()) == pytest.approx(exact, rel=1e-10)
    assert float((probs * k3).sum()) == pytest.approx(exact, rel=1e-10)


def test_k3_is_never_negative_and_k1_may_be() -> None:
    policy = Language(0)
    _, k1, k3, _ = all_of(policy, Language(1, like=policy))
    assert bool((k3 >= 0).all())
    assert bool((k1 < 0).any())


def test_k3_varies_less_than_k1_where_the_two_are_near() -> None:
    policy = Language(0)
    probs, k1, k3, exact = all_of(policy, Language(1, like=policy, off=0.1))
    of_k1, of_k3 = (float((probs * (values - exact) ** 2).sum()) for values in (k1, k3))
    assert 0 < of_k3 < of_k1 / 20


def test_means_of_drawn_answers_are_within_their_standard_error() -> None:
    policy = Language(0)
    probs, k1, k3, exact = all_of(policy, Language(1, like=policy))
    drawn = torch.multinomial(probs, 4000, replacement=True, generator=torch.Generator().manual_seed(0))
    for values in (k1[drawn], k3[drawn]):
        assert abs(float(values.mean()) - exact) < 3 * float(values.std()) / 4000**0.5
        assert float(values.std()) / 4000**0.5 < exact / 10  # or the line above would say nothing


def test_equal_models_have_no_kl_by_either() -> None:
    policy = Language(0)
    _, k1, k3, _ = all_of(policy, policy)
    assert not bool(k1.any())
    assert not bool(k3.any())
