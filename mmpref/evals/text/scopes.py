"""A caption while it is read in context: looking around a word, and marking the words that do not count.

Every look ahead or back is bounded, so that reading takes time linear in the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

from mmpref.evals.text import context_words as table
from mmpref.evals.text.caption_words import COMMA, STOP, CaptionWords

_MOST_IN_NOUN = 6  # words of one noun with what stands before it
_MOST_IN_ITEM = 4  # words of one noun of a list
_MOST_IN_LIST = 10  # nouns
_MOST_IN_CLAUSE = 40  # words
_JOINING = frozenset({"or", "nor", "and"})


class Scopes:
    """The words of a caption, and in ``why`` the reason of each that does not count, by its place."""

    def __init__(self, words: CaptionWords) -> None:
        self.why: dict[int, str] = {}
        self.spoken_of: set[int] = set()  # words after "neither" or "nor" that are there
        self.words = words
        self.raw = words.raw
        self.breaks = words.breaks
        self.size = len(words.raw)

    def word(self, at: int) -> str:
        """The word at a place, "" where there is none."""
        return self.raw[at] if 0 <= at < self.size else ""

    def next_word(self, at: int) -> str:
        """The word at a place if nothing but a space stands before it."""
        return self.raw[at] if 0 <= at < self.size and not self.breaks[at] else ""

    def noun_end(self, start: int) -> int:
        """Where the noun that begins at ``start`` ends, with all that stands before it; ``start`` if none begins."""
        at = start
        while at < min(self.size, start + _MOST_IN_NOUN):
            word = self.raw[at]
            if at == start and word in table.AFTER_NOUNS:  # "visible people"
                at += 1
                continue
            if (at > start and self.breaks[at]) or word in table.NOUN_PHRASE_ENDS:
                break
            if at > start and word.endswith("ing") and word not in table.NOUNS_IN_ING:
                break
            if at > start and word in table.INDEFINITE and word != "one":
                break
            at += 1
        return at

    def nouns(self, start: int, *, articles: bool = True, commas: bool = True) -> list[tuple[int, int]]:
        """The nouns of a list, each as its first place and the place after it.

        Args:
            articles: whether "and a dog" goes on with the list.
            commas: whether a comma does.
        """
        found: list[tuple[int, int]] = []
        at = start
        while len(found) < _MOST_IN_LIST:
            end = self.noun_end(at)
            if end == at:
                break
            found.append((at, end))
            if end >= self.size or self.breaks[end] == STOP:
                break
            if self.raw[end] == "of" and self.raw[end - 1] in table.QUANTITIES:
                at = end + 1
            elif self.raw[end] in _JOINING:
                after = self.word(end + 1)
                if self.breaks[end] and (not commas or (articles and len(found) == 1 and self.raw[end] == "and")):
                    break  # "shaped like a rooster, and a pigeon sits on it"
                if after in ("a", "an") and self.word(end + 2) in ("real", "live", "actual"):
                    break
                if self.raw[end] == "and" and not articles and (after in table.DETERMINERS or self.breaks[end]):
                    break
                at = end + 2 if after == "of" else end + 1
            elif commas and self.breaks[end] == COMMA and self.goes_on(end, articles):
                at = end
            else:
                break
        return found

    def goes_on(self, at: int, articles: bool) -> bool:
        """Whether the noun after a comma is one more of a list."""
        if self.raw[at] in table.DETERMINERS and not articles:
            return False
        for _ in range(_MOST_IN_LIST):
            end = self.noun_end(at)
            if not 0 < end - at <= _MOST_IN_ITEM:
                return False
            if end >= self.size or self.breaks[end] == STOP:
                return not articles
            if self.raw[end] in _JOINING:
                return True
            if self.breaks[end] != COMMA:
                return False
            at = end
        return False

    def clause_start(self, at: int) -> int:
        """Where the clause that has the word at ``at`` begins."""
        start = at
        while start > max(0, at - 14) and not self.breaks[start]:
            if self.raw[start - 1] in table.CONJUNCTIONS and self.raw[start - 1] not in _JOINING:
                break
            start -= 1
        return start

    def clause_end(self, at: int, *, at_comma: bool = False) -> int:
        """The place after the last word of a clause that goes on from ``at``."""
        end = at
        while end < min(self.size, at + _MOST_IN_CLAUSE):
            mark, word = self.breaks[end], self.raw[end]
            if end > at and (mark == STOP or word in table.CLAUSE_BREAKS):
                break
            if end > at and mark == COMMA and (at_comma or word in table.CLAUSE_STARTS or word.endswith("ing")):
                break
            if word == "the" and self._is_said_to_be(end + 1):
                break
            end += 1
        return end

    def _is_said_to_be(self, at: int) -> bool:
        """Whether "the" stands before "bottle that stands on the counter"."""
        end = self.noun_end(at)
        return self.next_word(end) in ("that", "which") and self.next_word(end + 1) in table.STANDS

    def begins_sentence(self, at: int) -> bool:
        """Whether a word is the first of its sentence."""
        return at == 0 or self.breaks[at] == STOP

    def is_after_be(self, at: int) -> bool:
        """Whether "is" or the like stands before a word."""
        return self.word(at - 1) in ("is", "are", "was", "were", "be", "completely", "noticeably")

    # --- marking ----------------------------------------------------------------------------------------------------

    def mark(self, start: int, end: int, why: str) -> None:
        """Mark words, but for those that are marked already."""
        for at in range(start, min(end, self.size)):
            self.why.setdefault(at, why)

    def mark_nouns(self, start: int, why: str, *, articles: bool = True, commas: bool = True) -> int:
        """Mark the nouns of a list, and the examples that it gives of them; gives the place after it."""
        found = self.nouns(start, articles=articles, commas=commas)
        if found and (examples := self._examples(found[-1][1])):
            found += self.nouns(examples)
        for first, end in found:
            self.mark(first, end, why)
        return found[-1][1] if found else start

    def _examples(self, at: int) -> int:
        """Where the examples begin in "no animals, such as dogs or cats"; 0 where none do."""
        if self.word(at - 1) == "such" and self.next_word(at) == "as":
            return at + 1
        if self.word(at) == "such" and self.next_word(at + 1) == "as":
            return at + 2
        return at + 1 if self.word(at) in ("including", "like") and self.breaks[at] != STOP else 0

    def mark_subject(self, at: int, why: str) -> None:
        """Mark what the verb at ``at`` is about: the first noun of its clause, or those joined with it."""
        start = self.clause_start(at)
        relative = start - 1 if self.word(start - 1) in ("which", "that", "who") else start
        if self.word(relative) in ("which", "that", "who") and self.word(relative + 1) not in table.DETERMINERS:
            self.mark_noun_before(relative, why)  # "a dog that is not visible"
            return
        while start < at and self.raw[start] in ("and", "or", "in", "there", "additionally"):
            start += 1
        for first, end in self.nouns(start):
            if first >= at:
                break
            if not {"s", "slice", "slices", "piece", "pieces"} & {*self.raw[first:end]}:  # "the man's face is missing"
                self.mark(first, min(end, at), why)

    def mark_noun_before(self, end: int, why: str) -> None:
        """Mark the noun that ends before ``end``, with what stands before it."""
        start = end
        while start > max(0, end - 4) and (start == end or not self.breaks[start]):
            if self.raw[start - 1] in table.NOUN_PHRASE_ENDS:
                break
            start -= 1
        self.mark(start, end, why)


Rules: TypeAlias = tuple[tuple[Collection[str], Callable[[Scopes, int], None]], ...]
