"""Whether a clause says that the thing asked for is in the image: one pass over its words.

Nothing is decided by a single pattern: on the way from left to right the pass keeps what is denied at this place, what
is only depicted, and which determiner the noun has. What is left open by any of these says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.elsewhere import is_elsewhere
from mmpref.evals.text.yes_no.hedges import is_open
from mmpref.evals.text.yes_no.noun import (
    has_count,
    has_tail,
    is_asserted,
    is_depicted_after,
    is_noun_head,
    is_restricted,
    predicate_says,
    unit_at,
)
from mmpref.evals.text.yes_no.place import Place, after_noun, read_word
from mmpref.evals.text.yes_no.question import Asked, Thing
from mmpref.evals.text.yes_no.things import narrower
from mmpref.evals.text.yes_no.words import (
    ADVERBS,
    DETERMINERS,
    IMAGE_WORDS,
    LIKE_NOTHING,
    NEUTRAL,
    NOT_OF_IT,
    NUMBERS,
    PLACES,
    SIGNS,
)

Said: TypeAlias = Literal["yes", "no", "unparsed", "weak"]
"""What a clause says; "weak" is a no about one place only ("no cars on the road"), which any yes outweighs."""


def presence_says(words: Sequence[str], asked: Asked) -> Said:
    """What a clause says about the things asked for, before the question's own "no" is looked at."""
    said = [_thing_says(words, thing) for thing in asked.things]
    if len(said) == 1:
        return said[0]
    if asked.every_thing:
        return "no" if "no" in said else ("yes" if all(each == "yes" for each in said) else "unparsed")
    if "yes" in said:
        return "yes"
    return "no" if all(each == "no" for each in said) else "unparsed"


def _thing_says(words: Sequence[str], thing: Thing) -> Said:
    found: set[Said] = set()
    special = _special_says(words, thing)
    if special != "unparsed":
        return special
    state = Place()
    index = 0
    while index < len(words):
        size, name = unit_at(words, index, thing)
        if size and is_noun_head(words, index, size):
            if state.excepted:
                found.add(_exception_says(words, name, thing))
                index += size
                continue
            if name in _OF_ANIMALS and "person" in thing.words.denying and _has_animal(words):
                index += size  # "a mother zebra and her baby"
                continue
            quoted = words[:index].count('"') % 2 == 1
            if (
                not quoted
                and not is_open(words[: _aside(words, index + size)], thing.words.asserting)
                and not is_elsewhere(words, index, index + size)
            ):
                found.add(_mention_says(words, index, size, name, thing, state))
            after_noun(state, index + size)
            index += size
            continue
        step = max(size, 1)
        if size:  # part of a compound: another thing
            after_noun(state, index + size)
        else:
            read_word(words, index, thing, state)
        index += step
    found.discard("unparsed")
    if len(found) > 1:
        found.discard("weak")
    return found.pop() if len(found) == 1 else "unparsed"


def _mention_says(words: Sequence[str], index: int, size: int, name: str, thing: Thing, state: Place) -> Said:
    after = index + size
    own = [word for word in words[state.noun_since : index] if word not in DETERMINERS and word not in ADVERBS]
    if (
        state.denied == "open"
        and state.preposition in {"on", "beside", "behind", "under"}
        and state.determiner == "the"
    ):
        there = name in thing.words.asserting and not (thing.count or thing.modifiers or thing.tail or state.depicted)
        return "yes" if there and not state.sign else "unparsed"  # "no collar can be seen on the cat"
    if state.denied:
        return _denial_says(words, after, name, thing, state, own)
    told = predicate_says(words, after)
    if told == "no":
        clear = name in thing.words.denying and set(own) <= NEUTRAL | set(thing.modifiers) and not state.depicted
        if thing.count not in {None, state.number}:
            clear = clear and state.determiner in {"", "any"}
        if not clear or state.unreal:
            return "unparsed"
        return "weak" if is_restricted(words, after, thing) else "no"
    if told == "there":
        there = name in thing.words.asserting and thing.count is None and not (thing.modifiers or thing.tail)
        definite = state.determiner in {"the", "his", "her", "their", "its", "this", "that"}
        return "yes" if there and definite and not (state.denied or state.depicted or state.unreal) else "unparsed"
    if told == "open" or name not in thing.words.asserting or state.depicted or state.unreal:
        return "unparsed"
    if (state.preposition in NOT_OF_IT and state.number is None) or is_depicted_after(words, after):
        return "unparsed"
    if not is_asserted(words, index, size, state):
        return "unparsed"
    if thing.count is not None and not has_count(thing.count, state, words[after - 1]):
        return "unparsed"
    if not all(each in own for each in thing.modifiers):
        told_of = not thing.tail and not state.preposition and _is_said_to_be(words, after, thing.modifiers)
        return "yes" if told_of else "unparsed"
    return "yes" if has_tail(words, after, thing) else "unparsed"


def _is_said_to_be(words: Sequence[str], after: int, modifiers: Sequence[str]) -> bool:
    """Whether the modifiers follow as a predicate: "the couch in the room is red"."""
    for place in range(after, min(after + 8, len(words))):
        if words[place] in {"is", "are"}:
            rest = [word for word in words[place + 1 : place + 8] if word not in ADVERBS - {"all"}]
            return tuple(rest[: len(modifiers)]) == tuple(modifiers) and "or" not in rest
        if words[place] in {",", "and", "not", "no"}:
            return False
    return False


def _denial_says(words: Sequence[str], after: int, name: str, thing: Thing, state: Place, own: Sequence[str]) -> Said:
    if state.denied in {"open", "without"} or name not in thing.words.denying:
        return "unparsed"
    if state.denied == "without" or (state.denied == "none" and state.determiner not in {"a", "an"}):
        return "unparsed"
    if state.depicted or state.unreal or state.preposition in NOT_OF_IT - {"like", "than"}:
        return "unparsed"
    if not set(own) <= NEUTRAL | SIGNS | LIKE_NOTHING | set(thing.modifiers):
        return "unparsed"
    if state.number is not None and state.number != (thing.count or 1):
        return "unparsed"
    weak = state.number is not None and thing.count is None and "single" not in words
    if after < len(words) and words[after] == "like":
        return "unparsed"
    told = predicate_says(words, after)
    if told in {"open", "no", "there"}:
        return "unparsed"
    if is_restricted(words, after, thing):
        return "weak" if _is_about_a_place(words, after) else "unparsed"
    return "weak" if weak else "no"


def _is_about_a_place(words: Sequence[str], after: int) -> bool:
    """Whether what follows is a place as wide as an image: "on the road", no furniture."""
    return any(word in PLACES for word in words[after : after + 12])


def _exception_says(words: Sequence[str], name: str, thing: Thing) -> Said:
    """What "nothing except a dog" and "everything except a dog" say of the dog."""
    if name not in thing.words.asserting or thing.count is not None or thing.modifiers or thing.tail:
        return "unparsed"
    near = words[:60]
    if any(word in {"no", "nothing", "none", "nobody", "empty", "deserted", "not", "bare"} for word in near):
        return "yes"
    return (
        "no"
        if name in thing.words.denying and any(word in {"everything", "all", "every"} for word in near)
        else "unparsed"
    )


def _count_says(words: Sequence[str], thing: Thing) -> Said:
    """ "The number of dogs is zero"."""
    bare = [word for word in words[:24] if word not in {"the", "total", "in", "this"} and word not in IMAGE_WORDS]
    if len(bare) < 5 or bare[0] not in {"number", "count", "total", "amount"} or bare[1] != "of" or thing.tail:
        return "unparsed"
    size, name = unit_at(bare, 2, thing)
    if not size or name not in thing.words.denying or len(bare) != size + 4 or bare[size + 2] not in {"is", "equals"}:
        return "unparsed"
    number = 0 if bare[-1] in {"zero", "0", "none"} else NUMBERS.get(bare[-1])
    number = int(bare[-1]) if number is None and bare[-1].isdigit() and len(bare[-1]) < 4 else number
    if number is None:
        return "unparsed"
    if number == 0:
        return "no"
    if thing.count is None:
        return "yes" if name in thing.words.asserting else "unparsed"
    return "yes" if number == thing.count or (thing.count == 0 and number > 1) else "no"


_OF_ANIMALS = frozenset({"baby", "infant", "adult", "male", "female", "mother", "father", "kid", "family",
                         "crowd"})  # fmt: skip


def _has_animal(words: Sequence[str]) -> bool:
    return any(singular(word) in narrower("animal") for word in words)


def _aside(words: Sequence[str], after: int) -> int:
    """Where an aside begins that changes nothing of what stands before it: ", possibly belonging to ..."."""
    for place in range(after, min(len(words) - 1, after + 40)):
        following = words[place + 1]
        if words[place] == "," and (following in _ASIDES or following.endswith("ing")):
            return place
    return len(words)


_ASIDES = frozenset({"possibly", "perhaps", "maybe", "potentially", "as", "likely", "presumably"})


def _special_says(words: Sequence[str], thing: Thing) -> Said:
    """Denials in one word ("cloudless", "snow-free", "deserted") and turns of phrase in which the thing comes "
    "last."""
    if thing.modifiers:
        return "unparsed"
    counted = _count_says(words, thing)
    if counted != "unparsed":
        return counted
    denying = thing.words.denying
    for word in words[:60]:
        stem_of = word.removesuffix("less") if word.endswith("less") else word.removesuffix("-free")
        if stem_of != word and singular(stem_of.rstrip("-")) in denying:
            return "no"
    line = words[:40]
    if "person" in denying and not is_open(line) and "not" not in line:
        place = line.index("empty") if "empty" in line else -1
        alone = place >= 0 and (place == len(line) - 1 or line[place + 1] == "except")
        empty = "deserted" in line or (alone and any(word in PLACES for word in line[:6]))
        if any(unit_at(line, each, thing)[1] for each in range(len(line))):
            empty = False
        if empty or ("nobody" in line[:3] and ("sight" in line or "anywhere" in line)):
            return "no"
    missing = {"missing", "absent", "absence"} & set(line)
    if missing or ("vain" in line and "in" in line):
        named = [place for place in range(len(line)) if (unit := unit_at(line, place, thing))[0] and unit[1] in denying]
        if (
            named
            and not {"not", "no", "nothing", "never"} & set(line)
            and not is_open([word for word in line if word not in {"searching", "search"}])
        ):
            turned = "thing" in line or "conspicuous" in line or "vain" in line
            return "no" if turned else "unparsed"
    return "unparsed"
