"""Whether a word that may name an object is a verb: "to tie the game", "two women train for a marathon"."""

from __future__ import annotations

from mmpref.evals.text import context_words as table
from mmpref.evals.text.singular import singular
from mmpref.evals.text.word_place import Place


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VERBS = _words(
    "train tie bear book ski monitor sink duck bat fork seat man ram ship kite cup bowl nurse ball coach guard fan "
    "pilot phone clock skate bottle boat ferry steer crow hawk father parent groom dove chair table bus skis jet cook "
    "knife remote bench spoon park bed plane cab mother purse cow dog wolf ape toast cork"
)
"""Words that name an object or what somebody does."""
_BEFORE_VERBS = _words("they we you i will would can could may might must should not he she who let please")
_NOT_BEFORE_VERBS = _words(
    "next close adjacent due similar attached connected near belongs leading leads according addition hooked tied "
    "opposite parallel relative belonging access nearer closer beside back"
)


def is_verb(place: Place) -> bool:
    """ "to tie the game", "two women train for", "passengers bear the heat", "he books a flight"."""
    before, after, written = place.before(), place.after(), place.written
    several = before == "people" or (singular(before) != before and before not in ("sports", "s"))
    person = (
        singular(before) in table.PEOPLE_WORDS
        or singular(before).endswith(("er", "man", "woman"))
        or before == "people"
    )
    if place.words.one[place.first] == "fork" and before in ("road", "path", "trail", "river"):
        return True
    if written in ("ski", "skis") and person and not after:
        return True
    if singular(written) == written:
        if before == "to":
            return place.before(2) not in _NOT_BEFORE_VERBS and (
                after in table.AFTER_VERBS or after in ("in", "out", "on", "")
            )
        if before in _BEFORE_VERBS and before not in ("not", "he", "she"):
            return True
        if written == "guard" and before not in table.DETERMINERS and after in table.DEFINITE:
            return True  # "a lion and a horse guard the gate"
        return several and (after in table.AFTER_VERBS or (person and after == "to"))
    if before in ("he", "she", "it", "who", "that", "which"):
        return after in table.AFTER_VERBS or after == "in"
    if not before or several or before in table.NOUN_PHRASE_ENDS or before in table.DETERMINERS:
        return False
    return after in ("the", "a", "an", "his", "her", "their", "its") or (person and after in table.AFTER_VERBS)
