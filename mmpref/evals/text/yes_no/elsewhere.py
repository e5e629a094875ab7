"""Things that a clause names and that are not in the image: of another time or picture, a mind, a comparison.

The rules look at the words before the thing, and at the few after it. They never say yes or no: a mention for which one
holds says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mmpref.evals.text.yes_no.words import ADVERBS, BE_WORDS, DETERMINERS, IMAGE_WORDS, word_set

# "the man claims that", "she hopes to see": what somebody in the image says, thinks or wishes
_MINDS = word_set(
    "claims claimed claiming think thinks thinking believes believing hopes hoping hoped wishes wishing wished dreams "
    "dreaming dreamed imagines imagining fears fearing insists insisting argues saying pretends remembers remembering"
)
_MINDS_OF = word_set(
    "think thinking dream dreaming afraid scared frightened fond reminds reminding tired aware jealous"
)
_MINDS_ABOUT = word_set("talk talks talking think thinking dream dreaming speak speaks speaking ask asking story book")
# "it resembles a dog", "compared to a dog": what the thing is only held against
_LIKENS = word_set("resembles resemble resembling resembled mimics imitates imitating mimicking evokes")
_COMPARED = word_set("compared comparable similar akin")
_SIZE_OF = word_set("size height shape form color colour style likeness length weight")
# "tracks of a dog": what tells of a thing that is not seen
_TRACES = word_set(
    "footprint footprints tracks print prints pawprint pawprints smell scent sound sounds noise noises voice barking "
    "fault terms name memory fear idea thought concept"
)
# "left by a dog", "taken from a car"
_MADE = word_set("left made taken written painted drawn designed caused built created signed photographed shot owned")
_TAKEN = word_set("taken photographed shot captured made snapped")
# "a shop that sells dogs", "the sign prohibits dogs", "a fence to keep dogs out"
_DEALS = word_set(
    "sells sell selling sold prohibits prohibit prohibiting prohibited forbids forbid forbidding bans banning banned "
    "forbidden repairs repairing advertises advertising promotes promoting rents"
)
# "no dogs allowed"; "no dog has ever looked so happy" is told of all dogs
_ALLOWED = word_set("allowed permitted welcome prohibited forbidden")
# "in the previous picture", "in another picture"
_OTHER_PICTURE = word_set("previous other another different earlier former")
# "the television shows a dog"
_SHOWING = word_set(
    "television tv screen monitor page newspaper magazine book poster sign billboard phone laptop tablet cover "
    "painting drawing mural logo label banner card"
)
_SHOWS = word_set("shows showing displays displaying depicts depicting features featuring portrays")
_DRAWS = word_set("draws drew sketches sketching doodles doodling")
# "the mug has a dog on it"
_CARRIES_PICTURES = word_set(
    "shirt t-shirt tshirt tee sweater sweatshirt hoodie jersey mug wallpaper sticker stamp coin flag cap apron "
    "banner sign label logo badge pin cookie card poster pillowcase curtain curtains backpack"
)


def is_elsewhere(words: Sequence[str], index: int, after: int) -> bool:
    """Whether the thing named by ``words[index:after]`` is one that the clause does not say to be in the image."""
    before = list(words[max(0, index - 14) : index])
    following = list(words[after : after + 8])
    return (
        _is_in_a_mind(before)
        or _is_compared(before)
        or _is_traced(before)
        or _is_another_time(before)
        or is_another_picture([*words[:index], *following])
        or _is_shown_by_something(before, words)
        or _is_on_a_picture(before, following)
        or bool(_ALLOWED & {*following[:2]})
        or "ever" in following[:2]
    )


def _near(before: Sequence[str]) -> tuple[str, str, str]:
    """The last three words before the noun, without its determiner and adverbs."""
    kept = [word for word in before if word not in DETERMINERS and word not in ADVERBS]
    padded = ["", "", "", *kept]
    return padded[-3], padded[-2], padded[-1]


def is_told_by_others(words: Sequence[str]) -> bool:
    """Whether somebody in the image thinks, claims or wishes what follows, and not the one who answers."""
    return any(word in _MINDS and not {"i", "we", "you"} & {*words[:place]} for place, word in enumerate(words[:40]))


def _is_in_a_mind(before: Sequence[str]) -> bool:
    if is_told_by_others(before):
        return True
    earlier, verb, preposition = _near(before)
    if earlier in {"reminds", "remind"} and preposition == "of":
        return True
    return (preposition == "of" and verb in _MINDS_OF) or (preposition == "about" and verb in _MINDS_ABOUT)


def _is_compared(before: Sequence[str]) -> bool:
    if before[:1] == ["unlike"] and "," not in before:
        return True
    if any(word in _LIKENS for word in before) and "nothing" not in before:
        return True
    _, head, preposition = _near(before)
    return (preposition in {"to", "with"} and head in _COMPARED) or (preposition == "of" and head in _SIZE_OF)


def _is_traced(before: Sequence[str]) -> bool:
    _, head, preposition = _near(before)
    return (
        (preposition == "of" and head in _TRACES)
        or (preposition == "by" and head in _MADE)
        or (preposition == "from" and head in _TAKEN)
        or (preposition == "to" and head in {"belongs", "belonging", "belong"})
        or any(word in _DEALS for word in before)
        or "depends" in before
    )


def _is_another_time(before: Sequence[str]) -> bool:
    """ "There must have been a dog", "had been": no more than a guess, or over."""
    pairs = set(pairwise(before))
    return bool(pairs & {("must", "have"), ("had", "been"), ("used", "to"), ("once", "was"), ("was", "once")})


def is_another_picture(words: Sequence[str]) -> bool:
    """Whether the words speak of another picture than the one asked about."""
    return any(
        word in _OTHER_PICTURE
        and after in IMAGE_WORDS - {"frame", "view", "here", "shot"}
        and "in" in words[max(0, place - 2) : place]
        for place, (word, after) in enumerate(pairwise(words))
    )


def _is_shown_by_something(before: Sequence[str], words: Sequence[str]) -> bool:
    """ "The television shows a dog", "on the screen, a dog", "the girl draws a dog"."""
    for place, word in enumerate(before):
        if word in _SHOWS and any(each in _SHOWING for each in before[max(0, place - 3) : place]):
            return True
        if word in _DRAWS or (
            word in {"drawing", "painting"}
            and place
            and before[place - 1] in BE_WORDS
            and (word == "drawing" or "canvas" in words)
        ):
            return True
    lead = [word for word in before if word not in DETERMINERS]
    return lead[:1] == ["on"] and "," in lead[:4] and any(word in _SHOWING for word in lead[1 : lead.index(",")])


def _is_on_a_picture(before: Sequence[str], following: Sequence[str]) -> bool:
    """ "The mug has a dog on it", "the dog on his shirt"."""
    if following[:1] == ["printed"]:
        return True
    carried = any(word in _CARRIES_PICTURES for word in before)
    if following[:2] == ["on", "it"] or following[:2] == ["on", "them"]:
        return carried
    return following[:1] == ["on"] and any(word in _CARRIES_PICTURES - {"backpack"} for word in following[1:4])
