"""Words compared in their order: whether a statement's words are those that a question asks for."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.stems import stem
from mmpref.evals.text.yes_no.things import narrower
from mmpref.evals.text.yes_no.words import ADVERBS, AUXILIARIES, PREPOSITIONS, word_set

ARTICLES = word_set("a an the this that these those any some there")
PRONOUNS = word_set("it they he she that this these those both them one")
_PASSED_OVER = word_set("to be been being have has quite slightly bright light dark deep pale brightly")
HARDLY = frozenset({"hardly", "scarcely", "barely"})
PARTLY = word_set(
    "partly partially half not-quite almost nearly mostly only completely entirely fully all totally too somewhat "
    "exactly always"
)
LOOKS = word_set("look looks looked seem seems seemed appear appears appeared remains stays")
SEEMS = LOOKS - {"remains", "stays"}
IN_IMAGE = re.compile(
    r"\b(?:in|of|from|within|on) (?:the |this |that |these |your |given |provided )*(?:image|picture|photo"
    r"|photograph|scene|"
    r"figure|frame)s?\b"
)
LEAD = re.compile(
    r"^(?:based on|contrary to|according to|looking at|as shown in|from|judging by|as|in)\b[^,]{0,100} , "
)

_ALIKE = [
    {"says", "read"}, {"say", "reads"}, {"reads", "say"}, {"called", "named"}, {"titled", "called"}, {"larger",
    "bigger"},
    {"holding", "carrying"}, {"picture", "photo"}, {"big", "large"}, {"grey", "gray"}, {"parked", "stationary"},
    {"photo", "photograph"}, {"smaller", "littler"}, {"made", "created"}, {"painted", "created"}, {"nearby", "near"},
    {"program", "code"}, {"script", "code"}, {"sign", "logo"},
]  # fmt: skip


def same(word: str, wanted: str) -> bool:
    """Whether two words name the same, or the first a narrower thing."""
    if not (word.isascii() and wanted.isascii()):
        word, wanted = _without_accents(word), _without_accents(wanted)
    if word == wanted or stem(word) == stem(wanted) or {word, wanted} in _ALIKE:
        return True
    return singular(word) in narrower(singular(wanted))


def _without_accents(word: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", word) if unicodedata.category(char) != "Mn")


def matches(words: Sequence[str], wanted: Sequence[str], whole: bool = False, strict: bool = False) -> bool:
    """Whether the words begin with the wanted ones in their order; with ``whole`` nothing else follows.

    With ``strict`` no adjective may stand between: who wears no red hat may wear a blue one.
    """
    if not wanted:
        return False
    if "than" in wanted and list(words) and not whole:  # "bar a is taller"
        short = wanted[: list(wanted).index("than")]
        if short and len(words) <= len(short) + 1 and "than" not in words:
            return matches(words, short, whole=True)
    if len(wanted) > 2 and wanted[0] in {"picture", "photo", "image", "photograph"} and "of" in wanted[1:7]:
        rest = wanted[list(wanted).index("of") + 1 :]
        if words[:1] not in (["picture"], ["photo"], ["image"], ["photograph"]) and matches(words, rest, whole):
            return True
    strict = strict or whole or "than" in wanted
    place = 0
    passed = 0
    for index, word in enumerate(words):
        if same(word, wanted[place]):
            place, passed = place + 1, 0
            if place == len(wanted):
                rest = [each for each in words[index + 1 :] if each not in ADVERBS]
                if whole:
                    return not rest
                return not rest or goes_on(rest[0], wanted[-1])
        elif place and word in {"it", "them", "him", "her", "one"} and index == len(words) - 1:
            return True  # "he did not catch it"
        elif word in PARTLY:
            return False
        elif word in ADVERBS or word in _PASSED_OVER or word in ARTICLES or word.endswith("ly"):
            continue
        elif (
            place
            and not strict
            and passed < 3
            and word not in {",", '"'}
            and word not in PREPOSITIONS | AUXILIARIES | {"and", "or", "not", "no", "never"}
        ):
            passed += 1  # an adjective: "wearing a (red) hat"
        else:
            return False
    return False


def goes_on(word: str, last: str) -> bool:
    """Whether a statement may go on with this word without changing what stands before it."""
    if word in {"or"}:
        return False
    return (
        word in PREPOSITIONS or word in {",", "and", "which", "who", "that", "when", "if", '"', "each", "here"}
        or word in {"solid", "upright", "still", "down", "up", "there", "straight", "motionless",
        "over", "outside", "too", "itself", "alone", "whereas"}
        or word.endswith(("ing", "ed", "ly"))
    )  # fmt: skip
