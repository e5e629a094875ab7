"""Answer a benchmark and score it, so that a killed run goes on where it stopped.

The folder has what ``answer_log`` keeps (settings, images, answers), ``items.jsonl`` (what was read from each answer)
and, last, ``results.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.answering import Answered, answer
from mmpref.evals.image_check import incomplete, note
from mmpref.evals.judge import judge_answers
from mmpref.evals.named_setting import setting_note
from mmpref.evals.plan import VERDICTS, EvalFiles, EvalPlan, EvalSettings, plan_evaluation
from mmpref.evals.results import RESULTS, other_protocols, write_items, write_result
from mmpref.evals.scoring import official_beside, score_samples
from mmpref.files.locking import only_writer
from mmpref.files.reading import read_json, without_links
from mmpref.files.rows import Source
from mmpref.generation import Answerer
from mmpref.generation.answer_log import ITEMS
from mmpref.generation.api_server import Server
from mmpref.generation.contract import facts_of
from mmpref.generation.model_source import Model, generation_note
from mmpref.records import Answer, TaskResult


def evaluate(
    model: Model,
    benchmark: str,
    *,
    questions: Source,
    images_root: str | Path | None,
    out: str | Path,
    answerer: Answerer | Server | None = None,
    settings: EvalSettings | None = None,
    **options: Any,
) -> TaskResult:
    """Answer ``questions`` with a model, score the answers, and write both to the folder ``out``.

    Started by torchrun, every process answers a share, and all return the result that the first one writes.

    Args:
        model: a folder (of a model or an adapter), a hub id, a ``ModelSource`` or a loaded model; also what
            ``results.json`` names as the model.
        images_root: relative image paths of the questions start here.
        answerer: who answers in place of the model in this process: a ``Server``, whose own name of the model counts,
            or any answerer.
        settings: protocol, limits, batches, processes, a judge.
        options: of the benchmark, such as CHAIR's ``synonyms``.

    Raises:
        ConfigError: an unknown name, or ``out`` holds answers made with other settings or from other images, or to
            more questions than the limit asks for.
        DataError: none of the images can be used, as where ``images_root`` is the wrong folder.
        EvalIncompleteError: the answerer left questions without an answer; or some were not asked, as their images
            cannot be opened, and the result of the others is written and is the error's ``result``.
    """
    plan = plan_evaluation(
        model,
        benchmark,
        options,
        files=EvalFiles(questions=questions, images_root=images_root, out=Path(out)),
        answerer=answerer,
        settings=settings or EvalSettings(),
    )
    only_run = only_writer(plan.files.out, "choose another --out") if plan.ranks.is_first else nullcontext()
    with plan.ranks.together(), only_run:
        found = answer(plan)
        result = score_and_write(plan, found)
    if found.unasked:
        error = incomplete(found.unasked, plan.files.out, len(found.samples))
        error.result, error.reported_by_other_rank = result, not plan.ranks.is_first
        raise error
    return result


def score_and_write(plan: EvalPlan, found: Answered) -> TaskResult:
    """Let the judge judge where there is one, score the answers, and write ``items.jsonl`` and ``results.json``."""
    options = dict(plan.options)
    if (judge := plan.settings.judge) is not None:
        verdicts = plan.files.out / VERDICTS
        plan.ranks.first_does(lambda: judge_answers(plan.benchmark.name, found.samples, found.answers, judge, verdicts))
        options["verdicts"] = verdicts
    result = _score(plan, found, options, plan.settings.protocol)
    result = replace(result, notes=(*result.notes, *_notes(plan, found)))
    if plan.ranks.is_first:
        beside = {}
        if official_beside(plan.benchmark, plan.settings.protocol, options):
            beside["official"] = _score(plan, found, options, "official")
        write_items(plan.files.out / ITEMS, result)
        write_result(
            plan.files.out / RESULTS,
            result,
            model=plan.model_name,
            settings=found.depends_on,
            asked=plan.asked,
            **({"setting": plan.setting} if plan.setting is not None else {}),
            images=str(without_links(plan.files.images_root)) if plan.files.images_root is not None else None,
            complete=len(found.samples) == len(plan.samples),
            n_unanswered=len(found.unasked),
            protocols=other_protocols(beside),
            answered_by=_answered_by(found.answerer, plan.files.out / RESULTS) | _reported_by_server(found.answers),
        )
    plan.ranks.wait()
    return result


def _score(plan: EvalPlan, found: Answered, options: Mapping[str, Any], protocol: str) -> TaskResult:
    return score_samples(plan.benchmark, found.samples, found.answers, protocol, options, seed=plan.settings.seed)


def _notes(plan: EvalPlan, found: Answered) -> list[str]:
    """What a result says of how it was answered."""
    notes = [note(found.unasked)] if found.unasked else []
    if plan.setting is not None:
        notes.append(setting_note(plan.setting))
    writes_here = plan.answerer is None and not plan.benchmark.by_likelihood
    if writes_here and (left_out := generation_note(plan.model)) is not None:
        notes.append(left_out)
    if len(states := _reported_by_server(found.answers).get("system_fingerprints", [])) > 1:
        notes.append(f"the server changed its state while it answered (system_fingerprint {', '.join(states)})")
    return notes


def _reported_by_server(answers: Sequence[Answer]) -> dict[str, Any]:
    """The names and states of the model in the replies, over all answers of the folder."""
    named = sorted({answer.served_as for answer in answers} - {""})
    states = sorted({answer.server_state for answer in answers} - {""})
    return ({"served_as": named} if named else {}) | ({"system_fingerprints": states} if states else {})


def _answered_by(answerer: Answerer | None, results: Path) -> dict[str, Any]:
    """What the answerer says about itself; of answers that were there already, what it said then."""
    if answerer is not None and (facts := facts_of(answerer)).get("served_as") != []:
        return dict(facts)
    try:
        content = read_json(results, DataError)
    except DataError:
        return {}
    before = content.get("answered_by") if isinstance(content, dict) else None
    return before if isinstance(before, dict) else {}
