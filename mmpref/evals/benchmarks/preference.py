"""Held-out preference accuracy: does the model find the chosen answer more likely than the rejected one?

``questions`` are pairs, rows with ``id``, ``prompt``, ``chosen`` and ``rejected`` or in any other format that training
reads; one without an id is named by its place as in training, ``pairs:3`` for row 3 of ``pairs.jsonl``. ``answers`` are
rows of numbers with the pair's id, made by any program, of one of three kinds:

- log-probabilities: ``chosen`` and ``rejected``, sums over the answer's tokens; with ``chosen_len`` and
  ``rejected_len`` also per token; with ``ref_chosen`` and ``ref_rejected`` as the implicit reward of DPO, policy less
  reference (beta does not change who wins);
- rewards: ``rewards/chosen`` and ``rewards/rejected`` under ``pair_id``, as ``pairs_eval.parquet`` of a run has them
  (of a pair that was logged several times the last step counts);
- scores of a reward model or judge: ``score_chosen`` and ``score_rejected``.

``accuracy`` is the share of pairs whose chosen side is strictly higher: of scores, rewards, the implicit reward or,
when there is nothing else, the log-probabilities (``by=`` chooses). A tie is not a win and is counted in ``tie_rate``;
a pair without finite numbers is unparsed and wrong. Beside it stand the mean margin, the accuracy per token where
lengths are known, and the accuracy on pairs whose chosen answer is the longer or the shorter one: a model that only
likes length shows there.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Items, ScoringProtocol, by_name, each
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.objects import count_words
from mmpref.files.rows import Row, Source, choose, is_path, row_id
from mmpref.records import Answer, EvalSample, PreferencePair
from mmpref.statistics import Metric, Ratio

_BY = ("auto", "score", "reward", "implicit_reward", "logp", "logp_per_token")
_NUMBERS = ("chosen", "rejected", "chosen_len", "rejected_len", "ref_chosen", "ref_rejected")
_PAIRS = ("score_chosen", "score_rejected"), ("rewards/chosen", "rewards/rejected"), ("chosen", "rejected")


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per pair; demonstrations, which have no rejected answer, are refused."""
    samples = []
    places = []
    for where, row, pair in _pairs(source):
        if pair.rejected is None:
            raise DataError(f"{where}: pair '{pair.id}' has no rejected answer, so there is nothing to prefer")
        if pair.videos:
            raise DataError(
                f"{where}: pair '{pair.id}' has videos, and this benchmark shows images only; leave its row out"
            )
        places.append((where, pair.id))
        samples.append(
            EvalSample(
                id=pair.id,
                images=pair.images,
                prompt=pair.prompt,
                target=(pair.chosen, pair.rejected),
                meta={
                    "image": pair.images[0].describe() if pair.images else pair.id,
                    "question": pair.prompt[-1].text if pair.prompt else "",
                    "source": str(row.get("source", "")),
                    **({"response_prefix": pair.response_prefix} if pair.response_prefix else {}),
                    **({"rejected_images": pair.rejected_images} if pair.rejected_images is not None else {}),
                    **({"template_kwargs": dict(pair.template_kwargs)} if pair.template_kwargs else {}),
                },
            )
        )
    refuse_repeated_ids(places, "the pair's id")
    return tuple(samples)


def _pairs(source: Source) -> Iterator[tuple[str, Row, PreferencePair]]:
    """The pairs of rows in any format that mmpref.data knows, each with its place and the row it is from."""
    from mmpref.data.formats import to_canonical  # mmpref.data loads Pillow, which no other benchmark needs
    from mmpref.data.pairs import pair_from_row

    where, name = (str(source), Path(str(source)).stem) if is_path(source) else ("pairs", "pairs")
    for number, row in enumerate(read_rows(source, "pairs"), 1):
        try:
            found = to_canonical(row, place=f"{name}:{number}")
        except DataError as error:
            raise DataError(f"{where}, row {number}: {error}") from error
        for canonical in found:
            yield f"{where}, row {number}", row, pair_from_row(canonical, source=where, line=number)


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    """Numbers as answers: the text of each is the JSON of its row."""
    latest: dict[str, tuple[str, Row]] = {}
    out: list[Answer] = []
    for where, row in question_rows(read_rows(source), name_of(source)):
        if "pair_id" in row and "id" not in row:
            name = str(row["pair_id"])
            if name not in latest or row.get("step", 0) >= latest[name][1].get("step", 0):
                latest[name] = where, row
        elif isinstance(row.get("text"), str):
            _numbers(row["text"], where)
            out.append(Answer(id=row_id(row, where), text=row["text"], place=where))
        else:
            out.append(Answer(id=row_id(row, where), text=_as_text(row), place=where))
    answers = [*out, *(Answer(id=name, text=_as_text(row), place=where) for name, (where, row) in latest.items())]
    return Saved(answers, read_as="rows of numbers, matched by the pair's id")


def _as_text(row: Row) -> str:
    wanted = {key for both in _PAIRS for key in both} | set(_NUMBERS)
    return json.dumps({key: row[key] for key in sorted(wanted) if _is_number(row.get(key))})


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: ScoringProtocol, options: Mapping[str, Any]
) -> Graded:
    """Compare the two sides of every pair by the same quantity for all of them."""
    by = choose(str(options["by"]), _BY, "by")
    pairs = [(sample, _numbers(text, f"pair '{sample.id}'")) for sample, text in pair_by_id(samples, answers)]
    if by == "auto":
        by = next((name for name in _BY[1:-1] if any(_margin(row, name) is not None for _, row in pairs)), "logp")
    elif pairs and all(_margin(row, by) is None for _, row in pairs):
        raise ConfigError(f"by={by}: no answer row has the numbers for it; pass `by=auto`")
    items = [
        {
            "id": sample.id,
            "image": sample.meta["image"],
            "question": sample.meta["question"],
            "source": sample.meta["source"],
            "text": json.dumps(row),
            "margin": (margin := _margin(row, by)),
            "margin_per_token": _margin(row, "logp_per_token"),
            "read": "unparsed" if margin is None else "numbers",
            "correct": margin is not None and margin > 0,
            "longer": count_words(sample.target[0]) - count_words(sample.target[1]),
        }
        for sample, row in pairs
    ]
    return Graded.of(items, notes=(f"compared by {by}",))


def _numbers(text: str, where: str) -> dict[str, float]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f'{where}: expected numbers such as {{"chosen": -12.5, "rejected": -14.0}}, got {text[:40]!r}')
    return {key: float(value) for key, value in row.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _margin(row: Mapping[str, float], by: str) -> float | None:
    """Chosen less rejected; None where a number is missing or not finite."""
    try:
        if by == "score":
            margin = row["score_chosen"] - row["score_rejected"]
        elif by == "reward":
            margin = row["rewards/chosen"] - row["rewards/rejected"]
        elif by == "implicit_reward":
            margin = (row["chosen"] - row["ref_chosen"]) - (row["rejected"] - row["ref_rejected"])
        elif by == "logp_per_token":
            margin = row["chosen"] / row["chosen_len"] - row["rejected"] / row["rejected_len"]
        else:
            margin = row["chosen"] - row["rejected"]
    except (KeyError, ZeroDivisionError):
        return None
    return margin if math.isfinite(margin) else None


def count(item: Mapping[str, Any]) -> Counts:
    """What one pair adds."""
    margin, per_token, longer = item["margin"], item["margin_per_token"], item["longer"]
    return {
        "pairs": 1,
        "correct": item["correct"],
        "ties": margin == 0,
        "margins": margin or 0.0,
        "known": margin is not None,
        "per_token": per_token is not None,
        "per_token_correct": per_token is not None and per_token > 0,
        "longer": longer > 0,
        "longer_correct": longer > 0 and item["correct"],
        "shorter": longer < 0,
        "shorter_correct": longer < 0 and item["correct"],
    }


def _share(top: str, bottom: str, why: str) -> Ratio:
    return Ratio(top={top: 1}, bottom={bottom: 1}, why_empty=why)


_METRICS: dict[str, Metric] = {
    "accuracy": _share("correct", "pairs", "there are no pairs"),
    "tie_rate": _share("ties", "pairs", "there are no pairs"),
    "mean_margin": Ratio(
        top={"margins": 1}, bottom={"known": 1}, why_empty="no pair has finite numbers", proportion=False
    ),
    "accuracy_chosen_longer": _share("longer_correct", "longer", "no pair has the longer answer chosen"),
    "accuracy_chosen_shorter": _share("shorter_correct", "shorter", "no pair has the shorter answer chosen"),
}
_PER_TOKEN = _share("per_token_correct", "pairs", "there are no pairs")


def metrics(protocol: ScoringProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """The metrics; the accuracy per token only where lengths are known."""
    per_token = any(item["margin_per_token"] is not None for item in items)
    return {**_METRICS, **({"accuracy_per_token": _PER_TOKEN} if per_token else {})}


PREFERENCE = Benchmark(
    name="preference",
    title="Held-out preference accuracy",
    paper="Rafailov et al. 2023, arXiv:2305.18290 (implicit reward)",
    official="none; the definition is mmpref's own",
    protocols=by_name(ScoringProtocol(name="mmpref")),
    max_new_tokens=1,
    options={"by": "auto"},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=each(count),
    metrics=metrics,
    parts=lambda item: (item["source"],) if item["source"] else (),
    by_likelihood=True,
    headline=("accuracy", "tie_rate"),
    undirected=("tie_rate", "mean_margin"),
)
