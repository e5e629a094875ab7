"""Whether one statement of a clause covers what the question asks: "the door stands wide open", "none of them are on".

The subject of the statement must be the asked one, a pronoun or a quantity of it; the words of the asked predicate must
stand in it in their order, with modifiers between them; what is denied must be denied at the verb. Anything that
weakens ("half", "almost", "if", "or") leaves it unread, and so does another number, another side or another subject.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpref.evals.text.yes_no.elsewhere import is_another_picture, is_told_by_others
from mmpref.evals.text.yes_no.hedges import is_open
from mmpref.evals.text.yes_no.matching import ARTICLES, HARDLY, IN_IMAGE, LEAD, LOOKS, PRONOUNS, SEEMS, goes_on, same
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
    NUMBERS,
    PREPOSITIONS,
    VERBS,
    word_set,
)

_COPULAS = LOOKS | word_set(
    "remain stay stays stand stands stood sit sits sat lie lies lay rest rests hang hangs hung feel feels keep "
    "keeps become becomes runs grows"
)
STANDING = word_set("sit sits sat sitting stand stands stood standing lie lies lay lying rest rests resting perched")
_LETTERS = word_set("letter letters text word words caption phrase")
_NEUTRAL = word_set(
    "located placed positioned situated found set put side hand shown seen pictured depicted visible "
    "high low far housed exhibited kept hanging directly right-"
    "here itself themselves himself herself being be been own of"
)
_LEFT_OUT = _NEUTRAL | {"for", "called", "named", "titled", "every"}
_PARTLY = word_set(
    "rarely seldom unlikely falsely wrongly incorrectly deceptively "
    "half partly partially almost nearly mostly barely less least without unlike except if whether or either only some "
    "few most many part parts several than like nor not never no none neither without and too-little once formerly "
    "supposedly allegedly never hardly scarcely but when until unless before-it somewhat slightly not-quite fake"
)
_WHOLLY = word_set("completely fully entirely totally all wholly perfectly exactly quite very always particularly too")
_ADJECTIVES = word_set("pretty even still most all both only just well too again")
_PERSONS = frozenset({"actor", "actress", "person", "man", "woman", "character", "star", "celebrity"})
_ALIKE_SUBJECTS = (
    frozenset({"movie", "film"}), frozenset({"artwork", "painting", "work", "piece"}),
    frozenset({"answer", "result", "sum", "solution"}), frozenset({"output", "result"}),
    frozenset({"word", "text", "words", "writing", "lettering"}),
)  # fmt: skip
_SIDE_OF = {"left-of": "left", "right-of": "right"}
_STANDING = {("some", "of"), *(("there", each) for each in BE_WORDS)}
SUBJECT_WORDS = word_set("one ones surface area correct final actual total real running executing execution overall")
_SIDES = word_set(
    "left right top bottom upper lower first second third last front back left-of right-of other another next previous"
)
_QUANTITIES = word_set("both all each every these those of them two three four every-one everyone everybody")
_DENYING = word_set("no none neither nobody")
GENERIC = word_set(
    "movie film poster artwork painting place building landmark scene location word code translation weather logo "
    "work piece object item thing text answer output mountain tower bridge temple church castle palace monument square"
)
_SHOWN = word_set("shown displayed depicted captured featured portrayed described given stated returned contained")
_SHOWS = frozenset({"show", "depict", "featur", "captur", "portray", "display", "contain", "describ", "illustrat"})
_READING = frozenset({"read", "say", "spell"})
_SAYING = frozenset({"read", "say", "spell", "print", "output", "show", "display", "stat", "giv", "produc", "return",
                     "equal", "evaluat"})  # fmt: skip
SAID = word_set("word words text letters output answer result number sum value title name")
_JUDGING = word_set("appropriate suitable correct right okay safe legal possible advisable allowed necessary proper")
_TIMES = word_set("night nighttime day daytime winter summer spring autumn fall dusk dawn indoors outdoors")
_THINGS = word_set("something anything someone somebody everything nothing")
_KINDS = word_set("kind type form sort style piece pair couple group color colour shade view part side")
_NO_MODIFIERS = PREPOSITIONS | AUXILIARIES | PRONOUNS | {"and", ",", ".", "left-of", "right-of"}
_OPPOSITE = ("un", "in", "im", "ir", "il", "non-", "non", "dis")
_ALIKE_PREPOSITIONS = (
    frozenset({"under", "below", "beneath", "underneath"}), frozenset({"above", "over"}),
    frozenset({"in", "inside", "within"}), frozenset({"near", "close-to"}), frozenset({"during", "at", "in"}),
)  # fmt: skip
_SAME_SENSE = [
    (re.compile(r"(?:, )?\b(?:rather than|instead of)\b"), ", not"),
    (re.compile(r"\b(?:and|but) (?:\w+ly )?not\b"), ", not"),
    (re.compile(r"\b(?:to|on|at) (\w+(?: \w+)?) 's (left|right)(?: side)?\b"), r"\2-of \1"),
    (re.compile(r"\b(?:to|on|at) (?:its|his|her|their) (left|right)(?: side)?\b"), r"\1-of it"),
    (re.compile(r"\bon top of\b"), "on"),
    (re.compile(r"\b(?:in|on|from) (?:bar |line |pie )?(?:chart|graph|diagram|plot)\b"), ""),
    (re.compile(r"\b(answer|result|output|sum|value) (?:should|would|must) be\b"), r"\1 is"),
    (re.compile(r"\b(?:interior|exterior|view|facade|scene) of (?=\w)"), ""),
    (re.compile(r"\binside of\b"), "inside"),
    (re.compile(r"\b(?:to|on|at|towards|toward)? ?\b(left|right)(?: hand)?(?: side)? of\b"), r" \1-of"),
    (re.compile(r"\b(?:to|on|at|towards) (left|right)(?: hand)?(?: side)?\b"), r"\1-of"),
    (re.compile(r"\b(?:beside|adjacent to|right next to)\b"), "next to"),
    (re.compile(r"\bclose to\b"), "close-to"),
    (re.compile(r"\bone (left|right)-of(?= |$)"), r"\1 one"),
    (re.compile(r"\bright (?=next|behind|in|on|before|under|above|below|at|there|here)"), ""),
    (re.compile(r"\b(?:i|me)\b"), "you"),
    (re.compile(r"\bwould be (?=(?:un|in)?(?:appropriate|suitable|advisable|correct|safe|proper))"), "is "),
]
_SHELLS = [
    re.compile(r"^exist in (?:the )?form of "),
    re.compile(r"^(?:belong|belongs) to (?:type|category|genre|style|kind) of "),
    re.compile(r"^(?:belong|belongs) to (?=.* genre$)"),
    re.compile(r"^(?:image|picture|photo|photograph|painting) of "),
    re.compile(r"^(?:describe|show|depict) (?:place of )?(?=\w)"),
    re.compile(r"^(?:called|named|titled) "),
    re.compile(r"^(?:look|seem|appear) "),
    re.compile(r"^displayed (?=in )"),
    re.compile(r"^taken (?:in|at|during) (?:place of )?(?=\w)"),
    re.compile(r"^taken (?=indoors|outdoors)"),
    re.compile(r"^(?:written|made|programmed|coded) (?:in|of|from) "),
]
_I_SEE = re.compile(
    r"^(?:(?:i|we|you|one) (?:can )?(?:clearly )?(?:see|notice|observe|tell)(?: that)?|it is (?:clear|obvious) that"
    r"|(?:image|picture|photo|chart|graph|figure) shows that) "
)


def covered_says(words: Sequence[str], asked: Asked) -> YesNo:
    """What the statements of a clause say that cover the question's words; "unparsed" where they do not agree."""
    if not asked.predicate:
        return "unparsed"
    line = one_sense(_I_SEE.sub("", IN_IMAGE.sub(" ", LEAD.sub("", " ".join(bare(words[:100]))))))
    plain = [word for word in line.split() if word != "'s"]
    known = {*map(stem, asked.subject), *map(stem, asked.predicate)} | asked.content
    if asked.subject and asked.subject[-1] in SAID:
        known |= _SAYING
    if is_told_by_others(plain) or is_another_picture(plain):
        return "unparsed"
    hedged = [word for word in plain if stem(word) not in known and word not in _LETTERS]
    if is_open([word for word in hedged if word != "can"]):
        return "unparsed"
    found: set[YesNo] = set()
    about = False
    for statement in _statements(plain):
        if "can" in statement and is_open([word for word in statement if word in hedged]):
            continue
        said, about = _statement_says(statement, asked, about)
        found.add(said)
    found.discard("unparsed")
    return found.pop() if len(found) == 1 else "unparsed"


def bare(words: Sequence[str]) -> list[str]:
    """The words without articles, quotation marks and adverbs that change nothing."""
    kept: list[str] = []
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        stands = word in PRONOUNS and (not after or after in AUXILIARIES | _COPULAS | ADVERBS | VERBS | {","})
        starts = word == "some" and (not kept or kept[-1] in {",", "and"})  # "some apples", asked about all
        if word in {'"', "/"} or (not starts and word in ARTICLES and not (stands or (word, after) in _STANDING)):
            continue
        kept.append(word)
    return kept


def one_sense(line: str) -> str:
    """The line with one spelling for phrases of one sense: "to the left of", "on the left side of"."""
    for pattern, plain in _SAME_SENSE:
        line = pattern.sub(plain, line)
    return line


def _statements(words: Sequence[str]) -> list[list[str]]:
    """The clause cut at its commas, and at "and" between two statements."""
    parts: list[list[str]] = [[]]
    for index, word in enumerate(words):
        ends = word == "," or word == "so"
        if word == "and":
            following = words[index + 1 : index + 9]
            stop = next((place for place, each in enumerate(following) if each in {",", "and"}), len(following))
            ends = any(_is_verb(each) for each in parts[-1]) and (
                following[:1] == ["not"] or any(_is_verb(each) for each in following[:stop])
            )
        if ends:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def _is_verb_of(word: str, asked: Asked) -> bool:
    """Whether a word is the verb asked for, one of saying or showing, or any where only a place is asked for."""
    first = asked.predicate[0]
    if stem(word) == stem(first) and word not in PREPOSITIONS:
        return True
    if first in PREPOSITIONS and word in VERBS - _SIDES and word.endswith("s") and word not in asked.subject:
        return True
    return stem(word) in _SAYING | _SHOWS and word not in _SHOWN


def _is_verb(word: str) -> bool:
    return word in AUXILIARIES or word in _COPULAS


def _statement_says(words: list[str], asked: Asked, about: bool) -> tuple[YesNo, bool]:
    """What one statement says, and whether it is about the asked thing; ``about``: the one before it was."""
    words = words[2:] if words[:2] == ["which", "means"] else words[words[0] == "meaning" :]
    if not words:
        return "unparsed", about
    if words[0] == "there" and len(asked.predicate) == 1:
        return _stripeless_says(words[1:], asked), True
    if (
        words[:1] in (["which"], ["who"], ["that"])
        and len(words) > 1
        and _is_verb(words[1])
        and (about or words[0] != "that")
    ):
        return "unparsed", about  # it says something of the noun before it: "next to the dog, which is black"
    while words and (words[0] in ADVERBS - _QUANTITIES - _PARTLY or words[0] == "and"):
        words = words[1:]
    if not words:
        return "unparsed", about
    verb = next(
        (place for place, word in enumerate(words) if _is_verb(word) or (place and _is_verb_of(word, asked))), None
    )
    if verb is None or (words[0] == "not" and words[1:2] not in (["all"], ["every"], ["both"], ["single"])):
        return _fragment_says(words, asked, about), about
    subject, after = words[:verb], words[verb:]
    denied = 0
    if subject and subject[-1] in {"never", "hardly", "not"} and len(subject) > 1:
        denied, subject = 1, subject[:-1]
    if not subject:
        if not about:
            return "unparsed", about
        subject = ["it"]
    if subject[0] in _DENYING:
        denied = 1
        subject = [word for word in subject[1:] if word not in {"of"}] or ["they"]
        if len(subject) == 1 and asked.subject and same(subject[0], asked.subject[-1]):
            subject = ["they"]  # "neither circle", asked about the left one
    elif subject[0] == "not":
        every = {"all", "both", "every", "each"}
        whole = len(subject) > 1 and subject[1] in every and not every.isdisjoint(asked.subject[:1])
        if not whole and subject[1:3] != ["single", "one"]:
            return "unparsed", False
        denied, subject = 1, subject[1:]
    few = asked.subject[:1] in {("all",), ("both",), ("every",)} and subject[0] in {"only", "just", "most", "half"}
    if few:
        subject = [word for word in subject if word not in {"only", "just", "most", "half"} and word not in NUMBERS]
        subject = [word for word in subject if word != "of"] or ["they"]
    predicates = predicates_for(subject, asked, {stem(word) for word in after[:4]})
    if not predicates:
        return "unparsed", False
    for predicate in predicates:
        for shown in _shells(predicate):
            said = _predicate_says(after, shown, denied, asked)
            if said != "unparsed":
                return ("no" if said == "yes" else "unparsed") if few else said, True
    return "unparsed", True


def _fragment_says(words: list[str], asked: Asked, about: bool) -> YesNo:
    """ "Not a comedy", "wide open", "jet black": a predicate without its verb."""
    denied = words[0] == "not"
    rest = words[1:] if denied else words
    if not rest or (denied and rest[0] in _WHOLLY | {"only", "just"}):
        return "unparsed"
    wanted = wanted_of(asked)
    for predicate in [wanted, *after_place(wanted)]:
        for shown in _shells(predicate):
            start = next((place for place, word in enumerate(rest) if _means(word, shown[0])), 0)
            if start > (0 if shown[0] in PREPOSITIONS else 1):
                continue  # "the kuroshio current flows from", asked about another current
            if covers(rest, shown, asked, whole=True):
                return "no" if denied else "yes"
    return "unparsed"


# --- the subject -----------------------------------------------------------------------------------------------------


def wanted_of(asked: Asked) -> list[str]:
    """The asked predicate as statements are compared with it."""
    return [word for word in one_sense(" ".join(asked.predicate)).split() if word not in ADVERBS or word in _ADJECTIVES]


def predicates_for(subject: list[str], asked: Asked, verbs: set[str]) -> list[list[str]]:
    """What the question asks of this subject, in several lengths; none where the subject is another one."""
    predicate = wanted_of(asked)
    own = [word for word in subject if word not in ADVERBS - {"both", "all"} or word in asked.subject]
    own = [word for word in own if word not in _NEUTRAL - {"of"}]
    owned = bool(own) and own[0] in {"his", "her", "their", "its", "my", "your"}
    if owned:
        own = own[1:]
    counts = {word for word in own if word in NUMBERS and word != "both"}
    asked_for = {word for word in asked.subject if word in NUMBERS}
    if own[:1] == ["one"] or (counts and asked_for and counts != asked_for):
        return []  # "one line", asked about two
    rest = [word for word in own if word not in _QUANTITIES]
    whole = [predicate, *after_place(predicate)]
    if not rest or (len(rest) == 1 and rest[0] in PRONOUNS | {"everyone", "everybody"}):
        return [*whole, *_as_pair(predicate, asked)] if own else []
    if rest == ["you"] and asked.subject == ("i",):
        return whole
    if any(word in _PARTLY and word not in asked.subject for word in rest):
        return []
    asked_words = [*asked.subject, *asked.predicate]
    if any(word in PREPOSITIONS - {"of"} and not any(_means(word, each) for each in asked_words) for word in rest):
        return []  # "the actor outside the box", asked about the one inside
    if asked.subject and len(rest) == 1 and rest[0].endswith("s") and same(rest[0], asked.subject[-1]):
        pair = _as_pair(predicate, asked)
        if pair:
            return pair
    content = [word for word in rest if word not in PREPOSITIONS and word not in SUBJECT_WORDS]
    content = [_SIDE_OF.get(word, word) for word in content]
    if predicate[0] in {"open", "closed", "shut", "ajar"}:
        content = [word for word in content if word not in {"door", "doors", "lid"} or word in asked.subject] or content
    if not {"called", "named", "titled"}.isdisjoint(predicate) and rest[-1] in {"name", "title"}:
        content = [word for word in content if word not in {"name", "title"}]
        if owned and not content:
            return whole
    wanted = [*asked.subject, *predicate]
    if not asked.subject:
        known = all(
            word in GENERIC or word in IMAGE_WORDS or any(same(word, each) for each in predicate) for word in content
        )
        named = bool(content) and (content[0] in GENERIC | IMAGE_WORDS or predicate[0] in _JUDGING)
        return [predicate] if known and named else []
    used: set[int] = set()
    for word in content:
        at = next((each for each, want in enumerate(wanted) if each not in used and same(word, want)), None)
        if at is None and not used and _is_alike(word, asked):
            at = len(asked.subject) - 1
        if at is None:
            return []
        used.add(at)
    place = max(used, default=-1) + 1
    size = len(asked.subject)
    saying = _READING if asked.subject[-1] in _LETTERS else _SAYING
    of_saying = asked.subject[-1] in SAID and bool(verbs & saying)
    if size - 1 not in used and not of_saying and not ({"one", "ones"} & set(rest) and used):
        return []
    quantities = {*NUMBERS, "all", "both", "every"}
    missing = [word for each, word in enumerate(asked.subject[:-1]) if each not in used and word not in quantities]
    allowed = max(owned, size - 2, asked.subject[-1] not in predicate and len(content) == 1)
    if not of_saying and (any(word in _SIDES for word in missing) or len(missing) > allowed):
        return []
    end = max(place, size)
    if size - 1 not in used and not of_saying and place < len(wanted) - 1:
        end = place + 1  # "the left one", asked about the colour of the left square
    left = wanted[end:]
    return [left] if end > size and left else (whole if left else [])


def _as_pair(predicate: list[str], asked: Asked) -> list[list[str]]:
    """What two things share: "both circles are the same size", asked whether one has the size of the other."""
    if "same" in predicate and "as" in predicate and asked.subject and asked.subject[-1] in predicate:
        return [predicate[: predicate.index("as")]]
    return []


def _is_alike(word: str, asked: Asked) -> bool:
    """Whether a word may stand for the asked subject: a film for a movie, a man for the actor with a name."""
    pair = {word, asked.subject[-1]}
    if pair <= _PERSONS:
        return not {"called", "named"}.isdisjoint(asked.predicate)
    return any(pair <= alike for alike in _ALIKE_SUBJECTS)


def after_place(predicate: list[str]) -> list[list[str]]:
    """The predicate without a place that belongs to the subject: "(in the red bounding box) named Tom Hanks"."""
    if not predicate or predicate[0] not in PREPOSITIONS:
        return []
    return [predicate[cut:] for cut in range(2, min(7, len(predicate))) if predicate[cut] not in PREPOSITIONS]


def _shells(predicate: Sequence[str]) -> list[list[str]]:
    """The predicate, and what is in it where it only says "exists in the form of" or "is an image of"."""
    line = " ".join(predicate)
    found = [list(predicate)]
    for shell in _SHELLS:
        shorter = shell.sub("", line)
        if shorter != line and shorter:
            found.append([word for word in shorter.split() if word != "genre"])
    if "by" in predicate[:-2]:
        cut = list(predicate).index("by") + 1
        lead, name = list(predicate[:cut]), list(predicate[cut:])
        found += [[*lead, *name[1:], name[0]], [*lead, name[0]], [*lead, name[-1]]]  # "rubens, peter paul"
    return found


# --- the predicate ---------------------------------------------------------------------------------------------------


def _predicate_says(after: list[str], predicate: list[str], denied: int, asked: Asked) -> YesNo:
    """``after``: the statement from its verb on."""
    rest = list(after)
    if stem(predicate[0]) == "wear" and "on" in rest:
        had = next((place for place, word in enumerate(rest[:4]) if word in {"has", "have", "had"}), None)
        if had is not None:
            rest[rest.index("on")] = "indeed"
            rest[had] = "wear"
    negations = denied
    partial = False
    word = ""
    while rest and not (
        _means(rest[0], predicate[0])
        and (rest[0] not in AUXILIARIES or len(predicate) == 1 or (len(rest) > 1 and rest[0] not in BE_WORDS))
    ):
        before, word = word, rest[0]
        if word in {"not", "never"} | HARDLY:
            negations += 1
        elif word in {"neither", "nor"} and len(rest) > 2:
            return _neither_says(rest, predicate, asked) if not negations else "unparsed"
        elif word == "no" and len(rest) > 1:
            return _none_says(rest[1:], predicate, asked) if not negations else "unparsed"
        elif word in _WHOLLY:
            partial = True
        elif not (
            word in AUXILIARIES | _COPULAS
            or (predicate[0] in PREPOSITIONS | {"left-of", "right-of"} and _is_verb_of(word, asked))
            or word in {"to", "like", "as", "taken", "indeed"}
            or (word in ADVERBS and word not in _PARTLY)
            or (word in STANDING and predicate[0] in PREPOSITIONS | {"left-of", "right-of", "next"})
            or stem(word) in _SAYING | _SHOWS
            or word in _NEUTRAL
            or (word in {"at", "in", "during"} and predicate[0] in _TIMES)
            or (word in {"one", "ones", "who", "if", "though"} and len(rest) > 1)
            or (word in {"it", "he", "she", "they"} and before in {"like", "if", "though"})
            or (word == "inside" and asked.predicate[0] == "describe")
            or (word in {"left", "kept", "turned", "switched"} and len(rest) > 1)
        ):
            break
        rest = rest[1:]
    if negations > 1 or (negations and partial) or not rest:
        return "unparsed"
    if after.count("as") > 1:
        return "unparsed"  # "as tall as"
    if after[0] in SEEMS and predicate[0] in PREPOSITIONS | {"left-of", "right-of"}:
        return "unparsed"  # who looks to the left of something stands elsewhere
    if covers(rest, predicate, asked, denied=bool(negations)):
        return "no" if negations else "yes"
    if not negations and _is_opposite(rest, predicate):
        return "no"
    return "unparsed"


def _neither_says(rest: list[str], predicate: list[str], asked: Asked) -> YesNo:
    """ "Neither sad nor happy" denies both."""
    parts: list[list[str]] = []
    for word in rest:
        if word in {"neither", "nor"}:
            parts.append([])
        elif parts:
            parts[-1].append(word)
    return "no" if len(parts) > 1 and any(covers(part, predicate, asked) for part in parts) else "unparsed"


def _none_says(rest: list[str], predicate: list[str], asked: Asked) -> YesNo:
    """ "Has no smile", asked whether he smiles; "is no comedy"; "wears no hat"."""
    last = predicate[-1]
    size = len(predicate)
    if size <= 2 and any(stem(word) == stem(last) for word in rest[:2]):
        goes = rest[1:] if stem(rest[0]) == stem(last) else rest[2:]
        return "no" if not goes or goes_on(goes[0], last) else "unparsed"
    return "no" if covers(rest, predicate, asked, denied=True) else "unparsed"


def _stripeless_says(after: list[str], asked: Asked) -> YesNo:
    """ "There are no stripes on the shirt", asked whether it is striped."""
    wanted = stem(asked.predicate[0])
    for place, word in enumerate(after[:-1]):
        if word == "no" and stem(after[place + 1]) == wanted:
            tail = [each for each in after[place + 2 :] if each not in ADVERBS | PREPOSITIONS | PRONOUNS]
            return "no" if all(any(same(each, own) for own in asked.subject) for each in tail) else "unparsed"
    return "unparsed"


def _is_opposite(rest: list[str], predicate: list[str]) -> bool:
    """ "Unripe" of "ripe", "unsuitable" of "suitable"."""
    if len(predicate) > 1 and predicate[0] not in _JUDGING:
        return False
    last = predicate[0]
    return any(
        word.endswith(last) and word.removesuffix(last).rstrip("-") in _OPPOSITE for word in rest[:3] if word != last
    ) and not any(word in _PARTLY for word in rest[:3])


def covers(rest: Sequence[str], predicate: list[str], asked: Asked, *, denied: bool = False,
            whole: bool = False) -> bool:  # fmt: skip
    """Whether the words hold the predicate's in their order, with nothing but modifiers between."""
    place = passed = index = 0
    numbers = {word for word in asked.predicate + asked.subject if _is_number(word)}
    while index < len(rest):
        word = rest[index]
        one = word in {"one", "ones"} and asked.subject[-1:] == (predicate[place],)
        if one or _means(word, predicate[place]):
            place, passed, index = place + 1, 0, index + 1
            if place == len(predicate):
                tail = [each for each in rest[index:] if each not in ADVERBS | {"not"} or each in _PARTLY]
                if not tail:
                    return True
                kind_of = (asked.predicate[:1] in {("belong",), ("exist",)} and tail[0] in GENERIC) or asked.predicate[
                    :1
                ] == ("describe",)
                if len(tail) == 1 and (tail[0] in {"one", "ones"} or kind_of):
                    return True
                return not whole and goes_on(tail[0], predicate[-1]) and "or" not in tail[:3]
        elif denied and place and predicate[place - 1] == "than" and word in {"other", "another", "each"}:
            return True
        elif predicate[place] in _LEFT_OUT and place + 1 < len(predicate) and not (place and _is_own(word, asked)):
            place += 1
        elif (
            word in _PARTLY
            or word in NOT_REAL
            or (_is_number(word) and numbers)
            or (word in _SIDES and word not in predicate)
        ):
            return False
        elif word == "of" and passed and rest[index - 1] not in IMAGE_WORDS | _KINDS:
            break  # "a replica of the tower", "by a student of Monet"
        elif word in _NEUTRAL or word in ADVERBS or word.endswith("ly"):
            index += 1
        elif (denied or whole) and word == "it" and place == len(predicate) - 1 and index == len(rest) - 1:
            return True
        elif passed < 3 and word not in _NO_MODIFIERS and word not in _THINGS:
            if not place and word.endswith("ing") and word not in NOUNS_IN_ING and predicate[0] not in PREPOSITIONS:
                break  # "is wearing something black"
            if denied and not place and word in _WHOLLY:
                return False
            if not place and predicate[0] in PREPOSITIONS and not (word.endswith(("ing", "ed")) and not passed):
                return False  # "is chasing a cat on the bed" puts the cat there
            compared = place and "than" in predicate and not _is_own(word, asked)
            if compared or (denied and (place or word.endswith("ing"))):
                break  # who wears no red hat may wear a blue one; more gold medals are not more medals
            passed, index = passed + 1, index + 1
        else:
            break
    if place and predicate[0] in _JUDGING:
        return _is_known(rest[1:], asked)
    if index < len(rest) or not place:
        return False
    return _may_be_left_out(predicate, place, passed, denied)


def _is_known(words: Sequence[str], asked: Asked) -> bool:
    """Whether these words are the question's, or stand for what it says."""
    pointing = PRONOUNS | PREPOSITIONS | {"way", "so", "translation", "phrase", "characters", "text"}
    return all(word in pointing or stem(word) in asked.content for word in words)


def _may_be_left_out(predicate: list[str], place: int, passed: int, denied: bool) -> bool:
    """Whether a statement that ends here has said enough: "it is not appropriate", "Hong Kong was the leading one"."""
    if not place or passed:
        return False
    missing = predicate[place:]
    if len(missing) == 1 and len(missing[0]) == 4 and missing[0].isdigit() and predicate[place - 1] not in PREPOSITIONS:
        return True  # the year after a title
    if predicate[0] in _JUDGING and missing[0] in {"to", "for"}:
        return True
    if predicate[0] in {"left-of", "right-of"} and place == 1:
        return True
    if denied and place == 1 and predicate[0] in PREPOSITIONS and len(missing) <= 2:
        return True  # "not behind but in front"
    if denied and missing[0] in {"when", "while", "with", "according"}:
        return True
    if (
        place >= 2
        and missing[0] in {"in", "on", "at", "during", "according"}
        and (denied or _is_number(missing[-1]) or missing[0] == "according")
    ):
        return True
    return len(predicate) > 2 and missing[0] == "than"


def _is_number(word: str) -> bool:
    return word in NUMBERS or word[:1].isdigit()


def _is_own(word: str, asked: Asked) -> bool:
    return any(same(word, own) for own in asked.subject)


def _means(word: str, wanted: str) -> bool:
    """Whether a word says the asked one, or stands for it as one preposition for another."""
    if same(word, wanted) or (word in _JUDGING and wanted in _JUDGING):
        return True
    return any(word in alike and wanted in alike for alike in _ALIKE_PREPOSITIONS)
