"""Answers in the formats of other tools, so that one can move there and back.

``jsonl`` is mmpref's own. ``llava`` is what LLaVA's and LLaVA-lineage scripts write, ``lmms_eval`` a sample log,
``vlmevalkit`` the table (.xlsx or .tsv) that its ``evaluate`` reads, ``official`` the layout of the benchmark's own
script. ``alpaca_eval``, ``arena_hard`` and ``ifeval`` are for open instructions (benchmark ``win_rate``): AlpacaEval
2's ``model_outputs``, Arena-Hard-Auto v2's ``model_answer`` (without token counts: its ``add_markdown_info.py`` adds
them) and the response file of IFEval. A tool that does not ask some of the questions gets only the others;
``Exported`` says which were left out and why.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.mme import COGNITION, PERCEPTION
from mmpref.evals.files.export_endings import FOLDER, JSON_ARRAY, TABLE, kind_of, refuse_ending
from mmpref.evals.files.files_read import files_read
from mmpref.evals.files.rows import pair_by_id
from mmpref.evals.scoring import benchmark_named, with_defaults
from mmpref.files.reading import refuse_written_over
from mmpref.files.rows import Source, choose
from mmpref.files.tables import write_table
from mmpref.files.writing import json_text, write_text, writing_to
from mmpref.records import EvalSample

Row: TypeAlias = dict[str, Any]
RowOf: TypeAlias = Callable[[EvalSample, str], Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote: rows, the ids of the answers that the other tool has no place for, and of those that do not
    stand in the file as they were, each with the reason."""

    num_rows: int
    left_out: tuple[str, ...] = ()
    why: str = ""
    changed: tuple[str, ...] = ()
    why_changed: str = ""


def export_answers(
    benchmark: str,
    questions: Source,
    answers: Source,
    to: str,
    out: str | Path,
    *,
    model: str = "mmpref",
    **options: Any,
) -> Exported:
    """Write answers as ``to`` to the file (for MME's ``official`` the folder) ``out``.

    Args:
        model: the name of the model in formats that have a place for it.
        options: of the benchmark, as in scoring.

    Raises:
        ConfigError: the format is unknown, the benchmark has no such layout, or ``out`` ends as another format does or
            is a file that is read.
        DataError: questions and answers do not fit together.
    """
    chosen = benchmark_named(benchmark)
    choose(to, FORMATS, "format")
    row_of = _row_maker(chosen.name, to, model)
    filled = with_defaults(chosen, options)
    path = Path(out)
    is_folder = kind_of(chosen.name, to) == FOLDER
    names = (*PERCEPTION, *COGNITION) if is_folder else ()
    outputs = {f"{name}, a file of --out,": path / f"{name}.txt" for name in names} or {"--out": path}
    refuse_written_over(outputs, files_read(chosen.name, questions, answers, options=options))
    refuse_ending(path, chosen.name, to)
    samples = chosen.load(questions, filled)
    pairs = pair_by_id(samples, chosen.load_answers(answers, samples, filled).answers, may_cover_part=True)
    asks, why = _VLMEVALKIT_ASKS.get(chosen.name, _ALL) if to == "vlmevalkit" else _ALL
    rows = [(sample, row_of(sample, text)) for sample, text in pairs if asks(sample)]
    left_out = tuple(sample.id for sample, _ in pairs if not asks(sample))
    if left_out and not rows:
        raise DataError(f"nothing to write for {to}: {why}, and none of the {len(pairs)} answers is to one of these")
    exported = Exported(num_rows=len(rows), left_out=left_out, why=why if left_out else "")
    if is_folder:
        changed = _write_mme(path, rows)
        return replace(exported, changed=changed, why_changed=_WHY_CHANGED if changed else "")
    content = [row for _, row in rows]
    if to == "lmms_eval":
        content = [{"doc_id": number, **row} for number, row in enumerate(content)]
    kind = kind_of(chosen.name, to)
    if kind == TABLE:
        with writing_to(path):
            write_table(path, content)
    elif kind == JSON_ARRAY:
        write_text(path, json_text(content, indent=1) + "\n")
    else:
        write_text(path, "".join(json_text(row) + "\n" for row in content))
    return exported


def _row_maker(benchmark: str, to: str, model: str) -> RowOf:
    named = {"benchmark": benchmark, "model": model}
    if to in _GENERAL and (to not in ("alpaca_eval", "arena_hard", "ifeval") or benchmark == "win_rate"):
        return lambda sample, text: _GENERAL[to](sample, text, named)
    table = {"vlmevalkit": _VLMEVALKIT, "official": _OFFICIAL}.get(to, {})
    if benchmark not in table:
        with_it = ", ".join(table) or "win_rate"
        raise ConfigError(f"there is no {to} layout for {benchmark}; it exists for {with_it}")
    return table[benchmark]


# --- formats that are the same for every benchmark -------------------------------------------------------------------


def _jsonl(sample: EvalSample, text: str, named: Mapping[str, str]) -> Row:
    return {"id": sample.id, "text": text}


def _llava(sample: EvalSample, text: str, named: Mapping[str, str]) -> Row:
    return {
        "question_id": sample.id,
        "prompt": sample.prompt[-1].text,
        "text": text,
        "answer_id": _answer_id(sample, named["model"]),
        "model_id": named["model"],
        "metadata": {},
    }


def _lmms_eval(sample: EvalSample, text: str, named: Mapping[str, str]) -> Row:
    doc = {key: value for key, value in sample.meta.items() if isinstance(value, str | int)}
    return {
        "doc": {**doc, "question_id": sample.id},
        "target": sample.target if isinstance(sample.target, str) else "",
        "resps": [[text]],
        "filtered_resps": [text],
        "input": sample.prompt[-1].text,
    }


def _alpaca_eval(sample: EvalSample, text: str, named: Mapping[str, str]) -> Row:
    return {
        "dataset": sample.meta["dataset"],
        "instruction": sample.meta["question"],
        "output": text,
        "generator": named["model"],
    }


def _arena_hard(sample: EvalSample, text: str, named: Mapping[str, str]) -> Row:
    turns = [{"role": "user", "content": sample.meta["question"]}, {"role": "assistant", "content": {"answer": text}}]
    return {
        "uid": sample.id,
        "ans_id": _answer_id(sample, named["model"]),
        "model": named["model"],
        "messages": turns,
        "tstamp": 0.0,
        "metadata": {},
    }


def _ifeval(sample: EvalSample, text: str, named: Mapping[str, str]) -> Row:
    return {"prompt": sample.meta["question"], "response": text}


def _answer_id(sample: EvalSample, model: str) -> str:
    """The same for the same question and model, so that exporting twice gives the same file."""
    return hashlib.sha256(f"{model}\0{sample.id}".encode()).hexdigest()[:22]


_GENERAL: Mapping[str, Callable[[EvalSample, str, Mapping[str, str]], Row]] = {
    "jsonl": _jsonl,
    "llava": _llava,
    "lmms_eval": _lmms_eval,
    "alpaca_eval": _alpaca_eval,
    "arena_hard": _arena_hard,
    "ifeval": _ifeval,
}
FORMATS = (*_GENERAL, "vlmevalkit", "official")


# --- VLMEvalKit's tables ---------------------------------------------------------------------------------------------


def _table_row(sample: EvalSample, text: str, **more: str) -> Row:
    label = str(sample.target).strip().capitalize()
    columns = {"index": sample.id, "question": sample.meta["question"], "answer": label, **more}
    return {**columns, "image_path": sample.meta["image"], "prediction": text}


def _vlmevalkit_hallusionbench(sample: EvalSample, text: str) -> Row:
    meta = sample.meta
    names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
    row = _table_row(sample, text, category=meta["category"])
    kind = f"{meta['category']}_{meta['subcategory']}"
    return {**row, "index": "_".join(meta[name] for name in names), "l2-category": kind}


_VLMEVALKIT: Mapping[str, RowOf] = {
    "pope": lambda sample, text: _table_row(sample, text, category=sample.meta["split"] or "pope"),
    "mme": lambda sample, text: _table_row(sample, text, category=sample.meta["category"]),
    "amber": lambda sample, text: _table_row(sample, text, category=sample.meta["type"]),
    "hallusionbench": _vlmevalkit_hallusionbench,
}
_Asks: TypeAlias = tuple[Callable[[EvalSample], bool], str]
_ALL: _Asks = (lambda sample: True, "")
_VLMEVALKIT_ASKS: Mapping[str, _Asks] = {
    "amber": (
        lambda sample: bool(sample.meta["dimension"] != "generative"),
        "VLMEvalKit has only AMBER's yes-or-no questions",
    ),
    "hallusionbench": (
        lambda sample: bool(sample.images),
        "VLMEvalKit has only HallusionBench's questions with an image",
    ),
}


# --- the layouts of the official scripts -----------------------------------------------------------------------------


def _official_hallusionbench(sample: EvalSample, text: str) -> Row:
    meta = sample.meta
    keys = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id", "question")
    return {
        **{key: meta[key] for key in keys},
        "sample_note": meta["note"],
        "gt_answer_details": meta["reference"],
        "gt_answer": "1" if sample.target == "yes" else "0",
        "filename": f"./{meta['image']}" if meta["image"] else None,
        "model_prediction": text,
    }


def _official_mmhal(sample: EvalSample, text: str) -> Row:
    meta = sample.meta
    return {
        "question_type": meta["type"],
        "question_topic": meta["topic"],
        "image_id": sample.id,
        "image_src": meta["image_src"],
        "image_content": list(meta["image_content"]),
        "question": meta["question"],
        "gt_answer": sample.target,
        "model_answer": text,
    }


def _number(name: str) -> int | str:
    return int(name) if name.isdecimal() else name


_OFFICIAL: Mapping[str, RowOf] = {
    "pope": lambda sample, text: {"question": sample.meta["question"], "answer": text},
    "chair": lambda sample, text: {"image_id": _number(sample.id), "caption": text},
    "amber": lambda sample, text: {"id": _number(sample.id), "response": text},
    "hallusionbench": _official_hallusionbench,
    "mme": lambda sample, text: {"text": text},
    "mmhal": _official_mmhal,
    "object_halbench": lambda sample, text: {
        "image_id": _number(sample.id),
        "question": sample.meta["question"],
        "answer": text,
    },
}
_WHY_CHANGED = "MME's file has one line for an answer, so that line breaks and tabs became spaces"


def _write_mme(folder: Path, rows: Sequence[tuple[EvalSample, Row]]) -> tuple[str, ...]:
    """One file per subtask; a line break or tab in an answer becomes a space, because the script knows only lines, and
    half of an emoji a mark. Returns the ids of the answers that were changed by it."""
    lines: dict[str, list[str]] = {}
    changed: list[str] = []
    for sample, row in rows:
        subtask, image = sample.meta["image"].split("/", 1)
        answer = " ".join(row["text"].split("\n")).replace("\t", " ").replace("\r", " ")
        answer = answer.encode("utf-8", "replace").decode("utf-8")
        changed += [sample.id] if answer != row["text"] else []
        cells = (image, sample.prompt[-1].text, sample.target.capitalize(), answer)
        lines.setdefault(subtask, []).append("\t".join(cells) + "\n")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for subtask, text in lines.items():
        write_text(folder / f"{subtask}.txt", "".join(text))
    return tuple(changed)
