"""What leaves a clause open: hedges that do not lean, conditions, quotations."""

from __future__ import annotations

from collections.abc import Sequence

from mmpref.evals.text.yes_no.words import ADVERBS, OPEN_HEDGES, PERCEPTION_VERBS


def is_open(words: Sequence[str], names: frozenset[str] = frozenset()) -> bool:
    """Whether a hedge that does not lean, a condition or a quotation leaves open what the words say."""
    for index, word in enumerate(words):
        if word in OPEN_HEDGES and word not in names:
            after = next_word(words, index + 1)
            if word in {"could", "would"} and (after in PERCEPTION_VERBS or after == "not"):
                continue
            return True
        if word == "can" and index + 1 < len(words):
            after = next_word(words, index + 1)
            if after not in PERCEPTION_VERBS | {"not", "be", "clearly", "see", "tell", "count"}:
                return True
    return False


def next_word(words: Sequence[str], index: int) -> str:
    while index < len(words) and words[index] in ADVERBS:
        index += 1
    return words[index] if index < len(words) else ""
