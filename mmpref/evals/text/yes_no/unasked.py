"""Reading yes or no where the question is not known: words, conclusions and plain denials, no other statements."""

from __future__ import annotations

import re
import unicodedata

from mmpref.evals.text.yes_no.tools import YesNo

_YES = frozenset(
    {"yes", "yeah", "yep", "yup", "yea", "yess", "true", "correct", "affirmative", "definitely", "certainly"}
)
_NO = frozenset({"no", "nope", "nah", "nay", "false", "incorrect", "negative", "none", "not", "neither"})
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([^{}]*)\}?\}")
_TAG = re.compile(r"</?[a-z_]+/?>")
_DECORATION = re.compile(r"[*_`~#>|\"“”«»]+")
_LABEL = re.compile(r"^(?:[\s\-•–—:.]*(?:final answer|answer|response|assistant|a)\s*[:=])+")
_LIST_MARK = re.compile(r"^\W*(?:\(?(?:[a-d]|\d{1,2})[.):]\s+)?\W*")
_CONCLUSION = re.compile(
    r"\b(?:answer|conclusion|verdict)(?:\s+(?:is|would be|must be|to \w+ question is)|\s*[:=])[\s:]*(\w+)"
)
# both words at once, in so many words: nothing was chosen
_BOTH = re.compile(r"^\W*(?:yes\W+(?:(?:and|or)\W+)?no|no\W+(?:(?:and|or)\W+)?yes)\b\W*(?:$|\.)")
# "no" and "not" that deny nothing, and words of doubt; each is taken out before the words are read
_IDIOMS = re.compile(
    r"\b(?:(?:there(?:'s| is) )?(?:no|without a|beyond) doubt(?: that| about it)?|no (?:problem|worries)|not only)\b"
)
_CANNOT = r"(?:can ?not|can't|do not|don't|could not|couldn't|unable to) (?:\w+ )?"
_DOUBT = re.compile(
    r"\b(?:not (?:\w+ )?(?:sure|certain|clear|possible|visible enough|enough)|un(?:sure|certain|clear|known|able)"
    r"|(?:hard|difficult|impossible) to (?:say|tell|determine|know|see)|n/?a\b|maybe|perhaps"
    rf"|{_CANNOT}(?:tell|say|determine|know|answer|help|assist|be (?:sure|certain|determined)|confirm)"
    rf"|{_CANNOT}(?:see|view|access|open|process|analy[sz]e|have|find) (?:access to )?"
    r"(?:the |this |that |your |an? |any )?(?:attached |provided )?(?:image|picture|photo)s?"
    r"|no (?:image|picture|photo)(?: \w+)? (?:provided|attached|given|available))\b"
)
_NEGATION = re.compile(r"\b(?:no|not|none|never|neither|nothing|nowhere|cannot|without)\b|n't\b")
# denials of what was asked; "not far from", "with no hat" and "are not wearing" deny something else
_NOT = r"(?: not|n't)"
_DENIAL = re.compile(
    rf"\bthere(?:(?:'s| is| are| was| were) (?:no|not|none|nothing)\b|(?: is| are| was| were){_NOT}\b)"
    rf"|\b(?:is|are|was|were){_NOT}(?:\s*[,;]|\s*\Z| (?:\w+ly )?(?:visible|present|shown|seen|there|here|in|on"
    rf"|any|an?"
    r"|one|pictured|depicted|found|included|correct|true|right|the case)\b)"
    rf"|\b(?:(?:do|does|did|can|could){_NOT}|cannot|can't) (?:\w+ly )?"
    r"(?:see|contain|show|have|include|appear|feature|find|depict|spot|notice|observe|detect|look like|seem)\b"
    r"|\b(?:sees?|contains?|shows?|includes?|features?|depicts?|find|spot) (?:no|none)\b"
    r"|\b(?:image|picture|photo|scene) has no\b|\b(?:say|says|is|be|,|:) no\s*(?:[,;]|\Z)|[,:] no\b"
)
_CONTRAST = re.compile(r"\b(?:but|however|although|though|except|yet|unless)\b")
_ABBREVIATION = re.compile(r"\b(mr|mrs|ms|dr|st|vs|e\.g|i\.e|etc)\.")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n+|[。！？…]")
_WORD = re.compile(r"\w+(?:'\w+)?")


def read_unasked(text: str) -> YesNo:
    """What a careful reader takes from the answer, or "unparsed".

    In this order: a yes or no that opens the answer ("Yes, but ...", "**NO**", "1. No"), unless a later conclusion
    contradicts it; a stated conclusion ("the answer is no"); one that opens a later sentence; a yes, a no or a
    plain denial within the first sentence. Doubt, refusal and both words at once are unparsed.
    """
    plain = _plain(text)
    if not plain or _BOTH.match(plain):
        return "unparsed"
    sentences = [part.strip() for part in _SENTENCE_END.split(plain) if _WORD.search(part)]
    if not sentences:
        return "unparsed"
    opening = _opening_says(sentences[0])
    concluded = {_word_says(word) for word in _CONCLUSION.findall(plain) if word != "not"} - {"unparsed"}
    if opening != "unparsed":
        return "unparsed" if concluded - {opening} else opening
    later = concluded or {_opening_says(sentence) for sentence in sentences[1:]} - {"unparsed"}
    if len(later) > 1:
        return "unparsed"
    for said in later:
        return said
    return _statement_says(sentences[0])


def doubts_unasked(text: str) -> bool:
    """Whether the answer says in so many words that it does not know."""
    return _DOUBT.search(_IDIOMS.sub(" ", _plain(text))) is not None


def _plain(text: str) -> str:
    """Lower-case text with markup, thinking, invisible characters and typographic apostrophes taken out."""
    folded = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    folded = "".join(char for char in folded if unicodedata.category(char) != "Cf").casefold()
    folded = _THINKING.sub(" ", folded)
    folded = _BOXED.sub(r" answer: \1 ", folded).replace("\\text", " ")
    folded = _DECORATION.sub(" ", _TAG.sub(" ", folded))
    return _ABBREVIATION.sub(r"\1", folded).strip()


_APOSTROPHES = {ord(char): "'" for char in "’‘ʼ´`＇"}


def _word_says(word: str) -> YesNo:
    if word in _YES or word == "y":
        return "yes"
    return "no" if word in _NO or word == "n" else "unparsed"


def _opening_says(sentence: str) -> YesNo:
    """What the sentence's first word says, after labels and list marks."""
    body = _LIST_MARK.sub("", _LABEL.sub("", sentence), count=1)
    if _IDIOMS.match(body) or _DOUBT.match(body) or _BOTH.match(body):
        return "unparsed"
    words = _WORD.findall(body)
    if not words:
        return "unparsed"
    if words[0] in {"y", "n"} and len(words) > 1:
        return "unparsed"
    if words[0] in {"definitely", "certainly", "absolutely", "most"} and len(words) > 1:
        return next((found for found in map(_word_says, [*words[1:3], words[0]]) if found != "unparsed"), "unparsed")
    if words[0] in {"true", "false", "correct", "incorrect", "negative", "neither"} and len(words) > 2:
        return "unparsed"  # an adjective of what follows, and no answer
    return _word_says(words[0])


def _statement_says(sentence: str) -> YesNo:
    """What a sentence says that does not open with it: a yes or no inside it, or a plain denial."""
    certain = _IDIOMS.sub(" ", sentence)
    doubted = _DOUBT.search(certain) is not None
    certain = _DOUBT.sub(" ", certain)
    says_yes = re.search(r"\byes\b", certain) is not None
    if says_yes:
        return "unparsed" if _NEGATION.search(certain) else "yes"
    if doubted or _CONTRAST.search(certain) or not _DENIAL.search(certain):
        return "unparsed"
    return "no"
