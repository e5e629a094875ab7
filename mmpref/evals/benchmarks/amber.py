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

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.amber_metrics import DIMENSIONS, GENERATIVE, PROTOCOLS, AmberProtocol, count, metrics
from mmpref.evals.benchmarks.amber_words import (
    SIMILAR_ABOVE,
    Lexicon,
    Scene,
    nouns_from,
    read_description,
    similarity_from,
)
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, each
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.matching import match
from mmpref.evals.files.narrowed import Chosen, match_chosen
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.objects import count_words
from mmpref.files.rows import Row, Source, choose, first_ids, row_id, short, shown_keys, text_of, texts_of
from mmpref.records import Answer, EvalSample, ImageRef, user_turn

_SECTIONS = {
    "discriminative-hallucination": ("existence",),
    "discriminative-attribute-state": ("attribute", "state"),
    "discriminative-attribute-number": ("attribute", "number"),
    "discriminative-attribute-action": ("attribute", "action"),
    "discriminative-relation": ("relation",),
    "relation": ("relation",),
}
_KEYS = ("id", "question_id", "idx", "index", "image_id")
_TASKS = ("all", "discriminative", *DIMENSIONS)


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """The questions of a data folder, of the dimensions that the option ``task`` names."""
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        raise DataError(f"AMBER: questions is the data folder of its repository, and {source!s:.60} is no folder")
    folder = Path(source)
    folder = folder / "data" if (folder / "data" / "annotations.json").is_file() else folder
    lexicon = Lexicon.read(folder)
    task = choose(str(options["task"]), _TASKS, "task of AMBER")
    annotations = [
        (where, row_id(row, where, ("id",)), row) for where, row in question_rows(folder / "annotations.json")
    ]
    refuse_repeated_ids((where, name) for where, name, _ in annotations)
    truth = {name: (where, row) for where, name, row in annotations}
    everything, wanted = [], []
    queries = [(where, row_id(row, where, ("id",)), row) for where, row in _queries(folder)]
    refuse_repeated_ids((where, name) for where, name, _ in queries)
    for where, name, row in queries:
        if name not in truth:
            raise DataError(f"{where}: question {name} has no annotation in {folder / 'annotations.json'}")
        annotated, annotation = truth[name]
        dimension = _dimension(annotation, annotated)
        everything.append(_sample((where, row), (annotated, annotation), dimension, lexicon, options))
        if task in ("all", dimension) or (task == "discriminative" and dimension != GENERATIVE):
            wanted.append(everything[-1])
    return Chosen.of(everything, wanted)


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    rows = read_rows(source)

    def matched(asked: Sequence[EvalSample]) -> Saved:
        return match(rows, asked, name_of(source), IdRules(keys=_KEYS))

    return match_chosen(rows, samples, matched, f"task={options['task']}")


def _queries(folder: Path) -> list[tuple[str, Row]]:
    files = [folder / "query" / "query_all.json"]
    if not files[0].is_file():
        files = [folder / "query" / f"query_{name}.json" for name in ("generative", "discriminative")]
        files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(
            f"{folder}: no query/query_all.json; AMBER's data folder has the queries beside the annotations"
        )
    rows = [found for file in files for found in question_rows(file)]
    for where, row in rows:
        if not {"id", "image", "query"} <= row.keys():
            raise DataError(f"{where}: a query needs id, image and query, and this one has {shown_keys(row)}")
    return rows


def _dimension(annotation: Row, where: str) -> str:
    kind = annotation.get("type")
    if not isinstance(kind, str) or (kind != GENERATIVE and kind not in _SECTIONS):
        raise DataError(f"{where}: unknown type {short(kind)}; known are {GENERATIVE}, {', '.join(_SECTIONS)}")
    return GENERATIVE if kind == GENERATIVE else _SECTIONS[kind][0]


def _sample(
    query_at: tuple[str, Row],
    annotation_at: tuple[str, Row],
    dimension: str,
    lexicon: Lexicon,
    options: Mapping[str, Any],
) -> EvalSample:
    """One question; its query and its annotation come with their places."""
    (asked, row), (annotated, annotation) = query_at, annotation_at
    generative = dimension == GENERATIVE
    target: Any
    if generative:
        target = Scene(texts_of(annotation, "truth", annotated), texts_of(annotation, "hallu", annotated), lexicon)
    elif (target := annotation.get("truth")) not in ("yes", "no"):
        said = short(target) if "truth" in annotation else "missing"
        raise DataError(f"{annotated}: truth is {said}; expected yes or no")
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


# --- grading ---------------------------------------------------------------------------------------------------------


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: AmberProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read descriptions noun by noun and questions by the protocol's reader."""
    pairs = pair_by_id(samples, answers, may_cover_part=True)
    notes = [f"{len(pairs)} of {len(samples)} questions are answered"] if len(pairs) < len(samples) else []
    if protocol.whole_dimensions and not options["subset"]:
        _refuse_gaps(samples, pairs)
    covers = ", ".join(protocol.covers)
    within = [(sample, text) for sample, text in pairs if sample.meta["dimension"] in protocol.covers]
    if pairs and not within:
        raise ConfigError(f"protocol '{protocol.name}' of AMBER covers only {covers}; none of these is answered")
    if len(within) < len(pairs):
        notes.append(f"{len(pairs) - len(within)} answers are outside of what this protocol covers: {covers}")
    describe: Callable[[EvalSample, str], Item] | None = None
    lexicon = next((sample.target.lexicon for sample, _ in within if sample.meta["dimension"] == GENERATIVE), None)
    if lexicon is not None:
        notes += _approximations(options)
        describe = _describer(protocol, lexicon, options)
    items: list[Item] = []
    for sample, text in within:
        base = {"id": sample.id, "image": sample.meta["image"], "question": sample.meta["question"], "text": text}
        base |= {"type": sample.meta["type"], "sections": list(sample.meta["sections"])}
        if sample.meta["dimension"] == GENERATIVE and describe is not None:
            items.append({**base, **describe(sample, text)})
        else:
            read = protocol.read(text, str(sample.meta["question"]))
            items.append({**base, "read": read, "label": sample.target, "correct": read == sample.target})
    return Graded.of(items, notes=notes)


def _approximations(options: Mapping[str, Any]) -> list[str]:
    """Notes on what replaces the script's own libraries where nothing was given for them."""
    notes = []
    if options["noun_extractor"] is None and options["nouns"] is None:
        notes.append("nouns by our own reader, which only approximates the script's nltk tagger")
    if options["similarity"] is None:
        notes.append("words are similar when they are equal, which only approximates the script's spaCy vectors")
    return notes


def _refuse_gaps(samples: Sequence[EvalSample], pairs: Sequence[tuple[EvalSample, str]]) -> None:
    answered = {sample.id for sample, _ in pairs}
    begun = {sample.meta["dimension"] for sample, _ in pairs} or set(DIMENSIONS)
    missing = [s.id for s in samples if s.meta["dimension"] in begun and s.id not in answered]
    if missing:
        raise DataError(
            f"{len(missing)} questions have no answer: {first_ids(missing)}; a dimension is answered as a whole or not "
            "at all. An unanswered question is written with an empty text; `subset=true` scores the answers there are"
        )


def _describer(
    protocol: AmberProtocol, lexicon: Lexicon, options: Mapping[str, Any]
) -> Callable[[EvalSample, str], Item]:
    extract = options["noun_extractor"]
    recorded = nouns_from(options["nouns"], lexicon, fold_case=protocol.folds_case)
    nouns = recorded if extract is None else lambda name, answer: list(extract(answer))
    similarity = cache(similarity_from(options["similarity"]))
    threshold = float(options["similarity_threshold"])

    def describe(sample: EvalSample, text: str) -> Item:
        scene: Scene = sample.target
        found = read_description(nouns(sample.id, text), scene, similarity, threshold)
        num_words = count_words(text)
        return {
            "read": "description" if num_words or protocol.reads_empty else "unparsed",
            "num_words": num_words,
            "nouns": [{"word": word, "is": kind} for word, kind in found.nouns],
            "hallucinated": sorted({word for word, kind in found.nouns if kind == "hallucinated"}),
            "objects": list(scene.truth),
            "covered": [name for index, name in enumerate(scene.truth) if index in found.covered],
            "tempting": list(scene.tempting),
            "tempted": [name for index, name in enumerate(scene.tempting) if index in found.tempted],
        }

    return describe


AMBER = Benchmark(
    name="amber",
    title="AMBER, An LLM-free Multi-dimensional Benchmark",
    paper="Wang et al. 2023, arXiv:2311.07397",
    official="junyangwang0410/AMBER inference.py",
    protocols=PROTOCOLS,
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
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    parts=lambda item: tuple(item["sections"]),
    headline=("chair", "cover", "hal", "cog", "mean_length", "f1", "yes_ratio", "amber_score"),
    together=("chair", "cover", "hal", "cog", "mean_length"),
    lower_is_better=("chair", "hal", "cog"),
    undirected=("yes_ratio", "mean_length"),
)
