"""A noun and what stands around it: whether it is the thing asked for, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.hedges import next_word
from mmpref.evals.text.yes_no.place import Place
from mmpref.evals.text.yes_no.question import Thing
from mmpref.evals.text.yes_no.stems import stem
from mmpref.evals.text.yes_no.things import narrower
from mmpref.evals.text.yes_no.words import (
    ABSENT,
    ADVERBS,
    AUXILIARIES,
    BE_WORDS,
    CONJUNCTIONS,
    DEPICTIONS,
    DETERMINERS,
    EXISTENCE_VERBS,
    GONE,
    IMAGE_WORDS,
    LOCATION,
    MASS,
    NOT_OF_IT,
    NOUNS_IN_ING,
    PREPOSITIONS,
    PRESENT,
    PRONOUNS,
    VERBS,
    word_set,
)


def unit_at(words: Sequence[str], index: int, thing: Thing) -> tuple[int, str]:
    """How many words from here name one thing, and its name where it concerns the one asked for ("" where not)."""
    known = thing.words
    word = words[index]
    for size in range(min(known.starts.get(word, 1), len(words) - index), 1, -1):
        last = words[index + size - 1]
        for end in dict.fromkeys((singular(last), last)):
            name = " ".join([*words[index : index + size - 1], end])
            if name in known.asserting or name in known.denying:
                return size, name
            if name in known.compounds:
                return size, ""
    one = singular(word)
    for name in (one, word, word[:-1] if word.endswith("s") else word):
        if name in known.asserting or name in known.denying:
            return 1, name
    if "-" in word:
        name = one.replace("-", " ")
        if name in known.asserting or name in known.denying:
            return 1, name
        return 1 if name in known.compounds else 0, ""
    return 0, ""


def is_noun_head(words: Sequence[str], index: int, size: int) -> bool:
    """Whether the noun here is not the first part of another ("dog bed", "dog's bowl")."""
    if index + size >= len(words):
        return True
    after, last = words[index + size], words[index + size - 1]
    if after == "'s":
        return False
    if after == "of" and last in {"couple", "crowd", "bed", "family", "team"}:
        return False  # "a couple of bowls", "a bed of vegetables"
    if last == "orange" and after in {"and", ","} and set(words[index + size + 1 : index + size + 2]) & _COLORS:
        return False
    if after in {",", '"', "/"} or after in _FOLLOWERS or after.isdigit():
        return True
    further = words[index + size + 1] if index + size + 1 < len(words) else ""
    if after.endswith("ing"):
        return after not in NOUNS_IN_ING or further in DETERMINERS or further in PREPOSITIONS
    if after.endswith(("ed", "ly")) or after in VERBS:
        return after not in {"shed", "bed"}
    if after.endswith("s") and not after.endswith("ss") and _is_subject_noun(words, index):
        # "the goalkeeper dives to his left": a verb, where the clause has none before
        return further in PREPOSITIONS | DETERMINERS | ADVERBS or further.endswith("ly")
    return singular(last) != last or last in {"people", "men", "women", "children"}


_COLORS = word_set("white black brown grey gray red blue green yellow pink purple")
_FOLLOWERS = (
    PREPOSITIONS | AUXILIARIES | CONJUNCTIONS | PRONOUNS | ADVERBS | DETERMINERS | PRESENT | ABSENT
    | word_set(
    "not no nor none lying alone together itself themselves himself herself looks nearby anywhere at everywhere "
    "please sir made drawn worn held shown rather instead only if whose never full tall dressed clad open asleep "
    "awake ready busy close"
)
)  # fmt: skip


def _is_subject_noun(words: Sequence[str], index: int) -> bool:
    """Whether a singular noun here is the subject of its clause: a determiner before it, and no verb."""
    before = list(words[max(0, index - 6) : index])
    while (cut := next((place for place, word in enumerate(before) if word in {",", "and"}), -1)) >= 0:
        before = before[cut + 1 :]
    if any(word in AUXILIARIES or word in VERBS or word in PREPOSITIONS for word in before):
        return False
    return any(
        word in {"a", "an", "one", "the", "his", "her", "their", "another", "only", "that", "this"} for word in before
    )


def is_asserted(words: Sequence[str], index: int, size: int, state: Place) -> bool:
    """Whether the noun speaks of something in particular: "a dog", "dogs" that do something, no "dogs" in general."""
    last = words[index + size - 1]
    if state.determiner in {"any", "every", "each", "most", "no", "such", "either"} or state.alternative:
        return False
    after = words[index + size] if index + size < len(words) else ""
    if after == "or":
        return False
    if state.determiner == "number" and (index < 3 or words[max(0, index - 3)] != "a"):
        return False
    if state.determiner:
        ends = after in BE_WORDS and next_word(words, index + size + 1) in {"a", "an"}
        return not ends  # "the dog is a statue" says what it is, not that it is there
    if singular(last) in MASS and index:
        return True
    if singular(last) == last and last not in {"people", "men", "women", "children"}:
        before = words[index - 1] if index else ""
        there = before != "is" or words[max(0, index - 2)] == "there"
        plain = there and before in {"have", "has", "exist", "exists", "is", "see", "shows", "contains"} and index <= 4
        return (
            last in {"someone", "somebody"}
            or plain
            or (not index and after in {"on", "next", "near", "under", "behind"})
        )
    if not any(word in AUXILIARIES or word in VERBS or word in PREPOSITIONS or word in IMAGE_WORDS
               for word in words[max(0, index - 30) : index]) and index > 0:  # fmt: skip
        return words[0] in {"two", "only", "just"}  # "bananas attract monkeys" speaks of no image
    if index - size <= 0 and state.noun_since == 0 and index == 0:
        following = next_word(words, index + size + 1) if after in BE_WORDS else after
        return (
            following in (PREPOSITIONS - NOT_OF_IT) | PRESENT
            or following.endswith(("ing", "ed"))
            or (after in BE_WORDS and following in VERBS)
        )
    return True


def has_count(count: int, state: Place, noun: str) -> bool:
    """Whether the noun stands with the number asked for; 0 asks for several."""
    if count == 0:  # more than one
        several = state.determiner in {"several", "many", "multiple", "various", "numerous", "few", "both"}
        return several or (state.number is not None and state.number > 1)
    if state.number is not None:
        return state.number == count
    return count == 1 and state.determiner in {"a", "an"} and singular(noun) == noun


def has_tail(words: Sequence[str], after: int, thing: Thing) -> bool:
    """Whether the words that place the thing ("on", "sofa") follow it, with no other place between them."""
    if not thing.tail:
        return True
    nouns = [word for word in thing.tail if word not in PREPOSITIONS]
    if nouns and len(nouns) < len(thing.tail) and _is_held_by(words[: min(after, 30)], nouns):
        return True
    place, started = 0, False
    for word in words[after : after + 40]:
        if stem(word) == stem(thing.tail[place]) or word in narrower(singular(thing.tail[place])):
            place, started = place + 1, True
            if place == len(thing.tail):
                return True
        elif (started and (word in PREPOSITIONS or word in {",", "and", "not", "no"})) or word in {
            "not",
            "no",
            "without",
            "never",
        }:
            return False
    return False


def _is_held_by(before: Sequence[str], nouns: Sequence[str]) -> bool:
    """Whether what stands before says that the place has it: "the bowl is full of", "the box contains"."""
    start = [singular(word) for word in before[:5] if word not in DETERMINERS]
    if start[: len(nouns)] != [singular(word) for word in nouns]:
        return False
    return any(word in {"contains", "has", "holds", "contain", "hold", "with", "of", "have"} for word in before[2:])


def is_depicted_after(words: Sequence[str], after: int) -> bool:
    """Whether the noun is one in a painting, on a shirt, or made of stone."""
    first = words[after] if after < len(words) else ""
    if first not in {
        "in",
        "on",
        "of",
        "from",
        "made",
        "painted",
        "drawn",
        "printed",
        "depicted",
        "carved",
        "is",
        "are",
        "statue",
    }:
        return False
    near = words[after + 1 : after + 6]
    for place, word in enumerate(near):
        if word in DEPICTIONS - IMAGE_WORDS - {"image", "sign", "screen", "card", "bust", "shadow"}:
            return not any(each in PREPOSITIONS and each != first for each in near[:place])
    if first == "drawn" and near[:1] and near[0] not in {"on", "in", "by", "with"}:
        return False
    return first in {"painted", "drawn", "printed", "carved"} or (first == "made" and "of" in near[:1])


def is_restricted(words: Sequence[str], after: int, thing: Thing) -> bool:
    """Whether a denial is about one place only ("on the sofa"), or about some of them ("walking")."""
    if words[0] in {"on", "under", "in", "behind", "beside", "near", "next", "inside", "at", "to"}:
        start = list(words[:12])
        lead = start[: start.index(",")] if "," in start else start[:4]
        if not any(word in IMAGE_WORDS or word in {"sight"} for word in lead) or any(word in LOCATION for word in lead):
            return True
    rest = words[after : after + 24]
    if "anywhere" in rest or "else" in rest:
        return False
    if thing.tail and all(any(stem(word) == stem(each) for word in rest) for each in thing.tail):
        return False
    for place, word in enumerate(rest):
        if word in LOCATION:
            return True
        if word in {"who", "that", "which", "wearing"} or (
            word.endswith("ing") and place == 0 and word not in NOUNS_IN_ING
        ):
            return True
        if word in PREPOSITIONS and word not in {"as", "of", "to", "about", "among", "amongst", "amid"}:
            near = rest[place + 1 : place + 8]
            if tuple(near[:2]) == ("this", "one"):
                continue
            if not any(each in IMAGE_WORDS or each in {"sight", "all", "any", "it"} for each in near):
                return True
    return False


_TAKEN_AWAY = word_set("removed erased deleted photoshopped edited cropped cut")


def _is_taken_away(words: Sequence[str], verb: int, place: int) -> bool:
    """Whether the noun before this verb is gone, or was edited out of the image."""
    told = [word for word in words[place : place + 6] if word not in {"been", "being"} and word not in ADVERBS]
    if told[:1] == ["gone"]:
        return words[verb] in BE_WORDS and len(told) == 1
    if told[:1] == [] or told[0] not in _TAKEN_AWAY:
        return False
    if told[0] in {"edited", "cropped", "cut"}:
        return told[1:2] == ["out"]
    return len(told) == 1 or any(word in IMAGE_WORDS for word in told[2:])


def predicate_says(words: Sequence[str], index: int) -> str:
    """What is said of the noun that ends here: "no" where it is absent, "open", or "" where it may be there."""
    last = min(len(words), index + 16)
    while index < last:
        word = words[index]
        if word in {"in", "of", "from", "within"} and any(each in IMAGE_WORDS for each in words[index + 1 : index + 4]):
            index += next(n for n in range(1, 4) if words[index + n] in IMAGE_WORDS) + 1
        elif word in {",", "and", "or", "nor"} or word in ADVERBS | DETERMINERS:
            index += 1
        elif (
            word in AUXILIARIES
            or word in PREPOSITIONS
            or word in VERBS
            or word in PRONOUNS
            or word.endswith("ing")
            or word in {"not", "absent", "missing", "nowhere"}
        ):
            break
        else:
            index += 1
    if index >= last:
        return ""
    word = words[index]
    if word in {"absent", "nowhere"}:
        return "no"
    if word not in AUXILIARIES:
        return ""
    place = index + 1
    while place < last and words[place] in ADVERBS:
        place += 1
    after = words[place] if place < last else ""
    if word in BE_WORDS and after in ABSENT:
        following = words[place + 1] if place + 1 < len(words) else ""
        return "open" if following in DETERMINERS - {"both", "all"} else "no"
    if _is_taken_away(words, index, place):
        return "no"
    if word in {"has", "have", "had"} and after in GONE:
        return "open"
    if after != "not":
        return ""
    place += 1
    while place < last and (words[place] in ADVERBS - {"all"} or words[place] in {"to", "be", "been"}):
        place += 1
    told = words[place] if place < last else ""
    if word in BE_WORDS:
        scene = told in {"in", "on", "within", "part", "among", "at"}
        if told == "on" and words[place + 1 : place + 2] and words[place + 1] in {"a", "an"}:
            return "there"  # "the dog is not on a leash"
        if scene:
            near = words[place + 1 : place + 6]
            return "no" if any(each in IMAGE_WORDS or each in {"sight", "all"} for each in near) else "open"
        if not told or told in PRESENT or told == ",":
            return "no"
        if told.endswith(("ing", "ed")):
            return "there"  # "the dog is not sleeping"
        return "open"
    if word in {"can", "could"}:
        return "no" if told in PRESENT else "open"
    if word in {"do", "does", "did"} and told not in EXISTENCE_VERBS | {"appear", "seem", "show", "be", "look", ""}:
        return "there"
    if word in {"has", "have"}:
        return "open"
    if word in {"do", "does", "did"}:
        return "no" if told in {"appear", "exist", "feature", "show", "seem"} and (
            place + 1 >= len(words) or words[place + 1] in {"in", "anywhere", "here", "there", ",", "at", "up", "to"}
        ) else "open"  # fmt: skip
    return "open"
