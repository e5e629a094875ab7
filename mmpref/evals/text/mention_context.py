"""Which words of a caption are not said to be in the picture: denied, only possible, or shown by a picture or a toy.

The caption is read once from left to right. A word that denies, doubts or depicts marks the words that it is about: a
noun with its list ("no dogs, cats or birds"), or the rest of the clause ("might be ..."). The tables of words are in
``context_words.py``; what is read in which way, and why, is in docs/reading_captions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmpref.evals.text import comparison, depiction, negation, possibility
from mmpref.evals.text.caption_words import CaptionWords
from mmpref.evals.text.scopes import Scopes


def reasons(words: CaptionWords) -> dict[int, str]:
    """Why words of a caption do not count, by their place; the first reason found is the one that stands."""
    scopes = Scopes(words)
    depiction.quotations(scopes)
    for at in [at for at, word in enumerate(words.raw) if word in _RULES]:
        for rule in _RULES[words.raw[at]]:
            rule(scopes, at)
    return scopes.why


def _by_word() -> Mapping[str, tuple[Callable[[Scopes, int], None], ...]]:
    rules: dict[str, tuple[Callable[[Scopes, int], None], ...]] = {}
    for words, rule in (*depiction.RULES, *possibility.RULES, *negation.RULES, *comparison.RULES):
        for word in words:
            rules[word] = (*rules.get(word, ()), rule)
    return rules


_RULES = _by_word()
