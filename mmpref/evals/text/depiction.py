"""What a caption says to be on a picture, or a toy: "a statue of a horse", "a shirt with a giraffe on it"."""

from __future__ import annotations

import re

from mmpref.evals.text import context_words as table
from mmpref.evals.text.reasons import DEPICTED, WRITTEN
from mmpref.evals.text.scopes import Rules, Scopes
from mmpref.evals.text.singular import singular

_NOT_THIS_PICTURE = (
    table.SCREENS
    | table.DRAWN
    | {
        "with",
        "hanging",
        "framed",
        "holding",
        "has",
        "of",
        "wall",
        "are",
        "on",
        "paints",
        "painting",
        "draws",
        "drawing",
        "drew",
        "drawn",
    }
)
_SHAPED = frozenset({"shaped", "look", "looks", "looking", "dressed", "decorated", "painted", "designed", "cut"})
_ON_THE_WALL = re.compile(r"\b(?:on the wall|hangs? (?:on|above|over|in)|hanging (?:on|above|over))\b")
_QUOTES = "\"“'‘"
_QUOTED = re.compile(r"[\"“]([^\"“”\n]{1,120})[\"”]|(?<!\w)['‘]([^'‘’\n]{1,80})['’](?!\w)")


def artwork(scopes: Scopes, at: int) -> None:
    """ "a statue of a horse", "a poster showing bears", "a painting with a boat"."""
    word = singular(scopes.word(at))
    after = scopes.next_word(at + 1)
    if after in ("that", "which") and scopes.next_word(at + 2) in table.SHOWN_BY:
        at, after = at + 1, scopes.next_word(at + 2)
    if word in table.PHOTOS and after == "frame":
        _mark_what_is_on(scopes, at)  # "the horse in the picture frame"
    if word in table.PHOTOS and _is_this_picture(scopes, at):
        return
    if word in table.SOLID:
        shows = after.startswith(("depict", "represent", "portray"))
    else:
        shows = after in table.SHOWN_BY or (after == "with" and word not in table.WITHOUT_OF)
    if after == "of" or shows:
        _depicted_from(scopes, at + 2)
    elif after == "for" and word in ("poster", "billboard", "flyer", "banner"):
        scopes.mark(at + 2, scopes.clause_end(at + 2, at_comma=True), DEPICTED)
    elif (verb := _shows_later(scopes, at)) is not None:
        _depicted_from(scopes, verb + 1)
    elif after in ("such", "like", "including") and word == "toy":
        scopes.mark_nouns(at + 3 if after == "such" else at + 2, DEPICTED)
    if word not in table.SOLID | table.PHOTOS | table.WITHOUT_OF | {"sign", "graffiti"}:
        _mark_what_is_on(scopes, at)


def _shows_later(scopes: Scopes, at: int) -> int | None:
    """The verb of "the mural on the wall depicts"."""
    if scopes.next_word(at + 1) not in table.PREPOSITIONS:
        return None
    for place in range(at + 2, min(at + 8, scopes.size)):
        if scopes.breaks[place]:
            return None
        if scopes.raw[place] in table.SHOWS and scopes.raw[place - 1] not in ("that", "which"):
            return place
    return None


def _mark_what_is_on(scopes: Scopes, at: int) -> None:
    """Mark the glasses of "the glasses on the poster"."""
    start = at
    while start > max(0, at - 3) and not scopes.breaks[start] and scopes.word(start - 1) not in ("on", "in", "across"):
        start -= 1
    if start < 2 or scopes.breaks[start] or scopes.word(start - 1) not in ("on", "in", "across"):
        return
    if scopes.word(start) in ("the", "a", "this") and not scopes.breaks[start - 1]:
        scopes.mark_noun_before(start - 1, DEPICTED)


def _depicted_from(scopes: Scopes, start: int) -> None:
    end = scopes.mark_nouns(start, DEPICTED)
    if scopes.next_word(end) in table.HAVING or scopes.next_word(end) == "with":
        scopes.mark_nouns(end + 1, DEPICTED)  # "a statue of a man riding a horse"
    elif scopes.next_word(end) == "on" and scopes.next_word(end + 1) == "horseback":
        scopes.mark(end + 1, end + 2, DEPICTED)
    elif scopes.next_word(end) == "on" and scopes.next_word(end + 1) in ("a", "an") and scopes.next_word(end + 2) in (
        "horse", "bicycle", "bike", "motorcycle", "boat", "elephant", "skateboard", "surfboard",
    ):  # fmt: skip
        scopes.mark_nouns(end + 1, DEPICTED)


def _is_this_picture(scopes: Scopes, at: int) -> bool:
    """Whether "picture" is the one that the caption is about, or one that somebody takes."""
    if scopes.word(at) not in table.PHOTOS and scopes.next_word(at + 1) == "of":
        return scopes.word(at - 1) in ("taking", "take", "takes", "are")  # "an album with photos of dogs"
    if scopes.next_word(at + 1) in table.SHOWN_BY and scopes.word(at - 1) in ("the", "this", "given"):
        return True
    start = at
    while start > max(0, at - 8) and not scopes.breaks[start]:
        start -= 1
    before = {*scopes.raw[start:at]}
    if before & {"taking", "take", "takes", "taken", "snapping", "snaps", "posing", "shooting", "capturing"}:
        return True
    if before & _NOT_THIS_PICTURE:
        return False
    a_second_thing = any(scopes.raw[n] == "and" and scopes.word(n + 1) in table.DETERMINERS for n in range(start, at))
    if a_second_thing or ("there" in before and "this" not in before):
        return False
    rest = " ".join(scopes.raw[at : at + 8])
    return scopes.next_word(at + 1) != "of" or not _ON_THE_WALL.search(rest)


def surface(scopes: Scopes, at: int) -> None:
    """ "a shirt with a giraffe on it", "a sign showing a bicycle"."""
    after = scopes.next_word(at + 1)
    if after in table.SHOWN_BY:
        _depicted_from(scopes, at + 2)
    elif (verb := _shows_later(scopes, at)) is not None:
        _depicted_from(scopes, verb + 1)
    elif after == "with" and scopes.word(at) in table.BEARING:
        scopes.mark(at + 2, scopes.clause_end(at + 2, at_comma=True), DEPICTED)
    elif after in ("with", "has", "have"):
        for place in range(at + 2, min(at + 12, scopes.size)):
            on_it = scopes.raw[place] == "on" and scopes.word(place + 1) in ("it", "them", "one")
            if scopes.raw[place] in table.PRINTED or (on_it and not _may_stand(scopes, at, place)):
                scopes.mark(at + 2, place, DEPICTED)
                return


def _may_stand(scopes: Scopes, surface: int, on: int) -> bool:
    """Whether the thing that is on a surface may be a thing, as on a plate."""
    carries = scopes.word(surface) in table.CARRIERS - {"sign", "signs"}
    return carries or scopes.word(on - 1).endswith("ing") or scopes.word(on - 1) in ("perched", "placed", "attached")


def screen(scopes: Scopes, at: int) -> None:
    """ "a television showing a man"."""
    if scopes.word(at) == "screen":
        _mark_what_is_on(scopes, at)
    if scopes.word(at) in ("television", "tv") and scopes.next_word(at) and scopes.word(at - 1) == "on":
        scopes.mark_noun_before(at - 1, DEPICTED)  # "a race on television"; a cat may lie "on the television"
        if scopes.begins_sentence(at - 1):
            scopes.mark(at + 1, scopes.clause_end(at + 2), DEPICTED)
    start = at + 2 if scopes.next_word(at + 1) in ("is", "are", "screen") else at + 1
    if scopes.next_word(start) in table.SCREEN_SHOWS:
        scopes.mark_nouns(start + 1, DEPICTED)


def drawn(scopes: Scopes, at: int) -> None:
    """ "she has drawn a fish and a boat"."""
    if scopes.word(at + 1) in table.INDEFINITE:
        scopes.mark_nouns(at + 1, DEPICTED)


def drawing(scopes: Scopes, at: int) -> None:
    """ "the child is drawing a boat", "is painting a horse on a canvas": no horse that is drawing a cart."""
    if not scopes.is_after_be(at) or scopes.word(at + 1) not in table.INDEFINITE:
        return
    if scopes.word(at) == "painting":
        on_a_picture = not table.CANVAS.isdisjoint(scopes.raw[at : at + 12])
    else:
        on_a_picture = table.DRAUGHT_ANIMALS.isdisjoint(scopes.raw[max(0, at - 6) : at])
    if on_a_picture:
        scopes.mark_nouns(at + 1, DEPICTED)


def printed(scopes: Scopes, at: int) -> None:
    """ "a bicycle painted on the road"."""
    if scopes.next_word(at + 1) == "with":  # "sheets printed with cars"
        scopes.mark_nouns(at + 2, DEPICTED)
    if scopes.next_word(at + 1) not in table.PRINTED_ON:
        return
    end = at - 1 if scopes.is_after_be(at) else at
    if scopes.word(end - 1) in ("that", "which"):
        end -= 1
    scopes.mark_noun_before(end, DEPICTED)


def toy(scopes: Scopes, at: int) -> None:
    """ "a toy car", "a toy fire truck", "toy cars and trains"."""
    end = scopes.noun_end(at + 1)
    if scopes.word(at) == "plush" and not table.UPHOLSTERED.isdisjoint(scopes.raw[at + 1 : end]):
        return  # "a plush sofa"
    if scopes.next_word(at + 1) and end > at + 1:
        scopes.mark(at + 1, min(end, at + 4), DEPICTED)


def likeness(scopes: Scopes, at: int) -> None:
    """ "shaped like a bird", "in the shape of a heart", "made to look like a car", "resembling a dog"."""
    start = at + 1
    if scopes.word(at) == "like":
        before, subject = scopes.word(at - 1), scopes.word(at - 2)
        if before not in _SHAPED:
            return
        made = scopes.word(at - 3) in ("decorated", "made", "designed", "painted", "styled", "arranged")
        claims = before in ("look", "looks") and subject in ("it", "this", "what", "there", "to", "something")
        if claims and not made:
            return
        if subject in ("that", "which") and table.ARTIFACTS.isdisjoint(scopes.raw[max(0, at - 6) : at]):
            return
    elif scopes.word(at) in table.DRESSED:
        while scopes.next_word(start) in ("up", "as", "like", "in"):
            start += 1
        if scopes.word(start - 1) != "as":
            return
        if scopes.word(at - 1) not in ("dog", "cat") and scopes.word(start) not in ("a", "an"):
            return
    scopes.mark_nouns(start, DEPICTED)


def quotations(scopes: Scopes) -> None:
    """Mark what a sign reads; a caption in quotes is read as a caption."""
    spans = scopes.words.spans
    if not any(mark in scopes.words.text for mark in _QUOTES):
        return
    place = 0
    for match in _QUOTED.finditer(scopes.words.text):  # places only grow, so that this is one pass
        while place < scopes.size and spans[place][0] < match.start():
            place += 1
        if any(word in table.WRITTEN for word in scopes.raw[max(0, place - 4) : place]):
            last = place
            while last < scopes.size and spans[last][1] <= match.end():
                last += 1
            scopes.mark(place, last, WRITTEN)


RULES: Rules = (
    (table.SCREENS, screen),
    (table.SURFACES, surface),
    (table.ARTWORKS | {word + "s" for word in table.ARTWORKS}, artwork),
    (table.DRAWN, drawn),
    (frozenset({"drawing", "sketching", "painting"}), drawing),
    (table.PRINTED, printed),
    (table.TOYS, toy),
    (table.LIKENESS | table.DRESSED | {"like"}, likeness),
)
"""Words, and what is done at each of them."""
