"""What a caption denies: "no dog", "without cups or plates", "the chairs are missing"."""

from __future__ import annotations

import re

from mmpref.evals.text import context_words as table
from mmpref.evals.text.caption_words import STOP
from mmpref.evals.text.reasons import DEPICTED, NEGATED, POSSIBLE
from mmpref.evals.text.scopes import Rules, Scopes
from mmpref.evals.text.singular import singular


def no(scopes: Scopes, at: int) -> None:
    """ "no dog", "no sign of a dog", "no one is wearing a hat"."""
    after = scopes.next_word(at + 1)
    if after == "longer" and scopes.word(at + 2) in table.NOT_SEEN:
        scopes.mark_subject(at - 1, NEGATED)
    if not after or after in table.NOT_A_DENIAL_AFTER_NO:
        return
    if after == "one":
        _nobody(scopes, at + 1)
        return
    start = _after_signs(scopes, at + 1)
    end = scopes.mark_nouns(start, NEGATED, articles=start > at + 1)
    if scopes.word(end - 1) in table.PERSONS:
        _what_they_have(scopes, end)


def _nobody(scopes: Scopes, at: int) -> None:
    """ "nobody (is) wearing a hat", "none of the people hold umbrellas": what nobody has is not there."""
    if scopes.word(at + 1) == "of":
        at = scopes.noun_end(at + 2) - 1
    if scopes.word(at + 1) not in ("but", "except", "besides", "other", "apart"):
        _what_they_have(scopes, at + 1)


def hardly(scopes: Scopes, at: int) -> None:
    """ "hardly any cars"."""
    if scopes.next_word(at + 1) == "any":
        scopes.mark_nouns(at + 1, NEGATED)


def _after_signs(scopes: Scopes, at: int) -> int:
    """The place after "signs of" in "visible signs of dogs", or ``at``."""
    for place in range(at, min(at + 3, scopes.size - 1)):
        if scopes.raw[place] in table.SIGNS_OF and scopes.raw[place + 1] == "of":
            return place + 2
    return at


def _what_they_have(scopes: Scopes, at: int) -> None:
    if scopes.next_word(at) in ("is", "are"):
        at += 1
    if (scopes.next_word(at) in table.HAVING or scopes.next_word(at) == "with") and scopes.word(
        at + 1
    ) not in table.DEFINITE:
        scopes.mark_nouns(at + 1, NEGATED)


def neither(scopes: Scopes, at: int) -> None:
    """ "neither a dog nor a cat"."""
    found = scopes.nouns(at + 1)
    end = found[-1][1] if found else at + 1
    does = scopes.word(end) in ("is", "are", "was", "were", "has", "have") or scopes.word(end) in table.HAVING
    if does and scopes.word(end + 1) not in table.NOT_SEEN and scopes.word(at + 1) in table.DEFINITE:
        for first, after in found:
            scopes.spoken_of.update(range(first, after))
        _what_they_have(scopes, end)  # "neither the man nor the woman is wearing a tie" is about two people
    else:
        scopes.mark_nouns(at + 1, NEGATED)


def nor(scopes: Scopes, at: int) -> None:
    """ "..., nor is there a cat"."""
    start = at + 1
    if start in scopes.spoken_of:
        return
    while scopes.word(start) in ("is", "are", "there", "any", "do", "does", "it", "i", "see", "show", "have", "has"):
        start += 1
    scopes.mark_nouns(start, NEGATED)


def lacks(scopes: Scopes, at: int) -> None:
    """ "lacks a chair", "without cups or plates", "missing a wheel"."""
    start = at + 1
    if scopes.word(start) == "of" and scopes.word(at) in ("lack", "absent"):
        start += 1
    if scopes.word(at) in ("missing", "absent") and scopes.next_word(start) in ("is", "are"):
        scopes.mark_nouns(start + 1, NEGATED)  # "what is missing is a chair"
    lacks_a_part = scopes.word(start) in ("a", "an", "any", "its", "their", "some", "one", "several", "parts")
    if scopes.word(at) in table.GONE and scopes.is_after_be(at) and not lacks_a_part:
        scopes.mark_subject(at - 1, NEGATED)
        return
    if scopes.breaks[start] if start < scopes.size else True:
        return
    start = _after_signs(scopes, start)
    if scopes.word(start).endswith("ing") and scopes.word(start) not in table.NOUNS_IN_ING:
        if scopes.word(start) in table.HAVING and scopes.word(start + 1) not in table.DEFINITE:
            scopes.mark_nouns(start + 1, NEGATED)
        return
    scopes.mark_nouns(start, NEGATED, commas=not scopes.begins_sentence(at))


def used_to(scopes: Scopes, at: int) -> None:
    """ "where a vase used to stand"."""
    if scopes.next_word(at + 1) == "to" and scopes.word(at + 2) in (
        "stand",
        "be",
        "hang",
        "sit",
        "lie",
        "live",
        "park",
    ):
        scopes.mark_subject(at, NEGATED)


def following(scopes: Scopes, at: int) -> None:
    """ "none of the following: cars, trucks"."""
    if {"not", "no", "none", "neither", "without", "lacks"} & {*scopes.raw[max(0, at - 6) : at]}:
        scopes.mark(at + 1, scopes.clause_end(at + 1), NEGATED)


def but_it_is(scopes: Scopes, at: int) -> None:
    """ "it seems to be a cat, but it is a raccoon"."""
    if scopes.word(at + 1) in ("it", "this", "that") and scopes.word(at + 2) in ("is", "s", "turns", "was"):
        for place in range(at - 1, max(-1, at - 12), -1):
            if scopes.raw[place] in ("seems", "seem", "appears", "looks", "thought"):
                scopes.mark(place + 1, at, NEGATED)
            if scopes.breaks[place] == STOP:
                return


def all_but(scopes: Scopes, at: int) -> None:
    """ "everything except apples"."""
    if scopes.word(at - 1) in ("everything", "anything"):
        scopes.mark_nouns(at + 2 if scopes.word(at + 1) == "for" else at + 1, NEGATED)


def at_home(scopes: Scopes, at: int) -> None:
    """ "the riders stayed home"."""
    if scopes.word(at - 1) in ("stayed", "stays", "went"):
        scopes.mark_subject(at - 1, NEGATED)


def away(scopes: Scopes, at: int) -> None:
    """ "the cat is away today"."""
    if scopes.word(at - 2) in ("has", "have", "had") and scopes.word(at - 1) in (
        "run",
        "gone",
        "walked",
        "moved",
        "driven",
    ):
        scopes.mark_subject(at - 2, NEGATED)  # "the dog has run away"
    elif scopes.is_after_be(at) and scopes.next_word(at + 1) in ("", "today", "now", "at", "for", "on"):
        scopes.mark_subject(at - 1, NEGATED)


def of_lack(scopes: Scopes, at: int) -> None:
    """ "devoid of people", "instead of a bench", "free of cars", "rather than a dog"."""
    if scopes.word(at) == "unlike" and scopes.word(at + 1) in table.DEFINITE:
        return
    links = table.OF_LACK[scopes.word(at)].split()
    if links and scopes.next_word(at + 1) not in links:
        return
    if scopes.word(at) in ("clear", "free", "empty", "bare") and scopes.word(at + 2) in ("the", "his", "her"):
        return  # "empty of the ..." hardly denies; "free from the leash" is about a leash that is there
    start = at + 2 if links else at + 1
    if scopes.word(start).endswith("ing") and scopes.word(start) not in table.NOUNS_IN_ING:
        start += 1
        if scopes.word(start) in table.PREPOSITIONS:
            start += 1
    scopes.mark_nouns(start, NEGATED, commas=not scopes.begins_sentence(at))


def removed(scopes: Scopes, at: int) -> None:
    """ "has been removed", "must be elsewhere", "may have left already": the subject is not in the picture."""
    word = scopes.word(at)
    if word in table.REMOVED:
        if scopes.word(at - 1) == "been" or (
            scopes.word(at - 1) in ("is", "are", "was", "were") and word != "replaced"
        ):
            scopes.mark_subject(at - 2 if scopes.word(at - 1) == "been" else at - 1, NEGATED)
    elif word == "must":
        elsewhere = {*scopes.raw[at + 2 : at + 5]} & {
            "separate",
            "another",
            "different",
            "elsewhere",
            "next",
            "break",
        }
        if scopes.word(at + 1) == "be" and elsewhere:
            scopes.mark_subject(at, POSSIBLE)
    elif scopes.word(at + 1) == "have" and table.LEFT & {*scopes.raw[at + 2 : at + 4]}:
        scopes.mark_subject(at, POSSIBLE)


def left(scopes: Scopes, at: int) -> None:
    """ "has left the room", "have driven off", "a bench once stood here"."""
    word, after = scopes.word(at), scopes.next_word(at + 1)
    if word == "once":
        if after in table.ONCE:
            scopes.mark_subject(at, NEGATED)
            scopes.mark(at + 2, scopes.clause_end(at + 2, at_comma=True), NEGATED)
    elif scopes.word(at - 2 if scopes.word(at - 1) in ("already", "just", "all", "since") else at - 1) in (
        "has",
        "have",
        "had",
    ) and after not in (
        "a",
        "an",
        "his",
        "her",
        "its",
        "their",
        "some",
    ):
        scopes.mark_subject(at - 1, NEGATED)


def wished(scopes: Scopes, at: int) -> None:
    """ "wishes she had a dog", "forgot his umbrella", "stole the bike", "pretends that the box is a car"."""
    if scopes.word(at - 1) in table.DETERMINERS or scopes.next_word(at + 1) == "to":
        return  # "a lost dog", "wants to catch the ball"
    if scopes.word(at) in table.WISHING:
        scopes.mark(at + 1, scopes.clause_end(at + 1, at_comma=True), POSSIBLE)
    else:
        if scopes.word(at).startswith("forg") and scopes.next_word(at + 1) in ("a", "an"):
            return  # "somebody forgot a book on the seat"
        scopes.mark_nouns(at + 1, NEGATED, articles=False, commas=False)


def about(scopes: Scopes, at: int) -> None:
    """ "a book about horses"."""
    if singular(scopes.word(at - 1)) in table.TELLING:
        scopes.mark_nouns(at + 1, DEPICTED)


def not_(scopes: Scopes, at: int) -> None:
    """ "is not a dog", "does not show any dogs", "is not wearing a tie", "is not visible", "not a single bird"."""
    start = at + 1
    while scopes.next_word(start) in (
        "actually",
        "really",
        "currently",
        "clearly",
        "also",
        "even",
        "any",
        "be",
        "a",
        "single",
    ):
        if scopes.next_word(start) in ("a", "any"):
            break
        start += 1
    word = scopes.next_word(start)
    if not word or word in table.NOT_A_DENIAL_AFTER_NOT:
        return
    if word in table.NOT_SEEN or (word == "in" and scopes.word(start + 1) in ("sight", "view", "frame")):
        scopes.mark_subject(at - 1, NEGATED)
        return
    if word in ("in", "in the") and scopes.word(start + 2) in ("image", "picture", "photo", "scene", "frame"):
        scopes.mark_subject(at - 1, NEGATED)
        return
    if word in table.DETERMINERS or singular(word) != word:
        scopes.mark_nouns(start, NEGATED)
        return
    _not_done(scopes, start)


def _not_done(scopes: Scopes, verb: int) -> None:
    """What a denied verb is about, unless it is known already ("is not sitting on the bench")."""
    start = verb + 1
    if scopes.raw[verb] in table.PREPOSITIONS:
        start = verb
    while scopes.next_word(start) in table.AFTER_A_DENIED_VERB:
        start += 1
    if scopes.next_word(start) in table.PREPOSITIONS:
        start += 1
    unseen = scopes.raw[verb] in ("see", "find", "spot")  # "you cannot see the bus"
    if scopes.next_word(start) and (unseen or scopes.next_word(start) not in table.DEFINITE):
        scopes.mark_nouns(start, NEGATED)
    if start == verb + 1 and not scopes.next_word(verb + 1):
        scopes.mark(verb, verb + 1, NEGATED)  # "these are not dogs."


def out_of_view(scopes: Scopes, at: int) -> None:
    """ "is outside the frame", "are out of view": what is said to be there is not in the picture."""
    rest = " ".join(scopes.raw[at : at + 4])
    if re.match(r"(?:outside|out|beyond)(?: of)?(?: the)? (?:frame|view|sight|shot|picture|image|camera)", rest):
        if scopes.begins_sentence(at):
            scopes.mark(at + 1, scopes.clause_end(at + 1, at_comma=True), POSSIBLE)
        elif scopes.is_after_be(at):
            scopes.mark_subject(at - 1, POSSIBLE)
        elif scopes.word(at - 1) in ("somewhere", "just"):
            scopes.mark_subject(at - 2, POSSIBLE)


RULES: Rules = (
    ({"but", "yet"}, but_it_is),
    ({"except", "but"}, all_but),
    ({"away"}, away),
    ({"home"}, at_home),
    ({"used"}, used_to),
    ({"following"}, following),
    (frozenset({"outside", "out", "beyond"}), out_of_view),
    (table.LACKS | table.GONE, lacks),
    (frozenset(table.OF_LACK), of_lack),
    (frozenset({"no", "zero"}), no),
    (frozenset({"hardly", "barely", "scarcely"}), hardly),
    (frozenset({"nobody", "none"}), _nobody),
    (table.HAS_LEFT | {"once"}, left),
    (table.WISHING | table.GIVEN_UP, wished),
    (frozenset({"about"}), about),
    (table.REMOVED | {"must", "may", "might", "could"}, removed),
    (frozenset({"neither"}), neither),
    (frozenset({"nor"}), nor),
    (frozenset({"not", "never"}), not_),
)
"""Words, and what is done at each of them."""
