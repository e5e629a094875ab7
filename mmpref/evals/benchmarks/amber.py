"""AMBER: descriptions and yes-or-no questions about 1,004 images (Wang et al. 2023, "AMBER: An LLM-free
Multi-dimensional Benchmark for MLLMs Hallucination Evaluation"; official script junyangwang0410/AMBER
``inference.py``).

``questions`` is the data folder of the repository (``annotations.json``, ``relation.json``, ``safe_words.txt``,
``query/``). Answers use AMBER's own ids, 1 to 15220; its own layout ``[{"id", "response"}]`` is read as well.

Descriptions (ids 1 to 1004, read by ``amber_words``): ``chair`` hallucinated nouns / nouns, ``cover`` true objects
found, ``hal`` descriptions with a hallucination, ``cog`` tempting objects mentioned. Questions: ``accuracy``,
``precision``, ``recall`` and ``f1`` with the positive class *no*, over all and by section (``existence``,
``attribute`` with ``state``, ``number``, ``action``, and ``relation``). All existence questions have the answer no, so
precision is 1 there.

- ``official``: an answer is yes or no only when it is exactly ``Yes`` or ``No``. Percentages are rounded to one decimal
  as the script prints them, counters begin at 0.001, and f1 is made of the rounded precision and recall. Any part of
  the questions may be answered.
- ``lmms_eval``: descriptions only, with 0.001 added for every description.
- ``vlmevalkit``: questions only; accuracy by section, and ``accuracy`` is the mean of the three sections.
- ``mmpref``: our reader; every dimension (description, existence, attribute, relation) that has an answer must have all
  of them, unless ``subset=true``. An empty description covers nothing and is in no other number. ``amber_score`` is the
  paper's mean of 1 - chair and f1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.amber_words import (
    SIMILAR_ABOVE,
    Lexicon,
    Scene,
    nouns_from,
    read_description,
    similarity_from,
)
from mmpref.evals.benchmarks.contract import Benchmark, Items, Judged, each
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.matching import match
from mmpref.evals.files.narrowed import Chosen, match_chosen
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.objects import count_words
from mmpref.evals.text.yes_no import YES_NO_READERS, Verdict
from mmpref.files.rows import Row, Source, choose, first_ids, load_rows, row_id, text_of, texts_of
from mmpref.records import Answer, EvalSample, ImageRef, user_turn
from mmpref.statistics import Array, Formula, Metric, Ratio, rounded

GENERATIVE = "generative"
_SECTIONS = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
_DIMENSIONS = (GENERATIVE, "existence", "attribute", "relation")
_KEYS = ("id", "question_id", "idx", "index", "image_id")
_TASKS = ("all", "discriminative", *_DIMENSIONS)


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """The questions of a data folder, of the dimensions that the option ``task`` names."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        raise DataError(f"AMBER: questions is the data folder of its repository, and {source!s:.60} is no folder")
    folder = Path(source)
    folder = folder / "data" if (folder / "data" / "annotations.json").is_file() else folder
    lexicon = Lexicon.read(folder)
    task = choose(str(options["task"]), _TASKS, "task of AMBER")
    truth = {str(row["id"]): row for row in load_rows(folder / "annotations.json", "annotations") if "id" in row}
    everything, wanted = [], []
    for row in _queries(folder):
        if str(row["id"]) not in truth:
            raise DataError(f"{folder}: question {row['id']} has no annotation")
        annotation = truth[str(row["id"])]
        dimension = _dimension(annotation)
        everything.append(_sample(row, annotation, dimension, lexicon, options))
        if task in ("all", dimension) or (task == "discriminative" and dimension != GENERATIVE):
            wanted.append(everything[-1])
    return Chosen.of(everything, wanted)


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    rows = read_rows(source)

    def matched(asked: Sequence[EvalSample]) -> Saved:
        return match(rows, asked, name_of(source), keys=_KEYS)

    return match_chosen(rows, samples, matched, f"task={options['task']}")


def _queries(folder: Path) -> list[Row]:
    files = [folder / "query" / "query_all.json"]
    if not files[0].is_file():
        files = [folder / "query" / f"query_{name}.json" for name in ("generative", "discriminative")]
        files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(
            f"{folder}: no query/query_all.json; AMBER's data folder has the queries beside the annotations"
        )
    rows = [row for file in files for row in load_rows(file, "queries")]
    if odd := [row for row in rows if not {"id", "image", "query"} <= row.keys()]:
        raise DataError(f"{files[0]}: a query needs id, image and query, and one has {sorted(odd[0])}")
    return rows


def _dimension(annotation: Row) -> str:
    kind = annotation.get("type")
    if not isinstance(kind, str) or (kind != GENERATIVE and kind not in _SECTIONS):
        raise DataError(f"annotation {annotation['id']}: unknown type {kind!r}")
    return GENERATIVE if kind == GENERATIVE else _SECTIONS[kind][0]


def _sample(row: Row, annotation: Row, dimension: str, lexicon: Lexicon, options: Mapping[str, Any]) -> EvalSample:
    generative = dimension == GENERATIVE
    asked, judged = f"question {row['id']}", f"annotation {annotation['id']}"
    target: Any
    if generative:
        target = Scene(texts_of(annotation, "truth", judged), texts_of(annotation, "hallu", judged), lexicon)
    elif (target := annotation.get("truth")) not in ("yes", "no"):
        raise DataError(f"{judged}: truth is {target!r}; expected yes or no")
    query, image = text_of(row, "query", asked), text_of(row, "image", asked)
    return EvalSample(
        id=row_id(row, asked, ("id",)),
        images=(ImageRef(path=image),),
        prompt=user_turn(query + ("" if generative else str(options["prompt_suffix"])), num_images=1),
        target=target,
        meta={
            "image": image,
            "question": query,
            "type": annotation["type"],
            "dimension": dimension,
            "sections": () if generative else _SECTIONS[annotation["type"]],
        },
    )


# --- judging ---------------------------------------------------------------------------------------------------------


def read_official(text: str) -> Verdict:
    """Exactly ``Yes`` or ``No``; "Yes." and "yes" are neither."""
    return {"Yes": "yes", "No": "no"}.get(text, "unparsed")  # type: ignore[return-value]


def judge(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: str, options: Mapping[str, Any]
) -> Judged:
    """Read descriptions noun by noun and questions by the protocol's reader."""
    pairs = pair_by_id(samples, answers, may_cover_part=True)
    notes = [f"{len(pairs)} of {len(samples)} questions are answered"] if len(pairs) < len(samples) else []
    if protocol == "mmpref" and not options["subset"]:
        _refuse_gaps(samples, pairs)
    covers = {"lmms_eval": (GENERATIVE,), "vlmevalkit": _DIMENSIONS[1:]}.get(protocol, _DIMENSIONS)
    within = [(sample, text) for sample, text in pairs if sample.meta["dimension"] in covers]
    if pairs and not within:
        raise ConfigError(f"protocol '{protocol}' of AMBER covers only {', '.join(covers)}; none of these is answered")
    if len(within) < len(pairs):
        notes.append(
            f"{len(pairs) - len(within)} answers are outside of what this protocol covers: {', '.join(covers)}"
        )
    lexicon = next((sample.target.lexicon for sample, _ in within if sample.meta["dimension"] == GENERATIVE), None)
    if lexicon is not None:
        if options["noun_extractor"] is None and options["nouns"] is None:
            notes.append("nouns by our own reader, which only approximates the script's nltk tagger")
        if options["similarity"] is None:
            notes.append("words are similar when they are equal, which only approximates the script's spaCy vectors")
    describe = _describer(protocol, lexicon, options) if lexicon is not None else None
    read = read_official if protocol == "official" else YES_NO_READERS[protocol]
    items = []
    for sample, text in within:
        base = {"id": sample.id, "image": sample.meta["image"], "question": sample.meta["question"], "text": text}
        base |= {"type": sample.meta["type"], "sections": list(sample.meta["sections"])}
        if sample.meta["dimension"] == GENERATIVE and describe is not None:
            items.append({**base, **describe(sample, text)})
        else:
            verdict = read(text)
            items.append({**base, "read": verdict, "label": sample.target, "correct": verdict == sample.target})
    n_unparsed = sum(item["read"] == "unparsed" for item in items)
    return Judged(tuple(items), n=len(items), n_unparsed=n_unparsed, notes=tuple(notes))


def _refuse_gaps(samples: Sequence[EvalSample], pairs: Sequence[tuple[EvalSample, str]]) -> None:
    answered = {sample.id for sample, _ in pairs}
    begun = {sample.meta["dimension"] for sample, _ in pairs} or set(_DIMENSIONS)
    missing = [s.id for s in samples if s.meta["dimension"] in begun and s.id not in answered]
    if missing:
        raise DataError(
            f"{len(missing)} questions have no answer: {first_ids(missing)}; a dimension is answered as a whole or not "
            "at all. An unanswered question is written with an empty text; `subset=true` scores the answers there are"
        )


def _describer(protocol: str, lexicon: Lexicon, options: Mapping[str, Any]) -> Any:
    extract = options["noun_extractor"]
    recorded = nouns_from(options["nouns"], lexicon, fold_case=protocol == "mmpref")
    nouns = recorded if extract is None else lambda name, answer: list(extract(answer))
    similarity = cache(similarity_from(options["similarity"]))
    threshold = float(options["similarity_threshold"])

    def describe(sample: EvalSample, text: str) -> dict[str, Any]:
        scene: Scene = sample.target
        found = read_description(nouns(sample.id, text), scene, similarity, threshold)
        num_words = count_words(text)
        return {
            "read": "unparsed" if protocol == "mmpref" and not num_words else "description",
            "num_words": num_words,
            "nouns": [{"word": word, "is": kind} for word, kind in found.nouns],
            "hallucinated": sorted({word for word, kind in found.nouns if kind == "hallucinated"}),
            "objects": list(scene.truth),
            "covered": [name for index, name in enumerate(scene.truth) if index in found.covered],
            "tempting": list(scene.tempting),
            "tempted": [name for index, name in enumerate(scene.tempting) if index in found.tempted],
        }

    return describe


# --- counting --------------------------------------------------------------------------------------------------------


def count(item: Mapping[str, Any]) -> Mapping[str, float]:
    if item["type"] == GENERATIVE:
        made_up = sum(noun["is"] == "hallucinated" for noun in item["nouns"])
        read = item["read"] != "unparsed"
        return {
            "descriptions": read,
            "clean": read and not made_up,
            "nouns": len(item["nouns"]),
            "hallucinated_nouns": made_up,
            "true_objects": len(item["objects"]),
            "covered_objects": len(item["covered"]),
            "tempting_objects": len(item["tempting"]),
            "tempted_objects": len(item["tempted"]),
            "words": item["num_words"],
        }
    says_no, is_no = item["read"] == "no", item["label"] == "no"
    row: dict[str, float] = {
        "asked": 1,
        "correct": item["correct"],
        "said_no": says_no,
        "said_yes": item["read"] == "yes",
        "is_no": is_no,
        "right_no": says_no and is_no,
    }
    section = item["sections"][0]
    return {**row, f"{section}/asked": 1, f"{section}/correct": item["correct"]}


_NO_DESCRIPTION = "there are no descriptions"
_NO_NOUN = "no description has a noun of AMBER's vocabulary"
_START = 0.001  # where the script's counters begin


def metrics(protocol: str, part: str, items: Items) -> Mapping[str, Metric]:
    generative = any(item["type"] == GENERATIVE for item in items)
    discriminative = not items or any(item["type"] != GENERATIVE for item in items)
    out: dict[str, Metric] = {}
    if generative:
        out |= _generative(protocol)
    if discriminative:
        sections = sorted({item["sections"][0] for item in items if item["sections"]})
        out |= _mean_accuracy(sections) if protocol == "vlmevalkit" else _discriminative(protocol, part)
    if generative and discriminative and protocol == "mmpref":
        out["amber_score"] = Formula(
            parts={"chair": out["chair"], "f1": out["f1"]},
            combine=lambda values: (1 - values["chair"] + values["f1"]) / 2,
            why_empty="chair or f1 is undefined",
        )
    return out


def _generative(protocol: str) -> dict[str, Metric]:
    parts = {
        "chair": ("hallucinated_nouns", "nouns", _NO_NOUN),
        "cover": ("covered_objects", "true_objects", "the images have no annotated object"),
        "clean": ("clean", "descriptions", _NO_DESCRIPTION),
        "cog": ("tempted_objects", "tempting_objects", "the images have no tempting object"),
    }
    offset = _START if protocol == "official" else 0.0
    each_one = {"descriptions": _START} if protocol == "lmms_eval" else {}
    when_empty = 0.0 if protocol == "official" else None
    found: dict[str, Ratio] = {}
    for name, (top, bottom, why) in parts.items():
        below = {bottom: 1.0}
        for key, value in each_one.items():
            below[key] = below.get(key, 0.0) + value
        found[name] = Ratio(top={top: 1}, bottom=below, why_empty=why, offset=offset, when_empty=when_empty)
    clean = found.pop("clean")

    def dirty(values: Mapping[str, Array]) -> Array:
        return 1 - values["clean"]

    hal = Formula(parts={"clean": clean}, combine=dirty, why_empty=_NO_DESCRIPTION)
    exact: dict[str, Metric] = {"chair": found["chair"], "cover": found["cover"], "hal": hal, "cog": found["cog"]}
    shown = {name: rounded(metric, 1) for name, metric in exact.items()} if protocol == "official" else exact
    length = Ratio(top={"words": 1}, bottom={"descriptions": 1}, why_empty=_NO_DESCRIPTION, proportion=False)
    return {**shown, "mean_length": length}


def _discriminative(protocol: str, part: str) -> dict[str, Metric]:
    official = protocol == "official"
    # the attribute section adds up three counters; the script divides by other small numbers there and in existence
    offset = (3 * _START if part == "attribute" else _START) if official else 0.0
    empty = 0.0 if official else None
    no_questions = "there are no questions"

    def share(top: str, bottom: str, why: str, when_empty: float | None = empty) -> Ratio:
        return Ratio(top={top: 1}, bottom={bottom: 1}, why_empty=why, when_empty=when_empty, offset=offset)

    exact: dict[str, Metric] = {
        "accuracy": share("correct", "asked", no_questions, None),
        "precision": share("right_no", "said_no", "no answer was read as no"),
        "recall": share("right_no", "is_no", "no question has the answer no"),
    }
    yes_ratio = Ratio(top={"said_yes": 1}, bottom={"asked": 1}, why_empty=no_questions)
    if not official:
        why = "no answer was read as no, and no question has the answer no"
        f1 = Ratio(top={"right_no": 2}, bottom={"said_no": 1, "is_no": 1}, why_empty=why)
        return {**exact, "f1": f1, "yes_ratio": yes_ratio}
    shown = {name: rounded(metric, 1) for name, metric in exact.items()}
    softener = 0.001 if part == "existence" else 0.0001

    def harmonic(values: Mapping[str, Array]) -> Array:
        precision, recall = values["precision"], values["recall"]
        return 2 * precision * recall / (precision + recall + softener)

    both = {"precision": shown["precision"], "recall": shown["recall"]}
    f1_official = rounded(Formula(parts=both, combine=harmonic, why_empty=no_questions), 1)
    return {**shown, "f1": f1_official, "yes_ratio": yes_ratio}


def _mean_accuracy(sections: Sequence[str]) -> dict[str, Metric]:
    """VLMEvalKit's headline: the plain mean over the sections that were asked, however many questions each has."""
    why = "there are no questions"

    def mean(values: Mapping[str, Array]) -> Array:
        return sum(values.values()) / len(values)  # type: ignore[return-value]

    by_section: dict[str, Metric] = {
        section: Ratio(top={f"{section}/correct": 1}, bottom={f"{section}/asked": 1}, why_empty=why)
        for section in sections
    }
    none = Ratio(top={}, bottom={}, why_empty=why)
    return {"accuracy": Formula(parts=by_section, combine=mean, why_empty=why) if by_section else none}


AMBER = Benchmark(
    name="amber",
    title="AMBER, An LLM-free Multi-dimensional Benchmark",
    paper="Wang et al. 2023, arXiv:2311.07397",
    official="junyangwang0410/AMBER inference.py",
    protocols=("mmpref", "official", "lmms_eval", "vlmevalkit"),
    max_new_tokens=512,
    options={
        "task": "all",
        "subset": False,
        "noun_extractor": None,
        "nouns": None,
        "similarity": None,
        "similarity_threshold": SIMILAR_ABOVE,
        "prompt_suffix": "",
    },
    load=load_questions,
    load_answers=_load_answers,
    judge=judge,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    parts=lambda item: tuple(item["sections"]),
)
