"""Whether a clause repeats the question as a statement, or denies it: "is the sky blue", "the sky is not blue".

Words are compared in their order, so that "the red line is longer than the blue line" never answers for the other way
round; another attribute says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpref.evals.text.yes_no.elsewhere import is_another_picture, is_told_by_others
from mmpref.evals.text.yes_no.hedges import is_open
from mmpref.evals.text.yes_no.matching import (
    ARTICLES,
    HARDLY,
    IN_IMAGE,
    LEAD,
    LOOKS,
    PARTLY,
    PRONOUNS,
    matches,
    same,
)
from mmpref.evals.text.yes_no.question import Asked
from mmpref.evals.text.yes_no.stems import stem
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import (
    ADVERBS,
    AUXILIARIES,
    BE_WORDS,
    IMAGE_WORDS,
    NOT_REAL,
    NOUNS_IN_ING,
    PREPOSITIONS,
    word_set,
)

_WHOLE = word_set("surface whole entire all rest color colour top inside outside exterior interior shape name title")
_NO_ADJECTIVES = word_set(
    "other another except besides and or 's not no none few some most only neither never hardly without if"
)
_RELATIVE = re.compile(r" , (?:which|who|that|whose) [^,]{1,80} ,")
_CONTRAST = re.compile(r"(?:\brather than\b|\binstead of\b|(?:, |\band )not\b|, rather than\b)")


def echo_says(words: Sequence[str], asked: Asked) -> YesNo:
    """What a clause says that repeats the question's words as a statement."""
    wanted = (*asked.subject, *asked.predicate)
    if not wanted or (not asked.predicate and not asked.subject):
        return "unparsed"
    names = frozenset(wanted)
    line = " ".join(words[:120])
    line = _RELATIVE.sub(" ", IN_IMAGE.sub(" ", LEAD.sub("", line))).replace(" pair of ", " ")
    stems = {stem(name) for name in names}
    if stems & {"say", "read"}:
        stems |= {"say", "read"}
    if is_open([word for word in line.split() if stem(word) not in stems], names) or any(
        word in NOT_REAL - names for word in line.split()
    ):
        return "unparsed"
    if is_told_by_others(line.split()) or is_another_picture(line.split()):
        return "unparsed"
    contrast = _CONTRAST.search(line)
    if contrast is not None:
        said = _contrast_says(line[: contrast.start()].split(), line[contrast.end() :].split(), asked)
        if said != "unparsed":
            return said
        line = line[: contrast.start()]
    return _statement_says(_bare(line.split()), asked)


def _bare(words: Sequence[str]) -> list[str]:
    """The words without articles; "this" stays where it stands for a noun."""
    kept = []
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        stands = word in PRONOUNS and (not after or after in AUXILIARIES or after in LOOKS or after in ADVERBS)
        if word in {'"', "/", "'s"} or (word in ARTICLES and not stands):
            continue
        kept.append(word)
    return kept


def _statement_says(words: list[str], asked: Asked) -> YesNo:
    while words and (words[0] in ADVERBS - {"both", "all"} or words[0] == ","):
        words = words[1:]
    if not words:
        return "unparsed"
    subject, predicate = list(asked.subject), list(asked.predicate)
    if len(predicate) > 1 and predicate[0] in {"look", "seem", "appear"}:
        predicate = predicate[1:]
    lacking = _lack_says(words, subject, predicate)
    if lacking != "unparsed":
        return lacking
    # no subject: "blue", "not blue"
    if words[0] == "not" and matches(words[1:], predicate, whole=True):
        return "no"
    if predicate and subject and words[0] not in PRONOUNS and matches(words, predicate, whole=True):
        return "yes"
    verb = next((place for place, word in enumerate(words) if word in AUXILIARIES or word in LOOKS), None)
    if verb is None or verb == 0 or words[verb - 1] == "to":
        return _plain_statement_says(words, subject, predicate)
    before, after = words[:verb], words[verb + 1 :]
    if words[verb] in {"has", "have", "had"} and predicate[:1] == ["have"]:
        after = ["have", *after]
    if before[0] == "not":
        if before[1:2] not in (["all"], ["both"], ["every"]) or subject[:1] != before[1:2]:
            return "unparsed"
        return "no" if _statement_says(words[1:], asked) == "yes" else "unparsed"
    # the border between subject and predicate is where the statement has its verb
    wanted = [*subject, *predicate]
    size = len(before)
    if 0 < size < len(wanted) and all(map(same, before, wanted)):
        predicate = wanted[size:]
    elif not _is_subject(before, subject):
        return _plain_statement_says(words, subject, predicate)
    denied = False
    if after[:1] == ["to"] and predicate[:1] != ["to"] and words[verb] not in LOOKS:
        return "unparsed"
    while (
        after
        and predicate[:1] != after[:1]
        and (
            after[0] in ADVERBS - PARTLY
            or after[0] in {"not", "never"} | HARDLY
            or after[0] in LOOKS | BE_WORDS | {"to", "like", "have"}
        )
    ):
        if after[0] in {"not", "never"} | HARDLY:
            if denied:
                return "unparsed"
            denied = True
        after = after[1:]
    if after[:1] == ["neither"] and "nor" in after:
        cut = after.index("nor")
        either = matches(after[1:cut], predicate, whole=True) or matches(after[cut + 1 :], predicate)
        return "no" if either and not denied else "unparsed"
    if after and predicate and predicate[0] in PREPOSITIONS and after[0] in _PLACED:
        after = after[1:]  # "is standing to the left of", asked whether it is to the left of
    if matches(after, predicate, strict=denied):
        return "no" if denied else "yes"
    shorter = _after_place(predicate)
    if shorter and matches(after, shorter, strict=denied):
        return "no" if denied else "yes"
    if denied and len(predicate) > 1 and after[-1:] == ["anything"] and matches(after[:-1], predicate[:-1], whole=True):
        return "no"
    if not denied and _conjoined(after, predicate):
        return "yes"
    if denied and before[0] in PRONOUNS and len(predicate) > 1 and _named(asked, after):
        return "no"
    return "unparsed"


def ellipsis_says(words: Sequence[str], asked: Asked) -> YesNo:
    """ "The lines are not", "the man does": the asked thing and an auxiliary verb, nothing else."""
    bare = _bare([word for word in words[:20] if word not in ADVERBS])
    denied = bool(bare) and bare[-1] == "not"
    if denied:
        bare = bare[:-1]
    if len(bare) < 2 or bare[-1] not in AUXILIARIES - {"can", "could", "may", "might", "must", "should", "would"}:
        return "unparsed"
    head = asked.subject[-1]
    known = _is_subject(bare[:-1], asked.subject) or (len(bare) == 2 and same(bare[0], head))
    return ("no" if denied else "yes") if known and bare[0] not in PRONOUNS else "unparsed"


_HAVING = word_set("wearing wear wears holding hold holds carrying carry carries have has having with using riding")


_PLACED = word_set(
    "stands stand standing sits sit sitting lies lie lying hangs hang hanging rests resting located positioned placed "
    "situated parked seated"
)


def _lack_says(words: list[str], subject: list[str], predicate: list[str]) -> YesNo:
    """ "He has no tie on", asked whether he wears a tie: what would be worn or held is denied."""
    if len(predicate) < 2 or stem(predicate[0]) not in {stem(word) for word in _HAVING}:
        return "unparsed"
    for place, word in enumerate(words[:14]):
        if word not in {"no", "without"}:
            continue
        nouns = [each for each in words[place + 1 : place + 3] if each not in {"any", "a"}]
        if not nouns or not any(same(each, predicate[-1]) for each in nouns[:1]):
            return "unparsed"
        lead = words[:place]
        while lead and (lead[-1] in _HAVING or lead[-1] in AUXILIARIES or lead[-1] in ADVERBS or lead[-1] == ","):
            lead = lead[:-1]
        return "no" if not lead or _is_subject(lead, subject) or "," in words[:place] else "unparsed"
    return "unparsed"


def _plain_statement_says(words: list[str], subject: list[str], predicate: list[str]) -> YesNo:
    """A statement without an auxiliary verb: "the boy wears a hat"."""
    if words[0] in PRONOUNS and subject:
        return "yes" if matches(words[1:], predicate) else "unparsed"
    for end in range(1, min(len(words), 12)):
        if _is_subject(words[:end], subject) and words[end - 1] not in PRONOUNS:
            rest = words[end:]
            if rest and predicate and predicate[0] in PREPOSITIONS and rest[0] in _PLACED:
                rest = rest[1:]
            denials = {"not", "no", "never", "without", "nor"} - {*predicate}
            if any(word in denials for word in rest[: len(predicate) + 3]):
                return "unparsed"
            if matches(rest, predicate):
                return "yes"
    return "unparsed"


def _contrast_says(before: list[str], after: list[str], asked: Asked) -> YesNo:
    """ "The cat is white, not black": the asked attribute is denied where the statement is about the asked thing."""
    before, after = _bare(before), _bare(after)
    verb = next((place for place, word in enumerate(before) if word in AUXILIARIES or word in LOOKS), None)
    if verb is None or not after or "not" in before:
        return "unparsed"
    predicate = list(asked.predicate)
    if not _is_subject(before[:verb], list(asked.subject)):
        return "no" if _named(asked, after) and before[verb] in BE_WORDS else "unparsed"
    if matches(before[verb + 1 :], predicate):
        return "unparsed"
    if matches(after, predicate, whole=True) or _named(asked, after):
        return "no"
    # "on the floor, not on the bed" where the question has the verb before it
    shorter = predicate[1:] if len(predicate) > 1 and predicate[0].endswith("ing") else []
    return "no" if shorter and matches(after, shorter, whole=True) else "unparsed"


def _after_place(predicate: Sequence[str]) -> list[str]:
    """The predicate without the place that belongs to the subject: "(in the front) wearing glasses"."""
    if not predicate or predicate[0] not in PREPOSITIONS:
        return []
    for place in range(len(predicate) - 2, 1, -1):
        word = predicate[place]
        if word in {"called", "named", "titled"} or (word.endswith("ing") and word not in NOUNS_IN_ING | {"bounding"}):
            return list(predicate[place:])
    return []


def _named(asked: Asked, words: Sequence[str]) -> bool:
    """Whether these words are the name at the end of the question ("called Emma Stone")."""
    wanted = [*asked.subject, *asked.predicate]
    for place, word in enumerate(wanted[:-1]):
        if word in {"called", "named", "titled", "by"}:
            return matches(list(words), wanted[place + 1 :], whole=True)
    return False


def _is_subject(words: Sequence[str], subject: Sequence[str]) -> bool:
    """Whether these words are the asked subject, a narrower one, or a pronoun in its place."""
    words = [word for word in words if word not in ARTICLES - PRONOUNS and word != ","]
    while words and words[0] in ADVERBS - {"both", "all"}:
        words = words[1:]
    if not words:
        return False
    if len(words) == 1 and words[0] in PRONOUNS:
        return True
    if words[0] == "one" and len(words) > 1 and "one" not in subject:
        return False  # "one of them", "one cup"
    if not subject:
        return len(words) == 1 and words[0] in IMAGE_WORDS
    head = len(subject)
    for start in range(min(3, len(words))):
        if len(words) >= start + head and all(
            same(word, want) or (word == "one" and place == head - 1 > 0)
            for place, (word, want) in enumerate(zip(words[start:], subject, strict=False))
        ):
            rest = words[start + head :]
            before = words[:start]
            if start == 2 and before[0] in _WHOLE and before[1] == "of":  # "the surface of the lake"
                return not words[start + head :]
            if any(word in PREPOSITIONS or word in _NO_ADJECTIVES | NOT_REAL for word in before):
                return False
            return not rest or (
                rest[0] in {"of", "in", "on", "at", "near", "behind", "with", "to", "itself"} and "and" not in rest
            )
    return False


def _conjoined(words: Sequence[str], predicate: Sequence[str]) -> bool:
    """ "Clear and blue" is blue: the asked attribute is one of several."""
    for place, word in enumerate(words[:6]):
        if word in {"and", ","} and place:
            if any(each in PREPOSITIONS or each in {"not", "no", "or"} for each in words[:place]):
                return False
            rest = words[place + 1 :]
            if matches(rest, predicate):
                return True
            shared = len(predicate) > 1 and rest and same(words[0], predicate[0]) and not rest[0].endswith("ing")
            if shared and matches(rest, predicate[1:]):
                return True  # "wearing glasses and a hat"
    return False
