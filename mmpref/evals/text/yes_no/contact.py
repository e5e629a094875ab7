"""What an answer says about direct contact between two things."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmpref.evals.text.singular import singular
from mmpref.evals.text.yes_no.hedges import is_open
from mmpref.evals.text.yes_no.matching import ARTICLES, IN_IMAGE
from mmpref.evals.text.yes_no.question import Asked
from mmpref.evals.text.yes_no.things import Words
from mmpref.evals.text.yes_no.tools import YesNo
from mmpref.evals.text.yes_no.words import ADVERBS

_NOT = r"(?P<not>not |never )?"
_SOME = r"(?:direct |physical |close |full |any |actual |clear |visible )*"
_OTHER = r"(?:with |to )?(?:each other|one another|them|it|him|her|the other)"
_PART = re.compile(
    r"\b(ONE|TWO) 's (?:paws?|hands?|foot|feet|legs?|head|arms?|fingers?|back|tail|nose|mouth|body|wheels?)\b"
)
_CONTACT_FORMS = [
    re.compile(
        rf"^there is {_NOT}(?P<no>no )?{_SOME}contact(?: between (?:ONE and TWO|TWO and ONE|them|two|both"
        rf"|these two))?(?P<rest> .*)?$"
    ),
    re.compile(
        rf"^(?P<no>no ){_SOME}contact (?:is |can be )?(?:visible|seen|made|present|there)(?: between (?:ONE and TWO"
        r"|TWO and ONE|them|two|both))?(?P<rest> .*)?$"
    ),
    re.compile(rf"^(?P<no>no ){_SOME}contact(?: between (?:ONE and TWO|TWO and ONE|them|two|both))?(?P<rest> .*)?$"),
    re.compile(
        rf"^(?P<a>ONE|TWO|it|he|she) (?:is|does|are|has|makes) {_NOT}(?:in |making |have "
        rf"|make )?(?P<no>no )?{_SOME}contact with "
        r"(?P<b>ONE|TWO|it|him|her)(?P<rest> .*)?$"
    ),
    re.compile(
        rf"^(?:ONE and TWO|TWO and ONE|they|both|two) (?:is|are|do|does|have|has|make) {_NOT}(?:in |making "
        rf"|have |make )?(?P<no>no )?"
        rf"(?:{_SOME}contact|touching|touch)(?: {_OTHER})?(?P<rest> .*)?$"
    ),
    re.compile(rf"^(?:ONE and TWO|TWO and ONE|they) touch(?: {_OTHER})?(?P<rest> .*)?$"),
    re.compile(rf"^(?P<a>ONE|TWO|it|he|she) (?:is |are |does )?{_NOT}(?:directly )?(?:touching|touches"
        rf"|touch) (?P<b>ONE|TWO|it|him|her)(?P<rest> .*)?$"),
    re.compile(r"^(?P<none>neither) ONE nor TWO (?:is |are )?(?:touching|touches|in contact)(?P<rest> .*)?$"),
]  # fmt: skip


def contact_says(words: Sequence[str], asked: Asked) -> YesNo:
    """What a clause says about direct contact between the two things asked for."""
    if asked.pair is None or is_open(words) or not set(words) & {"contact", "touch", "touches", "touching"}:
        return "unparsed"
    marked = []
    skipped = ARTICLES - {"this", "that", "these", "those", "there"}
    index = 0
    while index < len(words[:60]):
        size, name = _side(words, index, asked.pair)
        if size:
            marked.append(name)
        elif words[index] not in skipped and words[index] not in ADVERBS - {"both", "there"}:
            marked.append(words[index])
        index += max(size, 1)
    line = _PART.sub(r"\1", IN_IMAGE.sub("", " ".join(marked)))
    line = re.sub(r"^[^,]{0,60} , ", "", line) if line[:3] in {"in ", "bas", "fro", "loo"} else line
    shared = re.match(r"^(?P<side>ONE|TWO|it|he|she) .* and (?P<rest>(?:is |does not )?(?:directly )?touch.*)$", line)
    if shared is not None:  # "is mounted on the wall and touches it"
        line = f"{shared['side']} {shared['rest']}"
    for form in _CONTACT_FORMS:
        found = form.match(line)
        if found is None:
            continue
        parts = found.groupdict()
        rest = (parts.get("rest") or "").split()
        if parts.get("a") and parts.get("a") == parts.get("b"):
            return "unparsed"
        if rest and (
            rest[0] not in {"with", "at", "in", "here", "as", ",", "and", "on", "since", "visible"}
            or {"not", "no"} & set(rest)
        ):
            return "unparsed"
        denials = sum(bool(parts.get(key)) for key in ("not", "no", "none"))
        return "unparsed" if denials > 1 else ("no" if denials else "yes")
    return "unparsed"


def _side(words: Sequence[str], index: int, pair: tuple[Words, Words]) -> tuple[int, str]:
    for size in (3, 2, 1):
        if index + size <= len(words):
            name = " ".join([*words[index : index + size - 1], singular(words[index + size - 1])])
            for side, label in zip(pair, ("ONE", "TWO"), strict=True):
                if name in side.asserting:
                    return size, label
    return 0, ""
