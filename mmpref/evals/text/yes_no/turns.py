"""Statements that put the question's words in another order: who directed it, what the answer is, whose hair is long.

"Quentin Tarantino directed this movie", "36 is the right answer", "the girl has long hair", "I would not call it red":
each is read only where nothing but the question's words stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpref.evals.text.yes_no.covered import (
    GENERIC,
    SAID,
    STANDING,
    SUBJECT_WORDS,
    after_place,
    bare,
    covers,
    one_sense,
    predicates_for,
    wanted_of,
)
from mmpref.evals.text.yes_no.elsewhere import is_another_picture, is_told_by_others
from mmpref.evals.text.yes_no.hedges import is_open
from mmpref.evals.text.yes_no.matching import IN_IMAGE, LEAD, PRONOUNS, same
from mmpref.evals.text.yes_no.question import Asked
from mmpref.evals.text.yes_no.stems import stem
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import ADVERBS, AUXILIARIES, BE_WORDS, IMAGE_WORDS, PREPOSITIONS, word_set

_HARDLY = r"(?P<not>not |never |hardly |scarcely |barely )?"
_CALL = re.compile(
    rf"^(?:i|we|one|you) (?:would|can|could|do|will) {_HARDLY}(?:really |exactly |even )?"
    r"(?:call|describe|consider|label) (?P<rest>.+)$"
)
_BE_CALLED = re.compile(
    rf"^(?P<subject>.{{1,60}}?) (?:can|could|would|should) {_HARDLY}(?:really )?be (?:called|described as|considered"
    r"|labeled|regarded as) (?P<rest>.+)$"
)
_HAVING = word_set("has have wears wearing with have-on had wear")
_SHOWN = word_set("shown pictured depicted seen visible featured displayed here captured present")
_RIGHT = word_set("right correct exact answer")


def turn_says(words: Sequence[str], asked: Asked) -> YesNo:
    """What a clause says that has the question's words in another order, or "unparsed"."""
    if not asked.predicate or len(words) > 60:
        return "unparsed"
    said = _called_says(words, asked)
    if said != "unparsed":
        return said
    line = one_sense(IN_IMAGE.sub(" ", LEAD.sub("", " ".join(bare(words)))))
    plain = [word for word in line.split() if word != "'s"]
    own = {*map(stem, asked.subject), *map(stem, asked.predicate)} | asked.content
    if (
        is_open([word for word in plain if stem(word) not in own])
        or is_told_by_others(plain)
        or is_another_picture(plain)
    ):
        return "unparsed"
    plain = [word for word in plain if word not in ADVERBS or word in asked.predicate]
    for way in (_active_says, _identity_says, _inverted_says, _not_this_says, _owner_says):
        said = way(plain, asked)
        if said != "unparsed":
            return said
    return "unparsed"


def _called_says(words: Sequence[str], asked: Asked) -> YesNo:
    """ "I would not call it red", "it can hardly be called red"."""
    line = " ".join(words[:60])
    found = _CALL.match(line)
    if found is not None:
        rest = ["it" if word in {"him", "her", "them"} else word for word in bare(found["rest"].split())]
        for size in range(1, min(6, len(rest))):
            for predicate in predicates_for(rest[:size], asked, set()):
                claimed = rest[size + 1 :] if rest[size] == "as" else rest[size:]
                if claimed and covers(claimed, predicate, asked):
                    return "no" if found["not"] else "yes"
        return "unparsed"
    found = _BE_CALLED.match(line)
    if found is None:
        return "unparsed"
    for predicate in predicates_for(bare(found["subject"].split()), asked, set()):
        if covers(bare(found["rest"].split()), predicate, asked):
            return "no" if found["not"] else "yes"
    return "unparsed"


def _split_at_verb(words: list[str]) -> tuple[list[str], list[str], bool] | None:
    """The words before the auxiliaries, those after them, and whether "not" stands among these."""
    verb = next((place for place, word in enumerate(words) if word in AUXILIARIES), None)
    if not verb:
        return None
    after, denied = words[verb:], False
    while after and (after[0] in AUXILIARIES or after[0] in {"not", "never"}):
        denied = denied or after[0] in {"not", "never"}
        after = after[1:]
    return words[:verb], after, denied


def _active_says(words: list[str], asked: Asked) -> YesNo:
    """ "Quentin Tarantino directed this movie", asked whether it is directed by him."""
    predicate = asked.predicate
    if len(predicate) < 3 or predicate[1] != "by":
        return "unparsed"
    name = [word for word in predicate[2:] if word != ","]
    size = len(name)
    if len(words) <= size or not all(map(same, words[:size], name)):
        return "unparsed"
    rest, denied = words[size:], False
    while rest and rest[0] in {"did", "not", "has", "is", "was"}:
        denied = denied or rest[0] == "not"
        rest = rest[1:]
    if not rest or stem(rest[0]) != stem(predicate[0]):
        return "unparsed"
    known = all(word in PRONOUNS or word in GENERIC or word in asked.subject for word in rest[1:])
    return ("no" if denied else "yes") if known else "unparsed"


def _identity_says(words: list[str], asked: Asked) -> YesNo:
    """ "36 is the right answer", "Big Ben is shown here"."""
    parts = _split_at_verb(words)
    if parts is None:
        return "unparsed"
    before, after, denied = parts
    wanted = wanted_of(asked)
    if after and all(word in _SHOWN or word in PREPOSITIONS or word in IMAGE_WORDS for word in after):
        # "Big Ben is not shown" says nothing of other things
        names = [wanted[wanted.index("of") + 1 :]] if "of" in wanted[1:3] and not asked.subject else []
    elif after and asked.subject and asked.subject[-1] in SAID:
        known = {*asked.subject, *asked.predicate} | _RIGHT | SUBJECT_WORDS
        names = [wanted, *after_place(wanted)] if {*after} <= known | PREPOSITIONS and {*after} & SAID else []
    else:
        return "unparsed"
    if not any(len(name) == len(before) and all(map(same, before, name)) for name in names):
        return "unparsed"
    return "no" if denied else "yes"


def _inverted_says(words: list[str], asked: Asked) -> YesNo:
    """ "On the left of the fence stands a sheep", "the largest exporter is China"."""
    predicate = wanted_of(asked)
    if len(predicate) < 2 or not asked.subject:
        return "unparsed"
    verb = next((place for place, word in enumerate(words) if word in AUXILIARIES or word in STANDING), None)
    if not verb or not covers(words[:verb], predicate, asked, whole=True):
        return "unparsed"
    rest = words[verb + 1 :]
    denied = rest[:1] == ["not"] and words[verb] in BE_WORDS
    rest = rest[denied:]
    if len(rest) != len(asked.subject) or not all(map(same, rest, asked.subject)):
        return "unparsed"
    return "no" if denied else "yes"


def _not_this_says(words: list[str], asked: Asked) -> YesNo:
    """ "Germany, not China, is the largest exporter"."""
    if words.count(",") != 2 or "not" not in words or not asked.subject:
        return "unparsed"
    first = words.index(",")
    last = words.index(",", first + 1)
    if words[first + 1] != "not" or last + 1 >= len(words) or words[last + 1] not in AUXILIARIES:
        return "unparsed"
    rest = words[last + 2 :]
    for name, said in ((words[first + 2 : last], "no"), (words[:first], "yes")):
        same_name = len(name) == len(asked.subject) and all(map(same, name, asked.subject))
        if same_name and covers(rest, wanted_of(asked), asked):
            return "no" if said == "no" else "yes"
    return "unparsed"


def _owner_says(words: list[str], asked: Asked) -> YesNo:
    """ "The girl has long hair", asked whether her hair is long."""
    if len(asked.subject) < 2 or len(asked.predicate) != 1:
        return "unparsed"
    had = next((place for place, word in enumerate(words) if word in _HAVING or word in {"not", "no"}), None)
    if not had:
        return "unparsed"
    owner = [word for word in words[:had] if word not in BE_WORDS | {"does", "do"}]
    own = asked.subject[:-1]
    known = owner[:1] != owner or owner[0] not in PRONOUNS
    if not owner or (known and not all(any(same(word, each) for each in own) for word in owner)):
        return "unparsed"
    rest = [word for word in words[had:] if word not in _HAVING]
    denied = bool(rest) and rest[0] in {"not", "no"}
    rest = rest[1:] if denied else rest
    if not rest or not same(rest[0], asked.predicate[0]):
        return "unparsed"
    noun = next((place for place, word in enumerate(rest[1:4], 1) if same(word, asked.subject[-1])), None)
    if noun is None or any(word in PREPOSITIONS or word in {"and", "or", ","} for word in rest[1:noun]):
        return "unparsed"
    return "no" if denied else "yes"
