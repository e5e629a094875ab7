"""Which words of a caption are not said to be in the picture: denied, only possible, or shown by a picture or a toy.

The caption is read once from left to right. A word that denies, doubts or depicts marks the words that it is about: a
noun with its list ("no dogs, cats or birds"), or the rest of the clause ("might be ..."). Every look ahead or back is
bounded, so that reading takes time linear in the caption. The tables of words are in ``context_words.py``; what is read
in which way, and why, is in docs/reading_captions.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from mmpref.evals.text import context_words as table
from mmpref.evals.text.caption_words import COMMA, STOP, CaptionWords
from mmpref.evals.text.singular import singular

NEGATED, POSSIBLE, DEPICTED, WRITTEN = "negated", "possible", "depicted", "written"

_MOST_IN_NOUN = 6  # words of one noun with what stands before it
_MOST_IN_LIST = 10  # nouns
_MOST_IN_CLAUSE = 40  # words
_JOINING = frozenset({"or", "nor", "and"})
_ON_THE_WALL = re.compile(r"\b(?:on the wall|hangs? (?:on|above|over|in)|hanging (?:on|above|over))\b")
_QUOTED = re.compile(r"[\"“]([^\"“”\n]{1,120})[\"”]")


class Marks:
    """Why words of a caption do not count, by their place."""

    def __init__(self, words: CaptionWords) -> None:
        self.why: dict[int, str] = {}
        self._spoken_of: set[int] = set()  # words after "neither" or "nor" that are there
        self._words = words
        self._raw = words.raw
        self._breaks = words.breaks
        self._size = len(words.raw)
        if '"' in words.text or "“" in words.text:
            self._quotations()
        for at, word in enumerate(words.raw):
            for rule in _RULES.get(word, ()):
                rule(self, at)

    # --- looking around ---------------------------------------------------------------------------------------------

    def word(self, at: int) -> str:
        """The word at a place, "" where there is none."""
        return self._raw[at] if 0 <= at < self._size else ""

    def _next(self, at: int) -> str:
        """The word at a place if nothing but a space stands before it."""
        return self._raw[at] if 0 <= at < self._size and not self._breaks[at] else ""

    def noun_end(self, start: int) -> int:
        """Where the noun that begins at ``start`` ends, with all that stands before it; ``start`` if none begins."""
        at = start
        while at < min(self._size, start + _MOST_IN_NOUN):
            word = self._raw[at]
            if (at > start and self._breaks[at]) or word in table.NOUN_PHRASE_ENDS:
                break
            if at > start and word.endswith("ing") and word not in table.NOUNS_IN_ING:
                break
            if at > start and word in table.INDEFINITE and word != "one":
                break
            at += 1
        return at

    def nouns(self, start: int, *, articles: bool = True) -> list[tuple[int, int]]:
        """The nouns of a list, each as its first place and the place after it.

        Args:
            articles: whether "and a dog" goes on with the list.
        """
        found: list[tuple[int, int]] = []
        at = start
        while len(found) < _MOST_IN_LIST:
            end = self.noun_end(at)
            if end == at:
                break
            found.append((at, end))
            if end >= self._size or self._breaks[end] == STOP:
                break
            if self._raw[end] == "of" and self._raw[end - 1] in table.QUANTITIES:
                at = end + 1
            elif self._raw[end] in _JOINING:
                after = self.word(end + 1)
                if self._raw[end] == "and" and not articles and (after in table.DETERMINERS or self._breaks[end]):
                    break
                at = end + 1
            elif self._breaks[end] == COMMA and self._goes_on(end, articles):
                at = end
            else:
                break
        return found

    def _goes_on(self, at: int, articles: bool) -> bool:
        """Whether the noun after a comma is one more of a list."""
        if self._raw[at] in table.DETERMINERS and not articles:
            return False
        end = self.noun_end(at)
        if end == at:
            return False
        return end >= self._size or self._raw[end] in _JOINING or bool(self._breaks[end])

    def _clause_start(self, at: int) -> int:
        """Where the clause that has the word at ``at`` begins."""
        start = at
        while start > max(0, at - 14) and not self._breaks[start]:
            if self._raw[start - 1] in table.CONJUNCTIONS and self._raw[start - 1] not in _JOINING:
                break
            start -= 1
        return start

    def _clause_end(self, at: int, *, at_comma: bool = False) -> int:
        """The place after the last word of a clause that goes on from ``at``."""
        end = at
        while end < min(self._size, at + _MOST_IN_CLAUSE):
            mark, word = self._breaks[end], self._raw[end]
            if end > at and (mark == STOP or word in table.CLAUSE_BREAKS):
                break
            if end > at and mark == COMMA and (at_comma or word in table.CLAUSE_STARTS or word.endswith("ing")):
                break
            end += 1
        return end

    # --- marking ----------------------------------------------------------------------------------------------------

    def mark(self, start: int, end: int, why: str) -> None:
        """Mark words, but for those that are marked already."""
        for at in range(start, min(end, self._size)):
            self.why.setdefault(at, why)

    def mark_nouns(self, start: int, why: str, *, articles: bool = True) -> int:
        """Mark the nouns of a list; gives the place after it."""
        found = self.nouns(start, articles=articles)
        for first, end in found:
            self.mark(first, end, why)
        return found[-1][1] if found else start

    def _mark_subject(self, at: int, why: str) -> None:
        """Mark what the verb at ``at`` is about: the first noun of its clause, or those joined with it."""
        start = self._clause_start(at)
        while start < at and self._raw[start] in ("and", "or", "in", "there", "additionally"):
            start += 1
        for first, end in self.nouns(start):
            if first >= at:
                break
            if not {"s", "slice", "slices", "piece", "pieces"} & {*self._raw[first:end]}:  # "the man's face is missing"
                self.mark(first, min(end, at), why)

    def _mark_noun_before(self, end: int, why: str) -> None:
        start = end
        while (
            start > max(0, end - 4) and not self._breaks[start] and self._raw[start - 1] not in table.NOUN_PHRASE_ENDS
        ):
            start -= 1
        self.mark(start, end, why)

    # --- negation ---------------------------------------------------------------------------------------------------

    def no(self, at: int) -> None:
        """ "no dog", "no sign of a dog", "no one is wearing a hat"."""
        after = self._next(at + 1)
        if after == "longer" and self.word(at + 2) in table.NOT_SEEN:
            self._mark_subject(at - 1, NEGATED)
        if not after or after in table.NOT_A_DENIAL_AFTER_NO:
            return
        if after == "one":
            self._nobody(at + 1)
            return
        start = self._after_signs(at + 1)
        end = self.mark_nouns(start, NEGATED, articles=start > at + 1)
        if self.word(end - 1) in table.PERSONS:
            self._what_they_have(end)

    def _nobody(self, at: int) -> None:
        """ "nobody (is) wearing a hat", "none of the people hold umbrellas": what nobody has is not there."""
        if self.word(at + 1) == "of":
            at = self.noun_end(at + 2) - 1
        if self.word(at + 1) not in ("but", "except", "besides", "other", "apart"):
            self._what_they_have(at + 1)

    def hardly(self, at: int) -> None:
        """ "hardly any cars"."""
        if self._next(at + 1) == "any":
            self.mark_nouns(at + 1, NEGATED)

    def _after_signs(self, at: int) -> int:
        """The place after "signs of" in "visible signs of dogs", or ``at``."""
        for place in range(at, min(at + 3, self._size - 1)):
            if self._raw[place] in table.SIGNS_OF and self._raw[place + 1] == "of":
                return place + 2
        return at

    def _what_they_have(self, at: int) -> None:
        if self._next(at) in ("is", "are"):
            at += 1
        if (self._next(at) in table.HAVING or self._next(at) == "with") and self.word(at + 1) not in table.DEFINITE:
            self.mark_nouns(at + 1, NEGATED)

    def neither(self, at: int) -> None:
        """ "neither a dog nor a cat"."""
        found = self.nouns(at + 1)
        end = found[-1][1] if found else at + 1
        does = self.word(end) in ("is", "are", "was", "were", "has", "have") or self.word(end) in table.HAVING
        if does and self.word(end + 1) not in table.NOT_SEEN and self.word(at + 1) in table.DEFINITE:
            for first, after in found:
                self._spoken_of.update(range(first, after))
            self._what_they_have(end)  # "neither the man nor the woman is wearing a tie" is about two people
        else:
            self.mark_nouns(at + 1, NEGATED)

    def nor(self, at: int) -> None:
        """ "..., nor is there a cat"."""
        start = at + 1
        if start in self._spoken_of:
            return
        while self.word(start) in ("is", "are", "there", "any", "do", "does", "it", "i", "see", "show", "have", "has"):
            start += 1
        self.mark_nouns(start, NEGATED)

    def lacks(self, at: int) -> None:
        """ "lacks a chair", "without cups or plates", "missing a wheel"."""
        start = at + 1
        if self.word(start) == "of" and self.word(at) in ("lack", "absent"):
            start += 1
        if self.word(at) in table.GONE and self._is_after_be(at):
            self._mark_subject(at - 1, NEGATED)
            if self.word(start) not in ("a", "an", "any", "its", "their"):
                return
        if self._breaks[start] if start < self._size else True:
            return
        start = self._after_signs(start)
        if self.word(start).endswith("ing") and self.word(start) not in table.NOUNS_IN_ING:
            if self.word(start) in table.HAVING and self.word(start + 1) not in table.DEFINITE:
                self.mark_nouns(start + 1, NEGATED)
            return
        self.mark_nouns(start, NEGATED)

    def of_lack(self, at: int) -> None:
        """ "devoid of people", "instead of a bench", "free of cars", "rather than a dog"."""
        links = table.OF_LACK[self.word(at)].split()
        if links and self._next(at + 1) not in links:
            return
        if self.word(at) in ("clear", "free", "empty", "bare") and self.word(at + 2) in ("the", "his", "her"):
            return  # "empty of the ..." hardly denies; "free from the leash" is about a leash that is there
        start = at + 2 if links else at + 1
        if self.word(start).endswith("ing") and self.word(start) not in table.NOUNS_IN_ING:
            start += 1
            if self.word(start) in table.PREPOSITIONS:
                start += 1
        self.mark_nouns(start, NEGATED)

    def not_(self, at: int) -> None:
        """ "is not a dog", "does not show any dogs", "is not wearing a tie", "is not visible", "not a single bird"."""
        start = at + 1
        while self._next(start) in ("actually", "really", "currently", "clearly", "also", "any", "be", "a", "single"):
            if self._next(start) in ("a", "any"):
                break
            start += 1
        word = self._next(start)
        if not word or word in table.NOT_A_DENIAL_AFTER_NOT:
            return
        if word in table.NOT_SEEN or (word == "in" and self.word(start + 1) in ("sight", "view", "frame")):
            self._mark_subject(at - 1, NEGATED)
            return
        if word in ("in", "in the") and self.word(start + 2) in ("image", "picture", "photo", "scene", "frame"):
            self._mark_subject(at - 1, NEGATED)
            return
        if word in table.DETERMINERS or singular(word) != word:
            self.mark_nouns(start, NEGATED)
            return
        self._not_done(start)

    def _not_done(self, verb: int) -> None:
        """What a denied verb is about, unless it is known already ("is not sitting on the bench")."""
        start = verb + 1
        if self._raw[verb] in table.PREPOSITIONS:
            start = verb
        while self._next(start) in ("that", "there", "is", "are", "to", "be", "appear", "like", "see", "have", "show"):
            start += 1
        if self._next(start) in table.PREPOSITIONS:
            start += 1
        if self._next(start) and self._next(start) not in table.DEFINITE:
            self.mark_nouns(start, NEGATED)
        if start == verb + 1 and not self._next(verb + 1):
            self.mark(verb, verb + 1, NEGATED)  # "these are not dogs."

    def _is_after_be(self, at: int) -> bool:
        return self.word(at - 1) in ("is", "are", "was", "were", "be", "completely", "noticeably")

    def out_of_view(self, at: int) -> None:
        """ "is outside the frame", "are out of view": what is said to be there is not in the picture."""
        rest = " ".join(self._raw[at : at + 4])
        if re.match(r"(?:outside|out|beyond)(?: of)?(?: the)? (?:frame|view|sight|shot|picture|image|camera)", rest):
            if self._is_after_be(at):
                self._mark_subject(at - 1, POSSIBLE)
            elif self.word(at - 1) in ("somewhere", "just"):
                self._mark_subject(at - 2, POSSIBLE)

    # --- what is only possible --------------------------------------------------------------------------------------

    def might(self, at: int) -> None:
        """ "might be a dog", and the subject of "there might be" and "a dog might be outside"."""
        if self.word(at) in ("could", "may") and self.word(at + 1) == "be" and self.word(at + 2) in table.SEEN:
            return
        self.mark(at + 1, self._clause_end(at + 1), POSSIBLE)
        place = self.word(at + 2)
        if self.word(at - 1) in ("that", "which", "who") and place in ("outside", "out", "beyond"):
            self._mark_noun_before(at - 1, POSSIBLE)
        if self.word(at + 1) == "be" and (
            place in table.PREPOSITIONS - {"of"} or place in ("nearby", "hidden", "present")
        ):
            start = self._clause_start(at)
            if self.word(start) not in table.DEFINITE and self.word(start) not in table.AUXILIARIES:
                self._mark_subject(at, POSSIBLE)

    def maybe(self, at: int) -> None:
        """ "possibly a bottle", "perhaps waiting for a bus"."""
        end = self._clause_end(at + 1, at_comma=True)
        self.mark(at + 1, end, POSSIBLE)
        if end < self._size and self._breaks[end] == COMMA and self._goes_on(end, articles=True):
            self.mark_nouns(end, POSSIBLE)  # "possibly a cat, a dog or a bird"

    def rest_of_clause(self, at: int) -> None:
        """ "suggesting that ...", "whether ...", "unclear if ..."."""
        if self.word(at) == "if" and self.word(at - 1) == "as":
            return
        self.mark(at + 1, self._clause_end(at + 1), POSSIBLE)

    def as_if(self, at: int) -> None:
        """ "as if holding the mouse", "as though"."""
        if self.word(at + 1) in ("if", "though"):
            self.mark(at + 2, self._clause_end(at + 2, at_comma=True), POSSIBLE)

    def hard_to_tell(self, at: int) -> None:
        """ "hard to tell whether it is a dog"."""
        if self.word(at + 1) == "to" and self.word(at + 2) in ("tell", "say", "determine", "know", "see"):
            self.mark(at + 3, self._clause_end(at + 3), POSSIBLE)

    def awaited(self, at: int) -> None:
        """ "waiting for the bus", "a place for dogs"."""
        links = table.AWAITED[self.word(at)].split()
        if links and self._next(at + 1) not in links:
            return
        start = at + 2 if links else at + 1
        general = self.word(at) in ("space", "room", "place", "known", "talking", "looking", "suitable", "designed")
        if general and self.word(start) in table.DEFINITE:
            return
        self.mark_nouns(start, POSSIBLE, articles=False)

    def readying(self, at: int) -> None:
        """ "ready to hit a ball": a ball that was not there before; "ready to hit the ball" speaks of one that is."""
        if self._next(at + 1) != "to":
            return
        start = at + 3
        if self.word(start) in table.PREPOSITIONS:
            start += 1
        only_wished = self.word(at) in ("waiting", "hoping", "wanting", "wants", "hopes")
        if only_wished or self.word(start) not in table.DEFINITE:
            self.mark_nouns(start, POSSIBLE, articles=False)

    def for_anybody(self, at: int) -> None:
        """ "for people to sit on", "allowing passengers to board": nobody in particular."""
        start = at + 1
        while self._next(start) in ("potential", "many", "more", "both", "other", "multiple"):
            start += 1
        end = self.noun_end(start)
        if end == start or self.word(start) in table.DETERMINERS or not self._is_bare_plural(start, end):
            return
        if self.word(at) == "where":
            if table.IN_GENERAL.isdisjoint(self._raw[end : end + 2]):
                return
            self.mark(start, self._clause_end(start, at_comma=True), POSSIBLE)
        end = self.mark_nouns(start, POSSIBLE, articles=False)
        if self._next(end) == "to" and self.word(end + 2) not in table.DEFINITE:
            self.mark(end + 2, self.noun_end(end + 2), POSSIBLE)  # "for people to park cars"

    def meant_for(self, at: int) -> None:
        """ "used to transport people"."""
        if self.word(at + 1) in table.MEANT_FOR:
            self.for_anybody(at + 1)

    def _is_bare_plural(self, start: int, end: int) -> bool:
        return any(word == "people" or singular(word) != word for word in self._raw[start:end])

    # --- depictions -------------------------------------------------------------------------------------------------

    def artwork(self, at: int) -> None:
        """ "a statue of a horse", "a poster showing bears", "a painting with a boat"."""
        word = singular(self.word(at))
        after = self._next(at + 1)
        if after in ("that", "which") and self._next(at + 2) in table.SHOWN_BY:
            at, after = at + 1, self._next(at + 2)
        if word in table.PHOTOS and self._is_this_picture(at):
            return
        if word in table.SOLID:
            shows = after.startswith(("depict", "represent", "portray"))
        else:
            shows = after in table.SHOWN_BY or (after == "with" and word not in table.WITHOUT_OF)
        if after == "of" or shows:
            self._depicted_from(at + 2)

    def _depicted_from(self, start: int) -> None:
        end = self.mark_nouns(start, DEPICTED)
        if self._next(end) in table.HAVING or self._next(end) in ("with", "and"):
            self.mark_nouns(end + 1, DEPICTED)  # "a statue of a man riding a horse"
        elif self._next(end) == "on" and self._next(end + 1) in ("a", "an") and self._next(end + 2) in (
            "horse", "horseback", "bicycle", "bike", "motorcycle", "boat", "elephant", "skateboard", "surfboard",
        ):  # fmt: skip
            self.mark_nouns(end + 1, DEPICTED)

    def _is_this_picture(self, at: int) -> bool:
        """Whether "picture" is the one that the caption is about, or one that somebody takes."""
        if self._next(at + 1) in table.SHOWN_BY and self.word(at - 1) in ("the", "this", "given"):
            return True
        start = at
        while start > max(0, at - 8) and not self._breaks[start]:
            start -= 1
        before = {*self._raw[start:at]}
        if before & {"taking", "take", "takes", "taken", "snapping", "snaps", "posing", "shooting", "capturing"}:
            return True
        if before & {"with", "hanging", "framed", "holding", "has", "of", "wall", "are", "on"}:
            return False
        a_second_thing = any(self._raw[n] == "and" and self.word(n + 1) in table.DETERMINERS for n in range(start, at))
        if a_second_thing or ("there" in before and "this" not in before):
            return False
        rest = " ".join(self._raw[at : at + 8])
        return self._next(at + 1) != "of" or not _ON_THE_WALL.search(rest)

    def surface(self, at: int) -> None:
        """ "a shirt with a giraffe on it", "a sign showing a bicycle"."""
        after = self._next(at + 1)
        if after in table.SHOWN_BY:
            self._depicted_from(at + 2)
        elif after == "with":
            for place in range(at + 2, min(at + 12, self._size)):
                on_it = self._raw[place] == "on" and self.word(place + 1) in ("it", "them")
                if self._raw[place] in table.PRINTED or (on_it and not self._may_stand(at, place)):
                    self.mark(at + 2, place, DEPICTED)
                    return

    def _may_stand(self, surface: int, on: int) -> bool:
        """Whether the thing that is on a surface may be a thing, as on a plate."""
        carries = self.word(surface) in table.CARRIERS - {"sign", "signs"}
        return carries or self.word(on - 1).endswith("ing") or self.word(on - 1) in ("perched", "placed", "attached")

    def screen(self, at: int) -> None:
        """ "a television showing a man"."""
        start = at + 2 if self._next(at + 1) in ("is", "are", "screen") else at + 1
        if self._next(start) in table.SCREEN_SHOWS:
            self.mark_nouns(start + 1, DEPICTED)

    def drawn(self, at: int) -> None:
        """ "she has drawn a fish and a boat"."""
        if self.word(at + 1) in table.INDEFINITE:
            self.mark_nouns(at + 1, DEPICTED)

    def printed(self, at: int) -> None:
        """ "a bicycle painted on the road"."""
        if self._next(at + 1) not in table.PRINTED_ON:
            return
        end = at - 1 if self._is_after_be(at) else at
        if self.word(end - 1) in ("that", "which"):
            end -= 1
        self._mark_noun_before(end, DEPICTED)

    def toy(self, at: int) -> None:
        """ "a toy car", "a toy fire truck", "toy cars and trains"."""
        end = self.noun_end(at + 1)
        if self._next(at + 1) and end > at + 1:
            self.mark(at + 1, min(end, at + 4), DEPICTED)

    def likeness(self, at: int) -> None:
        """ "shaped like a bird", "in the shape of a heart", "made to look like a car", "resembling a dog"."""
        start = at + 1
        if self.word(at) == "like":
            before, subject = self.word(at - 1), self.word(at - 2)
            if before not in ("shaped", "look", "dressed", "looking", "decorated", "painted", "designed", "looks"):
                return
            seems = before in ("look", "looks") and subject in ("it", "this", "that", "what", "which", "there", "to")
            if seems and self.word(at - 3) not in ("decorated", "made", "designed", "painted", "styled", "arranged"):
                return
        elif self.word(at) in table.DRESSED:
            while self._next(start) in ("up", "as", "like", "in"):
                start += 1
            if self.word(start - 1) != "as":
                return
            if self.word(at - 1) not in ("dog", "cat") and self.word(start) not in ("a", "an"):
                return
        self.mark_nouns(start, DEPICTED)

    def _quotations(self) -> None:
        """Mark what a sign reads; a caption in quotes is read as a caption."""
        spans = self._words.spans
        place = 0
        for match in _QUOTED.finditer(self._words.text):
            while place < self._size and spans[place][0] < match.start():
                place += 1
            if any(word in table.WRITTEN for word in self._raw[max(0, place - 4) : place]):
                last = place
                while last < self._size and spans[last][1] <= match.end():
                    last += 1
                self.mark(place, last, WRITTEN)


_Rule = Callable[[Marks, int], None]


def _rules() -> Mapping[str, tuple[_Rule, ...]]:
    rules: dict[str, tuple[_Rule, ...]] = {}
    for words, rule in (
        (table.SCREENS, Marks.screen),
        (table.SURFACES, Marks.surface),
        (table.ARTWORKS | {word + "s" for word in table.ARTWORKS}, Marks.artwork),
        (table.DRAWN, Marks.drawn),
        (table.PRINTED, Marks.printed),
        (table.TOYS, Marks.toy),
        (table.LIKENESS | table.DRESSED | {"like"}, Marks.likeness),
        (table.FOR_ANYBODY, Marks.for_anybody),
        (frozenset(table.AWAITED), Marks.awaited),
        (table.READYING, Marks.readying),
        (table.MODALS, Marks.might),
        (table.MAYBE, Marks.maybe),
        (table.SUGGESTING | table.WHETHER | table.UNSURE, Marks.rest_of_clause),
        (frozenset({"hard", "difficult", "impossible"}), Marks.hard_to_tell),
        (frozenset({"as"}), Marks.as_if),
        (frozenset({"to"}), Marks.meant_for),
        (frozenset({"outside", "out", "beyond"}), Marks.out_of_view),
        (table.LACKS | table.GONE, Marks.lacks),
        (frozenset(table.OF_LACK), Marks.of_lack),
        (frozenset({"no", "zero"}), Marks.no),
        (frozenset({"hardly", "barely", "scarcely"}), Marks.hardly),
        (frozenset({"nobody", "none"}), Marks._nobody),
        (frozenset({"neither"}), Marks.neither),
        (frozenset({"nor"}), Marks.nor),
        (frozenset({"not", "never"}), Marks.not_),
    ):
        for word in words:
            rules[word] = (*rules.get(word, ()), rule)
    return rules


_RULES = _rules()
