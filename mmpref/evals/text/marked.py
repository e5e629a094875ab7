"""What a model marks as its answer, what it only thought, and the courtesies around an answer."""

from __future__ import annotations

import json
import re
import unicodedata

from mmpref.evals.text.options import without_image

_THINKING = re.compile(
    r"<(think|thinking|thought|reasoning)>.*?</\1>|^.*</(?:think|thinking|thought|reasoning)>", re.S | re.I
)
_OPEN_THINKING = re.compile(r"<(?:think|thinking|thought|reasoning)>.*", re.S | re.I)
_ANSWER_TAG = re.compile(r"<(answer|final_answer|response)>(.*?)(?:</\1>|$)", re.S | re.I)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_BEFORE = re.compile(
    r"\s*(?:(?:sure(?: thing)?|certainly|of course|ok(?:ay)?|well|hmm+|great question|happy to help|let me see|"
    r"let's see)\s*[,!.:—–-]+\s+|"
    r"(?:the\s+)?(?:my\s+)?(?:final|correct|best|right)?\s*(?:answer|ans|response)\s*[:：]\s*)(?=\S)",
    re.I,
)
_AFTER = re.compile(
    r"\s*\b(?:i hope (?:this|that|it) helps|hope (?:this|that|it) helps|(?:please )?let me know if|feel free to|"
    r"is there anything else|thank you|thanks)\b[^.!?\n]*[.!?]*\s*$",
    re.I,
)
_JSON_KEYS = ("answer", "final_answer", "choice", "option", "prediction", "response")


def without_thinking(text: str) -> str:
    """The text without invisible characters and thinking."""
    folded = unicodedata.normalize("NFKC", text)
    folded = "".join(char for char in folded if unicodedata.category(char) != "Cf")
    return _OPEN_THINKING.sub(" ", _THINKING.sub(" ", folded))


def marked_answer(text: str) -> str | None:
    """What the model marked as its answer; None where nothing is."""
    if found := _ANSWER_TAG.findall(text):
        return str(found[-1][1])
    if boxed := _BOXED.findall(text):
        return _LATEX.sub(r"\1", boxed[-1])
    return _in_json(text)


def without_courtesies(text: str) -> str:
    """The text without "Sure," and "Answer:" before it, "I hope this helps!" behind it and "in the image" inside it,
    whose words may be the text of an option."""
    said = without_image(_AFTER.sub("", text))
    while (found := _BEFORE.match(said)) is not None:
        said = said[found.end() :]
    return said.strip(" ,\t\n")


def _in_json(text: str) -> str | None:
    body = re.sub(r"^\s*```(?:json)?|```\s*$", "", text.strip(), flags=re.I).strip()
    start, end = body.find("{"), body.rfind("}")
    if start < 0 or end < start:
        return None
    try:
        content = json.loads(body[start : end + 1])
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    found = {str(key).casefold().replace(" ", "_"): value for key, value in content.items()}
    return next((found[key] for key in _JSON_KEYS if isinstance(found.get(key), str)), None)
