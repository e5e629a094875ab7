"""The answers of an evaluation: what its folder has already, and the rest from the answerer, so that a killed run goes
on where it stopped.

Questions whose images cannot be opened are found before the model is loaded, listed in ``unanswered.jsonl`` and left
out of every number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals.image_check import Unasked, unasked, write_unanswered
from mmpref.evals.plan import EvalPlan, Progress
from mmpref.files.rows import first_ids
from mmpref.files.writing import writing_to
from mmpref.generation import Answerer, fingerprint
from mmpref.generation.answer_log import AnswerLog, as_line
from mmpref.generation.contract import failures_of
from mmpref.records import Answer, EvalSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The questions that were asked, their answers in the same order, and the questions that were not, with reasons.

    ``depends_on`` is the plan's, with what a server says of its model; ``answerer`` is None where all was answered
    before.
    """

    samples: Sequence[EvalSample]
    answers: Sequence[Answer]
    unasked: Mapping[str, Unasked]
    answerer: Answerer | None
    depends_on: Mapping[str, Any]


def answer(plan: EvalPlan) -> Answered:
    """Answer what is not answered yet; every answer is written before the next is asked for.

    Raises:
        ConfigError: the folder has answers made with other settings, or to more questions than are wanted.
        DataError: none of the images can be used.
        EvalIncompleteError: questions are left without an answer.
    """
    ranks, server = plan.ranks, plan.server
    served = server.served() if server is not None else None
    depends_on = dict(plan.depends_on) | ({"served": served} if server is not None else {})
    log = AnswerLog(plan.files.out, None if ranks.is_alone else ranks.rank)
    images = fingerprint.of_images(plan.wanted, plan.files.images_root) if ranks.is_first else {}
    ranks.first_does(lambda: log.prepare(depends_on, images, plan.samples))
    done = log.read()
    _refuse_smaller_part(done, plan.wanted, plan.files.out)
    todo = [sample for sample in plan.wanted if sample.id not in done]
    broken = ranks.first_does(lambda: unasked(todo, plan.files.images_root)) if plan.opens_images else {}
    if ranks.is_first:
        write_unanswered(plan.files.out, broken)
    mine = ranks.share_of([sample for sample in todo if sample.id not in broken])
    answerer = plan.answerer
    if mine:
        if server is not None:
            server.named = next((found.served_as for found in done.values() if found.served_as), None)
        answerer = answerer or plan.own_answerer()
        total = len(plan.wanted) - len(broken) if ranks.is_alone else len(mine)
        _write_answers(answerer, mine, log, total, plan.settings.progress)
        if server is not None and served is not None:
            log.refuse_changed(served, server.served())
    ranks.wait()
    ranks.first_does(log.finish)
    done = log.read()
    asked = [sample for sample in plan.wanted if sample.id not in broken]
    answers = [done[sample.id] for sample in asked]
    return Answered(samples=asked, answers=answers, unasked=broken, answerer=answerer, depends_on=depends_on)


def _write_answers(
    answerer: Answerer, samples: Sequence[EvalSample], log: AnswerLog, total: int, progress: Progress | None
) -> None:
    """Ask, and write every answer before the next is taken."""
    waiting = {sample.id for sample in samples}
    with log.appending() as stream:
        for found in answerer.answer(samples):
            if found.id not in waiting:
                raise DataError(
                    f"the answerer gave an answer to '{found.id}', which was not asked or was answered before"
                )
            waiting.discard(found.id)
            with writing_to(log.file):
                stream.write(as_line(found))
                stream.flush()
            if progress is not None:
                progress(total - len(waiting), total)
    if waiting:
        missing = [sample.id for sample in samples if sample.id in waiting]
        reasons = list(dict.fromkeys(failures_of(answerer).values()))
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise EvalIncompleteError(
            f"{len(missing)} of {total} questions have no answer: {first_ids(missing)}{why}; "
            "run again to ask only these"
        )


def _refuse_smaller_part(done: Mapping[str, Answer], wanted: Sequence[EvalSample], out: Path) -> None:
    """Refuse to overwrite results of more questions with results of fewer."""
    if beyond := len(done.keys() - {sample.id for sample in wanted}):
        raise ConfigError(
            f"{out} holds answers to {beyond} questions beyond the first {len(wanted)}, which are all that the limit "
            "asks for, and its results would become those of this part; leave the limit out, or choose another folder"
        )
