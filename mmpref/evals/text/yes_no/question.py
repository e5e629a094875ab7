"""What a question asks: for which thing, with which number or attribute, or how its words go as a statement."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.clauses import without_stops, words_of
from mmpref.evals.text.yes_no.stems import stem
from mmpref.evals.text.yes_no.things import Words, other_compounds, words_for
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import BE_WORDS, IMAGE_WORDS, NUMBERS, PREPOSITIONS, VERBS, word_says, word_set
from mmpref.evals.text.yes_no.wrapping import fold

Kind = Literal["presence", "contact", "statement", "choice", "unknown"]


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing asked for.

    ``modifiers`` stand before it ("red"), ``tail`` are the words that place it ("sofa" of "on the sofa"), ``count`` is
    the number asked for, None where one is enough, 0 where it must be several.
    """

    words: Words
    modifiers: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as read. ``negated``: it asks for an absence, so that "there is none" is its yes."""

    kind: Kind
    things: tuple[Thing, ...] = ()
    every_thing: bool = False
    negated: bool = False
    pair: tuple[Words, Words] | None = None
    subject: tuple[str, ...] = ()
    predicate: tuple[str, ...] = ()
    options: dict[str, YesNo] = field(default_factory=dict)
    content: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    by_sight: bool = False

    @property
    def compares(self) -> bool:
        """Whether a size, length, shape or brightness is judged, which may look otherwise than it is."""
        return not _JUDGED_BY_EYE.isdisjoint(self.predicate)


_JUDGED_BY_EYE = word_set(
    "than same equal equally parallel straight curved bent length size identical longest largest biggest tallest"
)
UNKNOWN = Asked("unknown")

_INSTRUCTION = re.compile(
    r"(?:please |only |just |simply )*(?:answer|reply|respond)\b[^.?!\n]*(?:yes|no|word|phrase|letter|sentence"
    r"|option)"
    r"[^.?!\n]*[.?!]?|\(?\byes (?:or|/) no\b\)?[?.]?|\byes/no\b[?.]?|<image>|<image \d+>|please think[^.\n]*\.?"
)
_OPTION = re.compile(r"(?:^|[\s;,(])\(?([a-d])[.):]\s*(yes|no|true|false|correct|incorrect)\b")
_IN_IMAGE = re.compile(
    r",? ?\b(?:in|on|from|within|of|inside|for|to) (?:the |this |that |these |your |given |provided |attached "
    r"|above |"
    r"following |same |whole |entire )*(?:image|imange|picture|photo|photograph|scene|figure|frame)s?\b,?"
    r"|\bas shown(?: here)?\b|\b(?:shown|seen|pictured|depicted|visible|present) here\b"
)
_LEAD = re.compile(
    r"^(?:according to|based on|looking at|as shown in|as seen in|from|in|given|considering"
    r"|ac+ro?r?ding to)\b[^,?]{0,120},\s*"
    r"(?=(?:is|are|was|were|do|does|did|can|could|has|have|will|there)\b)"
)
_TAG = re.compile(
    r",\s*(?:(?:is|are|was|were|do|does|did|has|have|can)(?:n't| not)? ?(?:there|it|they|he|she|this)(?: not)?"
    r"|right|correct"
    r"|true|yes|no|or not)\s*\?*\s*$"
)
_SAID_TO_BE = re.compile(
    r"^(?:is it|would it be|is it also) (?:true|correct|right|accurate|the case|fair|likely)(?: to say)? (?:that )?"
    r"|^(?:can|could) you (?:please )?(?:tell me|confirm|say|check)(?: me)? (?:if|whether|that) "
    r"|^do you (?:think|believe) (?:that )?"
    r"|^(?:i want to know|i would like to know|tell me|please tell me|determine|decide|judge|please judge|verify"
    r"|check) "
    r"(?:if|whether) |^whether "
)
_NUMBER = rf"(?P<count>(?:\d{{1,3}}|{'|'.join(NUMBERS)})(?! of the))"
_ARTICLE = (
    r"(?:(?:only|exactly|just|a total of|at least|in total) )?"
    rf"(?:a pair of |a couple of |more than one |several |multiple |any |some |an |a |the |{_NUMBER} )?(?:real "
    rf"|actual |visible )?"
)
_THERE = re.compile(
    rf"^(?:is|are|was|were) (?P<polite>not )?there (?:also |really |actually )?(?P<none>no "
    rf"|not )?{_ARTICLE}(?P<thing>.+)$"
)
_THERE_STATED = re.compile(
    rf"^there (?:is|are|was|were|appears to be|exists?) (?P<none>no |not )?(?P<polite>\b)?{_ARTICLE}(?P<thing>.+)$"
)
_SEE = re.compile(
    rf"^(?:can|do|could|did|does) (?P<polite>not )?(?:you|we|i|one|anyone) (?P<none>not )?(?:see|spot|find"
    rf"|notice|observe|"
    rf"detect|identify|recognize|locate|make out) {_ARTICLE}(?P<thing>.+)$"
)
_SHOWS = re.compile(
    rf"^(?:does|do|did) (?P<polite>not )?(?:the |this |that |it)(?:[a-z]+ )?(?P<none>not )?(?:show|contain|have"
    rf"|include|"
    rf"feature|depict|display|capture|portray) {_ARTICLE}(?P<thing>.+)$"
)
_SHOWN = re.compile(
    rf"^(?:is|are|can) (?P<polite>not )?(?:(?:a|an|any|some|{_NUMBER}) )(?P<thing>.+?) (?P<none>not )?(?:be )?"
    r"(?:visible|present|shown|depicted|seen|pictured|displayed|found|spotted|included|featured|there)(?: anywhere)?$"
)
_SCENE = re.compile(
    r"^is (?:this|the) (?:photo|picture|image) taken (?:in|at|on) (?:a place of |a |an "
    r"|the )(?P<thing>[a-z]+(?: [a-z]+)?)$"
)
_SEE_QUESTION = re.compile(r"^(?:can|do|could|did) (?:you|we|i|one)\b")
_FORMS = (_THERE, _SEE, _SHOWS, _SHOWN, _THERE_STATED)
_SEVERAL = re.compile(r"\b(?:more than one|several|multiple)\b")
_SHOWS_IMAGE = re.compile(
    r"^(?:does|do|did) (?:not )?(?:it|(?:the|this|that) (?:image|imange|picture|photo|photograph|scene|figure))\b"
)
_CONTACT = re.compile(
    r"^is there (?:any )?(?:direct |physical )?contact between (?:the |a |an )?(?P<one>.+?) and (?:the |a "
    r"|an )?(?P<two>.+)$"
)
_EITHER = re.compile(r"\bor\b")
_WH = re.compile(r"^(?:what|which|who|whose|where|when|why|how)\b")
_AUX = re.compile(r"^(?:is|are|was|were|do|does|did|can|could|has|have|had|will|would|should)\b")
_PARTICIPLES = word_set(
    "titled named called written made shown taken located painted created directed published built drawn played "
    "say read rise fall belong exist mean equal depict represent describe range increase decrease drop grow win earn "
    "exceed outnumber touch share surpass reach"
)
_ALSO_NOUNS = word_set(
    "line lines face faces watch watches cover covers cross crosses play plays work works left right rest stand "
    "stands drink drinks turn turns move moves pass passes use uses"
)
_WHOLE_SUBJECTS = word_set("place person man woman boy girl actor actress movie artwork")
"""Nouns that stand alone before what is asked of them: "is this place (a desert)", "does the man (open the door)"."""
_SKIPPED = word_set("a an the this that these those any some there")
_TAIL_SKIPPED = _SKIPPED | {"and", "of", "it", "its", "his", "her", "their", "is", "are", "that", "which", "who"}


@lru_cache(maxsize=20_000)
def read_question(question: str) -> Asked:
    """What the question asks; :data:`UNKNOWN` for an empty one."""
    text = without_stops(fold(question)).strip().replace("country or region of ", "")
    if not text:
        return UNKNOWN
    given = [*_OPTION.finditer(text)]
    options = {option[1]: _option_says(option[2]) for option in given}
    if given:
        text = text[: given[0].start()]
    text = re.sub(r"^(?:[^\w\s]|\s)+|^(?:question|q)\s*:\s*", "", _INSTRUCTION.sub(" ", text)).strip()
    parts = [part.strip() for part in re.split(r"(?<=[?.!])\s+|\n+", text) if re.search(r"\w", part)]
    asking = [part for part in parts if part.endswith("?")] or [part for part in parts if _AUX.match(part)] or parts
    if not asking:
        return Asked("statement", options=options)
    asked = _read(asking[-1])
    if asked.kind == "choice" and re.search(r"\byes\W+(?:or|/)?\W*no\b", fold(question)):
        asked = Asked("statement")  # it wants a yes or no all the same
    content = frozenset(content_words(asking[-1]))
    names = frozenset(word for thing in asked.things for word in thing.words.asserting)
    return Asked(asked.kind, asked.things, asked.every_thing, asked.negated, asked.pair, asked.subject, asked.predicate,
                 options, content, names, _SEE_QUESTION.match(asking[-1]) is not None)  # fmt: skip


def content_words(text: str) -> list[str]:
    """The words of a text that tell it from other questions, in their stems."""
    line = _IN_IMAGE.sub(" ", _INSTRUCTION.sub(" ", text))
    return [
        stem(word) for word in words_of(line) if word.isalnum() and word not in _SKIPPED | BE_WORDS | {"do", "does"}
    ]


def _option_says(word: str) -> YesNo:
    if word in {"true", "correct"}:
        return "yes"
    return "no" if word in {"false", "incorrect"} else word_says(word)


def _read(sentence: str) -> Asked:
    tagged = _TAG.search(sentence)
    line = (sentence[: tagged.start()] if tagged else sentence).strip(" ?.!")
    line = " ".join(words_of(_LEAD.sub("", line)))
    line = _SAID_TO_BE.sub("", _LEAD.sub("", line))
    if _WH.match(line):
        return Asked("statement")
    bare = " ".join(_IN_IMAGE.sub(" ", line).split())
    contact = _CONTACT.match(bare)
    if contact is not None:
        one, two = (words_for(_noun(contact[side].split())) for side in ("one", "two"))
        return Asked("contact", pair=(one, two))
    scene = _SCENE.match(line)
    if scene is not None:
        return Asked("presence", (_thing(scene["thing"].split(), (), None),))
    for form in _FORMS:
        found = form.match(bare)
        if found is not None and not (form is _SHOWS and _SHOWS_IMAGE.match(line) is None):
            return _presence(found, form is _THERE_STATED and tagged is not None)
    return _statement(bare)


def _presence(found: re.Match[str], stated: bool) -> Asked:
    count = found["count"]
    number = None if count is None else NUMBERS.get(count) or int(count)
    if _SEVERAL.search(found.group()):
        number = 0
    if "a pair of" in found.group() or "a couple of" in found.group():
        number = number or 2
    phrase = found["thing"]
    negated = found["none"] is not None and not stated
    head, tail = _head_and_tail(phrase.split())
    every_thing = False
    groups: list[list[str]] = [[]]
    for word in head:
        if word in {"and", "or", ","}:
            every_thing = every_thing or word == "and"
            groups.append([])
        else:
            groups[-1].append(word)
    things = [_thing(group, tail, number) for group in groups if group]
    if not things or (negated and len(things) > 1):
        return Asked("statement")
    return Asked("presence", tuple(things), every_thing=every_thing, negated=negated)


def _thing(words: list[str], tail: tuple[str, ...], count: int | None) -> Thing:
    while len(words) > 1 and words[0] in _SKIPPED:
        words = words[1:]
    name = _noun(words)
    modifiers = words[: len(words) - name.count(" ") - 1]
    return Thing(words_for(name), tuple(modifiers), tail, count)


def _noun(words: list[str]) -> str:
    """The thing that the last words name, in the singular: the longest known name, or the last word."""
    words = [word for word in words if word not in _SKIPPED] or words
    for size in (3, 2):
        if len(words) >= size:
            name = " ".join([*words[-size:-1], singular(words[-1])])
            if _is_known(name):
                return name
    last = singular(words[-1])
    return {"skis": "skis", "glasses": "glasses", "person": "person", "persons": "person"}.get(words[-1], last)


@lru_cache(maxsize=4096)
def _is_known(name: str) -> bool:
    words = words_for(name)
    return len(words.asserting) > 1 or len(words.denying) > 1 or name in other_compounds()


def _head_and_tail(words: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The words up to the thing, and those that say more of it: "dog", ("sofa") of "dog on the sofa"."""
    for index, word in enumerate(words):
        ends = word in PREPOSITIONS or word in BE_WORDS or word in {"that", "which", "who", "whose", "with", "wearing"}
        if index and (ends or (word.endswith("ing") and index + 1 < len(words)) or word in VERBS - _ALSO_NOUNS):
            tail = [each for each in words[index:] if each not in _TAIL_SKIPPED and each not in IMAGE_WORDS]
            tail = [each for each in tail if each not in {"visible", "present", "shown", "seen", "appear", "appearing"}]
            return words[:index], tuple(tail)
    return words, ()


def _statement(line: str) -> Asked:
    """A question whose words are looked for as a statement: "is the sky blue" is (sky), (blue)."""
    words = [word for word in line.split() if word.isalnum() or word not in {",", '"', "/"}]
    if not words:
        return Asked("statement")
    negated = False
    does = words[0] in {"do", "does", "did"}
    if _AUX.match(words[0]) and len(words) > 1:
        words = words[1:]
        if words[0] == "not":  # "isn't the sky blue" asks whether it is
            words = words[1:]
        if not words:
            return Asked("statement")
    if len(words) > 2 and "not" in words:
        negated = True
        words = [word for word in words if word != "not"]
    if _EITHER.search(line) and not {"either", "whether", "all", "any", "both", "every", "each", "some"} & set(
        line.split()
    ):
        return Asked("choice")
    subject, predicate = _subject_and_predicate(words, does)
    things: tuple[Thing, ...] = ()
    if len(predicate) == 1 and len(subject) == 1:  # "is the cat black" is also answered by "a black cat"
        things = (Thing(words_for(_noun(list(subject))), modifiers=predicate),)
    return Asked("statement", things, negated=negated, subject=subject, predicate=predicate)


def _subject_and_predicate(words: list[str], does: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if words[0] in {"it", "they", "he", "she", "you"} and len(words) > 1:
        return (), _content(words[1:])
    if words[0] == "i" and len(words) > 1:
        return ("i",), _content(words[1:])
    if len(words) > 2 and words[0] in {"this", "that", "the"} and words[1] in _WHOLE_SUBJECTS and words[2] != "'s":
        return (words[1],), _content(words[2:])
    if words[0] in {"this", "that", "these", "those"} and (
        len(words) > 1 and (words[1] in _SKIPPED or words[1] in PREPOSITIONS or words[1].endswith("ing"))
    ):
        return (), _content(words[1:])
    end = 1 if words and words[0] in _SKIPPED | {"all", "two", "both", "his", "her", "their"} else 0
    start = end
    while end < len(words):
        word = words[end]
        stops = (
            word in PREPOSITIONS | _SKIPPED | BE_WORDS | {"have"} | (VERBS - _ALSO_NOUNS)
            or word.endswith("ing")
            or (end > start and (word in _PARTICIPLES or (len(word) > 4 and word.endswith("ed"))))
        )
        # "does the blue line cross the red line": a verb that is a noun too has its object after it
        stops = stops or (does and word in VERBS and words[end + 1 : end + 2] in (["the"], ["a"], ["an"], ["its"]))
        compares = end + 1 < len(words) and words[end + 1] == "than"
        if end > start and (stops or compares or word in NUMBERS or word.isdigit()):
            break
        end += 1
    if end == len(words):
        # a verb in its plain form or an adjective at the end: all but the first noun
        end = max(start + 1, len(words) - 1)
    return _content(words[:end]), _content(words[end:])


def _content(words: list[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word not in _SKIPPED and word != "'s")
