"""RePOPE: POPE's questions with corrected labels, less those that cannot be decided (Neuhaus and Hein 2025, "RePOPE:
Impact of Annotation Errors on the POPE Benchmark"; official script YanNeu/RePOPE ``src/evaluate.py``).

Questions are the repository's ``annotations/coco_repope_<split>.json``, rows as in POPE with POPE's ids, of which some
are gone: 2,774 random, 2,727 popular and 2,684 adversarial ones are left of 3,000 each. Answers are those to POPE, in
every layout that ``pope`` reads and in that of the script; answers to questions that were removed are left out and
counted. With ``pope=`` (POPE's own question files, which stand beside the others there) POPE's questions are asked, and
the metrics under its labels and the change from these to the new ones are given too: ``pope_f1``, ``change_f1``.

What the protocols do:

- ``official``: "yes" anywhere in the letters of the answer is a yes, else "no" anywhere a no ("cannot" too). Whatever
  has neither is in no number: accuracy and yes_ratio are shares of the answers that were read.
- ``mmpref``: our reader, and the counting of ``pope``.

A ratio over nothing is undefined under both; the script stops there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, each
from mmpref.evals.benchmarks.pope import answer_parts, answers_of, id_hint, load_questions, with_split_names
from mmpref.evals.benchmarks.pope_answers import FILE_SPLIT, SPLITS, Part
from mmpref.evals.benchmarks.pope_metrics import PopeProtocol
from mmpref.evals.benchmarks.repope_metrics import PROTOCOLS, count, metrics
from mmpref.evals.files.by_question import counts_its_own_way
from mmpref.evals.files.image_names import image_names, image_of
from mmpref.evals.files.layouts import READ_AS
from mmpref.evals.files.question_words import ASKED, asked_text, content
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.files.rows import Row, Source, is_path, load_json
from mmpref.records import Answer, EvalSample, user_turn

POPE_LABEL = "pope_label"
_OF_POPE = 3000  # questions of each of POPE's splits
_QUESTION = re.compile(r"is there an? (.+?) in the im\w+\?", re.IGNORECASE)  # "imange" in POPE's older revision
_REMOVED = "Is there"  # what is known of the words of a question that was removed
_FORMER = "pass POPE's files of the same splits (`pope=coco_pope_random.json`)"


# --- questions -------------------------------------------------------------------------------------------------------


def load_repope(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """RePOPE's questions, or with ``pope=`` POPE's, those that were removed without a target.

    Raises:
        DataError: a row is no question, the questions are POPE's own, or those of ``pope=`` are not the same.
    """
    samples = load_questions(_named(source, with_repope=True), options)
    for split, (first, *others) in _by_split(samples).items():
        if len(others) + 1 >= _OF_POPE:
            raise DataError(
                f"{source if is_path(source) else 'questions'}: {len(others) + 1} questions"
                f"{f' of split {split!r}' if split else ''} are all of POPE's (the first has the id {first.id!r}), and "
                "RePOPE has fewer; pass coco_repope_random.json and so on as questions, and POPE's files as `pope=`"
            )
    given = options["pope"]
    if given is None:
        return samples
    return _with_removed(samples, load_questions(_named(given, with_repope=False), options))


def _named(source: Source, *, with_repope: bool) -> Source:
    """The source; of a folder that has the questions of both, those whose names say RePOPE, or those that do not."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return source
    files = sorted(Path(source).glob("*.json*"))
    wanted = [file for file in files if ("repope" in file.name.lower()) == with_repope]
    return wanted if wanted and len(wanted) < len(files) else source


def _by_split(samples: Sequence[EvalSample]) -> dict[str, list[EvalSample]]:
    found: dict[str, list[EvalSample]] = {}
    for sample in samples:
        found.setdefault(str(sample.meta[FILE_SPLIT]), []).append(sample)
    return found


def _with_removed(samples: Sequence[EvalSample], former: Sequence[EvalSample]) -> tuple[EvalSample, ...]:
    """POPE's questions in POPE's order, with the labels of both.

    Raises:
        DataError: a question is not among POPE's, or another one there.
    """
    before, out = _by_split(former), []
    for split, asked in _by_split(samples).items():
        of_pope = before.get(split) or (former if len(before) == 1 and not ({split, *before} <= set(SPLITS)) else ())
        if not of_pope:
            raise DataError(
                f"`pope=` has no questions of split {split!r} but those of {', '.join(map(repr, before))}; {_FORMER}"
            )
        own = {_number(sample.id): sample for sample in asked}
        for sample in of_pope:
            new = own.pop(_number(sample.id), None)
            if new is not None and content(new) != content(sample):
                raise DataError(
                    f"question {new.id!r} is {' '.join(content(new))!r}, and in `pope=` {' '.join(content(sample))!r}; "
                    f"{_FORMER}, of POPE's newest revision"
                )
            out.append(_both(sample, new, asked[0]))
        if own:
            raise DataError(
                f"{len(own)} questions are not among those of `pope=`, the first is {next(iter(own.values())).id!r}; "
                f"{_FORMER}"
            )
    return tuple(out)


def _both(former: EvalSample, new: EvalSample | None, other: EvalSample) -> EvalSample:
    """POPE's question with RePOPE's label, None where it was removed; its id is written as those of ``other``."""
    label = former.target.strip().lower()
    if new is not None:
        return replace(new, meta={**new.meta, POPE_LABEL: label})
    head, slash, _ = other.id.rpartition("/")
    meta = {**former.meta, "split": other.meta["split"], FILE_SPLIT: other.meta[FILE_SPLIT], POPE_LABEL: label}
    return replace(former, id=f"{head}{slash}{_number(former.id)}", target=None, meta=meta)


def _number(name: str) -> str:
    return name.rsplit("/", 1)[-1]


# --- answers ---------------------------------------------------------------------------------------------------------


def load_repope_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    """Answers to POPE or to RePOPE, those to questions that are not known any more left out.

    Raises:
        DataError: rows that fit no question, or show another one than that of their id.
    """
    parts = _of_script(source) or answer_parts(source)
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
    return replace(saved, answers=answers, notes=(*saved.notes, *([note] if left else [])))


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
    for asked in _by_split(samples).values():
        own = {_number(sample.id): sample for sample in asked}
        if not all(number.isdecimal() and 1 <= int(number) <= _OF_POPE for number in own):
            out += asked
            continue
        head, slash, _ = asked[0].id.rpartition("/")
        meta = {"split": asked[0].meta["split"], FILE_SPLIT: asked[0].meta[FILE_SPLIT], "image": "", "question": ""}
        prompt = user_turn(_REMOVED, num_images=0)
        out += [
            own.get(number) or EvalSample(id=f"{head}{slash}{number}", images=(), prompt=prompt, meta=meta)
            for number in map(str, range(1, _OF_POPE + 1))
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


# --- grading ---------------------------------------------------------------------------------------------------------


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: PopeProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the new label, and with POPE's where known."""
    pairs = pair_by_id(samples, with_split_names(samples, answers), hint=id_hint(samples))
    items = [_item(sample, text, protocol) for sample, text in pairs]
    kept = [item for item in items if "label" in item]
    unread = sum(item["read"] == "unparsed" for item in kept)
    return Graded(tuple(items), n=len(kept), n_unparsed=unread, notes=_changes(samples))


def _item(sample: EvalSample, text: str, protocol: PopeProtocol) -> Item:
    read = protocol.read(text, str(sample.meta["question"]))
    item: Item = {
        "id": sample.id,
        "split": sample.meta["split"],
        "image": sample.meta["image"],
        "question": sample.meta["question"],
        "text": text,
        "read": read,
    }
    if POPE_LABEL in sample.meta:
        item[POPE_LABEL] = sample.meta[POPE_LABEL]
    if sample.target is None:
        return {**item, "missing": True}  # no label to compare with, so the item is in the numbers of POPE alone
    label = protocol.label(sample.target)
    return {**item, "label": label, "correct": read == label}


def _changes(samples: Sequence[EvalSample]) -> tuple[str, ...]:
    """How many of POPE's labels were changed and removed, by split; where ``pope=`` is missing, how to see that."""
    if not any(POPE_LABEL in sample.meta for sample in samples):
        return (
            "what the new labels change against POPE's is given with POPE's own question files: pass "
            "`pope=coco_pope_random.json`",
        )
    notes = []
    for split, asked in _by_split(samples).items():
        kept = [(s.meta[POPE_LABEL], s.target.strip().lower()) for s in asked if s.target is not None]
        to_no, to_yes = kept.count(("yes", "no")), kept.count(("no", "yes"))
        notes.append(
            f"{split + ': ' if split else ''}of {len(asked):,} questions of POPE {len(asked) - len(kept):,} are "
            f"removed and {to_no + to_yes:,} labels changed ({to_no:,} from yes to no, {to_yes:,} from no to yes)"
        )
    return tuple(notes)


REPOPE = Benchmark(
    name="repope",
    title="RePOPE, POPE with corrected labels",
    paper="Neuhaus and Hein 2025, arXiv:2504.15707",
    official="YanNeu/RePOPE src/evaluate.py",
    protocols=PROTOCOLS,
    max_new_tokens=64,
    options={"prompt_suffix": "", "pope": None},
    load=load_repope,
    load_answers=load_repope_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    parts=lambda item: (str(item["split"]),) if item["split"] else (),
    headline=("accuracy", "f1", "yes_ratio"),
    undirected=(
        "yes_ratio",
        "pope_yes_ratio",
        *(f"change_{name}" for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")),
    ),
)
