"""An answer as the single claims that it makes, by rules: its sentences, and the clauses that these join.

English, and as much of other languages as punctuation gives. What follows "and" is a claim of its own only where it has
a subject and a verb of its own, as far as short lists of words can see that: a claim that holds two facts is asked as
one question, while half a clause would be asked as nonsense. Plain lists of things are divided, alone and after "there
is".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_THOUGHT = re.compile(r"\A\s*<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL)
_MARKER = re.compile(r"^\s*(?:[-*•–—+]|\(?\d{1,3}[.):]|[a-z][.)]|[A-Z]\))\s+")
_HEADING = re.compile(r"^\s*#{1,6}\s")
_EMPHASIS = re.compile(r"\*\*|__|`")
_END = re.compile(r"""(?P<mark>[.!?]+)["'”’)\]]*(?=\s|$)|[。！？]+|;(?=\s|$)|；""")
_LAST_WORD = re.compile(r"(?:^|[\s(\"'“‘])([\w.&-]+)\Z")
_BEFORE_NAMES = frozenset(("mr", "mrs", "ms", "dr", "prof", "st", "mt", "fig", "vs", "e.g", "i.e", "cf", "approx"))
"""Abbreviations that no sentence ends with."""
_IN_SENTENCES = frozenset(("etc", "inc", "ltd", "co", "corp", "ft", "sq", "jr", "sr", "ca", "min", "max", "al"))
"""Those that one may end with: it goes on where a small letter follows."""

_VERBS = (
    "is|are|was|were|am|isn't|aren't|wasn't|weren't|has|have|had|hasn't|haven't|does|do|did|doesn't|don't|can|cannot|can't|"
    "could|will|would|may|might|must|should|seems?|appears?|looks?|stands?|sits?|lies|lie|holds?|wears?|shows?|contains?|"
    "includes?|walks?|runs?|rides?|plays?|eats?|drinks?|hangs?|leans?|rests?|carries|carry|covers?|fills?|surrounds?|"
    "depicts?|displays?|reads|says|suggests?|indicates?|occupies|adds?|creates?|gives?|makes?|features?|flies|fly"
)
_VERB = re.compile(rf"\b(?:{_VERBS})\b", re.IGNORECASE)
_RELATIVE = re.compile(r"\b(?:that|which|who|whom|whose|where|when|if|because)\b", re.IGNORECASE)
_SUBJECT = re.compile(
    r"(?:there|it|he|she|they|we|you|i|this|that|these|those|the|a|an|his|her|its|their|another|other|others|one|two|"
    r"three|four|five|six|seven|eight|nine|ten|\d+|some|several|many|most|all|both|each|every|no|none|neither|nothing|"
    r"nobody|someone|somebody|something|everyone|everything|people|in|on|at|behind|beside|near|next|above|below|under)\b",
    re.IGNORECASE,
)
_JOINT = re.compile(r",?\s+(?:and|but|while|whereas|yet|although|though)\s+(?:also\s+|then\s+)?", re.IGNORECASE)
_LIST_JOINT = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
_THERE = re.compile(r"\s*there\s+(is|are|was|were)\s+", re.IGNORECASE)
_THING = re.compile(
    r"(?:a|an|the|no|another|one|two|three|four|five|six|seven|eight|nine|ten|\d+|some|several|many)(?:\s+[\w'’-]+){1,4}",
    re.IGNORECASE,
)
_OF_PLACE = re.compile(
    r"\b(?:with|of|on|in|at|to|from|by|for|between|behind|beside|beneath|under|over|above|below|near|against|around|"
    r"along|across|through|into|onto|off|like|than|as|or|not|that|which|who|where|\w+ing)\b",
    re.IGNORECASE,
)
_ONE = re.compile(r"(?:a|an|one|another)\b", re.IGNORECASE)
_OPENING = re.compile(r"^(?:yes|no|sure|certainly|of course|okay|ok|well)\s*[,!:–—-]+\s*(?=\S)", re.IGNORECASE)
_NO_FACT = re.compile(
    r"^(?:yes|no|none|sure|certainly|of course|okay|ok|not sure|i (?:do not|don't) know|"
    r"i(?:'m| am) (?:not sure|sorry))\W*$",
    re.IGNORECASE,
)
_LONGEST_WORD = 40
_STOP = re.compile(r"""[\s.!。！]+(["”’)]*)\Z""")
_FROM_EAST_ASIA = 0x2E80
"""Scripts from here on write words without blanks between them."""


def claims_of(text: str) -> tuple[str, ...]:
    """The claims of an answer in their order, each a sentence that begins with a capital; equal ones are there once.

    What states nothing is left out: questions, introductions that end with a colon, headings, "Yes", single words.
    """
    found: dict[str, str] = {}
    for line in _THOUGHT.sub("", text).splitlines():
        if _HEADING.match(line):
            continue
        for sentence in _sentences(_EMPHASIS.sub("", _without_markers(line)).strip()):
            for clause in _clauses(_OPENING.sub("", sentence)):
                for single in _things(clause):
                    if claim := _as_claim(single):
                        found.setdefault(claim.casefold(), claim)
    return tuple(found.values())


def facts_of_list(text: str, *, cut: bool = False) -> tuple[str, ...]:
    """The claims of a list that a model wrote, one a line; equal ones are there once.

    Args:
        cut: the limit of tokens ended it: its last line is not whole, and is left out.
    """
    lines = _THOUGHT.sub("", text).splitlines()
    found: dict[str, str] = {}
    for line in lines[:-1] if cut else lines:
        if not _HEADING.match(line) and (claim := _as_claim(_EMPHASIS.sub("", _without_markers(line)))):
            found.setdefault(claim.casefold(), claim)
    return tuple(found.values())


def _without_markers(line: str) -> str:
    """Without what a list puts before its items: "1. ", "- ", and both where a list is in a list."""
    return _MARKER.sub("", _MARKER.sub("", line))


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for end in _END.finditer(line):
        if _goes_on(line, end):
            continue
        yield line[start : end.end()]
        start = end.end()
    yield line[start:]


def _goes_on(line: str, end: re.Match[str]) -> bool:
    """Whether a full stop ends an abbreviation and no sentence."""
    if end["mark"] != ".":
        return False
    found = _LAST_WORD.search(line[max(0, end.start() - _LONGEST_WORD) : end.start()])
    word = found[1] if found else ""
    following = line[end.end() :].lstrip()
    if not following:
        return False
    if word.lower() == "no":  # "No. 5", and "No. There is a dog."
        return following[0].isdigit()
    if word.lower() in _BEFORE_NAMES:
        return word != "st"
    if len(word) == 1 and word.isalpha() and word.isupper():
        return word != "I"  # an initial
    is_short = word.lower() in _IN_SENTENCES or ("." in word and not word[0].isdigit())
    return is_short and following[0].islower()


def _clauses(sentence: str) -> Iterator[str]:
    """The clauses that a sentence joins, where both sides of the joint can stand alone."""
    start = 0
    for joint in _JOINT.finditer(sentence):
        before, after = sentence[start : joint.start()], sentence[joint.end() :]
        if _VERB.search(before) and _is_clause(after):
            yield before
            start = joint.end()
    yield sentence[start:]


def _things(clause: str) -> list[str]:
    """The things of a plain list ("a cat, two dogs and a tree"), each as there was written that it is there; else the
    clause as it is. A place or a relation in it may hold for one of them or for all."""
    there = _THERE.match(clause)
    body = (clause[there.end() :] if there else clause).strip(" .!")
    things = _LIST_JOINT.split(body)
    if len(things) < 2 or not all(_THING.fullmatch(thing) for thing in things):
        return [clause]
    if _VERB.search(body) or _OF_PLACE.search(body):
        return [clause]
    if there is None:
        return things
    one, more = ("was", "were") if there[1].lower() in ("was", "were") else ("is", "are")
    return [f"There {one if _ONE.match(thing) or _is_of_one(thing) else more} {thing}" for thing in things]


def _is_of_one(thing: str) -> bool:
    """Whether "the" or "no" stands before a word for one thing, as far as its end shows."""
    return bool(re.match(r"(?:the|no)\b", thing, re.IGNORECASE)) and not re.search(r"[^s]s$", thing)


def _is_clause(text: str) -> bool:
    """Whether it begins with a subject that a verb follows, and not only inside a relative clause."""
    subject, joint = _SUBJECT.match(text), _JOINT.search(text)
    verb = _VERB.search(text[: joint.start()] if joint else text)
    if subject is None or verb is None:
        return False
    return not _RELATIVE.search(text[: verb.start()], subject.end())  # "that" may be the subject itself


def _as_claim(text: str) -> str:
    """A piece of text as a sentence; "" where it states nothing."""
    text = " ".join(text.split()).strip(" ,;；–—-")
    if text.endswith((":", "：", "?", "？")) or _NO_FACT.match(text):
        return ""
    bare = _STOP.sub(r"\1", text)
    words = re.findall(r"\w+", bare)
    letters = [letter for letter in bare if letter.isalpha()]
    if len(words) < 2 and not (len(letters) > 3 and all(ord(letter) >= _FROM_EAST_ASIA for letter in letters)):
        return ""
    if not letters:
        return ""
    return f"{bare[0].upper()}{bare[1:]}{'。' if ord(letters[-1]) >= _FROM_EAST_ASIA else '.'}"


def distinct(claims: Iterable[Iterable[str]]) -> dict[str, str]:
    """Of several answers' claims each once: how it is compared, and how it was first written."""
    found: dict[str, str] = {}
    for of_answer in claims:
        for claim in of_answer:
            found.setdefault(claim.casefold(), claim)
    return found
