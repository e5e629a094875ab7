"""Where a chat template puts an answer: plain functions of rendered text.

A template is rendered twice: once up to where the model starts to write (*asked*), once with the answer (*whole*).
Found here are the prompt, the answer as the template spaces it, and the one end of turn that is learnt after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.processing.chat.thought import (
    Thought,
    ends_named_thought,
    has_think_mark,
    named_thought,
    opens_thought,
)


def common_start(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around an answer: *whole* is *asked* without ``drop``, then ``lead``, the answer, and ``tail``."""

    drop: str
    lead: str
    tail: str

    @classmethod
    def around(cls, probe: str, asked: str, whole: str) -> Frame | str:
        """Found with an answer that stands nowhere else; text says why there is none."""
        count = whole.count(probe)
        if count != 1:
            return "leaves the answer out or rewrites it" if not count else f"writes the answer {count} times"
        before, _, tail = whole.partition(probe)
        same = common_start(asked, before)
        return cls(asked[same:], before[same:], tail)

    def before(self, asked: str) -> str | None:
        """The text before the answer in *whole*."""
        return asked[: len(asked) - len(self.drop)] + self.lead if asked.endswith(self.drop) else None

    def answer_in(self, asked: str, whole: str, answer: str) -> str | None:
        """The answer as it is spaced in *whole*, if it stands there whole."""
        before = self.before(asked)
        end = len(whole) - len(self.tail)
        if before is None or end < len(before) or not (whole.startswith(before) and whole.endswith(self.tail)):
            return None
        found = whole[len(before) : end]
        return found if found == answer or (found.strip() == answer.strip() and found in answer) else None


@dataclass(frozen=True, slots=True)
class Placed:
    """One answer in its place. ``given`` is where the text that was given begins in ``prompt + answer``."""

    prompt: str
    answer: str
    given: int
    asked_only: str = ""  # the end of the prompt that the template does not write before finished answers


def place_plain(
    asked: str, whole: str, answer: str, frame: Frame, opening: str, tokens: tuple[str, ...]
) -> Placed | str:
    """An answer without a think block.

    The prompt is *asked*, but where *whole* has other text before the answer (an empty think block, the name of a
    channel), or where *asked* has opened a think block that *whole* has not: then it is what *whole* has.

    Args:
        opening: the end of *asked* that the template wrote after the last message.
        tokens: added tokens of the tokenizer, by whose names a think block is known that has other marks.
    """
    before = frame.before(asked)
    found = frame.answer_in(asked, whole, answer)
    if before is None or found is None:
        return "does not hold the answer as it was given"
    opened = opening[: max(0, len(opening) - len(frame.drop))] + frame.lead
    if opens_thought(opened):
        return "would put an answer without a think block inside one that it opens"
    is_open = opens_thought(opening) or (
        named_thought(frame.drop, tokens) == "open" and not ends_named_thought(answer, tokens)
    )
    if frame.lead.strip() or is_open:
        # a line break that the opening ends with as well is no part of the answer: the model is asked behind it
        is_prompt = bool(frame.lead.strip()) or frame.drop.endswith(frame.lead)
        start = len(before) if is_prompt else len(before) - len(frame.lead)
        return Placed(before[:start], before[start:] + found, len(before))
    if frame.drop:  # the model is asked with more than the template writes before a finished answer
        return Placed(asked, found, len(asked), frame.drop)
    return Placed(asked, frame.lead + found, len(before))


def place_thought(
    asked: str, whole: str, answer: str, thought: Thought, frame: Frame, opening: str, tokens: tuple[str, ...]
) -> Placed | str:
    """An answer with a think block; a ``<think>`` that *asked* has opened already is part of the prompt."""
    is_open, tail = opens_thought(opening), frame.tail
    if not is_open and has_think_mark(opening):
        return "closes the think block before the answer begins"
    start = _thought_in(whole, thought, tail)
    if start is None:
        if not is_open:
            return "does not hold the answer's think block as it was given"
        rest = answer.lstrip().removeprefix(thought.opening)
        rest = rest.lstrip() if asked[-1:].isspace() else rest
        return Placed(asked, rest, len(asked) if not thought.opening else _mark_start(asked, thought))
    end = len(whole) - len(tail)
    if whole.startswith(asked) and len(asked) <= end:
        lead = whole[len(asked) : max(start, len(asked))]
        if has_think_mark(lead):
            return "writes a think block of its own before the answer's"
        if not thought.opening and not is_open:  # the template opens what the answer only closes
            start = _after_mark(whole, start, thought)
            return Placed(whole[:start], whole[start:end], start)
        cut = start if lead.strip() else len(asked)
        given = _after_mark(whole, start, thought) if not thought.opening else start
        return Placed(whole[:cut], whole[cut:end], given)
    inner = _after_mark(whole, start, thought)
    if is_open:
        return Placed(asked, whole[inner:end], _mark_start(asked, thought) if thought.opening else len(asked))
    if named_thought(frame.drop, tokens) == "open":  # a block with other marks, in which this one would stand
        return Placed(whole[:start], whole[start:end], start)
    return Placed(asked, whole[start:end], len(asked), frame.drop)


def _thought_in(whole: str, thought: Thought, tail: str) -> int | None:
    """Where the answer's think block begins in *whole*, white space around its parts aside."""
    if not whole.endswith(tail):
        return None
    left = whole[: len(whole) - len(tail)].rstrip()
    for piece in (thought.content.strip(), thought.closing, thought.reasoning.strip(), thought.marks[0]):
        if not left.endswith(piece):
            return None
        left = left[: len(left) - len(piece)]
        left = left if piece == thought.marks[0] else left.rstrip()
    return len(left)


def _after_mark(whole: str, start: int, thought: Thought) -> int:
    """Behind the mark that begins at ``start`` and the white space after it."""
    inner = start + len(thought.marks[0])
    rest = whole[inner:]
    return inner + len(rest) - len(rest.lstrip())


def _mark_start(asked: str, thought: Thought) -> int:
    return asked.rfind(thought.marks[0])


def end_of_turn(tail: str, before: str, closes_user: str, ends: Sequence[str], eos: str | None) -> str | None:
    """The text of one end of turn; ``""`` where the template writes none, None where it writes other text there.

    Args:
        tail: what the template writes after an answer.
        before: what it writes before it.
        closes_user: what follows the last message of the prompt.
        ends: tokens that may close a turn.
        eos: the tokenizer's.
    """
    pattern = re.compile("|".join(map(re.escape, sorted(ends, key=len, reverse=True))) or "(?!)")
    found = list(pattern.finditer(tail))
    if not found:
        if not tail.strip():
            return ""
        own = tail.removesuffix(_common_end(tail, before))  # a generation prompt that is always written
        if not own.strip():
            return ""
        return tail.rstrip() if tail.strip() in before else None  # every turn ends with this text
    first = found[0]
    if tail[: first.start()].strip():
        return "" if not tail.removesuffix(_common_end(tail, before)).strip() else None
    if len(found) == 1 and first.group() != eos and before.rstrip().endswith(tail[first.start() :].rstrip()):
        return ""  # it opens the next turn of the assistant
    last = first
    for number, match in enumerate(found):
        if number and match.start() != found[number - 1].end():
            break
        if match.group() == eos or closes_user.lstrip().startswith(match.group()):
            last = match
            break
    return tail[: last.end()]


def end_in_history(asked: str, first: str, answer: str, then: str, ends: Sequence[str], eos: str | None) -> str | None:
    """The token other than eos that ends an answer which another question follows, if one does.

    Args:
        asked: a conversation of a question, an answer and a question, each one word that stands nowhere else.
    """
    if any(asked.count(word) != 1 for word in (first, answer, then)):
        return None
    before_user, _, after_user = asked.partition(first)
    after_answer = asked.partition(answer)[2].partition(then)[0].lstrip()
    end = next((token for token in sorted(ends, key=len, reverse=True) if after_answer.startswith(token)), None)
    if end is None or end == eos:
        return None
    # what stands before the first question as well opens questions, unless it also stands behind them
    return None if end in before_user and not after_user.lstrip().startswith(end) else end


def _common_end(one: str, other: str) -> str:
    return one[len(one) - common_start(one[::-1], other[::-1]) :]


def length_of_given(text: str, beginning: str) -> int:
    """How much of ``text`` the given ``beginning`` takes, white space aside."""
    if text.startswith(beginning):
        return len(beginning)
    place = 0
    for letter in beginning:
        if letter.isspace():
            continue
        while place < len(text) and text[place].isspace():
            place += 1
        if place >= len(text) or text[place] != letter:
            break
        place += 1
    return place


def around_difference(given: str, written: str, width: int = 60) -> tuple[str, str]:
    """Both texts shortened to where they begin to differ."""
    same = common_start(given, written)
    start = max(0, same - width // 3)
    return _short(given, start, width), _short(written, start, width)


def _short(text: str, start: int, width: int) -> str:
    piece = text[start : start + width]
    return ("…" if start else "") + piece + ("…" if start + width < len(text) else "")
