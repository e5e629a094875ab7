"""An answer in pieces: sentences, their clauses, and words with the contractions written out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from mmpref.evals.text.yes_no.appearances import without_appearances
from mmpref.evals.text.yes_no.words import word_set

_BARE_CONTRACTIONS = {
    "isnt": "is not", "arent": "are not", "dont": "do not", "doesnt": "does not", "didnt": "did not",
    "cant": "can not", "couldnt": "could not", "wasnt": "was not", "werent": "were not", "theres": "there is",
    "wouldnt": "would not", "hasnt": "has not", "havent": "have not", "cannot": "can not", "aint": "is not",
    "thats": "that is", "won't": "will not", "can't": "can not", "ain't": "is not", "shan't": "shall not",
    "noone": "nobody", "ther": "there", "immage": "image", "dosent": "does not", "aren't": "are not", "yse": "yes",
    "y'all": "you", "ma'am": "madam", "o'clock": "oclock", "let's": "let us", "im": "i am",
}  # fmt: skip
_ENDINGS = {"n't": "not", "'re": "are", "'m": "am", "'ve": "have", "'d": "would", "'ll": "will"}
_IS_AFTER = word_set("it that this there here he she what who which where one everything nothing something")

_ABBREVIATION = re.compile(r"\b(mr|mrs|ms|dr|st|vs|e\.g|i\.e|etc|approx|no(?=\.\s?\d))\.")
_STRETCHED = re.compile(r"\b(?:n[o]{2,}|y[e]+[s]+|y[e]{2,}s*|y[a]{2,})\b")  # "nooo", "yesss"
_LONGEST_CLAUSE = 400
"""Words of a clause that are read; what is longer is a loop."""
_YEAR = re.compile(r"\((\d{1,4})\)")
_SENTENCE = re.compile(r"[^.!?\n。！？…]*(?:\.(?=[\w\"'])[^.!?\n。！？…]*)*([.!?。！？…\n]*)")
_TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[,;:()\[\]\"–—/]|(?<=\s)-+(?=\s|$)|[✅❌✓✔✗✘👍👎☑❎✖🚫]|\.(?=\w)|'s\b|%")
# the marks and words between which clauses lie
_MARKS = frozenset({";", ":", "(", ")", "[", "]", "–", "—", "-", "--"})
_JOINTS = word_set(
    "but while whereas although though however yet because since nevertheless nonetheless instead-of unlike"
)
# after a comma, or "and", these begin a clause of their own
BEGINNERS = word_set(
    "there i we it they he she only just instead so therefore thus hence this that these those meaning making"
)

# "no" and "not" that deny nothing, and set phrases, taken out or put in plain words
_IDIOMS = [
    ("doubt|question",
     r"(?:there is |have |i have )?(?:no|without(?: a| any)?|beyond) (?:shadow of a )?(?:doubt"
     r"|question)(?: about (?:it|that))?(?: that)?\b",
     "undoubtedly"),
    ("without a shadow of a doubt", r"without a shadow of a doubt\b", "undoubtedly"),
    ("no denying", r"(?:there is )?no denying(?: that| it)?\b", "undoubtedly"),
    ("no lack|no short|no absence|no dearth", r"(?:there is )?no (?:lack|shortage|absence|dearth) of\b", "many"),
    ("not without", r"not without\b", "with"),
    ("ing only", r"not (?=\w+ing only\b)", " "),
    ("none other than", r"none other than\b", "only"),
    ("home to", r"home to\b", "full of"),
    ("thought", r"(?:i )?(?:initially|first|originally|at first) thought\b", "maybe"),
    ("manage", r"manage[ds]? to\b", " "),
    ("far from", r"(?:is|are) far from (?!the |a |an |his |her |each |it|here)", "is not "),
    ("still life", r"still life\b", "scene"),
    ("their", r"their (?:is|are)\b", "there is"),
    ("i no", r"i no (?=see|find)", "i do not "),
    ("or rather", r"or rather\b", "or-rather"),
    ("apart from|aside from", r"(?:apart|aside) from\b", "except"),
    ("exception|except|other than|save for",
     r"(?:with the exception of|excepting|except for|other than|save for)\b",
     "except"),
    ("not a soul", r"not a soul\b", "nobody"),
    ("such as", r"such as\b", "including"),
    ("nary a", r"nary a\b", "no"),
    ("i can", r"(?<!not )as (?:best|far as) i can (?:tell|see|make out)\b", "apparently"),
    ("not only|not just|not merely|not simply",
     r"not (?:only|just|merely|simply)(?: is | are )(?=there\b)",
     "there is there "),
    ("not only one|not just one|not merely one", r"not (?:only|just|merely|simply) one(?= |$)(?! but)", "several"),
    ("not only|not just|not merely|not simply", r"not (?:only|just|merely|simply)\b", ""),
    ("no problem|no worr|no wonder|no trouble|no big|no kidd",
     r"no (?:problem|worries|wonder|trouble|big deal|kidding)\b",
     " ,"),
    ("not one", r"not one ,? ?but\b", ""),
    ("no fewer|no less", r"no (?:fewer|less) than\b", ""),
    ("far from|far away from", r"not (?:too |so |very )?far (?:away )?from\b", "near"),
    ("not alone|not uncommon|not unlike", r"not (?:alone|uncommon|unlike)\b", ""),
    ("more than one", r"more than one (?=\w)", "several "),
    ("not help|not miss", r"(?:can|could) not (?:help but|miss)\b", "see"),
    ("nothing", r"nothing (?:but|except|other than|more than)\b", "only"),
    ("not be any|not be some", r"(?:can|could) not be (?:anything|something) but\b", "is"),
    ("thing but", r"i (?:can )?see (?:anything|everything) but\b", "i do not see"),
    ("thing but", r"(?:shows?|contains?) (?:anything|everything) but\b", "does not show"),
    ("one but|body but", r"(?:everyone|everybody) but\b", "everyone except"),
    ("one but|body but", r"(?:no one|nobody) but\b", "nobody except"),
    ("anything but", r"anything but$", "by no means"),
    ("but", r"(?:anything|everything) but\b", "not"),
    ("go with|lean toward", r"i (?:would|will|am going to) (?:have to )?(?:go with|lean towards?)\b", "answer is"),
    ("not to mention", r"not to mention\b", "and"),
    ("whether or not", r"whether or not\b", "whether"),
    ("in front of", r"in front of\b", "before"),
    ("no one", r"no one\b", "nobody"),
    ("no-one", r"no-one\b", "nobody"),
    ("not seem|not appear|not look", r"(?:does|do|did) not (?:seem|appear|look)(?: to)? be\b", "is not"),
    ("not seem like|not look like",
     r"(?<!there )(?:does|do|did) not (?:seem|look) like (?=an? |any |the )",
     "is not "),
    ("not seem|not appear|not look",
     r"(?:does|do|did) not (?:seem|appear|look) (?:to|like)\b(?! it\b| that\b| there\b|$)",
     "does not"),
    ("like",
     r"(?<!\w )(?:it|this|that|what|there) (?:clearly |certainly |really |very much |definitely |kind of "
     r"|sort of )?(?:looks?|looked|seems?|appears?|sounds) (?:a lot |very much |more |quite |to me )?like\b",
     "it is"),
    ("to be", r"(?:it|this|that|what) (?:really |clearly )?(?:appear|appears|seem|seems) to be\b", "it is"),
    ("would seem|would appear", r"(?:it )?would (?:seem|appear)\b", "it seems"),
    ("to be", r"(?:seem|seems|appear|appears|looks) to be\b", "is"),
    ("seem|appear|looks",
     r"(?:seem|seems|appear|appears|looks) to (?=show|have|contain|depict|feature|include)",
     "it does "),
    ("say", r"i (?:would|will|must|have to|can|need to) (?:have to |go with |also )?say\b", "i think"),
    ("glance|sight|look", r"at (?:first|a first|initial) (?:glance|sight|look)\b", "maybe"),
    ("even though", r"even though\b", "although"),
    ("far as i|from what i", r"(?<!not )(?:as far as|from what) i (?:can|could) (?:see|tell)\b", ""),
    ("that i", r"(?<!not )that i (?:can|could) (?:see|make out|find|spot|tell|detect|notice)\b", ""),
    ("on the contrary", r"on the contrary\b", "on-the-contrary"),
    ("in fact", r"in fact\b", "indeed"),
    ("may or may not", r"may or may not\b", "might"),
    ("might or might not", r"might or might not\b", "might"),
    ("could or could not", r"could or could not\b", "might"),
    ("anymore|any more", r"any ?more\b", ""),
    ("no longer", r"(?:is|are) no longer\b", "perhaps"),
    ("no longer", r"no longer\b", "perhaps"),
    ("not impossible|not at all|not inconc|not unthink|not out", r"not (?:at all )?(?:impossible|inconceivable"
     r"|unthinkable|out of the question)\b", "possible"),
    ("nowhere|at no point|in no part",
     r"(?:nowhere|at no point|in no part)(?: (?:in|of|on) (?:the|this) \w+)? (?:is|are)(?: there)?\b",
     "there is not"),
    ("nowhere|at no point|in no part",
     r"(?:nowhere|at no point|in no part)(?: (?:in|of|on) (?:the|this) \w+)? (?:do|can|could|did) (?=i |we |you )",
     "never "),
    ("never", r"never (?:i|we|you) (?=see|find|spot|notice|detect)", "i do not "),
    ("miss|overlook", r"(?:nobody|none) (?:can|could|would) (?:miss|overlook)\b", "i see"),
    ("overlook|ignore", r"(?:can|could) not (?:be )?(?:overlook|ignore)(?:ed|d)?\b", "see"),
    ("not be missed|not be denied", r"(?:can|could) not be (?:missed|denied)\b", "is visible"),
    ("you|in question",
     r"(?:(?:that |which )?you (?:are |were |have |had )?(?:mention(?:ed)?|ask(?:ed|ing)? (?:about|for)|described?)"
     r"|in question)(?= (?:is|are|was|were|can|could|does|do|has)\b)",
     ""),
    ("by no means|in no way", r"(?:by no means|in no way)\b(?= \w)", "not"),
    ("not at all|not in the least", r"not (?:at all|in the least)\b(?= \w)(?! (?:in|on|that|as)\b)", "not"),
    ("absent|missing|nowhere", r"(?:seems?|appears?) (?=absent\b|missing\b|nowhere\b)", "is "),
    ("not fully|not entirely|not completely", r"not (?:fully|entirely|completely) (?=visible|shown|seen\b)", "partly "),
    ("out to be", r"turn(?:s|ed) out to be\b", "is"),
    ("under no circumstances", r"under no circumstances\b", "never"),
    ("no matter", r"no matter\b", "whatever"),
    ("so far", r"so far\b", ""),
    ("to me", r"(?<!next )(?<!close )to me(?=$| ,)", ""),
]  # fmt: skip
_READY_IDIOMS = [(needles.split("|"), re.compile(rf"\b{pattern}"), plain) for needles, pattern, plain in _IDIOMS]
"""Words without which a phrase is not there and need not be looked for; the phrase; what is put in its place."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as clauses of words; ``asks`` where it ends with a question mark."""

    clauses: tuple[tuple[str, ...], ...]
    asks: bool

    @property
    def words(self) -> list[str]:
        return [word for clause in self.clauses for word in clause]


_INITIALS = re.compile(r"\b([a-z])\.([a-z])\.")


def without_stops(text: str) -> str:
    """A folded text without the full stops of abbreviations ("Mr. X", "U.S."), which end no sentence."""
    return _INITIALS.sub(r"\1-\2", _ABBREVIATION.sub(r"\1", text))


def sentences_of(text: str) -> list[Sentence]:
    """The sentences of a folded, plain text that have a word."""
    found = []
    text = _STRETCHED.sub(_shortened, without_stops(text))
    for match in _SENTENCE.finditer(text):
        if match.end() == match.start():
            continue
        clauses = clauses_of(match.group())
        if clauses:
            found.append(Sentence(clauses, "?" in match.group(1) or "？" in match.group(1)))
    return found


def _shortened(match: re.Match[str]) -> str:
    return "no" if match.group()[0] == "n" else "yes"


def words_of(text: str) -> list[str]:
    """The words and marks of a text, contractions and set phrases written out."""
    written: list[str] = []
    for token in _TOKEN.findall(_YEAR.sub(r" \1 ", text) if "(" in text else text):
        if token.isalpha() and token not in _BARE_CONTRACTIONS:
            written.append(token)
        else:
            written += _written_out(token, written[-1] if written else "")
    line = without_appearances(spoken := " ".join(written))
    changed = line is not spoken
    for needles, pattern, plain in _READY_IDIOMS:
        if any(needle in line for needle in needles):
            line, count = pattern.subn(plain, line)
            changed = changed or count > 0
    return line.split() if changed else written


def _written_out(token: str, before: str) -> list[str]:
    if token in _BARE_CONTRACTIONS:
        return _BARE_CONTRACTIONS[token].split()
    for ending, word in _ENDINGS.items():
        if token.endswith(ending) and len(token) > len(ending):
            return [token[: -len(ending)], word]
    if token.endswith("'s") and len(token) > 2:
        stem = token[:-2]
        return [stem, "is" if stem in _IS_AFTER else "'s"]
    return [token]


@lru_cache(maxsize=4096)
def clauses_of(text: str) -> tuple[tuple[str, ...], ...]:
    """The clauses of one sentence."""
    clauses: list[tuple[str, ...]] = []
    current: list[str] = []
    words = words_of(text)

    def finish() -> None:
        while current and current[-1] in {",", "and", '"', "/"}:
            current.pop()
        while current and current[0] in {",", "/"}:
            current.pop(0)
        if any(word not in {",", '"', "/", "although", "though"} for word in current):
            clauses.append(tuple(current[:_LONGEST_CLAUSE]))
        current.clear()

    leads = bool(words) and words[0] in {"while", "whereas"}  # "while the dog is black, the cat is white"
    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        if word == "," and leads:
            leads = False
            finish()
            continue
        if word in _MARKS or word in _JOINTS:
            finish()
            if word in {"although", "though", "unlike"}:
                current.append(word)  # what follows is only conceded, or compared
            continue
        if (
            word in BEGINNERS
            and current
            and "except" not in current
            and (current[-1] == "," or (current[-1] == "and" and word not in {"only", "just"}))
        ):
            finish()
        elif word == "and" and after in BEGINNERS and after not in {"only", "just", "that", "this", "these", "those"}:
            finish()
            continue
        current.append(word)
    finish()
    return tuple(clauses)


def split_at_comma(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The words before the first comma, where it stands near the start, and those after it."""
    for place, word in enumerate(words[:16]):
        if word == ",":
            return words[:place], words[place + 1 :]
    return words, ()


def comma_parts(words: Sequence[str]) -> list[Sequence[str]]:
    """The words between commas."""
    parts: list[Sequence[str]] = []
    start = 0
    for place, word in enumerate(words):
        if word == ",":
            parts.append(words[start:place])
            start = place + 1
    return [*parts, words[start:]]
