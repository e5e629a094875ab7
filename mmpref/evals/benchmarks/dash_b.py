"""DASH-B: is there a <thing> in images that make models see it (Augustin, Neuhaus and Hein 2025, "DASH: Detection and
Assessment of Systematic Hallucinations of VLMs"; official script YanNeu/DASH-B ``src/evaluate.py``).

1,341 images without the object, found because models say yes to them, and 1,341 with it; 70 objects. ``questions`` are
the repository's folder ``images`` (or its two files ``dash_benchmark_neg.json`` and ``dash_benchmark_pos.json``,
``{dataset: {object: [image]}}``), or the rows of the data set ``YanNeu/DASH-B`` (JSON lines or parquet):
``{"question_id", "img_id", "object", "question", "answer"}``, and ``image``, the image or the name of its file. An id
is ``question_id``, or ``neg/dataset/object/image``. The answers that the script saves have the labels too (``gt``) and
may be given as the questions, for images of an older revision.
``answers`` come by id, or as the file of the script (``img_id``, ``object_name``, ``response``): a number such as
``88.jpg`` is another image with every object, so that only both together name a question.

Metrics: ``tnr`` and ``tpr`` (right answers where the object is absent, and where it is there), ``accuracy`` over all,
``harmonic_mean`` of tnr and tpr, and ``yes_ratio``. An answer that is neither yes nor no is wrong.

- ``official``: "yes" anywhere in the letters of the answer is a yes, else "no" anywhere a no ("cannot" too).
- ``mmpref``: our reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Item, Items, ScoringProtocol, by_name, each
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import refuse_repeated_ids, yes_no_label
from mmpref.evals.files.question_tables import image_path, image_ref, question_table
from mmpref.evals.files.question_words import plain
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.substrings import read_substring
from mmpref.evals.text.yes_no import Reader, read_mmpref
from mmpref.files.rows import Row, Source, as_id, is_path, load_json, row_id, short, text_of
from mmpref.records import Answer, EvalSample, user_turn
from mmpref.statistics import Array, Formula, Metric, Ratio

_HALVES = {"neg": "no", "pos": "yes"}
_ASK_FOR_A_WORD = "Please answer only with yes or no."
_ID_KEYS = ("question_id", "id", "index")
_OBJECT_KEYS = ("object", "object_name")
_BOTH = "give dash_benchmark_neg.json and dash_benchmark_pos.json, or the folder that has both"


@dataclass(frozen=True, slots=True, kw_only=True)
class DashProtocol(ScoringProtocol):
    """A rule of DASH-B: ``read`` gives yes, no or unparsed of an answer and its question."""

    read: Reader


PROTOCOLS = by_name(
    DashProtocol(name="mmpref", read=read_mmpref),
    DashProtocol(name="official", scores_unread=True, read=read_substring),
)


# --- questions -------------------------------------------------------------------------------------------------------


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """The questions of both halves as samples.

    Raises:
        DataError: a row misses a key, its label is neither yes nor no, its question does not name its object, an id or
            a pair of image and object stands in two rows, or one half is missing.
    """
    files = _files(source)
    rows = [found for file in files for found in _listed(file)] if files else question_table(source)
    samples = [_sample(row, where, str(options["prompt_suffix"])) for where, row in rows]
    places = [where for where, _ in rows]
    refuse_repeated_ids(zip(places, (sample.id for sample in samples), strict=True), "question_id")
    pairs = (f"{sample.meta['img_id']} with {sample.meta['object']}" for sample in samples)
    refuse_repeated_ids(zip(places, pairs, strict=True), "image and object")
    halves = {sample.target for sample in samples}
    if samples and (missing := [label for label in _HALVES.values() if label not in halves]):
        where = source if is_path(source) else "questions"
        raise DataError(
            f"{where}: no question has the answer {missing[0]!r}, and DASH-B has as many of both; {_BOTH}, or all rows "
            "of the data set"
        )
    return tuple(samples)


def _files(source: Source) -> list[Path]:
    """The repository's lists of images, where the source is these: a folder, or files of that name."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        files = sorted(Path(source).glob("dash_benchmark_*.json"))
        if not files and not any(Path(source).glob("*.parquet")):
            raise DataError(f"{source}: no dash_benchmark_neg.json and dash_benchmark_pos.json in this folder")
        return files
    given = [source] if is_path(source) else source if isinstance(source, list | tuple) else []
    files = [Path(part) for part in given if isinstance(part, str | Path)]
    return files if files and all(_half(file) for file in files) else []


def _half(file: Path) -> str:
    return next((half for half in _HALVES if file.stem.lower().endswith(half)), "")


def _listed(file: Path) -> list[tuple[str, Row]]:
    """The rows of one of the two files: the folders of each image say what is asked about it.

    Raises:
        DataError: it is no mapping of data sets to objects to names of images.
    """
    half, content = _half(file), load_json(file)
    if half not in _HALVES or not isinstance(content, Mapping):
        raise DataError(f"{file}: expected {{data set: {{object: [image, ...]}}}}; {_BOTH}")
    rows: list[tuple[str, Row]] = []
    for dataset, objects in content.items():
        for thing, images in objects.items() if isinstance(objects, Mapping) else ((dataset, objects),):
            where = f"{file}, {dataset}, {thing}"
            if not isinstance(objects, Mapping) or not isinstance(images, list):
                raise DataError(f"{where}: expected an object and the names of its images, got {short(images)}")
            for number, name in enumerate(images, 1):
                if not isinstance(name, str) or not name:
                    raise DataError(f"{where}, image {number}: expected the name of a file, got {short(name)}")
                path = f"{half}/{dataset}/{thing}/{name}"
                shown = {"question_id": path, "img_id": name, "image": path, "object": thing, "dataset": dataset}
                rows.append((f"{where}, image {number}", {**shown, "answer": _HALVES[half]}))
    return rows


def _sample(row: Row, where: str, suffix: str) -> EvalSample:
    thing = text_of(row, _OBJECT_KEYS[1] if _OBJECT_KEYS[1] in row else _OBJECT_KEYS[0], where)
    question = text_of(row, "question", where, f"Can you see a {thing} in this image? {_ASK_FOR_A_WORD}")
    if plain(thing) not in plain(question):
        raise DataError(f"{where}: question {short(question)} does not name the object {thing!r}")
    of_script = "gt" in row and not any(key in row for key in _ID_KEYS)
    name = f"{thing}/{row_id(row, where, ('img_id',))}" if of_script else row_id(row, where, _ID_KEYS)
    path = image_path(row.get("image"))
    image = as_id(row.get("img_id")) or path or name
    return EvalSample(
        id=name,
        images=(image_ref(row.get("image"), path or image),),
        prompt=user_turn(question + suffix, num_images=1),
        target=yes_no_label(row, "gt" if "gt" in row else "answer", where),
        meta={
            "image": path or f"{thing}/{image}",
            "question": question.removesuffix(_ASK_FOR_A_WORD).strip(),
            "object": thing,
            "img_id": image,
            "dataset": text_of(row, "dataset", where, ""),
        },
    )


# --- answers ---------------------------------------------------------------------------------------------------------


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    by_pair = {(sample.meta["img_id"], sample.meta["object"]): sample.id for sample in samples}
    where, rows, ids = name_of(source), read_rows(source), _ID_KEYS

    def pair(row: Row) -> tuple[str | None, Any]:
        return as_id(row.get("img_id")), next((row[key] for key in _OBJECT_KEYS if key in row), None)

    def ids_of(row: Row) -> list[str]:
        found = by_pair.get(pair(row))
        return [found] if found is not None else []

    strange = [number for number, row in enumerate(rows, 1) if not ids_of(row) and not any(key in row for key in ids)]
    if strange and None not in (shown := pair(rows[strange[0] - 1])):
        raise DataError(
            f"{where}, row {strange[0]}: no question asks for {short(shown[1])} in the image {short(shown[0])}; so in "
            f"{len(strange)} of {len(rows)} rows: answers to another revision of the images?"
        )
    return match(rows, samples, where, IdRules(ids_of=ids_of, keys=ids))


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: DashProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the label."""
    return Graded.of([_item(sample, text, protocol) for sample, text in pair_by_id(samples, answers)])


def _item(sample: EvalSample, text: str, protocol: DashProtocol) -> Item:
    read = protocol.read(text, str(sample.meta["question"]))
    shown = {key: sample.meta[key] for key in ("image", "object", "dataset", "question")}
    right = {"label": sample.target, "correct": read == sample.target}
    return {"id": sample.id, **shown, "text": text, "read": read, **right}


def count(item: Mapping[str, Any]) -> Counts:
    """What one answer adds, to the half of its label."""
    half = "absent" if item["label"] == "no" else "there"
    return {
        "asked": 1,
        "correct": item["correct"],
        f"asked_{half}": 1,
        f"correct_{half}": item["correct"],
        "said_yes": item["read"] == "yes",
    }


def _harmonic(values: Mapping[str, Array]) -> Array:
    total = values["tnr"] + values["tpr"]
    nothing = np.full_like(total, np.nan)
    mean: Array = np.divide(2 * values["tnr"] * values["tpr"], total, out=nothing, where=total > 0)
    return mean


def metrics(protocol: DashProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """The shares of right answers, of all and of each half, the harmonic mean of these two, and the share of yes."""
    none = "there are no questions"
    halves: dict[str, Metric] = {
        "tnr": Ratio(top={"correct_absent": 1}, bottom={"asked_absent": 1}, why_empty="no image is without its object"),
        "tpr": Ratio(top={"correct_there": 1}, bottom={"asked_there": 1}, why_empty="no image has its object"),
    }
    return {
        "accuracy": Ratio(top={"correct": 1}, bottom={"asked": 1}, why_empty=none),
        **halves,
        "harmonic_mean": Formula(
            parts=halves, combine=_harmonic, why_empty="tnr and tpr are both zero, or one of them is undefined"
        ),
        "yes_ratio": Ratio(top={"said_yes": 1}, bottom={"asked": 1}, why_empty=none),
    }


DASH_B = Benchmark(
    name="dash_b",
    title="DASH-B, objects that models see where they are not",
    paper="Augustin et al. 2025, arXiv:2503.23573",
    official="YanNeu/DASH-B src/evaluate.py",
    protocols=PROTOCOLS,
    max_new_tokens=64,
    options={"prompt_suffix": ""},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    headline=("accuracy", "tnr", "tpr", "harmonic_mean", "yes_ratio"),
    undirected=("yes_ratio",),
    aliases=("dash",),
)
