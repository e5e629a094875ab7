"""HallusionBench: control pairs of yes-or-no questions about images and edited images (Guan et al. 2023,
"HallusionBench: An Advanced Diagnostic Suite for Entangled Language Hallucination and Visual Illusion in Large
Vision-Language Models"; official script tianyi-lab/HallusionBench ``evaluation.py`` and ``utils.py``).

``questions`` is ``HallusionBench.json`` (1,129 rows, 178 of them without an image). An id is the script's own name of a
question, ``category_subcategory_set_figure_question``, such as ``VD_illusion_0_1_2``; numbers from 0 on in the order of
the file and the layout of the script, rows with ``model_prediction``, are read as well. ``view="image"`` leaves the
questions without an image out, as lmms-eval and VLMEvalKit do (951 rows); their protocols always do so.

``a_acc`` right answers; ``q_acc`` question pairs (one question over all figures of its set) with every answer right;
``f_acc`` figures with every answer right. ``easy_a_acc`` and ``hard_a_acc`` are the script's names for pairs over
original and over edited figures. The diagnosis: ``yes_diff`` share of yes less the true share, ``fp_ratio`` share of
wrong answers whose truth is no, ``figure_*`` consistency within a figure, and ``lh``, ``vi``, ``mixed`` the shares of
errors blamed on language, on vision and on both by the script's decision tree.

Who says that an answer is right:

- A judge, whose verdicts come with ``verdicts=`` (see ``verdicts.py``) or are in the answer file (``..._gpt_check``
  and ``same``). The script used GPT-4 in 2023. "unclear" is wrong, except for questions without an image.
- Without verdicts a rule: the answer is read as yes or no and compared with the truth. A note in the result says so.
  Under ``vlmevalkit`` the rule is the tool's own and there is no judge; under ``lmms_eval`` it is the rule that is
  commented out there, every answer without "yes" is a no. ``official`` and ``mmpref`` use our reader; "I cannot tell"
  is "unclear", an answer that cannot be read is wrong.

``official`` and ``lmms_eval`` (with verdicts) round to four decimals of a percent, as the scripts print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item
from mmpref.evals.benchmarks.hallusionbench_metrics import PROTOCOLS, HallusionBenchProtocol, counts, metrics
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.layouts import place_of
from mmpref.evals.files.matching import match
from mmpref.evals.files.narrowed import Chosen, match_chosen, not_chosen
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_ids
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.files.verdicts import judging_notes, read_verdicts, usable_on
from mmpref.files.rows import Row, Source, choose, row_id, short, text_of
from mmpref.records import Answer, EvalSample, ImageRef, user_turn

_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")
_NEEDED = (*_KEYS, "visual_input", "question", "gt_answer")
_VIEWS = ("all", "image")
_CODES = {"incorrect": 0, "correct": 1, "unclear": 2}
_CHECK_SUFFIX = "_gpt_check"  # the script's key for what its judge said: "0", "1" or "2"


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per row, those without an image too unless ``view="image"``."""
    view = choose(str(options["view"]), _VIEWS, "view of HallusionBench")
    rows = question_rows(source)
    for where, row in rows:
        if missing := [key for key in _NEEDED if key not in row]:
            raise DataError(f"{where}: no {missing[0]}; a row of HallusionBench.json has {', '.join(_NEEDED)}")
        if row["category"] not in ("VD", "VS"):
            raise DataError(f"{where}: category is {short(row['category'])}; expected VD or VS")
        if isinstance(row["gt_answer"], bool) or str(row["gt_answer"]) not in ("0", "1"):
            raise DataError(f"{where}: gt_answer is {short(row['gt_answer'])}; expected 0 for no or 1 for yes")
    everything = [_sample(row, where, options) for where, row in rows]
    what = f"a question ({', '.join(_KEYS)})"
    refuse_repeated_ids(((where, sample.id) for (where, _), sample in zip(rows, everything, strict=True)), what)
    shown = [sample for sample, (_, row) in zip(everything, rows, strict=True) if view == "all" or _has_image(row)]
    return Chosen.of(everything, shown)


def _has_image(row: Row) -> bool:
    return str(row["visual_input"]) != "0"


def _name(row: Row) -> str:
    return "_".join(str(row[key]) for key in _KEYS)


def _sample(row: Row, where: str, options: Mapping[str, Any]) -> EvalSample:
    names = {key: row_id(row, where, (key,)) for key in (*_KEYS, "visual_input")}
    file = text_of(row, "filename", where, "").removeprefix("./")
    images = (ImageRef(path=file),) if _has_image(row) and file else ()
    question = text_of(row, "question", where)
    return EvalSample(
        id="_".join(names[key] for key in _KEYS),
        images=images,
        prompt=user_turn(question + str(options["prompt_suffix"]), num_images=len(images)),
        target="yes" if str(row["gt_answer"]) == "1" else "no",
        meta={
            **names,
            "image": file,
            "question": question,
            "reference": text_of(row, "gt_answer_details", where, ""),
            "note": text_of(row, "sample_note", where, ""),
        },
    )


def _ids_of(row: Row) -> list[str]:
    """From the script's own fields, or from VLMEvalKit's index, whose last three numbers are set, figure, question."""
    if all(row.get(key) is not None for key in _KEYS):
        return [_name(row)]
    kind, numbers = str(row.get("l2-category", "")), str(row.get("index", "")).split("_")[3:6]
    if kind and len(numbers) == 3:
        return ["_".join([*head, kind, *numbers]) for head in ([], [str(row.get("category", ""))])]
    return []


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    rows = read_rows(source)

    def matched(asked: Sequence[EvalSample]) -> Saved:
        return match(rows, asked, name_of(source), IdRules(ids_of=_ids_of, numbered=True))

    saved = match_chosen(rows, samples, matched, f"view={options['view']}")
    where = name_of(source)
    found = [_embedded(row, place_of(row, where, number)) for number, row in enumerate(rows, 1)]
    return replace(saved, verdicts=tuple(verdict for verdict in found if verdict is not None))


def _embedded(row: Row, where: str) -> dict[str, Any] | None:
    """The verdict that is in a row of the script's layout."""
    key = next((key for key in row if str(key).endswith(_CHECK_SUFFIX)), None)
    if key is None or not _ids_of(row):
        return None
    verdict = {str(code): name for name, code in _CODES.items()}.get(str(row[key]))
    if verdict is None:
        raise DataError(f"{where}: {key} is {short(row[key])}; expected 0, 1 or 2")
    same = {} if row.get("same") is None else {"same": str(row["same"]) == "1"}
    return {"id": _name(row), "verdict": verdict, "judge": str(key).removesuffix(_CHECK_SUFFIX), **same}


def grade(
    samples: Sequence[EvalSample],
    answers: Sequence[Answer],
    protocol: HallusionBenchProtocol,
    options: Mapping[str, Any],
) -> Graded:
    """Take the judge's verdict on every answer, or read yes or no where there is no judge."""
    notes = []
    hidden = not_chosen(samples)
    if protocol.with_image_only:
        blind = {sample.id for sample in samples if not sample.images}
        hidden |= blind
        samples = [sample for sample in samples if sample.images]
        answers = [answer for answer in answers if answer.id not in hidden]
        notes += [f"only the {len(samples)} questions with an image, as in the tool"] if blind else []
    pairs = pair_by_id(samples, answers)
    missing: list[str] = []
    if options["verdicts"] is None:
        codes = {sample.id: _by_rule(sample, text, protocol) for sample, text in pairs}
        notes.append("no judge: answers read as yes or no by a rule and compared with the truth")
    elif not protocol.takes_verdicts:
        raise ConfigError(f"protocol '{protocol.name}' of HallusionBench reads yes or no by a rule; leave verdicts out")
    else:
        read = {name: v for name, v in read_verdicts(options["verdicts"], "verdict").items() if name not in hidden}
        verdicts, missing = usable_on(read, pairs, first=_first_answers(pairs))
        codes = {
            name: {"code": _CODES[verdict.verdict or ""], "same": verdict.same} for name, verdict in verdicts.items()
        }
        notes += judging_notes(verdicts, missing, options["verdicts"])
    items = [_item(sample, text, codes.get(sample.id), protocol) for sample, text in pairs]
    _compare_with_first(items, ruled=options["verdicts"] is None)
    for item in items:
        item["blame"] = _blame(item) if not item["missing"] else None
    return Graded.of(items, notes=notes, n_missing=len(missing))


def _first_answers(pairs: Sequence[tuple[EvalSample, str]]) -> dict[str, str]:
    """The answer to figure 0 of the same question, by the ids of the questions about the other figures."""
    zero = {_pair(sample.meta): text for sample, text in pairs if sample.meta["figure_id"] == "0"}
    return {
        sample.id: zero[_pair(sample.meta)]
        for sample, _ in pairs
        if sample.meta["figure_id"] != "0" and _pair(sample.meta) in zero
    }


def _by_rule(sample: EvalSample, text: str, protocol: HallusionBenchProtocol) -> dict[str, Any]:
    read = protocol.read(text, str(sample.meta["question"]))
    return {"code": _CODES["unclear"] if read == "unclear" else int(read == sample.target), "read": read}


def _item(sample: EvalSample, text: str, found: Mapping[str, Any] | None, protocol: HallusionBenchProtocol) -> Item:
    code = None if found is None else found["code"]
    excused = protocol.excuses_unclear and sample.meta["category"] == "VS" and sample.meta["figure_id"] == "0"
    correct = code == _CODES["correct"] or (code == _CODES["unclear"] and excused)
    # what a judged answer said follows from whether it is right, as in the script's yes_ratio_stats
    says_yes = correct == (sample.target == "yes")
    if found is not None and "read" in found and not protocol.says_yes_by_correctness:
        says_yes = found["read"] == "yes"
    return {
        "id": sample.id,
        **{key: value for key, value in sample.meta.items() if key != "note"},
        "text": text,
        "label": sample.target,
        "missing": found is None,
        "read": "judged" if found is None else found.get("read", "judged"),
        "code": code,
        "same": None if found is None else found.get("same"),
        "correct": correct,
        "says_yes": says_yes,
    }


def _compare_with_first(items: Sequence[Item], *, ruled: bool) -> None:
    """Beside every answer the code of the one to figure 0, and whether both say the same where a rule read them."""
    first = {_pair(item): item for item in items if item["figure_id"] == "0"}
    for item in items:
        origin = first.get(_pair(item))
        item["first_code"] = origin["code"] if origin else None
        if ruled and origin:
            item["same"] = item["read"] == origin["read"] != "unparsed"


def _pair(item: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(item[key] for key in ("category", "subcategory", "set_id", "question_id"))


def _blame(item: Mapping[str, Any]) -> str | None:
    """What an error is blamed on: ``lh``, ``vi``, ``mixed``; None for no error, "?" when it cannot be said.

    The decision tree of the paper's section 3.4 as the script has it, by the answer to figure 0 of the same question.
    """
    code, first = item["code"], item["first_code"]
    visual = item["category"] == "VD"
    if code == 1:
        return None
    if item["figure_id"] == "0":
        return "vi" if visual else ("lh" if code == 0 else None)
    if first is None:
        return "?"
    if visual:
        if first == 1 and code == 0:
            return {True: "mixed", False: "vi", None: "?"}[item["same"]]
        return "vi"
    if first == 0:
        return "mixed" if code == 2 else {True: "lh", False: "mixed", None: "?"}[item["same"]]
    if first == 2 or code == 2 or item["visual_input"] == "1":
        return "vi"
    return {True: "lh", False: "vi", None: "?"}[item["same"]]


HALLUSIONBENCH = Benchmark(
    name="hallusionbench",
    title="HallusionBench",
    paper="Guan et al. 2023, arXiv:2310.14566",
    official="tianyi-lab/HallusionBench evaluation.py",
    protocols=PROTOCOLS,
    max_new_tokens=128,
    options={"view": "all", "verdicts": None, "prompt_suffix": ""},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: "_".join(item[key] for key in ("category", "subcategory", "set_id")),
    counts=counts,
    metrics=metrics,
    parts=lambda item: (item["category"], f"{item['category']}_{item['subcategory']}"),
    needs_judge=True,
    headline=("a_acc", "f_acc", "q_acc", "yes_ratio"),
    lower_is_better=("figure_inconsistent", "figure_wrong"),
    undirected=("yes_ratio", "yes_diff", "fp_ratio", "lh", "vi", "mixed"),
)
