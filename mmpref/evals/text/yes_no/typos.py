"""Words of the question that an answer misspells by one letter, put right: "bycicle", "umbrela", "thre is no dog"."""

from __future__ import annotations

import re
from functools import lru_cache

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.things import known_words
from mmpref.evals.text.yes_no.words import word_set

_WORD = re.compile(r"[a-z]{3,20}")
_THERE = re.compile(
    r"(?:^|(?<=[.,;:!?\n] )|(?<=[.,;:!?\n]))(?P<word>t[a-z]{3,5})(?= (?:is|are|isn't|aren't|isnt|arent)\b)"
)
_REAL = word_set(
    "these three theme thee then them they that this those thing things their trees toilet tower table truck train "
    "bandana widow remove singer breach branch brunch bench beach marred matter letter kitted mitten remoter planet "
    "carol dining signing sitting setting staring string swing stranger strange change charge course horde quiet quite "
    "trail trial angle angel desert dessert diary dairy left felt form from unite untie silent listen "
    "ireland iceland austria martin marvin winter winner poster cherry"
)
_NOT_NAMES = word_set(
    "is are was were does did the this that these those there image picture photo answer please yes any and with "
    "from have has not you can see one two three four five six shown what which whether"
)
_INFLECTED = ("ing", "ed", "er", "est", "ly")
_LONG = 6
"""Letters of a word in which one that is wrong, missing or too many leaves it the same word to a reader."""

_VERY_LONG = 8
"""Letters of a word in which another letter is a mistake, and not another word ("bottle", "battle")."""


def put_right(folded: str, question: str) -> str:
    """The text with the question's words in it as the question spells them."""
    folded = _THERE.sub(lambda found: "there" if _is_misspelt(found["word"], "there") else found["word"], folded)
    asked = _asked_words(question)
    if not asked:
        return folded
    wrong: dict[str, str] = {}
    for word in set(_WORD.findall(folded)):
        for name in asked.get(word[0], ()):
            if word != name and abs(len(word) - len(name)) <= 1 and _is_misspelt(word, name):
                wrong[word] = name
    return _WORD.sub(lambda found: wrong.get(found.group(), found.group()), folded) if wrong else folded


@lru_cache(maxsize=20_000)
def _asked_words(question: str) -> dict[str, tuple[str, ...]]:
    """The question's words by their first letter."""
    found: dict[str, tuple[str, ...]] = {}
    for word in dict.fromkeys(_WORD.findall(question.lower())):
        if word not in _NOT_NAMES:
            found[word[0]] = (*found.get(word[0], ()), word)
    return found


@lru_cache(maxsize=50_000)
def _is_misspelt(word: str, name: str) -> bool:
    if word in _REAL or word[0] != name[0] or word in known_words() or singular(word) in known_words():
        return False
    if len(word) == len(name) and sorted(word) == sorted(name):
        return True
    if word.endswith(_INFLECTED):
        return False  # "diving" is no misspelt "driving", "waiting" no "writing"
    if len(name) < _LONG and name != "there":
        return False
    if len(word) == len(name):
        return (
            len(name) >= _VERY_LONG
            and sum(one != other for one, other in zip(word, name, strict=True)) == 1
            and word[-1] == name[-1]
        )
    short, long = sorted((word, name), key=len)
    if long[:-1] == short:
        return False  # another number or form of the word
    return any(long[:cut] + long[cut + 1 :] == short for cut in range(1, len(long)))
