"""The rows of answers in the formats of other tools."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from mmpref.errors import ConfigError
from mmpref.records import EvalSample

Row: TypeAlias = dict[str, Any]
RowOf: TypeAlias = Callable[[EvalSample, str], Row]


def row_maker(benchmark: str, to: str, model: str) -> RowOf:
    """What makes a row of a question and its answer.

    Args:
        benchmark: its name.
        to: one of ``FORMATS``.
        model: the name of the model in formats that have a place for it.

    Raises:
        ConfigError: the benchmark has no such layout.
    """
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


def _vlmevalkit_naturalbench(sample: EvalSample, text: str) -> Row:
    """VLMEvalKit counts all questions, four to a group; without a number for a group the id stays."""
    group, place = sample.meta["group"], sample.meta["place"]
    row = _table_row(sample, text, type=sample.meta["type"])
    return {**row, "index": 4 * int(group) + 2 * int(place[1]) + int(place[4]) if group.isdecimal() else sample.id}


def _vlmevalkit_crpe(sample: EvalSample, text: str) -> Row:
    meta = sample.meta
    row = _table_row(sample, text, category=meta["category"])
    return {**row, "question": meta["text"], "answer": meta["answer"]}


def _vlmevalkit_mmvp(sample: EvalSample, text: str) -> Row:
    return _table_row(sample, text, **sample.meta["options"])


_VLMEVALKIT: Mapping[str, RowOf] = {
    "pope": lambda sample, text: _table_row(sample, text, category=sample.meta["split"] or "pope"),
    "mme": lambda sample, text: _table_row(sample, text, category=sample.meta["category"]),
    "amber": lambda sample, text: _table_row(sample, text, category=sample.meta["type"]),
    "hallusionbench": _vlmevalkit_hallusionbench,
    "naturalbench": _vlmevalkit_naturalbench,
    "crpe": _vlmevalkit_crpe,
    "mmvp": _vlmevalkit_mmvp,
}
Asks: TypeAlias = tuple[Callable[[EvalSample], bool], str]
_ALL: Asks = (lambda sample: True, "")
_VLMEVALKIT_ASKS: Mapping[str, Asks] = {
    "amber": (
        lambda sample: bool(sample.meta["dimension"] != "generative"),
        "VLMEvalKit has only AMBER's yes-or-no questions",
    ),
    "hallusionbench": (
        lambda sample: bool(sample.images),
        "VLMEvalKit has only HallusionBench's questions with an image",
    ),
}


def asks(benchmark: str, to: str) -> Asks:
    """Which questions of a benchmark the other tool asks, and why it does not ask the others."""
    return _VLMEVALKIT_ASKS.get(benchmark, _ALL) if to == "vlmevalkit" else _ALL


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


def _official_dash_b(sample: EvalSample, text: str) -> Row:
    meta = sample.meta
    asked = {"question_id": _number(sample.id), "img_id": meta["img_id"], "object_name": meta["object"]}
    return {**asked, "gt": sample.target, "response": text}


def _official_mmvp(sample: EvalSample, text: str) -> Row:
    meta = sample.meta
    asked = {"question_id": _number(sample.id), "prompt": f"{meta['question']} {meta['listed']}"}
    return {**asked, "answer": f"({str(sample.target).lower()})", "response": text}


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
    "dash_b": _official_dash_b,
    "crpe": lambda sample, text: {"question_id": _number(sample.id), "text": text},
    "mmvp": _official_mmvp,
}
