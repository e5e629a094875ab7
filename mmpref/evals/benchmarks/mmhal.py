"""MMHal-Bench: 96 open questions whose answers a judge rates from 0 to 6 (Sun et al. 2023, "Aligning Large Multimodal
Models with Factually Augmented RLHF"; official script LLaVA-RLHF ``Eval/eval_gpt_mmhal.py``, the per-type summary and
``informativeness`` as in RLHF-V ``eval/summarize_gpt_mmhal_review.py``).

``questions`` is the answer template, ``mmhal-bench_answer_template.json``; an id is the ``image_id``, and numbers from
0 on in the order of the template are understood too. ``answers`` come by id, or as the template with ``model_answer``
filled in. The judge's verdicts come with ``verdicts=``: rows as in ``verdicts.py``; the script's own file, a list of
chat completions in the order of the template; or rows with the text of the review (``gpt4_review`` or ``review``),
which may also stand in the answer file.

``score`` is the mean rating, ``hallucination_rate`` the share of ratings below 3, ``informativeness`` the mean of how
much is said, from 0 to 1; all also by question type.

- ``official``: a review counts as rated s when "rating: s" is in it for exactly one s, otherwise as 0 ("Rating:5",
  "**Rating:** 5" and two ratings are 0; "Rating: 3.5" is 3, "Rating: 10" is 1).
- ``mmpref``: a review is read as a person would; one without exactly one whole rating is missing.

The official judge is gpt-4-0314, RLAIF-V's is gpt-4-1106-preview: other judges give other numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Item, ScoringProtocol, by_name, each
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.files.verdicts import MAX_SCORE, Verdict, judging_notes, read_verdicts, usable_on, verdicts_name
from mmpref.evals.text.objects import count_words
from mmpref.files.rows import Row, Source, is_path, load_json, row_id, text_of, texts_of
from mmpref.records import Answer, EvalSample, ImageRef, user_turn
from mmpref.statistics import Metric, Ratio

TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
_NEEDED = ("question_type", "image_id", "image_src", "image_content", "question", "gt_answer")
_KEYS = ("image_id", "id", "question_id", "idx", "index")
_REVIEW_KEYS = ("review", "gpt4_review")
HALLUCINATES_BELOW = 3


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per row of the template; ``meta`` has what the judge is shown."""
    rows = question_rows(source)
    samples = tuple(_sample(row, where) for where, row in rows)
    refuse_repeated_ids(((where, sample.id) for (where, _), sample in zip(rows, samples, strict=True)), "image_id")
    return samples


def _sample(row: Row, where: str) -> EvalSample:
    if missing := [key for key in _NEEDED if key not in row]:
        raise DataError(f"{where}: no {missing[0]}; a row of the template has {', '.join(_NEEDED)}")
    said = {key: text_of(row, key, where) for key in ("question", "gt_answer", "question_type", "image_src")}
    image = said["image_src"].rsplit("/", 1)[-1]
    if not image:
        raise DataError(f"{where}: image_src {said['image_src']!r} does not end in a file name")
    return EvalSample(
        id=row_id(row, where, ("image_id",)),
        # the template has web addresses; images are read from a folder, by the name at the end of the address
        images=(ImageRef(path=image),),
        prompt=user_turn(said["question"], num_images=1),
        target=said["gt_answer"],
        meta={
            "type": said["question_type"],
            "topic": text_of(row, "question_topic", where, ""),
            "image": image,
            "image_src": said["image_src"],
            "image_content": texts_of(row, "image_content", where),
            "question": said["question"],
            "model_answer": text_of(row, "model_answer", where, ""),
        },
    )


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    rows = read_rows(source)
    if rows and all("choices" in row for row in rows):  # the judge's file alone; the answers are in the template
        reviewed = tuple({"id": sample.id, **review} for sample, review in _in_order(rows, samples))
        return Saved([Answer(id=sample.id, text=sample.meta["model_answer"]) for sample in samples], reviewed)
    saved = match(rows, samples, name_of(source), IdRules(keys=_KEYS, numbered=True))
    reviews = [
        {"id": answer.id, "review": row[key], "judge": str(row.get("judge", ""))}
        for row, answer in zip(rows, saved.answers, strict=False)
        for key in _REVIEW_KEYS
        if isinstance(row.get(key), str)
    ]
    return replace(saved, verdicts=tuple(reviews))


# --- ratings ---------------------------------------------------------------------------------------------------------

_RATING = re.compile(r"\brating\b[\s:*_=]*(?:is\s+)?[\s:*_]*(\d+(?:\.\d+)?)(?:\s*/\s*6)?", re.IGNORECASE)


def read_official(review: str) -> int:
    """The script's rating of a review; 0 where it finds none or several."""
    found = [score for score in range(MAX_SCORE + 1) if f"rating: {score}" in review.lower()]
    return found[0] if len(found) == 1 else 0


def read_mmpref(review: str) -> int | None:
    """The one whole rating that a review states, None when there is none, several or another number."""
    found = {match.group(1) for match in _RATING.finditer(review)}
    if len(found) != 1:
        return None
    text = found.pop()
    return int(text) if text.isdecimal() and int(text) <= MAX_SCORE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MmhalProtocol(ScoringProtocol):
    """A rule of MMHal-Bench: ``read`` gives the rating that a judge's review states, None where it states none."""

    read: Callable[[str], int | None]


PROTOCOLS = by_name(
    MmhalProtocol(name="mmpref", read=read_mmpref),
    MmhalProtocol(name="official", scores_unread=True, read=read_official),
)


def ratings(source: Any, samples: Sequence[EvalSample], protocol: MmhalProtocol) -> dict[str, Verdict]:
    """Verdicts from any of the layouts in the module's docstring."""
    content = load_json(source) if is_path(source) else list(source)
    rows = content if isinstance(content, list) else [content]
    if rows and all(isinstance(row, Mapping) and "choices" in row for row in rows):
        rows = [{"id": sample.id, **review} for sample, review in _in_order(rows, samples)]
    order = {str(number): sample.id for number, sample in enumerate(samples)}
    if not {sample.id for sample in samples} & {_raw_id(row) for row in rows}:
        rows = [
            {**row, "id": order.get(_raw_id(row), _raw_id(row))} if isinstance(row, Mapping) else row for row in rows
        ]
    return read_verdicts([_rated(row, protocol) for row in rows], "score", verdicts_name(source))


def _raw_id(row: Any) -> str:
    if isinstance(row, Verdict):
        return row.id
    return str(row.get("image_id", row.get("id", ""))) if isinstance(row, Mapping) else ""


def _in_order(rows: Sequence[Row], samples: Sequence[EvalSample]) -> list[tuple[EvalSample, Row]]:
    """The script's file has one chat completion for every row of the template, in its order."""
    if len(rows) != len(samples):
        raise DataError(f"{len(rows)} reviews in the order of the template, but {len(samples)} questions")
    return [
        (sample, {"review": _completion(row), "judge": str(row.get("model", ""))})
        for sample, row in zip(samples, rows, strict=True)
    ]


def _completion(row: Row) -> str:
    try:
        return str(row["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError) as err:
        raise DataError(f"a review is no chat completion as expected (problem at {err})") from err


def _rated(row: Any, protocol: MmhalProtocol) -> Any:
    """A row with a review as one with a score, or with the reason why there is none."""
    key = next((key for key in _REVIEW_KEYS if isinstance(row, Mapping) and isinstance(row.get(key), str)), None)
    if key is None or row.get("score") is not None:
        return row
    score = protocol.read(row[key])
    value = {"score": score} if score is not None else {"error": "the review states no single rating from 0 to 6"}
    return {"id": row_id(row, "reviews") if "id" in row else _raw_id(row), "judge": row.get("judge", ""), **value}


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: MmhalProtocol, options: Mapping[str, Any]
) -> Graded:
    """Put the judge's ratings beside the answers.

    Raises:
        EvalIncompleteError: there are no verdicts, or too many are missing.
    """
    pairs = pair_by_id(samples, answers)
    if options["verdicts"] is None:
        raise EvalIncompleteError(
            "MMHal-Bench is scored by a judge and there are no verdicts: let a judge run, or pass verdicts=FILE"
        )
    verdicts, missing = usable_on(ratings(options["verdicts"], samples, protocol), pairs)
    items: list[Item] = []
    for sample, text in pairs:
        score = verdicts[sample.id].score if sample.id in verdicts else None
        items.append(
            {
                "id": sample.id,
                "image": sample.meta["image"],
                "type": sample.meta["type"],
                "topic": sample.meta["topic"],
                "question": sample.meta["question"],
                "text": text,
                "num_words": count_words(text),
                "missing": score is None,
                "score": score,
                "hallucinates": None if score is None else score < HALLUCINATES_BELOW,
            }
        )
    notes = [*judging_notes(verdicts, missing, options["verdicts"]), f"ratings are from 0 to {MAX_SCORE}"]
    return Graded.of(items, notes=notes, n_missing=len(missing))


def count(item: Mapping[str, Any]) -> Counts:
    """What one rated answer adds."""
    if item["missing"]:
        return {"rated": 0}
    score = item["score"]
    return {
        "rated": 1,
        "points": score,
        "hallucinations": item["hallucinates"],
        "informative": score - 3 if score >= HALLUCINATES_BELOW else score,
        "words": item["num_words"],
    }


_WHY = "there are no rated answers"
_METRICS: dict[str, Metric] = {
    "score": Ratio(top={"points": 1}, bottom={"rated": 1}, why_empty=_WHY, proportion=False),
    "hallucination_rate": Ratio(top={"hallucinations": 1}, bottom={"rated": 1}, why_empty=_WHY),
    "informativeness": Ratio(top={"informative": 1}, bottom={"rated": 3}, why_empty=_WHY),
    "mean_length": Ratio(top={"words": 1}, bottom={"rated": 1}, why_empty=_WHY, proportion=False),
}

MMHAL = Benchmark(
    name="mmhal",
    title="MMHal-Bench",
    paper="Sun et al. 2023, arXiv:2309.14525",
    official="llava-rlhf/LLaVA-RLHF Eval/eval_gpt_mmhal.py",
    protocols=PROTOCOLS,
    max_new_tokens=1024,
    options={"verdicts": None},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["id"]),
    counts=each(count),
    metrics=lambda protocol, part, items: _METRICS,
    parts=lambda item: (str(item["type"]),),
    needs_judge=True,
    headline=("score", "hallucination_rate", "informativeness", "mean_length"),
    lower_is_better=("hallucination_rate",),
    undirected=("mean_length",),
)
