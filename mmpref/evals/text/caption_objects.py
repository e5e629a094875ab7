"""mmpref's text routine: the objects that a caption says are in the picture, and those that it only names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from mmpref.evals.text.caption_words import COMMA, CaptionWords, cut, given
from mmpref.evals.text.context_words import AFTER_VERBS, VERBS_AFTER_NOUNS
from mmpref.evals.text.implied import IMPLYING, implied
from mmpref.evals.text.joined_words import NO_OBJECT, QUALIFIED
from mmpref.evals.text.lookalikes import lookalikes, object_word
from mmpref.evals.text.mention_context import reasons
from mmpref.evals.text.mentions import Extractor, Mention, NotCounted, Reading, Tokenize
from mmpref.evals.text.reasons import DEPICTED, NEGATED, POSSIBLE
from mmpref.evals.text.vocabulary import Vocabulary
from mmpref.evals.text.word_place import Place
from mmpref.evals.text.word_senses import other_sense

_Found: TypeAlias = tuple[str, int, int, str]
"""A word or several as one, the place of the first, how many, and why it is no object, "" if it may be one."""


def extract_mmpref(vocabulary: Vocabulary, tokenize: Tokenize | None = None) -> Extractor:
    """mmpref's text routine.

    Args:
        tokenize: replaces our tokens and singular forms by the caller's.
    """
    words = vocabulary.clean
    known = _KnownWords(words)
    take: Callable[[str], CaptionWords] = cut if tokenize is None else lambda caption: given(tokenize(caption))

    def read(caption: str) -> Reading:
        return _read(take(caption), known)

    return Extractor(read)


class _KnownWords:
    """What a caption is searched for: the words of objects, and phrases that only look like them."""

    def __init__(self, objects: Mapping[str, str]) -> None:
        self.objects = objects
        self.implied = frozenset(objects.values()) if "man" in objects else frozenset()
        self.lookalikes = lookalikes(objects)
        self._longest: dict[str, int] = {}
        self._followers: dict[str, set[str]] = {}  # the first word of what is known -> all that may follow it
        for phrase in (*QUALIFIED, *NO_OBJECT, *objects, *self.lookalikes):
            first, *rest = phrase.split()
            self._longest[first] = max(self._longest.get(first, 1), 1 + len(rest))
            self._followers.setdefault(first, set()).update(rest[:1])

    def join(self, words: CaptionWords) -> list[_Found]:
        """All words of objects and their lookalikes, from left to right, longest first."""
        found: list[_Found] = []
        texts, followers, objects = words.one, self._followers, self.objects
        free = 0
        for index in [at for at, text in enumerate(texts) if text in followers or "-" in text]:
            if index < free:
                continue
            text, size, why = texts[index], 1, ""
            after = texts[index + 1] if index + 1 < len(texts) else ""
            if "-" in text or after in followers[text]:
                text, size, why = self._match(words, index)
                free = index + size
            if why or text in objects:
                found.append((text, index, size, why))
        return found

    def _match(self, words: CaptionWords, index: int) -> tuple[str, int, str]:
        """The word at ``index``, joined with its followers when known as one, how many, and why it is no object."""
        texts = words.one
        text = texts[index]
        hyphened = "-" in text and text not in self.objects
        longest = max(2, self._longest.get(text.split("-")[0], 1)) if hyphened else self._longest.get(text, 1)
        for size in range(min(longest, len(texts) - index), 0, -1):
            phrase = " ".join(texts[index : index + size])
            if hyphened:  # "hot-dog" is hot dog, "double-decker bus" one bus, "bus-stop" none
                phrase = phrase.replace("-", " ")
            elif size == 1:
                break
            if COMMA in words.breaks[index + 1 : index + size]:
                continue  # "a microwave, oven" are two
            if phrase in self.objects or phrase in NO_OBJECT:
                return phrase, size, ""
            if size == 2 and phrase in QUALIFIED:
                return QUALIFIED[phrase], 2, ""
            if phrase in self.lookalikes and _is_one_noun(words, index, size):
                return phrase, size, self.lookalikes[phrase]
        return (joined if hyphened and (joined := text.replace("-", "")) in self.objects else text), 1, ""  # "tea-pot"


_IS_TOY = frozenset({"toy", "stuffed", "plush"})
_SEVERAL = frozenset({"two", "three", "several", "many", "these", "all"})


def _read(words: CaptionWords, known: _KnownWords) -> Reading:
    reading = Reading([], [])
    found = known.join(words)
    one = frozenset(words.one)
    if not found and one.isdisjoint(IMPLYING):
        return reading
    marks = reasons(words)
    counted: set[str] = set()
    shown: set[str] = set()  # objects of which there was only a picture so far
    for text, index, size, why in found:
        last = index + size - 1
        name = known.objects[text if text in known.objects else object_word(text, known.objects)]
        if not why:
            why = next((marks[at] for at in range(index, last + 1) if at in marks), "") if marks else ""
            teddy = why == DEPICTED and name == "teddy bear"
            if teddy and not _IS_TOY.isdisjoint(words.raw[max(0, index - 2) : last + 1]):
                why = ""  # a toy is what it is
            why = why or (POSSIBLE if words.asked[index] else other_sense(Place(words, index, last, one), text, name))
            if not why and name in shown and index and words.raw[index - 1] == "the":
                why = DEPICTED  # "the dog" takes up the dog that was spoken of before
        span = words.span(index, last)
        if why:
            reading.not_counted.append(NotCounted(text, name, span, why))
            if why == DEPICTED and name not in counted:
                shown.add(name)
        else:
            reading.mentions.append(Mention(text, name, index, span))
            counted.add(name)
            shown.discard(name)
    denied = {entry.object for entry in reading.not_counted if entry.why in (NEGATED, POSSIBLE, DEPICTED)}
    for at, word, name in implied(words, one, frozenset(counted)):
        if name in known.implied - counted - denied and at not in marks and not words.asked[at]:
            counted.add(name)
            reading.mentions.append(Mention(word, name, at, words.span(at, at)))
            reading.mentions.sort(key=lambda mention: mention.position)
    return reading


def _is_one_noun(words: CaptionWords, index: int, size: int) -> bool:
    """Whether words stand together as one noun: not "a bench. Press", "buses stop" and "a bus stops at"."""
    if any(words.breaks[index + 1 : index + size]):
        return False
    last = index + size - 1
    if words.raw[index] == "by":  # "arrives by car", but "surrounded by cars"
        return words.raw[last] == words.one[last]
    if words.one[last] not in VERBS_AFTER_NOUNS or size > 2:
        return True
    if words.raw[index] != words.one[index]:
        return False
    if words.raw[last] == words.one[last] or last + 1 >= len(words.raw) or words.breaks[last + 1]:
        return True
    after = words.raw[last + 1]
    several = bool(index) and words.raw[index - 1] in _SEVERAL
    return after not in AFTER_VERBS and (several or after not in _PLACES)


_PLACES = frozenset({"at", "in", "on", "near", "by", "next", "to", "along", "behind", "past", "beside"})
