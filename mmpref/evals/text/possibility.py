"""What a caption only supposes: "might be a dog", "as if waiting for a bus", "a place to park cars"."""

from __future__ import annotations

from mmpref.evals.text import context_words as table
from mmpref.evals.text.caption_words import COMMA
from mmpref.evals.text.reasons import POSSIBLE
from mmpref.evals.text.scopes import Rules, Scopes
from mmpref.evals.text.singular import singular


def might(scopes: Scopes, at: int) -> None:
    """ "might be a dog", and the subject of "there might be" and "a dog might be outside"."""
    if scopes.word(at) in ("could", "may") and scopes.word(at + 1) == "be" and scopes.word(at + 2) in table.SEEN:
        return
    if scopes.word(at + 1) == "be" and at + 2 < scopes.size and scopes.breaks[at + 2]:
        return  # 'a caption might be, "A dog ..."'
    scopes.mark(at + 1, scopes.clause_end(at + 1), POSSIBLE)
    place = scopes.word(at + 2)
    if scopes.word(at - 1) in ("that", "which", "who") and place in ("outside", "out", "beyond"):
        scopes.mark_noun_before(at - 1, POSSIBLE)
    if scopes.word(at + 1) == "be" and (
        place in table.PREPOSITIONS - {"of"} or place in ("nearby", "hidden", "present")
    ):
        start = scopes.clause_start(at)
        if scopes.word(start) not in table.DEFINITE and scopes.word(start) not in table.AUXILIARIES:
            scopes.mark_subject(at, POSSIBLE)


def maybe(scopes: Scopes, at: int) -> None:
    """ "possibly a bottle", "perhaps waiting for a bus"."""
    if scopes.word(at) == "presumably" and scopes.word(at + 1) not in ("for", "to", "left", "used", "belonging"):
        return  # it leans
    end = scopes.clause_end(at + 1, at_comma=True)
    scopes.mark(at + 1, end, POSSIBLE)
    if end < scopes.size and scopes.breaks[end] == COMMA and scopes.goes_on(end, articles=True):
        scopes.mark_nouns(end, POSSIBLE)  # "possibly a cat, a dog or a bird"


def rest_of_clause(scopes: Scopes, at: int) -> None:
    """ "suggesting that ...", "whether ...", "unclear if ..."."""
    if scopes.word(at) == "if" and scopes.word(at - 1) == "as":
        return
    scopes.mark(at + 1, scopes.clause_end(at + 1), POSSIBLE)


def as_if(scopes: Scopes, at: int) -> None:
    """ "as if holding the mouse", "as though"; "serves as a table"."""
    if scopes.word(at + 1) in ("a", "an") and table.SERVES & {*scopes.raw[max(0, at - 5) : at]}:
        scopes.mark_nouns(at + 1, POSSIBLE, commas=False)
    if scopes.word(at + 1) in ("if", "though"):
        scopes.mark(at + 2, scopes.clause_end(at + 2, at_comma=True), POSSIBLE)


def in_general(scopes: Scopes, at: int) -> None:
    """ "buses are commonly used by people", "native to": knowledge of the world, not of the picture."""
    if scopes.word(at) != "known" or scopes.word(at + 1) == "for":
        scopes.mark(at + 1, scopes.clause_end(at + 1), POSSIBLE)


def hard_to_tell(scopes: Scopes, at: int) -> None:
    """ "hard to tell whether it is a dog"."""
    asks = scopes.word(at + 3) in ("whether", "if", "what", "which", "who", "how", "a", "an", "any")
    if asks and scopes.word(at + 1) == "to" and scopes.word(at + 2) in ("tell", "say", "determine", "know", "see"):
        scopes.mark(at + 3, scopes.clause_end(at + 3), POSSIBLE)


def awaited(scopes: Scopes, at: int) -> None:
    """ "waiting for the bus", "a place for dogs"."""
    links = table.AWAITED[scopes.word(at)].split()
    if links and scopes.next_word(at + 1) not in links:
        return
    start = at + 2 if links else at + 1
    general = scopes.word(at) in ("space", "room", "place", "known", "talking", "looking", "suitable", "designed")
    if general and scopes.word(start) in table.DEFINITE:
        return
    end = scopes.noun_end(start)
    if scopes.word(end) == "to" and scopes.word(end + 1) in ("change", "turn", "switch"):
        return  # "waiting for the light to change" speaks of one that is there
    scopes.mark_nouns(start, POSSIBLE, articles=False)


def readying(scopes: Scopes, at: int) -> None:
    """ "ready to hit a ball": a ball that was not there before; "ready to hit the ball" speaks of one that is."""
    if scopes.next_word(at + 1) != "to":
        return
    start = at + 3
    if scopes.word(start) in table.PREPOSITIONS:
        start += 1
    only_wished = scopes.word(at) in ("waiting", "hoping", "wanting", "wants", "hopes")
    if only_wished or scopes.word(start) not in table.DEFINITE:
        scopes.mark_nouns(start, POSSIBLE, articles=False)


def for_anybody(scopes: Scopes, at: int) -> None:
    """ "for people to sit on", "allowing passengers to board": nobody in particular."""
    start = at + 1
    while scopes.next_word(start) in ("potential", "many", "more", "both", "other", "multiple"):
        start += 1
    if scopes.word(at) == "for" and scopes.word(at - 1) in ("is", "are"):  # "the lower level is for the passengers"
        scopes.mark_nouns(start, POSSIBLE)
        return
    role = start + 1 if scopes.next_word(start) in ("the", "any", "every", "all") else start
    if scopes.next_word(role) in table.ROLES:  # "for the guests", "inviting someone"
        scopes.mark_nouns(start, POSSIBLE, articles=False)
        return
    end = scopes.noun_end(start)
    if end == start or scopes.word(start) in table.DETERMINERS or not _is_bare_plural(scopes, start, end):
        return
    if scopes.word(at) == "where":
        if table.IN_GENERAL.isdisjoint(scopes.raw[end : end + 2]):
            return
        scopes.mark(start, scopes.clause_end(start, at_comma=True), POSSIBLE)
    end = scopes.mark_nouns(start, POSSIBLE, articles=False)
    if scopes.next_word(end) == "to" and scopes.word(end + 2) not in table.DEFINITE:
        scopes.mark(end + 2, scopes.noun_end(end + 2), POSSIBLE)  # "for people to park cars"


def meant_for(scopes: Scopes, at: int) -> None:
    """ "used to transport people"."""
    if scopes.word(at + 1) in table.MEANT_FOR:
        for_anybody(scopes, at + 1)


def _is_bare_plural(scopes: Scopes, start: int, end: int) -> bool:
    return any(word in ("people", "family") or singular(word) != word for word in scopes.raw[start:end])


def enough_to(scopes: Scopes, at: int) -> None:
    """ "big enough to hold a person"."""
    if scopes.word(at + 1) == "to" and scopes.word(at + 2) in (
        "hold",
        "fit",
        "seat",
        "carry",
        "accommodate",
        "contain",
    ):
        scopes.mark_nouns(at + 3, POSSIBLE, commas=False)


def picks_up(scopes: Scopes, at: int) -> None:
    """ "a train arrives to pick up passengers"."""
    if scopes.word(at - 1) == "to" and scopes.next_word(at + 1) in ("up", "off"):
        end = at + 2
        while scopes.word(end) in ("and", "up", "off", "drop", "or"):
            end += 1
        if scopes.word(end) not in table.DETERMINERS:
            scopes.mark_nouns(end, POSSIBLE)


def someone_did(scopes: Scopes, at: int) -> None:
    """ "an umbrella that someone has left": who did it may be gone."""
    if scopes.next_word(at + 1) in ("has", "had"):
        scopes.mark(at, at + 1, POSSIBLE)


RULES: Rules = (
    ({"someone", "somebody"}, someone_did),
    ({"pick", "drop"}, picks_up),
    ({"enough"}, enough_to),
    (table.FOR_ANYBODY, for_anybody),
    (frozenset(table.AWAITED), awaited),
    (table.READYING, readying),
    (table.MODALS, might),
    (table.MAYBE, maybe),
    (table.SUGGESTING | table.WHETHER | table.UNSURE, rest_of_clause),
    (frozenset({"hard", "difficult", "impossible"}), hard_to_tell),
    (frozenset({"as"}), as_if),
    (frozenset({"commonly", "native", "known", "worldwide"}), in_general),
    (frozenset({"to"}), meant_for),
)
"""Words, and what is done at each of them."""
