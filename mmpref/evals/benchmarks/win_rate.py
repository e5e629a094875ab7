"""Win rate against reference answers on open instructions, with and without control for length. Text only.

``questions`` are rows with the instruction under ``instruction`` (AlpacaEval's ``alpaca_eval.json`` and output files),
``prompt`` (IFEval, Arena-Hard v2) or ``turns`` (Arena-Hard v0.1); the reference answer is ``output``. An id is the
row's own ``id``, ``uid``, ``question_id`` or ``key``, else its number in the file from 0. ``answers`` come by id, or as
AlpacaEval's ``model_outputs``, Arena-Hard's ``model_answer`` or IFEval's ``prompt`` and ``response``. ``verdicts=`` are
rows as in ``verdicts.py``, or AlpacaEval's ``annotations.json``, whose ``preference`` goes from 1 (the first output,
the reference) to 2.

Without a judge: where questions and answers are both scored (candidates of ``mmpref sample score``, or rows with a
``score``), the higher score wins.

``win_rate`` is the mean preference. ``lc_win_rate_local`` and ``lc_win_rate`` are mmpref's own length controls, and not
AlpacaEval's. The first is the win rate at equal length of a logistic curve over the length difference
(:mod:`mmpref.statistics.length_control`), ``lc_minus_wr`` that less ``win_rate``. ``win_rate_shorter``,
``win_rate_similar`` and ``win_rate_longer`` are the win rates where the answer is shorter than the reference, about as
long, longer. ``lc_win_rate`` is the win rate that a straight line through (length difference, preference) gives where
both are equally long. The difference enters as
tanh(d / s), d in characters and s its standard deviation, as in AlpacaEval 2 (Dubois et al. 2024); that one fits a
logistic model with a difficulty for every instruction instead. On the published annotations of three models the win
rate is that of the leaderboard and the length-controlled one 0.7 to 1.9 points beside it. To get the official numbers
export the answers with ``mmpref export --to alpaca_eval`` and run its judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, ScoringProtocol, by_name, each
from mmpref.evals.benchmarks.length_bins import LONGER, SHORTER, SIMILAR, bin_of
from mmpref.evals.benchmarks.scored_answers import SCORE, SCORED_BY, by_score, plain_answer, plain_question
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.layouts import place_of
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.files.verdicts import judging_notes, read_verdicts, usable_on, verdicts_name
from mmpref.files.rows import Row, Source, row_id, shown_keys, text_of
from mmpref.records import Answer, EvalSample, user_turn
from mmpref.statistics import Array, Formula, LengthControlled, Metric, Ratio, length_counts, scaled_differences

_ID_KEYS = ("id", "uid", "question_id", "key")


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per instruction, without image; ``target`` is the reference answer or None."""
    samples: list[EvalSample] = []
    places = []
    for number, (where, given) in enumerate(question_rows(source)):
        row = plain_question(given, where)
        text = instruction_of(row)
        if text is None or not text.strip():
            raise DataError(f"{where}: no instruction, prompt or turns; it has {shown_keys(row)}")
        key = next((key for key in _ID_KEYS if row.get(key) not in (None, "")), None)
        samples.append(
            EvalSample(
                id=str(number) if key is None else row_id(row, where, (key,)),
                images=(),
                prompt=user_turn(text, num_images=0),
                target=None if row.get("output") is None else text_of(row, "output", where),
                meta={
                    "question": text,
                    "image": "",
                    "dataset": str(row.get("dataset", row.get("category", ""))),
                    **{key: row[key] for key in (SCORE, SCORED_BY) if key in row and row.get("output") is not None},
                },
            )
        )
        places.append((where, samples[-1].id))
    refuse_repeated_ids(places)
    return tuple(samples)


def instruction_of(row: Row) -> str | None:
    """The instruction of a row of AlpacaEval, IFEval or Arena-Hard."""
    for key in ("instruction", "prompt"):
        if isinstance(row.get(key), str):
            return str(row[key])
    turns = row.get("turns")
    if isinstance(turns, list) and turns and isinstance(turns[0], Mapping) and isinstance(turns[0].get("content"), str):
        return str(turns[0]["content"])
    return None


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    by_text = _ids_by_text(samples)
    where = name_of(source)
    rows = []
    for number, row in enumerate(read_rows(source), 1):
        place = place_of(row, where, number)
        rows.append(_as_ours(plain_answer(row, place), by_text, place))
    saved = match(rows, samples, where, IdRules(keys=(*_ID_KEYS, "idx", "index")))
    return replace(saved, verdicts=saved.verdicts or by_score(samples, rows, where))


def _as_ours(row: Row, by_text: Mapping[str, Sequence[str]], where: str) -> Row:
    """A row of AlpacaEval, Arena-Hard or IFEval with an id and a text; others as they are."""
    if "text" in row:
        return row
    if "output" in row:
        return {**row, "id": _by_text(row.get("instruction"), by_text, where), "text": row["output"]}
    turns = row.get("messages")
    if "uid" in row and isinstance(turns, list) and turns and isinstance(turns[-1], Mapping):
        said = turns[-1].get("content")
        return {"id": row["uid"], "text": said.get("answer") if isinstance(said, Mapping) else said}
    if "response" in row and "prompt" in row and not any(key in row for key in _ID_KEYS):
        return {"id": _by_text(row["prompt"], by_text, where), "text": row["response"]}
    return row


def _ids_by_text(samples: Sequence[EvalSample]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for sample in samples:
        found.setdefault(sample.meta["question"], []).append(sample.id)
    return found


def _by_text(instruction: object, by_text: Mapping[str, Sequence[str]], where: str) -> str:
    found = by_text.get(str(instruction), [])
    if len(found) != 1:
        raise DataError(f"{where}: {len(found)} questions have the instruction {str(instruction)[:60]!r}; give ids")
    return found[0]


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: ScoringProtocol, options: Mapping[str, Any]
) -> Graded:
    """Put the judge's preference beside both answers.

    Raises:
        EvalIncompleteError: there are no verdicts, or too many are missing.
    """
    pairs = pair_by_id(samples, answers)
    if options["verdicts"] is None:
        raise EvalIncompleteError(
            "a win rate needs a judge's verdicts: pass verdicts=FILE; or scores of both sides: give the candidates of "
            "mmpref sample score as questions and as answers"
        )
    if lacking := [sample.id for sample, _ in pairs if not isinstance(sample.target, str)]:
        raise DataError(f"{len(lacking)} questions have no reference answer ('output'), first '{lacking[0]}'")
    verdicts, missing = usable_on(_verdicts(options["verdicts"], samples), pairs)
    longer = {sample.id: len(text) - len(sample.target) for sample, text in pairs if sample.id in verdicts}
    scaled = scaled_differences(longer)
    items = [
        {
            "id": sample.id,
            "image": "",
            "question": sample.meta["question"],
            "dataset": sample.meta["dataset"],
            "text": text,
            "reference": sample.target,
            "missing": sample.id not in verdicts,
            "preference": verdicts[sample.id].preference if sample.id in verdicts else None,
            "longer": scaled.get(sample.id, 0.0),
        }
        for sample, text in pairs
    ]
    judged_by, *more = judging_notes(verdicts, missing, options["verdicts"])
    if longer and len(set(longer.values())) == 1:
        more.append("all length differences are the same: there is no length to control for, and lc is the win rate")
    notes = (judged_by, "lc_win_rate_local and lc_win_rate are mmpref's own length control, not AlpacaEval's", *more)
    return Graded.of(items, notes=notes, n_missing=len(missing))


def _verdicts(source: Any, samples: Sequence[EvalSample]) -> Any:
    by_text = _ids_by_text(samples)
    if isinstance(source, list) and source and not isinstance(source[0], Mapping):
        return read_verdicts(source, "preference")
    rows = []
    for where, row in question_rows(source, "verdicts"):
        if "output_1" in row and "output_2" in row:
            value = (
                {"error": "no preference"} if row.get("preference") is None else {"preference": row["preference"] - 1}
            )
            rows.append(
                {
                    "id": _by_text(row.get("instruction"), by_text, where),
                    "judge": str(row.get("annotator", "")),
                    **value,
                }
            )
        else:
            rows.append(dict(row))
    return read_verdicts(rows, "preference", verdicts_name(source))


def count(item: Mapping[str, Any]) -> Counts:
    """What one judged answer adds."""
    if item["missing"]:
        return {"judged": 0}
    x, y = item["longer"], item["preference"]
    size = bin_of(len(item["text"]), len(item["reference"]))
    return {
        **length_counts(x, y),
        f"judged_{size}": 1,
        f"won_{size}": y,
        "judged": 1,
        "won": y,
        "x": x,
        "xx": x * x,
        "xy": x * y,
        "characters": len(item["text"]),
        "reference_characters": len(item["reference"]),
        "longer": len(item["text"]) > len(item["reference"]),
    }


_WHY = "there are no judged answers"


def _mean(name: str, *, proportion: bool = False) -> Ratio:
    return Ratio(top={name: 1}, bottom={"judged": 1}, why_empty=_WHY, proportion=proportion)


def _at_equal_length(values: Mapping[str, Array]) -> Array:
    """The line's height at x = 0; the plain mean where all differences are the same and there is no line."""
    x, y, xx, xy = (values[name] for name in ("x", "y", "xx", "xy"))
    variance = xx - x * x
    slope = np.divide(xy - x * y, variance, out=np.zeros_like(y), where=variance > 1e-12)
    height: Array = np.clip(y - slope * x, 0.0, 1.0)
    return height


def _of_size(size: str) -> Ratio:
    return Ratio(top={f"won_{size}": 1}, bottom={f"judged_{size}": 1}, why_empty=f"no judged answer is {size}")


_WIN = _mean("won", proportion=True)
_CONTROLLED = LengthControlled()
_METRICS: dict[str, Metric] = {
    "win_rate": _WIN,
    "lc_win_rate_local": _CONTROLLED,
    "lc_minus_wr": Formula(
        parts={"lc": _CONTROLLED, "wr": _WIN},
        combine=lambda values: values["lc"] - values["wr"],
        why_empty=_CONTROLLED.why_empty,
        proportion=False,
    ),
    **{f"win_rate_{size}": _of_size(size) for size in (SHORTER, SIMILAR, LONGER)},
    "lc_win_rate": Formula(
        parts={"x": _mean("x"), "y": _WIN, "xx": _mean("xx"), "xy": _mean("xy")},
        combine=_at_equal_length,
        why_empty=_WHY,
    ),
    "mean_length": _mean("characters"),
    "reference_length": _mean("reference_characters"),
    "longer_share": _mean("longer", proportion=True),
}

WIN_RATE = Benchmark(
    name="win_rate",
    title="Win rate against reference answers",
    paper="length control after Dubois et al. 2024, arXiv:2404.04475; ours is another",
    official="none; export to AlpacaEval 2 or Arena-Hard for theirs",
    protocols=by_name(ScoringProtocol(name="mmpref")),
    max_new_tokens=2048,
    options={"verdicts": None},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["id"]),
    counts=each(count),
    metrics=lambda protocol, part, items: _METRICS,
    parts=lambda item: (item["dataset"],) if item["dataset"] else (),
    needs_judge=True,
    headline=("lc_win_rate_local", "win_rate", "lc_minus_wr", "mean_length"),
    undirected=("lc_minus_wr", "mean_length", "reference_length", "longer_share"),
)
