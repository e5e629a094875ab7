"""Whether a clause says that the thing asked for is in the image: one pass over its words.

Nothing is decided by a single pattern: on the way from left to right the pass keeps what is denied at this place, what
is only depicted, and which determiner the noun has. What is left open by any of these says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.question import Asked, Thing
from mmpref.evals.text.yes_no.stems import stem
from mmpref.evals.text.yes_no.things import narrower, other_compounds
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import (
    ADVERBS,
    AUXILIARIES,
    BE_WORDS,
    CONJUNCTIONS,
    DEPICTIONS,
    DETERMINERS,
    IMAGE_WORDS,
    NOT_REAL,
    NOUNS_IN_ING,
    NUMBERS,
    OPEN_HEDGES,
    PREPOSITIONS,
    PRONOUNS,
    VERBS,  # fmt: skip
    word_set,
)

_PRESENT = word_set(
    "visible present seen shown there here depicted pictured included featured found part "
    "evident apparent anywhere "
    "detected captured identified displayed discernible noticeable spotted observed existent existing in real"
)
_ABSENT = word_set("absent missing nowhere nonexistent non-existent lacking")
_EXISTENCE_VERBS = word_set(
    "contain show have include feature depict display capture portray contains shows has "
    "includes features depicts "
    "displays showing containing"
)
_PERCEPTION_VERBS = word_set(
    "see spot find notice observe detect identify recognize recognise locate discern perceive make seeing finding"
)
_LACKING = word_set("lacks lack lacking lacked devoid absence zero nor neither")
_SIGNS = word_set("sign signs evidence trace traces indication indications presence instance instances hint "
    "proof kind "
                   "type form sort glimpse reason indicator")  # fmt: skip
_AFTER_SIGN = word_set("of that there is are to think believe suggest any such being a an the")
_LIKE_NOTHING = word_set("resembling like similar to that looks remotely even close resembles which is be a an any "
                          "considered called")  # fmt: skip
_NEUTRAL = word_set("any visible single real actual such recognizable discernible apparent obvious clear "
    "identifiable "
                     "living live the a an of one noticeable distinct other-than")  # fmt: skip
_OTHERS = word_set("other more second another additional further third else extra longer")
_NOT_OF_IT = word_set("for about like than as unlike except despite")
_LOCATION = word_set("left right foreground background corner top bottom middle center centre front side "
    "distance edge "
                      "half")  # fmt: skip
_PLACES = word_set("room street kitchen bathroom bedroom area road park field beach table")
_MASS = word_set(
    "grass water sand snow food furniture sky bread rice meat fruit coffee tea smoke fire ice wood "
    "soil mud broccoli pizza "
    "cake sunlight light hair traffic dirt gravel luggage clothing cloud sea ocean forest cattle cheese soup "
    "wine beer juice "
    "vegetation foliage equipment ground sheep"
)
_QUANTITIES = word_set(
    "pair couple group herd flock bunch pack crowd lot number dozen row pile stack bowl set few variety"
)
_SUBJECTS = word_set("i we you it this that there one")
_HUNG = word_set("wall hang hangs hanging hung shirt framed cover billboard poster mug package packaging box")


@dataclass(slots=True)
class _Pass:
    """What holds at one place of a clause."""

    pending: bool = False  # the verb of "does not see" is still to come
    denied: str = (
        ""  # "" nothing; "deny"; "no" for the determiner; "nothing", "none", "without"; "open": cannot be told
    )
    sign: bool = False  # "no sign that": what follows is denied too
    depicted: bool = False
    unreal: bool = False
    determiner: str = ""
    number: int | None = None
    preposition: str = ""
    relative: bool = False
    noun_since: int = 0  # where the words that belong to the noun begin


def presence_says(words: Sequence[str], asked: Asked) -> YesNo:
    """What a clause says about the things asked for, before the question's own "no" is looked at."""
    said = [_thing_says(words, thing) for thing in asked.things]
    if len(said) == 1:
        return said[0]
    if asked.every_thing:
        return "no" if "no" in said else ("yes" if all(each == "yes" for each in said) else "unparsed")
    return "yes" if "yes" in said else ("no" if all(each == "no" for each in said) else "unparsed")


def is_open(words: Sequence[str], names: frozenset[str] = frozenset()) -> bool:
    """Whether a hedge that does not lean, a condition or a quotation leaves open what the words say."""
    for index, word in enumerate(words):
        if word in OPEN_HEDGES and word not in names:
            after = _next_word(words, index + 1)
            if word in {"could", "would"} and (after in _PERCEPTION_VERBS or after == "not"):
                continue
            return True
        if word == "can" and index + 1 < len(words):
            after = _next_word(words, index + 1)
            if after not in _PERCEPTION_VERBS | {"not", "be", "clearly", "see", "tell", "count"}:
                return True
    return False


def _next_word(words: Sequence[str], index: int) -> str:
    while index < len(words) and words[index] in ADVERBS:
        index += 1
    return words[index] if index < len(words) else ""


def _thing_says(words: Sequence[str], thing: Thing) -> YesNo:
    found: set[YesNo] = set()
    state = _Pass()
    open_clause: bool | None = None
    index = 0
    while index < len(words):
        size, name = _unit(words, index, thing)
        if size and _is_noun_head(words, index, size):
            if open_clause is None:
                open_clause = is_open(words, thing.words.asserting) or '"' in words
            if not open_clause:
                found.add(_mention_says(words, index, size, name, thing, state))
            _after_noun(state, index + size)
            index += size
            continue
        step = max(size, 1)
        if size:  # part of a compound: another thing
            _after_noun(state, index + size)
        else:
            _read_word(words, index, thing, state)
        index += step
    found.discard("unparsed")
    return found.pop() if len(found) == 1 else "unparsed"


def _unit(words: Sequence[str], index: int, thing: Thing) -> tuple[int, str]:
    """How many words from here name one thing, and its name where it concerns the one asked for ("" where not)."""
    known = thing.words
    for size in range(min(known.longest, len(words) - index), 0, -1):
        last = words[index + size - 1]
        for end in dict.fromkeys((singular(last), last, last[:-1] if last.endswith("s") else last)):
            name = end if size == 1 else " ".join([*words[index : index + size - 1], end])
            if "-" in name and name not in known.asserting and name not in known.denying:
                name = name.replace("-", " ")
            if name in known.asserting or name in known.denying:
                return size, name
            if size > 1 and name in other_compounds():
                return size, ""
    return 0, ""


def _is_noun_head(words: Sequence[str], index: int, size: int) -> bool:
    """Whether the noun here is not the first part of another ("dog bed", "dog's bowl")."""
    if index + size >= len(words):
        return True
    after, last = words[index + size], words[index + size - 1]
    if after == "'s":
        return False
    if after in {",", '"', "/"} or after in _FOLLOWERS or after.isdigit():
        return True
    if after.endswith("ing"):
        return after not in NOUNS_IN_ING
    if after.endswith(("ed", "ly")) or after in VERBS:
        return after not in {"shed", "bed"}
    return singular(last) != last or last in {"people", "men", "women", "children"}


_FOLLOWERS = (
    PREPOSITIONS | AUXILIARIES | CONJUNCTIONS | PRONOUNS | ADVERBS | DETERMINERS | _PRESENT | _ABSENT
    | word_set("not no nor none lying alone together itself themselves himself herself looks nearby anywhere at "
                "everywhere please sir made drawn worn held shown rather instead only if whose never")
)  # fmt: skip


def _after_noun(state: _Pass, index: int) -> None:
    state.unreal = False
    state.number = None
    state.noun_since = index


def _read_word(words: Sequence[str], index: int, thing: Thing, state: _Pass) -> None:
    """Changes what holds by one word that does not name the thing."""
    word = words[index]
    after = words[index + 1] if index + 1 < len(words) else ""
    if _read_negation(words, index, word, after, state):
        state.noun_since = index + 1
        return
    if word in {",", "and", "or", "nor"}:
        state.noun_since = index + 1
        if state.denied == "no" and word != "or" and after in DETERMINERS - {"any", "other", "such"}:
            state.denied = "open"
        return
    if word in {"who", "that", "which"}:
        state.relative = True
    if state.pending:
        state.pending = word not in _PERCEPTION_VERBS | _EXISTENCE_VERBS
        if not state.pending and word == "make" and after == "out":
            state.pending = True
        state.noun_since = index + 1
        return
    if state.denied == "nothing" and word not in _LIKE_NOTHING and word not in ADVERBS:
        state.denied = "open"
    if word in DETERMINERS or word.isdigit() or word == "'s":
        state.noun_since = index + 1 if word in {"a", "an", "the"} or word == "'s" else state.noun_since
        state.determiner = word
        if word in NUMBERS or word.isdigit():
            value = NUMBERS.get(word) or (int(word) if len(word) < 4 and word.isascii() else 1000)
            state.number = -1 if state.number is not None or _vague(words, index) else value
        if state.denied and word in _OTHERS:
            state.denied = "open"
        return
    if word in NOT_REAL and word not in thing.words.asserting:
        state.unreal = True
    if (
        word in DEPICTIONS
        and word not in thing.words.asserting
        and not (state.denied and word in _SIGNS)
        and _depicts(words, index, after)
    ):
        state.depicted = True
    if word == "of" and index and words[index - 1] in _QUANTITIES and state.determiner:
        return  # "a pair of", "a herd of"
    if word in PREPOSITIONS:
        if index and words[index - 1] in {
            "rather",
            "instead",
            "free",
            "void",
            "devoid",
            "absence",
            "lack",
            "empty",
            "bare",
        }:
            return
        state.preposition = word
        state.determiner, state.number, state.noun_since = "", None, index + 1
        if (
            state.denied in {"no", "deny", "without"}
            and not (word == "of" and _of_is_clear(words, index))
            and not (state.sign and word in _AFTER_SIGN)
        ):
            state.denied = "open"
        return
    if word in AUXILIARIES or word in VERBS or (word.endswith("ing") and word not in NOUNS_IN_ING):
        if not word.endswith("ing"):
            state.preposition = ""
        if word in AUXILIARIES or word in VERBS:
            state.determiner, state.number = "", None
        state.noun_since = index + 1
        if state.denied == "none" and word in BE_WORDS:
            return
        if state.denied in {"no", "deny", "without"} and not (state.sign and word in _AFTER_SIGN):
            state.denied = "open"
        elif state.denied == "open" and state.relative and word in {"is", "are", "has", "holds"}:
            state.denied, state.relative = "", False
        return
    if word in _SIGNS and state.denied:
        state.sign = True
    if word in _OTHERS and state.denied:
        state.denied = "open"


def _read_negation(words: Sequence[str], index: int, word: str, after: str, state: _Pass) -> bool:
    before = words[index - 1] if index else ""
    new = ""
    if word == "no" or word in _LACKING:
        new = "deny" if word in _LACKING else "no"
        if before in {"with", "has", "have", "having"} and word == "no" and not _about_image(words, index):
            new = "without"
    elif (word in {"free", "void", "empty", "bare", "clear"} and after in {"of", "from"}) or (word, after) in {
        ("instead", "of"),
        ("rather", "than"),
    }:
        new = "deny"
    elif word == "without":
        new = "deny" if after in {"any", "visible"} or _about_image(words, index) else "without"
    elif word == "missing" and after in {"a", "an", "any", "the"}:
        new = "deny" if _about_image(words, index) else "open"
    elif word in {"none", "nothing"}:
        new = word
    elif word in {"fail", "fails", "failed"}:
        new = "deny" if _next_word(words, index + 2) in _PERCEPTION_VERBS | _EXISTENCE_VERBS else "open"
    elif word == "not":
        new = _not_means(words, index)
    elif word in {"never", "hardly", "barely", "scarcely", "rarely", "nobody", "seldom", "neither"}:
        new = "open"
    if not new:
        return False
    if word == "of" or (word in {"nor", "neither"} and state.denied in {"deny", "no"}):
        return True
    state.pending = new == "deny" and (
        word in {"fail", "fails", "failed"} or (word == "not" and _denies_verb(words, index))
    )
    state.denied = new if not state.denied or word == "nor" else "open"
    state.determiner = state.determiner if new == "open" else "no"
    state.sign = word == "absence"
    state.preposition = ""
    return True


def _of_is_clear(words: Sequence[str], index: int) -> bool:
    before = words[index - 1] if index else ""
    return before in _SIGNS | {
        "devoid",
        "free",
        "void",
        "empty",
        "bare",
        "clear",
        "absence",
        "instead",
        "lack",
        "any",
        "lots",
    }


def _about_image(words: Sequence[str], index: int) -> bool:
    """Whether the clause up to here has the image, or what shows it, as its subject."""
    before = words[max(0, index - 12) : index]
    return not before or any(word in IMAGE_WORDS or word in _PLACES for word in before) or before[0] in _SUBJECTS


def _not_means(words: Sequence[str], index: int) -> str:
    """What "not" denies: what follows, or something else."""
    before = words[index - 1] if index else ""
    place = index + 1
    while place < len(words) and (words[place] in ADVERBS - {"all"} or words[place] in {"be", "been", "able", "to"}):
        place += 1
    after = words[place] if place < len(words) else ""
    subject = words[max(0, index - 12) : index]
    if before in BE_WORDS and "there" in subject:
        return "deny"
    if after in {"make"} and "out" not in words[place : place + 2]:
        return "open"
    if after in _PERCEPTION_VERBS:
        return "deny" if set(subject) & {"i", "we", "you", "one"} or len(subject) <= 1 else "open"
    if after in _EXISTENCE_VERBS:
        return "deny" if _about_image(words, index) else "open"
    starts = before in BE_WORDS or before in {"", ",", "and", "or", "just", "is", "certainly", "definitely"}
    plain = after in {"a", "an", "any", "the", "one", "single"} or after in NUMBERS or after.isdigit()
    return "deny" if starts and plain else "open"


def _denies_verb(words: Sequence[str], index: int) -> bool:
    place = index + 1
    while place < len(words) and (words[place] in ADVERBS - {"all"} or words[place] in {"be", "been", "able", "to"}):
        place += 1
    return place < len(words) and words[place] in _PERCEPTION_VERBS | _EXISTENCE_VERBS


def _vague(words: Sequence[str], index: int) -> bool:
    before = words[max(0, index - 2) : index]
    return bool(
        {"than", "least", "most", "about", "around", "up", "over", "nearly", "almost", "or", "approximately"}
        & {*before}
    )


def _depicts(words: Sequence[str], index: int, after: str) -> bool:
    """Whether a painting, sign or toy here shows what follows; a picture may be the image itself."""
    word = words[index]
    if after not in {"of", "depicting", "showing", "with", "featuring", "representing", "that", "which", "portraying",
                     "resembling", "shaped", "on", "is", "shows", "depicts", "says"}:  # fmt: skip
        return False
    if word not in IMAGE_WORDS and word not in {"images", "image", "portrait"}:
        return True
    whole = index <= 6 and not set(words[:index]) & {"has", "have", "with", "'s", "there", "wearing", "holding", "on"}
    return not whole or any(each in _HUNG for each in words[index : index + 30])


def _mention_says(words: Sequence[str], index: int, size: int, name: str, thing: Thing, state: _Pass) -> YesNo:
    after = index + size
    own = [word for word in words[state.noun_since : index] if word not in DETERMINERS and word not in ADVERBS]
    if state.denied:
        return _denial_says(words, after, name, thing, state, own)
    told = _predicate_says(words, after)
    if told == "no":
        clear = name in thing.words.denying and set(own) <= _NEUTRAL | set(thing.modifiers) and not state.depicted
        if thing.count not in {None, state.number}:
            clear = clear and state.determiner in {"", "any"}
        return "no" if clear and not _restricted(words, after, thing) and not state.unreal else "unparsed"
    if told == "open" or name not in thing.words.asserting or state.depicted or state.unreal:
        return "unparsed"
    if (state.preposition in _NOT_OF_IT and state.number is None) or _is_depicted_after(words, after):
        return "unparsed"
    if not _is_asserted_noun(words, index, size, state):
        return "unparsed"
    if thing.count is not None and not _has_count(thing.count, state, words[after - 1]):
        return "unparsed"
    if not all(each in own for each in thing.modifiers):
        return "unparsed"
    return "yes" if _has_tail(words, after, thing) else "unparsed"


def _denial_says(words: Sequence[str], after: int, name: str, thing: Thing, state: _Pass, own: Sequence[str]) -> YesNo:
    if state.denied in {"open", "without"} or name not in thing.words.denying:
        return "unparsed"
    if state.denied == "without" or (state.denied == "none" and state.determiner not in {"a", "an"}):
        return "unparsed"
    if state.depicted or state.unreal or state.preposition in _NOT_OF_IT - {"like", "than"}:
        return "unparsed"
    if not set(own) <= _NEUTRAL | _SIGNS | _LIKE_NOTHING | set(thing.modifiers):
        return "unparsed"
    if state.number is not None and state.number != (thing.count or 1):
        return "unparsed"
    if after < len(words) and words[after] == "like":
        return "unparsed"
    told = _predicate_says(words, after)
    if told in {"open", "no"}:
        return "unparsed"
    return "unparsed" if _restricted(words, after, thing) else "no"


def _is_asserted_noun(words: Sequence[str], index: int, size: int, state: _Pass) -> bool:
    """Whether the noun speaks of something in particular: "a dog", "dogs" that do something, no "dogs" in general."""
    last = words[index + size - 1]
    if state.determiner in {"any", "every", "each", "most", "no", "such", "either"}:
        return False
    after = words[index + size] if index + size < len(words) else ""
    if state.determiner:
        ends = after in BE_WORDS and _next_word(words, index + size + 1) in {"a", "an"}
        return not ends  # "the dog is a statue" says what it is, not that it is there
    if singular(last) in _MASS and index:
        return True
    if singular(last) == last and last not in {"people", "men", "women", "children"}:
        return last in {"someone", "somebody"}
    if index - size <= 0 and state.noun_since == 0 and index == 0:
        following = _next_word(words, index + size + 1) if after in BE_WORDS else after
        return (
            following in PREPOSITIONS | _PRESENT
            or following.endswith(("ing", "ed"))
            or (after in BE_WORDS and following in VERBS)
        )
    return True


def _has_count(count: int, state: _Pass, noun: str) -> bool:
    if state.number is not None:
        return state.number == count
    return count == 1 and state.determiner in {"a", "an"} and singular(noun) == noun


def _has_tail(words: Sequence[str], after: int, thing: Thing) -> bool:
    """Whether the words that place the thing ("on", "sofa") follow it, with no other place between them."""
    if not thing.tail:
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


def _is_depicted_after(words: Sequence[str], after: int) -> bool:
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
    return first in {"painted", "drawn", "printed", "carved"} or (first == "made" and "of" in near[:1])


def _restricted(words: Sequence[str], after: int, thing: Thing) -> bool:
    """Whether a denial is about one place only ("on the sofa"), or about some of them ("walking")."""
    if words[0] in {"on", "under", "in", "behind", "beside", "near", "next", "inside", "at", "to"}:
        start = list(words[:12])
        lead = start[: start.index(",")] if "," in start else start[:4]
        if not any(word in IMAGE_WORDS or word in {"sight"} for word in lead) or any(
            word in _LOCATION for word in lead
        ):
            return True
    rest = words[after : after + 24]
    if thing.tail and all(any(stem(word) == stem(each) for word in rest) for each in thing.tail):
        return False
    for place, word in enumerate(rest):
        if word in _LOCATION:
            return True
        if word in {"who", "that", "which", "wearing"} or (
            word.endswith("ing") and place == 0 and word not in NOUNS_IN_ING
        ):
            return True
        if word in PREPOSITIONS and word not in {"as", "of", "to", "about"}:
            near = rest[place + 1 : place + 8]
            if not any(each in IMAGE_WORDS or each in {"sight", "all", "any", "it"} for each in near):
                return True
    return False


def _predicate_says(words: Sequence[str], index: int) -> str:
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
    if word in BE_WORDS and after in _ABSENT:
        following = words[place + 1] if place + 1 < len(words) else ""
        return "open" if following in DETERMINERS - {"both", "all"} else "no"
    if after != "not":
        return ""
    place += 1
    while place < last and (words[place] in ADVERBS - {"all"} or words[place] in {"to", "be", "been"}):
        place += 1
    told = words[place] if place < last else ""
    if word in BE_WORDS:
        scene = told in {"in", "on", "within", "part", "among", "at"}
        if scene:
            near = words[place + 1 : place + 6]
            return "no" if any(each in IMAGE_WORDS or each in {"sight", "all"} for each in near) else "open"
        return "no" if not told or told in _PRESENT or told == "," else "open"
    if word in {"can", "could"}:
        return "no" if told in _PRESENT else "open"
    if word in {"do", "does", "did"}:
        return "no" if told in {"appear", "exist", "feature", "show", "seem"} and (
            place + 1 >= len(words) or words[place + 1] in {"in", "anywhere", "here", "there", ",", "at", "up", "to"}
        ) else "open"  # fmt: skip
    return "open"
