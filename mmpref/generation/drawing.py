"""Tokens drawn from logits by uniform numbers of the row's own, so that a row does not depend on those beside it.

Shapes: N rows, V tokens of the vocabulary, T tokens of an answer at most.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from mmpref.generation.settings import SampleSettings


def uniforms(digest: bytes, seed: int, count: int) -> list[float]:
    """``count`` numbers in [0, 1) for one answer; fewer of them are the first ones of more.

    Args:
        digest: of what the model is shown: else answers to different prompts would take the same turns, seed by seed.
    """
    mixed = hashlib.blake2b(b"%s %d" % (digest, seed), digest_size=16).digest()
    numbers = random.Random(int.from_bytes(mixed, "big"))
    return [numbers.random() for _ in range(count)]


def draw(logits: Tensor, numbers: Tensor | None, settings: SampleSettings) -> Tensor:
    """One token for each row, [N], by the inverse of the distribution function; -1 where logits are not finite.

    Tokens keep the order of the vocabulary: sorted by probability, near ties would change places with the last digit of
    a logit, and the token that a number falls on with them.

    Args:
        logits: [N, V].
        numbers: [N], uniform in [0, 1), in float64; None takes the most probable token.
    """
    if numbers is None:
        best, tokens = logits.max(dim=-1)
        return torch.where(best.isfinite(), tokens, -1)
    found = probabilities(logits, settings).double().cumsum(dim=-1)
    total = found[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    tokens = torch.searchsorted(found, torch.minimum(numbers[:, None] * total, below), right=True)[:, 0]
    return torch.where(total[:, 0].isfinite(), tokens, -1)


def probabilities(logits: Tensor, settings: SampleSettings) -> Tensor:
    """What tokens are drawn by, [N, V]; with ``top_p`` rows sum to less than 1. The temperature is above 0."""
    logits = logits.float()
    # the largest becomes 0 before it is divided: a low temperature overflows nothing
    probs = ((logits - logits.amax(dim=-1, keepdim=True)) / settings.temperature).softmax(dim=-1)
    if settings.top_p < 1:
        ordered, places = probs.sort(dim=-1, descending=True, stable=True)
        is_kept = ordered.double().cumsum(dim=-1) - ordered < settings.top_p
        probs = probs * torch.zeros_like(is_kept).scatter(-1, places, is_kept)
    return probs


def number_rows(digests: Sequence[bytes], seeds: Sequence[int], count: int) -> Tensor:
    """The numbers of several answers: [N, ``count``], in float64."""
    rows = [uniforms(digest, seed, count) for digest, seed in zip(digests, seeds, strict=True)]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), count)
