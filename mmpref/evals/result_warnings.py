"""Warnings where a number means nothing: answers that are all alike, answers to other questions, answers cut short.

Each rule looks at what every benchmark's items have in common, so that a new benchmark is looked at too: the answer's
``text``, what was ``read`` and the ``label``, the ``question``, the ``objects`` of the image and those of a caption
(``mentions`` or ``nouns``). The thresholds are set so that published answer files raise none of these
(``docs/benchmarks.md`` has the measured rates); a warning changes no number and no exit code.

- ``unread_answers``, ``empty_answers``, ``cut_answers``: a share above 5 %.
- ``no_object_named``: more than half of the captions name no known object.
- ``one_answer``: 95 % of the answers are read the same while the labels are not.
- ``same_text``: one text for many different questions or images.
- ``repeated_text``: many answers are that of the row before.
- ``no_better_than_shuffle``: right answers are no more than the same answers in any other order would give.
- ``other_questions``, ``other_images``: what the answers speak of fits other questions or images as well as their own.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from mmpref.evals.benchmarks.contract import Item, Items, is_unread
from mmpref.evals.files.question_rows import YES_NO
from mmpref.evals.shuffle_test import common_when_moved, moved, shuffle_test, together
from mmpref.evals.text.content_words import content_words
from mmpref.records import Answer, ResultWarning

NOTED_ABOVE = 0.05
"""Share of unread, empty or cut answers above which there is a warning."""
ONE_ANSWER = 0.95
_LABELS_DIFFER_BY = 0.15
"""A run that is read nearly all as one answer is right where the labels are nearly all that answer too."""
SAME_TEXT = 0.3
SAME_OPEN_ANSWER = 0.5  # answers to questions may be alike: "2", "Yes."
REPEATED = 0.1
OTHER_QUESTION = 0.25
_NO_OBJECT_ABOVE = 0.5
_FEWEST = 10
_FEWEST_REPEATED = 5
_BY_CHANCE = 2.0
"""Fewer standard deviations above a shuffle than these may be chance."""
_CAN_TELL = 5.0
"""Standard deviations above a shuffle that answers which are all right would reach, where the test is made at all."""
_LITTLE_SKILL = 0.1
_SOME_SKILL = 0.5  # three of four answers right where half are by chance
_SHIFTS = (1, -1, 2, -2, 3, -3)
_SHIFTED_SIGMAS, _SHIFTED_SKILL = 6.0, 0.2
_LONG = 20  # words; shorter answers often end without a full stop
_SENTENCE = 4
_DENIED = r"\b(?:no|not|any|neither|nor|without|lacks?)\s+(?:an?\s+|the\s+|any\s+)?(?:\w+\s+)?{}"
_YES_FIRST = re.compile(r"\W*(?:yes|yeah|yep|sure)\b", re.IGNORECASE)
_ENDS = (
    ".",
    "!",
    "?",
    '"',
    "'",
    ")",
    "]",
    "}",
    "*",
    "`",
    "\u201d",
    "\u2019",
    "\u3002",
    "\uff01",
    "\uff1f",
    "\u0964",
    "\u061f",
    ":",
)

Sets = tuple[list[Set[str]], list[Set[str]]]


def warnings_of(
    items: Items, answers: Sequence[Answer], parts: Callable[[Mapping[str, Any]], Sequence[str]]
) -> tuple[ResultWarning, ...]:
    """What of a result may mean nothing.

    Args:
        items: the graded answers.
        answers: the answers as they were given, in the order of their file.
        parts: the names of the parts of an item, as splits.
    """
    place = {answer.id: number for number, answer in enumerate(answers)}
    asked = [{**item, "text": _tidy(item)} for item in items if item.get("missing") is not True]
    asked.sort(key=lambda item: place.get(str(item["id"]), len(place)))  # a slip of one row is one in this order
    cut = {answer.id for answer in answers if answer.cut}
    found = [
        *_unread(asked, cut),
        *_one_answer(asked, parts),
        *_same_text(asked),
        *_repeated(asked),
        *_other_order(asked),
        *_other_questions(asked),
        *_other_images(asked),
    ]
    return tuple(found)


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({count / total:.1%})"


def _tidy(item: Mapping[str, Any]) -> str:
    return " ".join(str(item.get("text", "")).split())


def _text(item: Mapping[str, Any]) -> str:
    """The answer, its spaces put right once for all rules."""
    return str(item["text"])


def _named(item: Mapping[str, Any]) -> set[str] | None:
    """The objects that a caption names; None for an answer of another kind."""
    if isinstance(mentions := item.get("mentions"), list):
        return {str(mention["object"]) for mention in mentions}
    if isinstance(nouns := item.get("nouns"), list):
        return {str(noun["word"]) for noun in nouns}
    return None


# --- what cannot be read ---------------------------------------------------------------------------------------------


def _unread(asked: Items, cut: Set[str]) -> Iterator[ResultWarning]:
    """Answers that are empty, were not read, were cut, or name nothing."""
    if not asked:
        return
    total = len(asked)
    empty = sum(not _text(item) for item in asked)
    unread = sum(is_unread(item) for item in asked if _text(item))
    if empty > NOTED_ABOVE * total:
        yield ResultWarning("empty_answers", f"{_share(empty, total)} of the answers are empty")
    if unread > NOTED_ABOVE * total:
        sentence = "of the answers could not be read, and count as the protocol says: the numbers are of the others"
        yield ResultWarning("unread_answers", f"{_share(unread, total)} {sentence}")
    ended = sum(str(item["id"]) in cut for item in asked)
    unfinished = [item for item in asked if is_unread(item) or not isinstance(item.get("label"), str)]
    long = [text for text in map(_text, unfinished) if text.count(" ") >= _LONG]  # what was read may end with "yes"
    open_ended = sum(not text.endswith(_ENDS) for text in long)
    if ended > NOTED_ABOVE * total:
        sentence = "of the answers were cut by the limit of new tokens: what they would have said then is in no number"
        yield ResultWarning("cut_answers", f"{_share(ended, total)} {sentence}")
    elif open_ended >= _FEWEST and 2 * open_ended > len(long):
        sentence = f"of the answers with more than {_LONG} words end within a sentence: cut by a limit of new tokens?"
        yield ResultWarning("cut_answers", f"{_share(open_ended, len(long))} {sentence}")
    silent = sum(_named(item) == set() and not is_unread(item) for item in asked)
    if silent > _NO_OBJECT_ABOVE * total:
        sentence = "of the answers name no known object, and what is not named is not made up: are they descriptions?"
        yield ResultWarning("no_object_named", f"{_share(silent, total)} {sentence}")


# --- answers that are all alike --------------------------------------------------------------------------------------


def _labelled(asked: Items) -> list[Mapping[str, Any]]:
    """The items whose answer was read as one of the labels that the questions have."""
    labels = {str(item["label"]) for item in asked if isinstance(item.get("label"), str)}
    return [item for item in asked if isinstance(item.get("label"), str) and str(item.get("read")) in labels]


def _one_answer(asked: Items, parts: Callable[[Mapping[str, Any]], Sequence[str]]) -> Iterator[ResultWarning]:
    """Nearly all answers read the same while the labels are not; of a part where it is not so over all."""
    if sentence := _all_read_alike(asked):
        yield ResultWarning("one_answer", sentence)
        return
    by_part: dict[str, list[Mapping[str, Any]]] = {}
    for item in asked:
        for part in parts(item):
            by_part.setdefault(part, []).append(item)
    for part, items in by_part.items():
        if len(by_part) > 1 and (sentence := _all_read_alike(items)):
            yield ResultWarning("one_answer", f"{part}: {sentence}")


def _all_read_alike(asked: Items) -> str:
    read = _labelled(asked)
    if len(read) < _FEWEST:
        return ""
    said, count = Counter(str(item["read"]) for item in read).most_common(1)[0]
    true = sum(str(item["label"]) == said for item in read) / len(read)
    if count < ONE_ANSWER * len(read) or count / len(read) - true < _LABELS_DIFFER_BY:
        return ""
    return (
        f"{_share(count, len(read))} of the answers that could be read are '{said}', which is right for {true:.0%} of "
        "the questions: recall and accuracy of a run that says one thing say nothing about what it sees"
    )


def _same_text(asked: Items) -> Iterator[ResultWarning]:
    """One text for many images or questions; the one word of a question with labels is ``one_answer``'s."""
    open_answers = [item for item in asked if not isinstance(item.get("label"), str) and _text(item)]
    captions = sum(_named(item) is not None for item in open_answers)
    asked_about = {(str(item.get("question", "")), str(item.get("image", ""))) for item in open_answers}
    if len(open_answers) < _FEWEST or len(asked_about) < _FEWEST:
        return
    text, count = Counter(_text(item).casefold() for item in open_answers).most_common(1)[0]
    if count >= (SAME_TEXT if 2 * captions > len(open_answers) else SAME_OPEN_ANSWER) * len(open_answers):
        shown = f"{text[:60]}..." if len(text) > 60 else text
        what = "descriptions" if captions else "answers"
        yield ResultWarning(
            "same_text", f"{_share(count, len(open_answers))} of the {what} are one and the same text: {shown!r}"
        )


def _repeated(asked: Items) -> Iterator[ResultWarning]:
    """Sentences that are those of the row before, about something else."""
    pairs = repeated = 0
    first = ""
    for before, item in itertools.pairwise(asked):
        asks = [str(one.get("question", "")) for one in (before, item)]
        caption = _named(item) is not None and before.get("image") != item.get("image")
        if (asks[0] == asks[1] and not caption) or _text(item).count(" ") < _SENTENCE:
            continue  # one question about two images may well have one answer
        pairs += 1
        if _text(item) != _text(before):
            continue
        if _named(item) or content_words(_text(item)) & content_words(" ".join(asks)):
            repeated += 1
            first = first or str(item["id"])
    texts = Counter(_text(item) for item in asked)
    if repeated >= max(_FEWEST_REPEATED, REPEATED * pairs) and texts.most_common(1)[0][1] < SAME_TEXT * len(asked):
        sentence = f"of the answers in sentences are the text of the row before, first that of id '{first}'"
        yield ResultWarning("repeated_text", f"{_share(repeated, pairs)} {sentence}: was an answer written twice?")


# --- answers to other questions --------------------------------------------------------------------------------------


def _other_order(asked: Items) -> Iterator[ResultWarning]:
    """Answers that are right no more often than in any other order."""
    read = _labelled(asked)
    if len(read) < _FEWEST or _all_read_alike(asked):
        return
    sets = _said_and_right(read)
    # a letter is never right for a question of yes or no: answers are dealt out among questions of their kind
    kinds = [[item for item in read if (item["label"] in YES_NO) is kind] for kind in (True, False)]
    test = together([shuffle_test(*_said_and_right(items)) for items in kinds if items])
    # among few answers, those of a model that is right for half of what chance leaves over may look like guesses
    if test.reach < _CAN_TELL or test.sigmas >= min(_BY_CHANCE, _SOME_SKILL * test.reach - _BY_CHANCE):
        return
    slipped = test.sigmas < -_BY_CHANCE
    than, why = (
        ("fewer than", ", perhaps of a file that slipped by a row") if slipped else ("within chance of what", "")
    )
    yield ResultWarning(
        "no_better_than_shuffle",
        f"{_share(test.common, len(read))} of the answers that could be read are right, {than} the same answers "
        f"in any order give ({test.expected / len(read):.1%}): guesses, or answers to other questions"
        f"{why}.{_shift(sets)}",
    )


def _said_and_right(items: Items) -> Sets:
    return [{str(item["read"])} for item in items], [{str(item["label"])} for item in items]


def _shift(sets: Sets, what: str = "question") -> str:
    """What to say where the answers would fit the questions some rows on, and only these: labels that alternate fit at
    every second row."""
    skills = {}
    own = shuffle_test(*sets)
    worth_a_test = own.expected + _SHIFTED_SKILL / 2 * (own.most - own.expected)
    for by in _SHIFTS:
        if abs(by) < len(sets[0]) // 2 and common_when_moved(*sets, by) > worth_a_test:
            test = moved(*sets, by)
            skills[by] = test.skill if test.sigmas >= _SHIFTED_SIGMAS else 0.0
    best, *others = sorted(skills, key=lambda by: -skills[by]) or [0]
    if not best or skills[best] < _SHIFTED_SKILL or any(2 * skills[by] > skills[best] for by in others):
        return ""
    return f" They fit the {what} {abs(best)} row{'s' * (abs(best) > 1)} {'later' if best > 0 else 'earlier'}."


def _other_questions(asked: Items) -> Iterator[ResultWarning]:
    """Answers that name what other questions ask about, and not what theirs does."""
    questions = [content_words(str(item.get("question", ""))) for item in asked]
    shared = Counter(word for words in {frozenset(words) for words in questions} for word in words)
    many = len({frozenset(words) for words in questions})
    telling = [{word for word in words if 4 * shared[word] <= many} for words in questions]
    known = set().union(*telling) if telling else set()
    rows = [
        (item, named, own)
        for item, own in zip(asked, telling, strict=True)
        if own and (named := content_words(_text(item)) & known)
    ]
    if many < _FEWEST or len(rows) < _FEWEST:
        return
    sets: Sets = [named for _, named, _ in rows], [own for _, _, own in rows]
    test = shuffle_test(*sets)
    reach = (len(rows) - test.expected) / test.deviation if test.deviation > 0 else 0.0
    against = [(item, named) for item, named, own in rows if not named & own and _speaks_of(item, named)]
    if reach >= _CAN_TELL and test.sigmas < _BY_CHANCE:
        yield ResultWarning(
            "other_questions",
            f"{len(rows):,} answers name something that the questions ask about, and no more often what their own "
            f"question asks about than in any other order: answers to other questions?{_shift(sets)}",
        )
    elif len(against) > OTHER_QUESTION * len(rows) and len(against) >= _FEWEST_REPEATED:
        item, named = against[0]
        yield ResultWarning(
            "other_questions",
            f"{_share(len(against), len(rows))} of the answers that name something that the questions ask about affirm "
            f"or deny another thing than their own question asks about: '{item['id']}' asks "
            f"{str(item['question'])[:80]!r} and the answer is {_text(item)[:80]!r}. Answers to another split or "
            f"revision?{_shift(sets)}",
        )


def _speaks_of(item: Mapping[str, Any], named: Set[str]) -> bool:
    """Whether an answer says yes, or denies the other thing that it names: "no, it is a cat" answers about a dog."""
    if not isinstance(item.get("label"), str):
        return False
    text = _text(item)
    if _YES_FIRST.match(text):
        return True
    return any(re.search(_DENIED.format(re.escape(word)), text, re.IGNORECASE) for word in named)


def _other_images(asked: Items) -> Iterator[ResultWarning]:
    """Captions whose objects are those of other images as much as of their own."""
    captions: list[Item] = [
        dict(item) for item in asked if _named(item) and isinstance(item.get("objects"), list) and item["objects"]
    ]
    if len(captions) < _FEWEST:
        return
    sets: Sets = [_named(item) or set() for item in captions], [set(map(str, item["objects"])) for item in captions]
    test = shuffle_test(*sets)
    if test.reach < _CAN_TELL:
        return
    if test.sigmas < _BY_CHANCE or test.skill < _LITTLE_SKILL:
        yield ResultWarning(
            "other_images",
            f"what {len(captions):,} descriptions name is in their own image {test.common / test.most:.0%} of the "
            f"time, and {test.expected / test.most:.0%} in any other image: descriptions of other images, or of none."
            f"{_shift(sets, 'image')}",
        )
    elif shift := _shift(sets, "image"):
        yield ResultWarning(
            "other_images",
            f"what {len(captions):,} descriptions name is in their own image {test.common / test.most:.0%} of the "
            f"time, but many are of another image: does the file lack a row from some place on?{shift}",
        )
