"""What leaves a clause open: hedges that do not lean, conditions, quotations."""

from __future__ import annotations

from collections.abc import Sequence

from mmpref.evals.text.yes_no.words import ADVERBS, OPEN_HEDGES, PERCEPTION_VERBS, word_set


def is_open(words: Sequence[str], names: frozenset[str] = frozenset()) -> bool:
    """Whether a hedge that does not lean, a condition or a quotation leaves open what the words say."""
    for index, word in enumerate(words):
        if word in OPEN_HEDGES and word not in names:
            after = next_word(words, index + 1)
            if word in {"could", "would"} and (after in PERCEPTION_VERBS or after == "not"):
                continue
            return True
        after = words[index + 1] if index + 1 < len(words) else ""
        if word in {"before", "once"} and index == len(words) - 1 and {"was", "were"} & {*words[:12]}:
            return True
        if (word, after) in {("used", "to"), ("was", "once"), ("were", "once"), ("last", "thing")}:
            return True
        if word in {"out", "outside", "off", "beyond"} and set(words[index + 1 : index + 4]) & _EDGES:
            return True
        if word == "can" and index + 1 < len(words):
            after = next_word(words, index + 1)
            if after not in PERCEPTION_VERBS | {"not", "be", "clearly", "see", "tell", "count"}:
                return True
    return False


_EDGES = word_set("frame shot camera screen view sight picture image photo")


def next_word(words: Sequence[str], index: int) -> str:
    """The word at ``index`` or the first behind it that is no adverb; "" at the end."""
    while index < len(words) and words[index] in ADVERBS:
        index += 1
    return words[index] if index < len(words) else ""


_COLOURS = word_set(
    "black white red green blue yellow orange purple pink brown gray grey beige golden silver tan maroon teal turquoise"
)


def has_other_colour(words: Sequence[str], predicate: Sequence[str]) -> bool:
    """ "Black and white", asked whether it is black: a person hesitates."""
    asked = _COLOURS & {*predicate}
    return len(asked) == 1 and any(
        word == "and"
        and {words[place - 1], words[place + 1]} & asked
        and {words[place - 1], words[place + 1]} <= _COLOURS
        for place, word in enumerate(words[1:-1], start=1)
    )
