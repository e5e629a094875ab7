"""Reading yes or no as three public tools do: one pure function each, an answer to ``yes``, ``no`` or ``unparsed``.

``official`` follows RUCAIBox/POPE ``evaluate.py``, ``lmms_eval`` follows lmms-eval ``tasks/pope/utils.py`` and
``vlmevalkit`` follows VLMEvalKit ``dataset/utils/yorn.py`` without its optional judge. They keep the quirks of the
tools they are named after, and none of them looks at the question.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias

YesNo = Literal["yes", "no", "unparsed"]
Reader: TypeAlias = Callable[[str, str], YesNo]
"""The answer and its question ("" where it is not known) -> what the answer says."""


def read_official(text: str, question: str = "") -> YesNo:
    """POPE's rule: "no" when the text before the first full stop has the word No, no or not, otherwise "yes".

    Commas are deleted and words are what single spaces separate, so ``NO``, ``**No**``, ``No!`` and an empty answer
    are all "yes". Nothing is ever unparsed.
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if not {"No", "no", "not"}.isdisjoint(words) else "yes"


def read_lmms_eval(text: str, question: str = "") -> YesNo:
    """lmms-eval's rule: the whole answer, trimmed and lower-cased, is "yes" or "no"; "Yes." is neither."""
    word = text.lower().strip()
    if word == "yes":
        return "yes"
    return "no" if word == "no" else "unparsed"


_VLMEVALKIT_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"(?<!\d)\.(?!\d)")
_FULL_STOPS_REMOVED = 32  # the tool passes the flag re.UNICODE, whose value is 32, where the count belongs


def read_vlmevalkit(text: str, question: str = "") -> YesNo:
    """VLMEvalKit's rule: exactly one of the words yes and no is present after its clean-up of punctuation.

    The clean-up deletes a mark that touches a space somewhere (or every mark when the text has a comma between
    digits) and otherwise turns it into a space. Colons, quotes, asterisks and unicode marks stay, so ``**No**`` is
    unparsed.
    """
    lower = text.lower()
    deletes_all = _DIGIT_COMMA_DIGIT.search(lower) is not None
    cleaned = lower
    for mark in _VLMEVALKIT_MARKS:
        touches_space = f"{mark} " in lower or f" {mark}" in lower
        cleaned = cleaned.replace(mark, "" if deletes_all or touches_space else " ")
    words = set(_FULL_STOP.sub("", cleaned, count=_FULL_STOPS_REMOVED).split())
    if "yes" in words:
        return "unparsed" if "no" in words else "yes"
    return "no" if "no" in words else "unparsed"
