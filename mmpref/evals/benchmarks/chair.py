"""CHAIR: which objects a caption mentions that the image does not have (Rohrbach et al. 2018, "Object Hallucination in
Image Captioning"; official script LisaAnne/Hallucination ``utils/chair.py``, recall as in Maxlinn's port).

``questions`` is the ground truth: COCO annotations (the instances file, the captions file, or a list of both, which is
what the paper uses) or ``{image_id: [objects]}``. ``synonyms`` is a list in CHAIR's format: one object per line, its
words separated by commas, the first is the object's name. The authors' list for COCO has no licence that would let us
ship it: get ``data/synonyms.txt`` from LisaAnne/Hallucination and pass its path; ``official`` and ``lmms_eval`` are
refused without it. ``mmpref`` has words of its own for COCO's categories (``coco_words.txt``, ``synonyms="coco"``),
taken where the ground truth is COCO's; elsewhere, or with ``synonyms="names"``, the words are the object names of the
ground truth.

The annotations may cover more images than were captioned: the answers choose the images, and a note says how many. With
``prompts``, which say what was asked, every prompt needs its answer.

chair_i = hallucinated mentions / all mentions (repeats count); chair_s = captions with a hallucination / captions;
recall = distinct true objects mentioned / true objects; mean_length = words per caption. No mention at all leaves
chair_i undefined (the official script stops with an error). Say chair_s and chair_i only together with recall and
mean_length: a caption that says nothing hallucinates nothing. Under ``mmpref`` an empty caption lowers recall and is in
no other number; the other protocols count it as a caption without hallucination. ``lmms_eval`` differs from
``official`` in how words are made singular ("bus" is seen).

``mmpref`` counts what a caption says to be in the picture (docs/reading_captions.md): not "no dog", "might be a dog",
"a statue of a dog" or "a dog park". Such words are in ``not_counted`` of each item, with why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.chair_settings import PROMPT, SETTINGS
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, ScoringProtocol, by_name, each
from mmpref.evals.benchmarks.object_counts import count_objects, object_metrics, vocabulary_for
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.coco import Truth, ground_truth, image_file
from mmpref.evals.files.image_names import ImageIndex, image_of
from mmpref.evals.files.matching import match
from mmpref.evals.files.narrowed import Chosen, match_chosen
from mmpref.evals.files.question_rows import question_rows
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.objects import (
    Extractor,
    MakeExtractor,
    Mention,
    NotCounted,
    count_words,
    extract_lmms_eval,
    extract_mmpref,
    extract_official,
    true_objects,
)
from mmpref.evals.text.vocabulary import Vocabulary
from mmpref.files.rows import Row, Source, as_id, first_ids, row_id
from mmpref.records import Answer, EvalSample, ImageRef, user_turn

_KEYS = ("image_id", "id", "question_id", "idx", "index")  # LLaVA counts the questions under question_id
_GET_SYNONYMS = (
    "pass synonyms=PATH, CHAIR's list with one object per line (data/synonyms.txt of LisaAnne/Hallucination, "
    "which has no licence, so that mmpref does not ship it), or take `--protocol mmpref`, which has words of its own"
)


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per image; ``target`` is the ground truth as it was given, not yet mapped to canonical objects."""
    truth = ground_truth(source)
    prompts = _prompts(options["prompts"], truth) if options["prompts"] is not None else None
    if prompts is None:
        return tuple(_sample(image, truth, {}, options) for image in truth.objects)
    asked = [_sample(image, truth, row, options) for image, row in prompts.items()]
    others = [
        _sample(image, truth, {"image": truth.files.get(image, image)}, options)  # nobody opens these
        for image in truth.objects
        if image not in prompts
    ]
    return Chosen.of([*asked, *others], asked)


def _prompts(source: Source, truth: Truth) -> dict[str, Row]:
    """Rows ``{"image_id", "image", "text"}`` that say which images are asked about, and how; the image's name will do.

    Raises:
        DataError: a row names no image of the ground truth, or one that another row has named.
    """
    index = ImageIndex(
        [*((name, image) for image, name in truth.files.items()), *((name, name) for name in truth.objects)]
    )
    found: dict[str, Row] = {}
    places: dict[str, str] = {}
    unknown: list[tuple[str, str]] = []
    for where, row in question_rows(source, "prompts"):
        named = [*image_of(row).values(), *([row_id(row, where)] if not image_of(row) else [])]
        ids = {name if name in truth.objects else index.find(name) for name in named} - {None}
        if len(ids) > 1:
            raise DataError(f"{where}: {' and '.join(map(repr, named))} are two different images")
        if not ids:
            unknown.append((where, named[0]))
            continue
        image = str(ids.pop())
        if image in found:
            raise DataError(f"{where}: asks about image {image!r} a second time, after {places[image]}")
        found[image], places[image] = row, where
    if unknown:
        names = first_ids([name for _, name in unknown])
        raise DataError(
            f"{unknown[0][0]}: prompts ask about {len(unknown)} images that the ground truth lacks: {names}"
        )
    return found


def _sample(image: str, truth: Truth, asked: Row, options: Mapping[str, Any]) -> EvalSample:
    file = asked.get("image") or truth.files.get(image)
    if file is None:
        file = image_file(str(options["image_name"]), image)
    return EvalSample(
        id=image,
        images=(ImageRef(path=file),),
        prompt=user_turn(asked.get("text") or options["prompt"], num_images=1),
        target=(tuple(truth.objects[image]), tuple(truth.captions.get(image, ()))),
        meta={"image": file, "from_coco": truth.from_coco, **_asked_as(asked)},
    )


def _asked_as(asked: Row) -> dict[str, str]:
    """The number under which LLaVA's question file asks about an image, by which its answers may name it."""
    number = as_id(asked.get("question_id"))
    return {"question_id": number} if number is not None else {}


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    numbers = {sample.meta["question_id"]: sample.id for sample in samples if "question_id" in sample.meta}

    def ids_of(row: Row) -> list[str]:
        number = as_id(row.get("question_id"))
        return [numbers[number]] if number in numbers and not image_of(row) and "id" not in row else []

    rows = read_rows(source)

    def matched(asked: Sequence[EvalSample]) -> Saved:
        return match(rows, asked, name_of(source), IdRules(ids_of=ids_of, keys=_KEYS))

    return match_chosen(rows, samples, matched, "prompts=")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChairProtocol(ScoringProtocol):
    """A rule of CHAIR.

    Args:
        extractor: how the words of a caption are cut, made singular and joined.
        counts_empty: whether an empty caption counts as one without hallucination.
    """

    extractor: MakeExtractor
    counts_empty: bool = True


PROTOCOLS = by_name(
    ChairProtocol(name="mmpref", extractor=extract_mmpref, counts_empty=False),
    ChairProtocol(name="official", extractor=extract_official, needs="synonyms", scores_unread=True),
    ChairProtocol(name="lmms_eval", extractor=extract_lmms_eval, needs="synonyms", scores_unread=True),
)


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: ChairProtocol, options: Mapping[str, Any]
) -> Graded:
    """Find the objects of every caption and compare them with the image's."""
    pairs = pair_by_id(samples, answers, may_cover_part=options["prompts"] is None)
    notes = []
    if len(pairs) < len(samples):
        notes.append(f"{len(pairs)} captions for {len(samples)} annotated images")
    vocabulary, own = vocabulary_for(options["synonyms"], samples)
    if own:
        notes.append(own)
    elif unknown := sorted({name for sample, _ in pairs for name in sample.target[0] if name not in vocabulary}):
        notes.append(
            f"{len(unknown)} true objects are not in the synonym list and cannot be found: {first_ids(unknown)}"
        )
    extract = protocol.extractor(vocabulary, options["tokenize"])
    items = [_item(sample, text, extract, vocabulary) for sample, text in pairs]
    for item in items:
        item["counted"] = protocol.counts_empty or item["num_words"] > 0
    if empty := sum(not item["counted"] for item in items):
        notes.append(f"{empty} empty captions find no object and are in no other number")
    return Graded.of(items, notes=notes)


def _item(sample: EvalSample, text: str, extract: Extractor, vocabulary: Vocabulary) -> Item:
    names, captions = sample.target
    truth = true_objects(names, captions, extract, vocabulary)
    reading = extract.read(text)
    said = {mention.object for mention in reading.mentions}
    return {
        "id": sample.id,
        "image": sample.meta["image"],
        "text": text,
        "num_words": count_words(text),
        "counted": True,
        "mentions": [_mention(mention, truth) for mention in reading.mentions],
        "not_counted": [_not_counted(words) for words in reading.not_counted],
        "objects": sorted(truth),
        "hallucinated": sorted(said - truth),
        "missing": sorted(truth - said),
    }


def _mention(mention: Mention, truth: set[str]) -> dict[str, Any]:
    return {
        "word": mention.word,
        "object": mention.object,
        "position": mention.position,
        "span": list(mention.span) if mention.span else None,
        "hallucinated": mention.object not in truth,
    }


def _not_counted(words: NotCounted) -> dict[str, Any]:
    return {
        "word": words.word,
        "object": words.object,
        "span": list(words.span) if words.span else None,
        "why": words.why,
    }


_METRICS = object_metrics("captions", "no caption mentions a known object")

CHAIR = Benchmark(
    name="chair",
    title="CHAIR, Caption Hallucination Assessment with Image Relevance",
    paper="Rohrbach et al. 2018, arXiv:1809.02156",
    official="LisaAnne/Hallucination utils/chair.py",
    protocols=PROTOCOLS,
    max_new_tokens=512,
    how_to_get=_GET_SYNONYMS,
    options={
        "synonyms": None,
        "tokenize": None,
        "prompts": None,
        "prompt": PROMPT,
        "image_name": "COCO_val2014_{id:012d}.jpg",
    },
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["id"]),
    counts=each(partial(count_objects, not_named="missing")),
    metrics=lambda protocol, part, items: _METRICS,
    headline=("chair_s", "chair_i", "recall", "mean_length"),
    together=("chair_s", "chair_i", "recall", "mean_length"),
    lower_is_better=("chair_s", "chair_i"),
    undirected=("mean_length",),
    settings=SETTINGS,
)
