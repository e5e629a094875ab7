"""Answers to RePOPE, which are those to POPE: questions that were removed are left out and counted.

LLaVA's file of all splits asks POPE's older revision. Its popular and adversarial questions are those of the newest one
but for a typing error; its random ones are others under other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.pope import answer_parts, answers_of, with_split_names
from mmpref.evals.benchmarks.pope_answers import FILE_SPLIT, SPLITS, Part
from mmpref.evals.files.by_question import counts_its_own_way
from mmpref.evals.files.image_names import image_names, image_of
from mmpref.evals.files.layouts import READ_AS
from mmpref.evals.files.question_words import ASKED, asked_text, content
from mmpref.evals.files.rows import Saved
from mmpref.files.rows import Row, Source, as_id, is_path, load_json
from mmpref.records import EvalSample, ResultWarning, user_turn

POPE_LABEL = "pope_label"
"""Key of POPE's label of a question, where it is known."""
OF_POPE = 3000
"""How many questions each of POPE's splits has."""
_QUESTION = re.compile(r"is there an? (.+?) in the im\w+\?", re.IGNORECASE)
_MOST_REMOVED = 0.15  # 316 of 3,000 are 10.5 %
_FEW = 10
_REMOVED = "Is there"  # what is known of the words of a question that was removed
_PROMPT_KEYS = ("question", "input", "prompt", "query", "instruction")


def by_split(samples: Sequence[EvalSample]) -> dict[str, list[EvalSample]]:
    """The samples of each split, by the name that its file or its rows give it."""
    found: dict[str, list[EvalSample]] = {}
    for sample in samples:
        found.setdefault(str(sample.meta[FILE_SPLIT]), []).append(sample)
    return found


def number_of(name: str) -> str:
    """POPE's number of a question, which is its id without the split."""
    return name.rsplit("/", 1)[-1]


def load_repope_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    """Answers to POPE or to RePOPE, those to questions that are not known any more left out.

    Raises:
        DataError: rows that fit no question, or show another one than that of their id.
    """
    parts = _of_script(source) or answer_parts(source)
    parts = {split: (name, [_respelled(row) for row in rows]) for split, (name, rows) in parts.items()}
    _refuse_older_random(parts, samples)
    by_image = any(counts_its_own_way(row) and image_of(row) for _, rows in parts.values() for row in rows)
    known = tuple(samples) if by_image else _with_stand_ins(samples)
    without = _Without(samples)
    kept = {split: (name, list(without.those_removed(rows))) for split, (name, rows) in parts.items()}
    saved = answers_of(kept, known)
    gone = {sample.id for sample in known} - {sample.id for sample in samples}
    named = with_split_names(known, saved.answers)
    answers = [answer for answer in named if answer.id not in gone]
    left = len(named) - len(answers) + without.left_out
    note = f"{left:,} answers to questions of POPE that RePOPE removed are left out"
    warnings = _too_many_left_out(left, len(named) + without.left_out)
    notes = (*saved.notes, *([note] if left else []))
    return replace(saved, answers=answers, notes=notes, warnings=(*saved.warnings, *warnings))


def _too_many_left_out(left: int, of: int) -> tuple[ResultWarning, ...]:
    """A warning where RePOPE did not remove as many questions as there are answers without one."""
    if left <= max(_FEW, _MOST_REMOVED * of):
        return ()
    return (
        ResultWarning(
            "questions_in_part",
            f"{left:,} of {of:,} answers are to none of these questions, and RePOPE removed 226, 273 and 316 of the "
            "3,000 of POPE's splits: the file of questions seems to be a part",
        ),
    )


def _respelled(row: Row) -> Row:
    """A row with the prompt of POPE's newest revision; the older one has "imange" in a few questions."""
    wrong = {key: text for key in _PROMPT_KEYS if isinstance(text := row.get(key), str) and " imange?" in text}
    return {**row, **{key: text.replace(" imange?", " image?") for key, text in wrong.items()}} if wrong else row


def _refuse_older_random(parts: Mapping[str, Part], samples: Sequence[EvalSample]) -> None:
    """Refuse LLaVA's answers to the random split.

    Raises:
        DataError: there are some, and this split is asked.
    """
    if "random" not in by_split(samples):
        return
    for name, rows in parts.values():
        for number, row in enumerate(rows, 1):
            found = as_id(row.get("question_id")) or ""
            if found.isdecimal() and 10_000_000 < int(found) <= 20_000_000:
                raise DataError(
                    f"{name}, row {number}: question_id {found} is LLaVA's of POPE's random split, of whose older "
                    "revision (2,910 questions) RePOPE has only a part: 87 of its 2,774 random questions have no "
                    "answer there. Pass the questions of the other two splits, coco_repope_popular.json and "
                    "coco_repope_adversarial.json"
                )


def _of_script(source: Source) -> dict[str, Part]:
    """What the official script saves, ``{split: {question_id: {"text": question, "response", "answer", ...}}}``; else
    nothing."""
    content_of = source
    if isinstance(source, str | Path) and Path(source).suffix == ".json" and Path(source).is_file():
        content_of = load_json(source)
    if not isinstance(content_of, Mapping) or not content_of or not content_of.keys() <= set(SPLITS):
        return {}
    if not all(
        isinstance(part, Mapping) and all(isinstance(r, Mapping) for r in part.values()) for part in content_of.values()
    ):
        return {}
    name = str(source) if is_path(source) else "answers"
    return {
        split: (
            f"{name}, {split}",
            [
                {"question_id": number, **_asked_and_said(row), READ_AS: "answers of RePOPE's script"}
                for number, row in part.items()
            ],
        )
        for split, part in content_of.items()
    }


def _asked_and_said(row: Row) -> dict[str, Any]:
    """A row of the script, whose ``text`` is the question and whose ``answer`` is what it read."""
    asked = {ASKED: row["text"]} if isinstance(row.get("text"), str) else {}
    return {**asked, **{key: row[key] for key in ("question_id", "response") if key in row}}


def _with_stand_ins(samples: Sequence[EvalSample]) -> tuple[EvalSample, ...]:
    """The samples in POPE's order, with a stand-in for each of POPE's questions that is not among them.

    None is added where ``pope=`` gave the questions themselves, or where the ids are not POPE's.
    """
    if any(POPE_LABEL in sample.meta for sample in samples):
        return tuple(samples)
    out: list[EvalSample] = []
    for asked in by_split(samples).values():
        own = {number_of(sample.id): sample for sample in asked}
        if not all(number.isdecimal() and 1 <= int(number) <= OF_POPE for number in own):
            out += asked
            continue
        head, slash, _ = asked[0].id.rpartition("/")
        meta = {"split": asked[0].meta["split"], FILE_SPLIT: asked[0].meta[FILE_SPLIT], "image": "", "question": ""}
        prompt = user_turn(_REMOVED, num_images=0)
        out += [
            own.get(number) or EvalSample(id=f"{head}{slash}{number}", images=(), prompt=prompt, meta=meta)
            for number in map(str, range(1, OF_POPE + 1))
        ]
    return tuple(out)


class _Without:
    """Leaves out rows with ids of a tool's own that ask about an object which RePOPE does not ask about in that image:
    POPE asked, and the question was removed."""

    def __init__(self, samples: Sequence[EvalSample]) -> None:
        self.left_out = 0
        self._objects: dict[str, set[str]] = {}
        for sample in samples:
            image, question = content(sample)
            for name in image_names(image):
                self._objects.setdefault(name, set()).add(_object(question))

    def those_removed(self, rows: Sequence[Row]) -> Iterator[Row]:
        """The other rows."""
        for row in rows:
            if self._was_removed(row):
                self.left_out += 1
            else:
                yield row

    def _was_removed(self, row: Row) -> bool:
        asked = _object(asked_text(row)) if counts_its_own_way(row) else ""
        names = [name for image in image_of(row).values() for name in image_names(image) if name in self._objects]
        return bool(asked and names) and not any(asked in self._objects[name] for name in names)


def _object(question: str) -> str:
    found = _QUESTION.search(question)
    return found[1].casefold() if found is not None else ""
