"""How broken answers look: the same words again and again, or one answer to everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def repetition(text: str, *, size: int = 3) -> float:
    """Share of an answer's word triples that it has said before: 0 for fluent text, near 1 for a loop."""
    words = text.lower().split()
    grams = list(zip(*(words[start:] for start in range(size)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def mean_repetition(texts: Sequence[str]) -> float:
    """Mean of :func:`repetition` over answers."""
    return sum(map(repetition, texts)) / len(texts) if texts else 0.0


def most_common_share(texts: Sequence[str]) -> float:
    """How large a share of the answers is word for word the same answer."""
    folded = Counter(" ".join(text.lower().split()) for text in texts)
    return max(folded.values()) / len(texts) if texts else 0.0
