"""What a caption compares with or traces back to: "as big as a bear", "runs like a horse", "footprints of a dog"."""

from __future__ import annotations

from mmpref.evals.text import context_words as table
from mmpref.evals.text.reasons import OTHER_MEANING
from mmpref.evals.text.scopes import Rules, Scopes


def compared(scopes: Scopes, at: int) -> None:
    """ "bigger than a car", "as big as a bear", "runs like a horse"; "animals like cows" are cows."""
    word, before = scopes.word(at), scopes.word(at - 1)
    if scopes.next_word(at + 1) not in ("a", "an"):
        return
    if word == "than" and before in ("rather", "other"):
        return
    if word == "as" and (scopes.word(at - 2) != "as" or before == "well"):
        return
    if word == "like" and (before in table.SEEMING or before in table.DETERMINERS):
        return  # "it looks like a dog" says that it is one
    if word == "like" and len(scopes.nouns(at + 1)) > 1:
        return  # "utensils like a fork and a knife"
    scopes.mark_nouns(at + 1, OTHER_MEANING, commas=False)


def traces(scopes: Scopes, at: int) -> None:
    """ "footprints of a dog", "the shadow of a person": the thing itself may be elsewhere."""
    if scopes.next_word(at + 1) == "of":
        scopes.mark_nouns(at + 2, OTHER_MEANING, commas=False)


RULES: Rules = (
    ({"than", "like", "as"}, compared),
    (table.TRACES, traces),
)
"""Words, and what is done at each of them."""
