"""Denials of what is counted or where a picture was taken: "four cats, not three", "it was not taken in a kitchen"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.hedges import is_open
from mmpref.evals.text.yes_no.question import Asked
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import NUMBERS

_NUMBER = rf"(?P<count>\d{{1,3}}|{'|'.join(NUMBERS)})"
_NOT_SO_MANY = re.compile(
    rf"(?:, |\band |\bbut |, and )(?:not|rather than|instead of) (?:just |only |exactly |the )?{_NUMBER}"
    r"(?: of them| here| in total)?(?: (?P<thing>[a-z][a-z -]*))?$"
)
_ONLY = re.compile(
    rf"\b(?:there (?:is|are)|i (?:can )?(?:see|count)|(?:image|picture|photo) (?:shows|contains|has)) (?:only"
    rf"|just|merely|but) (?:a single|{_NUMBER}) (?P<thing>[a-z][a-z -]*?)(?: (?:in|on|at|here|visible|present)\b.*)?$"
)
_NUMBER_IS_NOT = re.compile(
    rf"^the (?:total )?(?:number|count) of (?P<thing>[a-z][a-z -]*?) (?:is|does) not (?:equal )?{_NUMBER}$"
)

_NOT_TAKEN = re.compile(
    r"^(?:it|this|(?:the|this) (?:photo|picture|image|photograph|scene)) is not (?:taken|shot|captured|set|made) "
    r"(?:in|at|inside|on) (?:an? |the )?(?P<thing>[a-z][a-z -]*)$"
)


def denial_says(words: Sequence[str], asked: Asked) -> YesNo:
    """ "No" where a contrast denies the number, or a picture was not taken in the place asked for; else "unparsed"."""
    if len(asked.things) != 1 or is_open(words):
        return "unparsed"
    thing = asked.things[0]
    line = " ".join(words[:60])
    taken = _NOT_TAKEN.match(line.replace(" was ", " is ", 1))
    if taken is not None:
        return "no" if singular(taken["thing"]) in thing.words.denying and not thing.modifiers else "unparsed"
    if not thing.count:
        return "unparsed"
    few = _ONLY.search(line)
    if few is not None and singular(few["thing"]) in thing.words.denying and not thing.modifiers:
        number = few["count"] or "1"
        return "no" if (NUMBERS.get(number) or int(number)) < thing.count else "unparsed"
    found = _NOT_SO_MANY.search(line) or _NUMBER_IS_NOT.match(line)
    if found is None:
        return "unparsed"
    name = found["thing"]
    if name is not None and singular(name) not in thing.words.denying:
        return "unparsed"
    if name is None and " not " in f" {line[: found.start()]} ":
        return "unparsed"
    said = NUMBERS.get(found["count"]) or int(found["count"])
    return "no" if said == thing.count else "unparsed"
