"""Object HalBench: which objects 300 answers about COCO images make up (Rohrbach et al. 2018; the questions and the
script are RLHF-V's, ``eval/eval_gpt_obj_halbench.py``, Yu et al. 2023, "RLHF-V").

``questions`` are the items, rows with ``image_id`` and ``question`` or ``prompt``. The ground truth comes with
``truth=`` (COCO annotations, several files as a list, or ``{image_id: [objects]}``) or is in the items as
``objects``. ``synonyms=`` is the list ``synonyms_refine.txt`` of RLHF-V, which has no licence that would let us ship
it and without which ``official`` is refused; ``mmpref`` has words of its own, as in CHAIR. The script's result
(``hall_*.json``, with ``sentences``) is read as questions, as answers and as verdicts.

A judge lists the visible objects that an answer names: ``verdicts=``, rows as in ``verdicts.py``. Without verdicts our
own extractor finds the objects in the answer, and a note in the result says so. The official judge is
gpt-3.5-turbo-0613, which is no longer served.

Each word counts once per answer. ``chair_s`` answers with a hallucination / answers; ``chair_s_refine`` the same over
the answers that name a COCO object, what papers report as response-level rate; ``chair_i`` made-up words / words;
``recall`` true objects named / true objects; ``mean_length`` in words.

From a judge's phrase ("a wooden table") to COCO words the script goes with spaCy's tagger; here the longest known words
of the phrase are taken, under both protocols. ``refined=true`` says that the verdicts hold final words already, as the
script's result file does, and then its numbers are exact. ``official`` measures length by single spaces and removes
"Assistant:"; ``mmpref`` leaves empty answers out of chair_s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Item, ScoringProtocol, by_name, each
from mmpref.evals.benchmarks.object_counts import count_objects, object_metrics, vocabulary_for
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.coco import Truth, ground_truth, image_file
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.files.verdicts import Verdict, judging_notes, read_verdicts, usable_on, verdicts_name
from mmpref.evals.text.objects import Extractor, count_words, extract_mmpref, true_objects
from mmpref.evals.text.vocabulary import Vocabulary
from mmpref.files.rows import Row, Source, is_path, load_json, row_id, text_of, texts_of
from mmpref.files.tables import TABLES
from mmpref.records import Answer, EvalSample, ImageRef, user_turn
from mmpref.statistics import Metric, Ratio

_KEYS = ("image_id", "id", "question_id", "idx", "index")  # the scripts count the questions under question_id
_OBJECT_KEYS = ("objects", "gt_objects", "truth", "mscoco_gt_words")


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per item; ``target`` is its ground truth as given, not yet mapped to canonical objects."""
    rows = question_rows(sentences(source), str(source) if is_path(source) else "items")
    truth = ground_truth(options["truth"]) if options["truth"] is not None else None
    samples = tuple(_sample(row, where, truth, options) for where, row in rows)
    refuse_repeated_ids(((where, sample.id) for (where, _), sample in zip(rows, samples, strict=True)), "image_id")
    return samples


def sentences(source: Source, what: str = "items") -> list[Row]:
    """Rows of a source, those of the script's result file from under ``sentences``."""
    in_json = isinstance(source, str | Path) and Path(source).suffix.lower() not in TABLES
    content = load_json(str(source)) if in_json else source
    if isinstance(content, Mapping) and isinstance(content.get("sentences"), list):
        return read_rows(content["sentences"], what)
    return read_rows(source, what)


def _sample(row: Row, where: str, truth: Truth | None, options: Mapping[str, Any]) -> EvalSample:
    if row.get("image_id") is None:
        raise DataError(f"{where}: no image_id; an item of Object HalBench has image_id and question")
    image = row_id(row, where, ("image_id",))
    key = next((key for key in _OBJECT_KEYS if row.get(key) is not None), None)
    if truth is None and key is None:
        raise ConfigError(
            f"{where} has no ground truth: pass truth=FILE (COCO annotations, or a JSON {{image_id: [objects]}})"
        )
    if truth is not None and image not in truth.objects:
        raise DataError(f"{where}: the ground truth has no image {image!r}")
    objects = truth.objects[image] if truth is not None else texts_of(row, str(key), where)
    captions = truth.captions.get(image, []) if truth is not None else []
    question = text_of(row, "question" if "question" in row else "prompt", where, "")
    file = str(row["image"]) if str(row.get("image", "")).endswith((".jpg", ".png")) else None
    name = file or image_file(str(options["image_name"]), image)
    return EvalSample(
        id=image,
        images=(ImageRef(path=name),),
        prompt=user_turn(question, num_images=1),
        target=(tuple(objects), tuple(captions)),
        meta={"image": name, "question": question, "from_coco": truth is not None and truth.from_coco},
    )


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    rows = sentences(source, "answers")
    verdicts = [
        {"id": str(row["image_id"]), "objects": row["words"], "judge": str(row.get("judge", "")), "refined": True}
        for row in rows
        if isinstance(row.get("words"), list) and "mscoco_generated_words" in row
    ]
    saved = match(rows, samples, name_of(source), IdRules(keys=_KEYS, numbered=True))
    return replace(saved, verdicts=tuple(verdicts))


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectHalBenchProtocol(ScoringProtocol):
    """A rule of Object HalBench.

    Args:
        clean: what is removed from an answer before anything is counted.
        length: the number of words of an answer.
        counts_empty: whether an empty answer counts as one without hallucination.
        phrases_note: what the result says where a judge's phrases had to be turned into words, "" for nothing.
    """

    clean: Callable[[str], str] = str
    length: Callable[[str], int] = count_words
    counts_empty: bool = False
    phrases_note: str = ""


PROTOCOLS = by_name(
    ObjectHalBenchProtocol(name="mmpref"),
    ObjectHalBenchProtocol(
        name="official",
        needs="synonyms",
        scores_unread=True,
        clean=lambda text: text.replace("Assistant:", "").strip(),
        length=lambda text: len(text.strip().split(" ")),
        counts_empty=True,
        phrases_note="words found in the judge's phrases without the script's tagger, which they approximate",
    ),
)


def grade(
    samples: Sequence[EvalSample],
    answers: Sequence[Answer],
    protocol: ObjectHalBenchProtocol,
    options: Mapping[str, Any],
) -> Graded:
    """Compare the objects of every answer, from the judge's list or by our extractor, with the image's."""
    pairs = pair_by_id(samples, answers)
    vocabulary, own = vocabulary_for(options["synonyms"], samples)
    notes = [own] if own else []
    extract = extract_mmpref(vocabulary, options["tokenize"])
    listed: _Listed | None = None
    if options["verdicts"] is None:
        notes.append("no judge: objects found by our own extractor")
    else:
        listed = _Listed.read(options, pairs)
        notes += judging_notes(listed.verdicts, listed.missing, options["verdicts"])
        notes += [protocol.phrases_note] if protocol.phrases_note and not listed.final else []
    missing = listed.missing if listed is not None else []
    items: list[Item] = []
    for sample, raw in pairs:
        text = protocol.clean(raw)
        if sample.id in missing:
            items.append({"id": sample.id, "image": sample.meta["image"], "text": text, "missing": True})
            continue
        named = listed.named(sample.id, extract, vocabulary) if listed else _named([text], extract)
        names, captions = sample.target
        truth = true_objects(names, captions, extract, vocabulary)
        items.append(_item(sample, text, named, truth, protocol))
    return Graded.of(items, notes=notes, n_missing=len(missing))


@dataclass(frozen=True, slots=True)
class _Listed:
    """The objects that a judge lists, by answer; ``final`` where they are words of the list already."""

    verdicts: Mapping[str, Verdict]
    missing: Sequence[str]
    final: bool

    @staticmethod
    def read(options: Mapping[str, Any], pairs: Sequence[tuple[EvalSample, str]]) -> _Listed:
        """The verdicts of the option, about these answers."""
        rows = sentences(options["verdicts"])
        verdicts, missing = usable_on(read_verdicts(rows, "objects", verdicts_name(options["verdicts"])), pairs)
        return _Listed(verdicts, missing, bool(options["refined"]) or all(row.get("refined") for row in rows))

    def named(self, name: str, extract: Extractor, vocabulary: Vocabulary) -> list[tuple[str, str]]:
        """The words of one answer that mean an object, each with its object."""
        phrases = self.verdicts[name].objects or ()
        return _as_listed(_unique(phrases), vocabulary) if self.final else _named(phrases, extract)


def _named(phrases: Iterable[str], extract: Extractor) -> list[tuple[str, str]]:
    """The words of phrases that mean an object, each with its object."""
    named = {mention.word: mention.object for phrase in phrases for mention in extract(phrase)}
    return [(word, named[word]) for word in _without_seat([*named])]


def _as_listed(words: Sequence[str], vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """As the script looks words up: exactly as its list spells them."""
    listed = {word.strip(): name.strip() for word, name in vocabulary.exact.items()}
    return [(word, listed[word]) for word in _without_seat(words) if word in listed]


def _without_seat(words: Sequence[str]) -> Sequence[str]:
    """The seat of a toilet is no chair."""
    return [word for word in words if word != "seat"] if "toilet" in words else words


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _item(
    sample: EvalSample,
    text: str,
    named: Sequence[tuple[str, str]],
    truth: set[str],
    protocol: ObjectHalBenchProtocol,
) -> Item:
    said = {name for _, name in named}
    num_words = protocol.length(text)
    return {
        "id": sample.id,
        "image": sample.meta["image"],
        "question": sample.meta["question"],
        "text": text,
        "missing": False,
        "counted": protocol.counts_empty or num_words > 0,
        "num_words": num_words,
        "mentions": [{"word": word, "object": name, "hallucinated": name not in truth} for word, name in named],
        "objects": sorted(truth),
        "hallucinated": sorted(said - truth),
        "missed": sorted(truth - said),
    }


def count(item: Mapping[str, Any]) -> Counts:
    """What one answer adds; nothing where the judge said nothing about it."""
    return {"answers": 0} if item["missing"] else count_objects(item, not_named="missed")


def _metrics() -> dict[str, Metric]:
    no_object = "no answer names a known object"
    chair_s, *others = object_metrics("answers", no_object).items()
    refined = Ratio(top={"hallucinated_answers": 1}, bottom={"naming_answers": 1}, why_empty=no_object)
    return dict([chair_s, ("chair_s_refine", refined), *others])


_METRICS = _metrics()

OBJECT_HALBENCH = Benchmark(
    name="object_halbench",
    title="Object HalBench",
    paper="Rohrbach et al. 2018, arXiv:1809.02156; Yu et al. 2023, arXiv:2312.00849",
    official="RLHF-V/RLHF-V eval/eval_gpt_obj_halbench.py",
    aliases=("objhal",),
    protocols=PROTOCOLS,
    max_new_tokens=1024,
    how_to_get=(
        "pass synonyms=PATH, the list synonyms_refine.txt of RLHF-V, or take `--protocol mmpref`, which has words of "
        "its own"
    ),
    options={
        "truth": None,
        "synonyms": None,
        "verdicts": None,
        "refined": False,
        "tokenize": None,
        "image_name": "COCO_val2014_{id:012d}.jpg",
    },
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["id"]),
    counts=each(count),
    metrics=lambda protocol, part, items: _METRICS,
    needs_judge=True,
    num_beams=3,
    headline=("chair_s_refine", "chair_i", "recall", "mean_length"),
    together=("chair_s", "chair_s_refine", "chair_i", "recall", "mean_length"),
    lower_is_better=("chair_s", "chair_s_refine", "chair_i"),
    undirected=("mean_length",),
)
