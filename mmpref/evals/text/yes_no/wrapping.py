"""What an answer is wrapped in: thinking, tags, JSON, boxes, chat markers and further turns, markdown."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from mmpref.evals.text.yes_no.words import word_set

_APOSTROPHES = {ord(char): "'" for char in "’‘ʼ´`＇‛"}
_QUOTES = {ord(char): '"' for char in "“”„«»″「」『』"}
_TOKEN_MARKS = {ord("Ġ"): " ", ord("▁"): " ", ord("Ċ"): "\n"}
"""What tokenizers write for a space and for a new line."""
_MOST_CHARACTERS = 20_000
"""Of an answer so long the first and the last part are read: models that loop write the same to the end."""

_OPENING = re.compile(r"<(?:think|thinking|thought|reasoning|analysis|scratchpad)>")
_CLOSING = re.compile(r"</(?:think|thinking|thought|reasoning|analysis|scratchpad)>")
_ANSWER_TAG = re.compile(r"<((?:final_?)?answer|verdict|response|conclusion|output)>([^<]*)(?:</\1>|\Z)")
_BOXED = re.compile(r"\\boxed\s{0,3}\{(?:\\text\w{0,9}\s{0,3}\{)?([^{}]*)\}?\}")
_TAG = re.compile(r"</?[a-z_]{1,30}\s{0,3}/?>|<\|[^|<>]{0,40}\|>")
_STRUCK = re.compile(r"~~[^~]*~~")
# where another turn begins: whatever follows is no part of the first answer
_NEXT_TURN = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|end|user|assistant|end_of_text|start_header_id)\|>|</s>|<s>|\[/?inst\]"
    r"|<end_of_turn>|<start_of_turn>|<eos>|<\|?end_of_sentence\|?>"
    r"|(?:^|(?<=[\s.!?#]))(?:#{1,6}[ \t]{0,3})?(?:user|human|q|question|instruction|next question)"
    r"(?:[ \t]?\d{1,4})?[ \t]{0,3}:"
    r"|(?<!#)#{1,6}[ \t]{0,3}(?:human|user|question|instruction|explanation)\b|\n[ \t]{0,9}assistant[ \t]{0,3}:"
)
_CODE = re.compile(r"```[^`]*[(=][^`]*```")
_FENCE = re.compile(r"```[a-z0-9]*")
_DECORATION = re.compile(r"[*_`~#>|]+")
_FORMULA = re.compile(r"\\(?:text\w*|mathrm|mathbf|bf)\b|[${}\\]")
_ASIDES = (
    "however|though|in fact|indeed|to my knowledge|by contrast|in contrast|on the other hand|at least|in this case"
    "|as far as (?:i|one) can (?:tell|see|judge)|from what i can (?:tell|see)|unfortunately|sadly|actually|admittedly"
    "|nonetheless|nevertheless|to be (?:fair|honest|precise|exact|sure)|of course|interestingly|notably|incidentally"
    "|by the way|after all|it seems"
)
_NEW_CLAUSE = r"\s{0,3}(?:there|it|i|we|he|she|they|this|the)\b"
_ASIDE = re.compile(rf" ?,\s{{0,3}}(?:{_ASIDES}) ?,(?!{_NEW_CLAUSE})\s{{0,3}}|(?:(?<=\bis)|(?<=\bare)) however\b")
"""What changes nothing of the clause around it: "the dog, however, is missing"; not ", however, there is"."""
_LONGEST_TURN_LABEL = 12


def fold(text: str) -> str:
    """Lower-case text in one spelling: typographic marks, full-width letters and invisible characters put right."""
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2
        text = f"{text[:half]}\n{text[-half:]}"
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text.translate(_TOKEN_MARKS)).translate(_APOSTROPHES).translate(_QUOTES)
    return "".join(char for char in folded if unicodedata.category(char) != "Cf" or char == "\u200d").casefold()


def without_thinking(folded: str) -> tuple[str, bool]:
    """The text after the thinking, and whether it is only thinking that never ended."""
    if "<" not in folded:
        return folded, False
    text = folded
    closing = [*_CLOSING.finditer(text)]
    if closing:
        text = text[closing[-1].end() :]
        if not text.strip():  # the answer stands before its thinking
            first = _OPENING.search(folded)
            text = folded[: first.start()] if first is not None else folded[: closing[0].start()]
    opening = _OPENING.search(text)
    if opening is None:
        return text, False
    before = text[: opening.start()]
    return (before, False) if before.strip() else (text[opening.end() :], True)


def first_turn(text: str) -> str:
    """The first answer of a text that goes on with questions and answers of its own."""
    start = 0
    while (marker := _NEXT_TURN.search(text, start)) is not None:
        before = text[: marker.start()]
        if re.search(r"\w", before) is not None or any(char in "✅❌✓✔✗✘👍👎" for char in before):
            return before
        start = marker.end()
        if start >= len(text):
            break
    return text


def tagged_answer(text: str) -> str | None:
    """What stands in an answer tag or a box; None without one. Several that differ are given together."""
    boxes = [match.group(1).strip() for match in _BOXED.finditer(text)] if "\\boxed" in text else []
    tags = [match.group(2).strip() for match in _ANSWER_TAG.finditer(text)] if "<" in text else []
    found = list(dict.fromkeys(part for part in (tags or boxes)))
    return "\n".join(found) if found else None


def plain(text: str) -> str:
    """Text without markup."""
    if "```" in text:
        outside = _CODE.sub(" ", text)  # a program says nothing of its own beside an answer
        text = outside if re.search(r"\w", outside) else text
    text = _TAG.sub(" ", _STRUCK.sub(" ", text)) if "<" in text or "~" in text else text
    if "$" in text or "\\" in text or "{" in text:
        text = _FORMULA.sub(" ", text)
    return _ASIDE.sub(" ", _DECORATION.sub(" ", _FENCE.sub(" ", text))).strip()


# --- structured answers ----------------------------------------------------------------------------------------------

ANSWER_KEYS = (
    "final_answer", "final answer", "answer", "verdict", "prediction", "response", "label", "output", "result",
    "conclusion", "decision", "yes_no", "yes/no", "choice", "reply",
)  # fmt: skip
_PRESENCE_KEYS = (
    "present", "exists", "exist", "found", "visible", "is_present", "detected", "is_visible", "presence", "existence",
    "object_present", "in_image", "contains", "is_there",
)  # fmt: skip
_SIDE_KEYS = word_set(
    "reason reasoning explanation rationale confidence thought thoughts thinking analysis evidence caption "
    "description question score probability objects object id image details note notes comment justification bbox "
    "boxes"
)
_PAIR = re.compile(
    r"[\"']?(?P<key>[a-z][a-z_ /-]{0,40}?)[\"']?\s{0,9}[:=]\s{0,9}"
    r"(?:\"(?P<double>(?:[^\"\\\n]|\\.)*)\"?|'(?P<single>(?:[^'\\\n]|\\.|(?<=\w)'(?=\w))*)'?"
    r"|(?P<bare>[^,}\]\n\"']{1,400}))"
)


def structured_answer(text: str, names: frozenset[str]) -> str | None:
    """The value of the answer in JSON, a dictionary or a list; None where the text is none of these.

    Args:
        text: folded text without thinking.
        names: what was asked about, which may be a key too ("dog": true).
    """
    inner = _FENCE.sub(" ", text).strip() if "```" in text else text.strip()
    if inner[:5] == "json\n":
        inner = inner[5:].strip()
    if inner[:1] not in {"{", "["} or inner[:5] == "[inst":
        return None
    try:
        value = json.JSONDecoder().raw_decode(inner)[0]
    except (ValueError, RecursionError):
        return _loose_answer(inner, names)
    return _value_of(value, names)


def _value_of(value: Any, names: frozenset[str]) -> str:
    if isinstance(value, list):
        if len(value) == 1:
            return _value_of(value[0], names)
        parts = {_value_of(part, names) for part in value[:50]}
        return parts.pop() if len(parts) == 1 else ""
    if isinstance(value, dict):
        return _chosen([(str(key).lower(), found) for key, found in value.items()], names)
    return _scalar(value)


def _chosen(pairs: list[tuple[str, Any]], names: frozenset[str]) -> str:
    """The value under the key that most plainly names the answer."""
    for wanted in (ANSWER_KEYS, _PRESENCE_KEYS):
        for name in wanted:
            for key, value in pairs:
                if key.strip() == name:
                    return _value_of(value, names)
    for key, value in pairs:
        words = set(re.split(r"[\s_-]+", key))
        if words & names and not words & {"no", "not"}:
            return _value_of(value, names)
    rest = [value for key, value in pairs if key.strip() not in _SIDE_KEYS]
    if len(rest) == 1 and not isinstance(rest[0], dict | list):
        said = _scalar(rest[0])
        return said if said.strip(" .!") in {"yes", "no"} else ""
    return ""


def _scalar(value: Any) -> str:
    if value is True:
        return "yes"
    if value is False:
        return "no"
    text = value if isinstance(value, str) else ""
    return {"true": "yes", "false": "no"}.get(text.strip(), text)


def _loose_answer(inner: str, names: frozenset[str]) -> str:
    """For what is nearly JSON: single quotation marks, True and False, a missing end."""
    if inner.startswith("[") and ":" not in inner:
        items = [item.strip(" \"'") for item in inner.strip("[] ,").split(",")[:50]]
        return items[0] if len(set(items)) == 1 else ""
    pairs: list[tuple[str, Any]] = []
    for match in _PAIR.finditer(inner):
        text = match.group("double") or match.group("single") or (match.group("bare") or "").strip()
        after = inner[match.end() : match.end() + 20].lstrip()
        if after.startswith("|"):
            return ""  # the template itself: "yes" | "no"
        pairs.append((match.group("key"), text))
        if len(pairs) > 200:
            break
    return _chosen(pairs, names)
