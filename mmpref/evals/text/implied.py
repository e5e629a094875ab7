"""Objects that a caption implies without their name: "she" is a person, the board of a surfer a surfboard."""

from __future__ import annotations

from collections.abc import Collection

from mmpref.evals.text import context_words as table
from mmpref.evals.text.caption_words import CaptionWords

IMPLYING = frozenset({"he", "she", "board", "pot", "stop"})
"""Words that imply an object which they do not name."""
_GROWING = frozenset({"plant", "flower", "tree", "fern", "cactus", "succulent", "palm", "geranium", "herb"})
_OTHER_ANIMALS = frozenset(
    {"animal", "goat", "pig", "lion", "tiger", "monkey", "deer", "rabbit", "donkey", "wolf", "fox"}
)
_BOARDS = {"surf": "surfboard", "snow": "snowboard", "skate": "skateboard"}


def implied(words: CaptionWords, one: frozenset[str], counted: Collection[str]) -> list[tuple[int, str, str]]:
    """Places, words and names of objects that are implied: "she" is a person, the board of a surfer a surfboard.

    "He" may be a dog in a caption of a dog. Each object comes once at most.

    Args:
        one: all words of the caption in the singular.
        counted: the objects that the caption says to be in the picture.
    """
    found: dict[str, tuple[int, str, str]] = {}
    if one.isdisjoint(IMPLYING):
        return []
    animals = not table.ANIMALS.isdisjoint(counted) or not _OTHER_ANIMALS.isdisjoint(one)
    for at, word in enumerate(words.one):
        if word == "stop" and "sign" in words.one[max(0, at - 6) : at]:
            if not table.WRITTEN.isdisjoint(words.raw[max(0, at - 4) : at]) and words.one[at + 1 : at + 2] != ["sign"]:
                sign = max(place for place in range(max(0, at - 6), at) if words.one[place] == "sign")
                found.setdefault("stop sign", (sign, "sign", "stop sign"))  # "a sign that reads STOP"
        elif word == "pot" and {"in", "inside"} & {*words.raw[max(0, at - 3) : at]}:
            if _GROWING & {*words.one[max(0, at - 5) : at]}:
                found.setdefault("potted plant", (at, word, "potted plant"))
        elif word in ("he", "she") and not animals:
            found.setdefault("person", (at, word, "person"))
        elif word == "board" and at and words.raw[at - 1] in ("his", "her", "their", "the", "a"):
            for sport, name in _BOARDS.items():
                if not one.isdisjoint({f"{sport}er", f"{sport}boarder", f"{sport}ing", f"{sport}boarding"}):
                    found.setdefault(name, (at, word, name))
    return [*found.values()]
