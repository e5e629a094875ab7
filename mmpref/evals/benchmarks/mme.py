"""MME: two yes-or-no questions about every image, one of each (Fu et al. 2023, "MME: A Comprehensive Evaluation
Benchmark for Multimodal Large Language Models"; official script ``eval_tool/calculation.py``, branch Evaluation of
BradyFU/Awesome-Multimodal-Large-Language-Models).

``questions`` is the tool's results folder: one ``<subtask>.txt`` each, lines ``image<TAB>question<TAB>Yes|No``; the
folder of the release, with ``<subtask>/<image>.txt``; or rows ``{"category", "image", "question", "answer"}``. An id is
``subtask/image/1`` or ``/2``, in the order of the file.
``answers`` come by id, or as such a folder with the answer as fourth column.

A subtask's score is 100 * (accuracy + accuracy+), where accuracy+ asks for both questions of an image: 0 to 200.
``perception`` is the sum of ten subtasks (0 to 2000), ``cognition`` of four (0 to 800); each needs all its subtasks.
What the protocols read:

- ``official``: yes or no, or else the first four characters: "yes" in them, then "no" in them ("know" is a no). The
  answer is lower-cased and not trimmed.
- ``lmms_eval``: the same after trimming and deleting every full stop; a lone letter y or n counts too.
- ``vlmevalkit``: exactly one of the whole words yes and no.
- ``mmpref``: our reader of whole answers.

An answer that is neither is wrong under all four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Item, Items, ScoringProtocol, by_name
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.image_names import filled
from mmpref.evals.files.layouts import PLACE, place_of
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import question_rows, yes_no_label
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.yes_no import Reader, YesNo, read_mmpref, read_vlmevalkit
from mmpref.files.rows import Row, Source, read_text
from mmpref.records import Answer, EvalSample, ImageRef, user_turn
from mmpref.statistics import Array, Formula, Metric, Ratio

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_IMAGE_NAME = "{category}/{image}"
_ENDINGS = (".jpg", ".png", ".jpeg")
_NAME_ADVICE = "pass `image_name={category}/{image}`, or `image_name={image}` where all are in one folder"
_SUFFIX = "Please answer yes or no."


@dataclass(frozen=True, slots=True, kw_only=True)
class MmeProtocol(ScoringProtocol):
    """A rule of MME: ``read`` gives yes, no or unparsed of an answer and its question."""

    read: Reader


def read_official(text: str, question: str = "") -> YesNo:
    """The script's rule: yes or no in the first four characters."""
    return _opening(text.lower())


def read_lmms_eval(text: str, question: str = "") -> YesNo:
    """lmms-eval's rule: the script's without full stops, and a lone letter counts."""
    plain = text.lower().strip().replace(".", "")
    if len(plain) == 1:
        return {"y": "yes", "n": "no"}.get(plain, "unparsed")  # type: ignore[return-value]
    return _opening(plain)


def _opening(text: str) -> YesNo:
    start = text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "unparsed"


PROTOCOLS = by_name(
    MmeProtocol(name="mmpref", read=read_mmpref),
    MmeProtocol(name="official", scores_unread=True, read=read_official),
    MmeProtocol(name="lmms_eval", scores_unread=True, read=read_lmms_eval),
    MmeProtocol(name="vlmevalkit", scores_unread=True, read=read_vlmevalkit),
)


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """The questions of every subtask that the source has.

    Raises:
        DataError: a line without image, question and label, an unknown subtask, or an image without two questions.
    """
    _refuse_one_file(source)
    if isinstance(source, str | Path) and Path(source).is_dir():
        rows = [(place_of(row, "", 0), row) for row in _folder_rows(Path(source), labelled=True)]
    else:
        rows = question_rows(source)
    by_image: dict[tuple[str, str], list[tuple[str, Row]]] = {}
    for where, row in rows:
        for key in ("category", "image", "question"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise DataError(f"{where}: {key} is missing or not text; a row has category, image, question, answer")
        if row["category"] not in (*PERCEPTION, *COGNITION):
            raise DataError(f"{where}: MME has no subtask '{row['category']}'")
        yes_no_label(row, "answer", where)
        by_image.setdefault((row["category"], row["image"]), []).append((where, row))
    for (subtask, image), found in by_image.items():
        if len(found) != 2:
            places = " and ".join(where for where, _ in found[:3]) + (" ..." if len(found) > 3 else "")
            raise DataError(
                f"{places}: {subtask}/{image} has {len(found)} question{'s' * (len(found) > 1)}, and MME asks two "
                "about every image"
            )
    return tuple(
        _sample(row, number, options) for found in by_image.values() for number, (_, row) in enumerate(found, 1)
    )


def _refuse_one_file(source: Source) -> None:
    """Raise over one subtask's file, which is a part of what is asked for.

    Raises:
        DataError: so it is.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".txt" and Path(source).is_file():
        raise DataError(
            f"{source} is a file of one subtask; give the folder that holds it, with a .txt file for each subtask, or "
            "rows as JSON lines (.jsonl)"
        )


def _folder_rows(folder: Path, *, labelled: bool) -> list[Row]:
    """The lines of all subtask files: image, question, label and, when not ``labelled`` alone, the answer."""
    rows: list[Row] = []
    for file in sorted(folder.glob("*.txt")):
        if file.stem not in (*PERCEPTION, *COGNITION):
            continue
        for number, line in enumerate(read_text(file).split("\n"), 1):
            cells = line.split("\t", 3)
            if not line.strip():
                continue
            if len(cells) < (3 if labelled else 4):
                raise DataError(
                    f"{file}, line {number}: {len(cells)} columns; expected image, question, label"
                    f"{'' if labelled else ' and answer'}, separated by tabs (an answer must be on one line)"
                )
            row = {"category": file.stem, "image": cells[0], "question": cells[1], "answer": cells[2].rstrip("\r")}
            row[PLACE] = f"{file}, line {number}"
            rows.append(row if labelled else {**row, "text": cells[3]})
    if not rows and labelled:
        rows = _release_rows(folder)
    if not rows:
        raise DataError(f"{folder}: no subtask file such as existence.txt in this folder")
    return rows


def _release_rows(folder: Path) -> list[Row]:
    """The questions of ``MME_Benchmark_release_version``: a folder for each subtask, a text file for each image, which
    lies beside it or both in folders of their own."""
    rows: list[Row] = []
    for subtask in (*PERCEPTION, *COGNITION):
        texts, images = folder / subtask / "questions_answers_YN", folder / subtask / "images"
        texts = texts if texts.is_dir() else folder / subtask
        images = images if images.is_dir() else folder / subtask
        for file in sorted(texts.glob("*.txt")) if texts.is_dir() else ():
            found = [image for end in _ENDINGS if (image := images / f"{file.stem}{end}").is_file()]
            image = found[0] if found else images / f"{file.stem}.jpg"
            for number, line in enumerate(read_text(file).splitlines(), 1):
                cells = line.strip().split("\t")
                if len(cells) != 2 and line.strip():
                    raise DataError(f"{file}, line {number}: {len(cells)} columns; expected question and Yes or No")
                if line.strip():
                    shown = {"category": subtask, "image": image.name, "path": image.relative_to(folder).as_posix()}
                    said = {"question": cells[0], "answer": cells[1], PLACE: f"{file}, line {number}"}
                    rows.append({**shown, **said})
    return rows


def _sample(row: Row, number: int, options: Mapping[str, Any]) -> EvalSample:
    subtask, image, question = row["category"], row["image"], row["question"]
    pattern = str(options["image_name"])
    file = row.get("path") if pattern == _IMAGE_NAME else None
    file = str(file) if file else filled(pattern, f"{subtask}/{image}", _NAME_ADVICE, category=subtask, image=image)
    return EvalSample(
        id=f"{subtask}/{image}/{number}",
        images=(ImageRef(path=file),),
        prompt=user_turn(question, num_images=1),
        target=row["answer"].strip().lower(),
        # lmms-eval puts its own words in the place of the suffix, so the question is known without it
        meta={"category": subtask, "image": f"{subtask}/{image}", "question": question.removesuffix(_SUFFIX).strip()},
    )


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    _refuse_one_file(source)
    folder = isinstance(source, str | Path) and Path(source).is_dir()
    rows = _folder_rows(Path(str(source)), labelled=False) if folder else read_rows(source)
    return match(rows, samples, name_of(source), IdRules(numbered=True))


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: MmeProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the label."""
    items: list[Item] = []
    for sample, text in pair_by_id(samples, answers):
        read = protocol.read(text, f"{sample.meta['question']} {_SUFFIX}")  # what was asked, suffix and all
        items.append(
            {
                "id": sample.id,
                **sample.meta,
                "text": text,
                "read": read,
                "label": sample.target,
                "correct": read == sample.target,
            }
        )
    return Graded.of(
        items, notes=("scores are points: up to 200 for a subtask, 2000 for perception, 800 for cognition",)
    )


def counts(items: Items) -> Counts:
    """Of one image: its questions, and whether all of them are right."""
    subtask, right = items[0]["category"], sum(item["correct"] for item in items)
    return {
        f"{subtask}/questions": len(items),
        f"{subtask}/right": right,
        f"{subtask}/images": 1,
        f"{subtask}/all_right": right == len(items),
        "answers": len(items),
        "said_yes": sum(item["read"] == "yes" for item in items),
    }


def _points(values: Mapping[str, Array]) -> Array:
    return 100 * (values["accuracy"] + values["accuracy_plus"])


def _sum(values: Mapping[str, Array]) -> Array:
    return sum(values.values())  # type: ignore[return-value]


def metrics(protocol: MmeProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """The score of every subtask that was asked, with its two accuracies, the two sums, and the share of yes."""
    present = {item["category"] for item in items}
    out: dict[str, Metric] = {}
    scores: dict[str, Metric] = {}
    for subtask in (*PERCEPTION, *COGNITION):
        why = f"no question of {subtask} was asked"
        both: dict[str, Metric] = {
            "accuracy": Ratio(top={f"{subtask}/right": 1}, bottom={f"{subtask}/questions": 1}, why_empty=why),
            "accuracy_plus": Ratio(top={f"{subtask}/all_right": 1}, bottom={f"{subtask}/images": 1}, why_empty=why),
        }
        scores[subtask] = Formula(parts=both, combine=_points, why_empty=why, proportion=False)
        if subtask in present:
            out |= {subtask: scores[subtask], **{f"{subtask}/{name}": metric for name, metric in both.items()}}
    for name, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION)):
        absent = [subtask for subtask in subtasks if subtask not in present]
        out[name] = Formula(
            parts={subtask: scores[subtask] for subtask in subtasks},
            combine=_sum,
            why_empty=f"it is the sum of {len(subtasks)} subtasks, and these were not asked: {', '.join(absent)}",
            proportion=False,
        )
    out["yes_ratio"] = Ratio(top={"said_yes": 1}, bottom={"answers": 1}, why_empty="there are no questions")
    return out


MME = Benchmark(
    name="mme",
    title="MME, a Comprehensive Evaluation Benchmark for Multimodal Large Language Models",
    paper="Fu et al. 2023, arXiv:2306.13394",
    official="BradyFU/Awesome-Multimodal-Large-Language-Models eval_tool/calculation.py",
    protocols=PROTOCOLS,
    max_new_tokens=16,
    options={"image_name": _IMAGE_NAME},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=counts,
    metrics=metrics,
    headline=("perception", "cognition", "yes_ratio"),
    undirected=("yes_ratio",),
)
