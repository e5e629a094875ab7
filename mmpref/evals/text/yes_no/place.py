"""What holds at one place of a clause, read word by word: what is denied, what is only depicted, which determiner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.evals.text.yes_no.hedges import next_word
from mmpref.evals.text.yes_no.question import Thing
from mmpref.evals.text.yes_no.words import (
    ADVERBS,
    AFTER_SIGN,
    AUXILIARIES,
    BE_WORDS,
    CARRIERS,
    DEPICTIONS,
    DETERMINERS,
    EXISTENCE_VERBS,
    HUNG,
    IMAGE_WORDS,
    LACKING,
    LACKING_OF,
    LIKE_NOTHING,
    MATERIALS,
    NOT_REAL,
    NOUNS_IN_ING,
    NUMBERS,
    OTHERS,
    PERCEPTION_VERBS,
    PLACES,
    PREPOSITIONS,
    QUANTITIES,
    SIGNS,
    SUBJECTS,
    VERBS,
)


@dataclass(slots=True)
class Place:
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
    alternative: bool = False  # "either ... or": one of several
    excepted: bool = False  # "except ...": the rule does not hold for what follows
    noun_since: int = 0  # where the words that belong to the noun begin


def after_noun(state: Place, index: int) -> None:
    """Forgets what was said of the noun that ends before ``index``."""
    state.unreal = False
    state.number = None
    state.noun_since = index


def read_word(words: Sequence[str], index: int, thing: Thing, state: Place) -> None:
    """Changes what holds by one word that does not name the thing."""
    word = words[index]
    after = words[index + 1] if index + 1 < len(words) else ""
    if _read_negation(words, index, word, after, state):
        state.noun_since = index + 1
        return
    if word in {",", "and", "or", "nor"}:
        _read_joining(words, index, after, state)
        return
    if word in {"who", "that", "which"}:
        state.relative = True
    if state.pending:
        state.pending = word not in PERCEPTION_VERBS | EXISTENCE_VERBS | _FOUND
        if word == "make" and after == "out":
            state.pending = True
        if word == "out" and words[index - 1] == "make":
            state.pending = False
        state.noun_since = index + 1
        return
    if state.denied == "nothing" and word not in LIKE_NOTHING and word not in ADVERBS:
        state.denied = "open"
    if word in DETERMINERS or word.isdigit() or word == "'s":
        _read_determiner(words, index, state)
        return
    if word in thing.modifiers and not state.pending:
        return
    if word in {"except", "save", "besides", "bar", "barring"} and (
        word not in {"save", "bar"} or after in DETERMINERS
    ):
        state.excepted, state.determiner, state.noun_since = True, "", index + 1
        return
    alive = bool(thing.words.denying & {"animal", "person"})
    if (word in NOT_REAL or (alive and word in MATERIALS)) and word not in thing.words.asserting:
        state.unreal = True
    if (
        (word in DEPICTIONS or word in CARRIERS)
        and word not in thing.words.asserting
        and not (state.denied and word in SIGNS)
        and _depicts(words, index, after)
    ):
        state.depicted = True
    if word == "of" and index and words[index - 1] in QUANTITIES and state.determiner:
        return  # "a pair of", "a herd of"
    if word in {"visible", "present"} and state.denied and after not in {"in", "on", ",", ""}:
        return  # "no visible dogs"
    if word in PREPOSITIONS:
        if index and words[index - 1] in LACKING_OF:
            return
        state.preposition, state.unreal = word, False
        state.determiner, state.number, state.noun_since = "", None, index + 1
        if (
            state.denied in {"no", "deny", "without"}
            and not (word == "of" and _of_is_clear(words, index))
            and not (state.sign and word in AFTER_SIGN)
        ):
            state.denied = "open"
        return
    if word.endswith(("ed", "wn")) and word in VERBS and index and words[index - 1] in {"a", "an", "the"}:
        return  # "a parked car"
    if word == "be" and index and words[index - 1] == "not":
        return  # "there can not be a dog"
    if word in AUXILIARIES or word in VERBS or (word.endswith("ing") and word not in NOUNS_IN_ING):
        _read_verb(words, index, state)
        return
    if word in SIGNS and state.denied:
        state.sign = True
    if word in OTHERS and state.denied:
        state.denied = "open"


def _read_joining(words: Sequence[str], index: int, after: str, state: Place) -> None:
    """A comma, "and" or "or": another noun begins."""
    word = words[index]
    if word == "," and state.excepted and not any(each in AUXILIARIES or each in VERBS for each in words[:index]):
        state.excepted = False  # "except for a cat, there is nothing"
    state.noun_since = index + 1
    state.alternative = word == "or" or (state.alternative and word != "and")
    if state.denied == "no" and word != "or" and after in DETERMINERS - {"any", "other", "such"}:
        state.denied = "open"


def _read_determiner(words: Sequence[str], index: int, state: Place) -> None:
    """An article or a number, with which a noun begins."""
    word = words[index]
    state.noun_since = index + 1 if word in {"a", "an", "the"} or word == "'s" else state.noun_since
    state.determiner = word
    if word in {"a", "an"}:
        state.number = None  # "two cats and a dog"
    state.alternative = state.alternative or word == "either"
    if word in NUMBERS or word.isdigit():
        value = NUMBERS.get(word) or (int(word) if len(word) < 4 and word.isascii() else 1000)
        state.number = -1 if state.number is not None or _vague(words, index) else value
    if state.denied and word in OTHERS:
        state.denied = "open"


def _read_verb(words: Sequence[str], index: int, state: Place) -> None:
    """A verb: what was denied before it ends there, or goes on behind it."""
    word = words[index]
    if not word.endswith("ing"):
        state.preposition = ""
    plural = (
        state.determiner in NUMBERS
        or state.determiner.isdigit()
        or state.determiner in QUANTITIES | {"several", "many", "some"}
    )
    if word in AUXILIARIES or word in VERBS or (plural and words[index - 1] not in DETERMINERS):
        state.determiner, state.number = "", None
    state.noun_since = index + 1
    if state.denied == "none" and word in BE_WORDS:
        return
    if state.denied == "without" and not word.endswith("ing"):  # "a man without a hat is riding"
        state.denied = ""
        return
    if state.denied in {"no", "deny", "without"} and not (state.sign and word in AFTER_SIGN):
        state.denied = "open"
    elif state.denied == "open" and state.relative and word in {"is", "are", "has", "holds"}:
        state.denied, state.relative = "", False


def _read_negation(words: Sequence[str], index: int, word: str, after: str, state: Place) -> bool:
    before = words[index - 1] if index else ""
    new = ""
    if word == "no" or (word in LACKING and not (word == "neither" and after == "of")):
        new = "deny" if word in LACKING else "no"
        if before in {"with", "has", "have", "having"} and word == "no" and not _about_image(words, index):
            new = "without"
    elif (
        word in {"free", "void", "empty", "bare", "clear", "bereft", "shorn", "short"} and after in {"of", "from"}
    ) or (word, after) in {
        ("instead", "of"),
        ("rather", "than"),
    }:
        new = "deny"
    elif word == "neither" and after == "of":
        new = "none"
    elif word == "without":
        new = "deny" if after in {"any", "visible"} or _about_image(words, index) else "without"
    elif word == "missing" and after in {"a", "an", "any", "the"}:
        new = "deny" if _about_image(words, index) else "open"
    elif word in {"none", "nothing"}:
        new = word
    elif word in {"fail", "fails", "failed"}:
        new = "deny" if next_word(words, index + 2) in PERCEPTION_VERBS | EXISTENCE_VERBS else "open"
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
    doubled = (
        state.denied == "deny" and word == "no" and before in PERCEPTION_VERBS | EXISTENCE_VERBS | {"not", "is", "are"}
    )
    if doubled:  # "there ain't no dog"
        return True
    again = word == "no" and before in {",", "and", "or", "certainly", "definitely"} and state.denied != "without"
    state.denied = new if not state.denied or word == "nor" or again else "open"
    if before in {",", "but", "and"}:
        state.depicted = False  # "a painting of a horse, not a real horse"
    state.determiner = state.determiner if new == "open" else "no"
    state.sign = word == "absence"
    state.preposition = ""
    return True


def _of_is_clear(words: Sequence[str], index: int) -> bool:
    before = words[index - 1] if index else ""
    return before in SIGNS | LACKING_OF | {"clear", "any", "lots"}


def _about_image(words: Sequence[str], index: int) -> bool:
    """Whether the clause up to here has the image, or what shows it, as its subject."""
    before = words[max(0, index - 12) : index]
    return not before or any(word in IMAGE_WORDS or word in PLACES for word in before) or before[0] in SUBJECTS


_FOUND = frozenset({"found", "seen", "spotted", "noticed", "detected", "identified", "located", "observed"})


def _not_means(words: Sequence[str], index: int) -> str:
    """What "not" denies: what follows, or something else."""
    before = words[index - 1] if index else ""
    place = index + 1
    while place < len(words) and (words[place] in ADVERBS - {"all"} or words[place] in {"be", "been", "able", "to"}):
        place += 1
    after = words[place] if place < len(words) else ""
    subject = words[max(0, index - 12) : index]
    may_be = before in {"can", "will"} and "be" in words[index + 1 : index + 2]  # "there can not be a dog"
    if "there" in subject and (before in BE_WORDS or may_be):
        return "deny"
    if after in _FOUND and before in {"have", "has", "had"}:
        return "deny" if set(subject) & {"i", "we", "you"} else "open"
    if after in {"make"} and "out" not in words[place : place + 2]:
        return "open"
    if after in PERCEPTION_VERBS:
        return "deny" if set(subject) & {"i", "we", "you", "one"} or len(subject) <= 1 else "open"
    if after in EXISTENCE_VERBS:
        return "deny" if _about_image(words, index) else "open"
    starts = before in BE_WORDS or before in {"", ",", "and", "or", "just", "is", "certainly", "definitely"}
    plain = after in {"a", "an", "any", "the", "one", "single"} or after in NUMBERS or after.isdigit()
    return "deny" if starts and plain else "open"


def _denies_verb(words: Sequence[str], index: int) -> bool:
    place = index + 1
    while place < len(words) and (words[place] in ADVERBS - {"all"} or words[place] in {"be", "been", "able", "to"}):
        place += 1
    return place < len(words) and words[place] in PERCEPTION_VERBS | EXISTENCE_VERBS | _FOUND


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
    if not whole:
        return True
    return after in {"of", "on"} and any(each in HUNG for each in words[index : index + 30])
