"""The mark that ends a turn, at the end of an answer: taken off, unless it may be a word of the answer.

Sets that were made out of a template's text, or out of raw outputs, end their answers so. Answers about templates end
so as well ("it stops at </s>"), and lose what they are about if it is cut: where that may be, the row is refused.
"""

from __future__ import annotations

import re

from mmpref.data.formats.fields import fault
from mmpref.data.row_values import END_MARKS

REASON = "end_mark"
_OF_HTML = re.compile(r"<s[\s>]", re.IGNORECASE)
"""Opens a sentence of SSML or what is struck out in HTML; ``</s>`` closes it."""
_DETOKENISED = re.compile(r"\s[.,](?:\s|\Z)")
"""A blank before a comma or a full stop, which nobody types: then the one before the mark says nothing either."""
_LEADS_ON = ":=,，：“‘(<是为為以到用出于於即叫はがをにで"
"""After these something is to come; the words are Chinese and Japanese, which are written without the blank that shows
elsewhere that a mark is a word."""
_SENTENCE_ENDS = ".!?…。！？"


def without_ends(chosen: str, rejected: str | None, end_of_turn: str) -> tuple[str, str | None, list[str]]:
    """Both answers without the mark that ends a turn, and the marks.

    Args:
        chosen: the better answer.
        rejected: the worse one, if there is one.
        end_of_turn: the mark of the template that the prompt was written out in, if it was.

    Raises:
        RowError: ``end_mark``, where a mark may as well be a word of the answer ("it ends with </s>").
    """
    ends = [_end_of(chosen), _end_of(rejected or "")]
    marks = list(dict.fromkeys(mark for mark in ends if mark))
    if not marks:
        return chosen, rejected, []
    if len(marks) > 1:
        raise fault(
            REASON,
            f"'chosen' ends with {ends[0]} and 'rejected' with {ends[1]}: a mark that the chat template writes is the "
            "same for both answers; take them off, or put a full stop after each if they are words of the answers",
        )
    left = [unended(chosen), unended(rejected or "")]
    if not (all(ends) and _are_ends(left, marks[0], end_of_turn, (chosen, rejected or ""))):
        for side, end, text in zip(("chosen", "rejected"), ends, left, strict=True):
            if end and not _closes(text):
                raise fault(
                    REASON,
                    f"{side!r} ends with {end}, a mark that the chat template writes: take it off, or put a full stop "
                    "after it if it is a word of the answer",
                )
    if marks[0] != end_of_turn:  # a template's own text has no blank there that is not the answer's
        left = [text.rstrip() if end else text for end, text in zip(ends, left, strict=True)]
    if rejected is not None and chosen != rejected and left[0].strip() == left[1].strip():
        raise fault(
            REASON,
            f"the answers are the same but for {marks[0]}, a mark that the chat template writes: put a full stop after "
            "it if it is a word of the answer, else leave the row out",
        )
    return left[0], None if rejected is None else left[1], marks


def unended(answer: str) -> str:
    """An answer without the marks at its end; as it is where there is none."""
    end = place = len(answer)
    marks = [mark for mark in END_MARKS if mark != "</s>" or not _OF_HTML.search(answer)]
    while True:
        while place and answer[place - 1].isspace():
            place -= 1
        mark = next((mark for mark in marks if answer.endswith(mark, 0, place)), None)
        if mark is None:
            return answer[:end]
        end = place = place - len(mark)


def _end_of(answer: str) -> str:
    """The mark that an answer ends with; "" for one of nothing else, which is refused as empty."""
    tail = answer.rstrip()
    mark = next((mark for mark in END_MARKS if tail.endswith(mark)), "")
    if mark == "</s>" and _OF_HTML.search(answer):
        return ""
    return mark if mark and unended(answer).strip() else ""


def _are_ends(left: list[str], mark: str, end_of_turn: str, written: tuple[str, str]) -> bool:
    """Whether two answers that end with one mark show by themselves that it is no word, whatever stands before it."""
    if mark == end_of_turn:  # twice, it may be a word and an end
        return all(text + mark == answer.rstrip() for text, answer in zip(left, written, strict=True))
    is_short = all(len(text.split()) == 1 for text in left)
    return (is_short or any(map(_DETOKENISED.search, left))) and not any(map(_is_led_to, left))


def _is_led_to(before: str) -> bool:
    """Whether something is to come, after a colon, say, or in a quotation that is open."""
    last = before.rstrip()[-1:]
    return last in _LEADS_ON or (last in '`"' and before.count(last) % 2 == 1)


def _closes(before: str) -> bool:
    """Whether a mark after this text ends it, as models write it: right after a word, or after a sentence."""
    last = before.rstrip()[-1:]
    if last in _SENTENCE_ENDS:
        return True
    if before[-1:] != last or _is_led_to(before):
        return False
    return last != "'" or (len(before) > 1 and not before[-2].isspace())
