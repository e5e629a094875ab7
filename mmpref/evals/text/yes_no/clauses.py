"""An answer in pieces: sentences, their clauses, and words with the contractions written out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

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
_BEGINNERS = word_set(
    "there i we it they he she only just instead so therefore thus hence this that these those meaning making"
)

# "no" and "not" that deny nothing, and set phrases, taken out or put in plain words
_IDIOMS = [
    (r"(?:there is |have |i have )?(?:no|without a|without any|beyond) (?:shadow of a )?(?:doubt|question)"
     r"(?: about (?:it|that))?(?: that)?\b", "undoubtedly"),
    (r"without a shadow of a doubt\b", "undoubtedly"), (r"(?:there is )?no denying(?: that| it)?\b", "undoubtedly"),
    (r"(?:there is )?no (?:lack|shortage|absence|dearth) of\b", "many"), (r"not without\b", "with"),
    (r"not (?=\w+ing only\b)", " "), (r"none other than\b", "only"), (r"home to\b", "full of"),
    (r"(?:i )?(?:initially|first|originally|at first) thought\b", "maybe"), (r"manage[ds]? to\b", " "),
    (r"(?:is|are) far from (?!the |a |an |his |her |each |it|here)", "is not "), (r"still life\b", "scene"),
    (r"their (?:is|are)\b", "there is"), (r"i no (?=see|find)", "i do not "), (r"or rather\b", "or-rather"),
    (r"(?:apart|aside) from\b", "except"),
    (r"(?:with the exception of|excepting|except for|other than|save for)\b", "except"),
    (r"not a soul\b", "nobody"), (r"nary a\b", "no"),
    (r"(?<!not )as (?:best|far as) i can (?:tell|see|make out)\b", "apparently"),
    (r"not (?:only|just|merely|simply)(?: is | are )(?=there\b)", "there is there "),
    (r"not (?:only|just|merely|simply)\b", ""),
    (r"no (?:problem|worries|wonder|trouble|big deal|kidding)\b", " ,"),
    (r"not one ,? ?but\b", ""), (r"no (?:fewer|less) than\b", ""),
    (r"not (?:too |so |very )?far (?:away )?from\b", "near"), (r"not (?:alone|uncommon|unlike)\b", ""),
    (r"more than one (?=\w)", "several "), (r"(?:can|could) not (?:help but|miss)\b", "see"),
    (r"nothing (?:but|except|other than|more than)\b", "only"),
    (r"(?:anything|everything) but\b", "not"), (r"not to mention\b", "and"), (r"whether or not\b", "whether"),
    (r"in front of\b", "before"), (r"no one\b", "nobody"), (r"no-one\b", "nobody"),
    (r"(?<!\w )(?:it|this|that|what|there) (?:clearly |certainly |really |very much |definitely |kind of |sort of )?"
     r"(?:looks?|looked|seems?|appears?|sounds) (?:a lot |very much |more |quite |to me )?like\b", "it is"),
    (r"(?:it|this|that|what) (?:really |clearly )?(?:appear|appears|seem|seems) to be\b", "it is"),
    (r"(?:it )?would (?:seem|appear)\b", "it seems"), (r"(?:seem|seems|appear|appears|looks) to be\b", "is"),
    (r"(?:does|do|did) not (?:seem|appear|look)(?: to)? be\b", "is not"),
    (r"(?:does|do|did) not (?:seem|appear|look) (?:to|like)\b(?! it\b| that\b|$)", "does not"),
    (r"(?:seem|seems|appear|appears|looks) to (?=show|have|contain|depict|feature|include)", "it does "),
    (r"i (?:would|will|must|have to|can|need to) (?:have to |go with |also )?say\b", "i think"),
    (r"at (?:first|a first|initial) (?:glance|sight|look)\b", "maybe"), (r"even though\b", "although"),
    (r"(?<!not )(?:as far as|from what) i (?:can|could) (?:see|tell)\b", ""),
    (r"(?<!not )that i (?:can|could) see\b", ""), (r"on the contrary\b", "on-the-contrary"), (r"in fact\b", "indeed"),
    (r"may or may not\b", "might"), (r"might or might not\b", "might"), (r"could or could not\b", "might"),
    (r"any ?more\b", ""), (r"(?:is|are) no longer\b", "perhaps"), (r"no longer\b", "perhaps"),
    (r"under no circumstances\b", "never"), (r"no matter\b", "whatever"), (r"so far\b", ""),
]  # fmt: skip
_IDIOM = re.compile("|".join(rf"(?P<i{index}>\b{pattern})" for index, (pattern, _) in enumerate(_IDIOMS)))
_IDIOM_STARTS = re.compile(
    r"\b(?:no|not|without|beyond|more|anything|everything|nothing|whether|in|it|this|that|what|there|would|seem"
    r"|seems|"
    r"appear|appears|looks|i|at|as|from|any|may|might|could|can|under|so|even|on|do|does|did|there|have|i|none"
    r"|home|initially|first|originally|manage|managed|manages|is|are|still|their|or|apart|aside|with|excepting"
    r"|except|other|save|nary)\b"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as clauses of words; ``asks`` where it ends with a question mark."""

    clauses: tuple[tuple[str, ...], ...]
    asks: bool

    @property
    def words(self) -> list[str]:
        return [word for clause in self.clauses for word in clause]


def sentences_of(text: str) -> list[Sentence]:
    """The sentences of a folded, plain text that have a word."""
    found = []
    text = _STRETCHED.sub(_shortened, _ABBREVIATION.sub(r"\1", text))
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
    line = " ".join(written)
    if _IDIOM_STARTS.search(line) is None:
        return written
    return _IDIOM.sub(lambda match: _IDIOMS[int((match.lastgroup or "i0")[1:])][1], line).split()


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

    for index, word in enumerate(words):
        after = words[index + 1] if index + 1 < len(words) else ""
        if word in _MARKS or word in _JOINTS:
            finish()
            if word in {"although", "though"}:
                current.append(word)  # what follows is only conceded
            continue
        if (
            word in _BEGINNERS
            and current
            and (current[-1] == "," or (current[-1] == "and" and word not in {"only", "just"}))
        ):
            finish()
        elif word == "and" and after in _BEGINNERS and after not in {"only", "just", "that", "this", "these", "those"}:
            finish()
            continue
        current.append(word)
    finish()
    return tuple(clauses)
