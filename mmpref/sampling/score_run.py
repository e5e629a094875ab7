"""One scorer at work: what it has scored before is taken from its log, the rest is asked for and logged as it comes."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, MMPrefError, StoppedError
from mmpref.files.writing import json_text, writing_to
from mmpref.records import Candidates, Score
from mmpref.sampling.mapping import Scale, is_on
from mmpref.sampling.score_images import refuse_other_images
from mmpref.sampling.score_log import LoggedScore, ScoreLog, answer_keys, append
from mmpref.sampling.score_settings import AskedScorer
from mmpref.sampling.score_source import Missing
from mmpref.sampling.scorers import build_scorer
from mmpref.sampling.scorers.contract import (
    AnswerPlace,
    PaidScorer,
    RawScore,
    ScoreContext,
    Scorer,
    compares_answers,
    looks_at_images,
)

OUT_OF_SCALE = "out_of_scale"
NOT_FINITE = "not_finite"
NOT_GIVEN = "not_given"
"""The reason of an answer that the scorer passed over."""
STOPPED = "scorer_stopped"
"""The reason of an answer that a scorer did not come to, because it failed."""
_MOST_EVIDENCE = 2000  # characters
Progress = Callable[[int, int], None]
"""Gets how many answers of a scorer are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerResult:
    """What one scorer says of all answers.

    Args:
        kind: of the scorer; "" where it scored in an earlier step.
        scores: for each prompt one for each of its answers, in their order.
        lacking: reason -> answers that should have a score and have none; ``final`` are those among them for which no
            other run would bring one.
        ignored: scores in its log of answers that are there no more.
        failure: why it could not go on; None where it could.
        took: what a scorer that may want to be paid says of this run.
    """

    name: str
    kind: str
    version: str
    scale: Scale
    options: Mapping[str, Any]
    depends_on: Mapping[str, Any]
    scores: Sequence[Sequence[Score]]
    lacking: Counter[str]
    final: int = 0
    ignored: int = 0
    failure: MMPrefError | None = None
    took: Mapping[str, Any] = field(default_factory=dict)

    def raw(self) -> list[float]:
        """All scores that there are."""
        return [score.raw for item in self.scores for score in item if score.raw is not None]

    def missing(self) -> Counter[str]:
        """Reason -> answers without a score."""
        return Counter(score.why for item in self.scores for score in item if score.raw is None)


def run_scorer(
    asked: Sequence[Candidates], wanted: AskedScorer, folder: Path, context: ScoreContext, progress: Progress
) -> ScorerResult:
    """Let one scorer score; its model is freed when this returns.

    Args:
        asked: all prompts with their answers.
        folder: of the step.

    Raises:
        ConfigError: it cannot be built, or its log is of another scorer, or of other answers or images.
    """
    scorer = build_scorer(wanted.name, wanted.kind, wanted.options, context)
    try:
        if looks_at_images(scorer):
            refuse_other_images(asked, folder, context.image_root)
        return _run(asked, wanted, scorer, ScoreLog(folder, wanted.name), progress)
    finally:
        del scorer
        gc.collect()


def _run(
    asked: Sequence[Candidates], wanted: AskedScorer, scorer: Scorer, log: ScoreLog, progress: Progress
) -> ScorerResult:
    compares = compares_answers(scorer)
    header = {
        "scorer": wanted.name,
        "kind": wanted.kind,
        "version": scorer.version,
        "depends_on": dict(scorer.depends_on),
    }
    logged = log.prepare(header)
    keys = [answer_keys(item, compares=compares) for item in asked]
    ignored = len(logged.keys() - {key for item in keys for key in item})
    if logged and ignored == len(logged):
        raise ConfigError(
            f"{log.file} has scores of other answers: none of its {ignored:,} is of one that is scored now; choose "
            "another --out, or delete the file"
        )
    again, failure = _score_missing(asked, keys, scorer, _Logging(log, logged), wanted.name, progress)
    scale = scorer.scale if wanted.scale is None else wanted.scale
    scores = []
    lacking: Counter[str] = Counter()
    final = 0
    for item in keys:
        of_item = []
        for key in item:
            if (found := logged.get(key)) is None:
                found = again.get(key) or LoggedScore(
                    raw=None, why=NOT_GIVEN if failure is None else STOPPED, detail={}
                )
                lacking[found.why] += 1
            elif found.failed:
                lacking[found.why] += 1
                final += 1
            of_item.append(_score(wanted.name, scorer.version, scale, found))
        scores.append(of_item)
    return ScorerResult(
        name=wanted.name,
        kind=wanted.kind,
        version=scorer.version,
        scale=scale,
        options=wanted.options,
        depends_on=scorer.depends_on,
        scores=scores,
        lacking=lacking,
        final=final,
        ignored=ignored,
        failure=failure,
        took=scorer.took() if isinstance(scorer, PaidScorer) else {},
    )


@dataclass(frozen=True, slots=True)
class _Logging:
    """The log of a scorer, and what is in it."""

    log: ScoreLog
    logged: dict[str, LoggedScore]


def _score_missing(
    asked: Sequence[Candidates],
    keys: Sequence[Sequence[str]],
    scorer: Scorer,
    logging: _Logging,
    name: str,
    progress: Progress,
) -> tuple[dict[str, LoggedScore], MMPrefError | None]:
    """Ask for the scores that the log lacks; what is missing for now, and why the scorer could not go on."""
    logged = logging.logged
    seen = set(logged)
    lacking = []  # the same text to the same prompt, under another id, is asked for once
    for item in keys:
        lacking.append([place for place, key in enumerate(item) if key not in seen])
        seen.update(item)
    compares = compares_answers(scorer)
    wanted = [(at, range(len(keys[at])) if compares else places) for at, places in enumerate(lacking) if places]
    total = len(seen.intersection(key for item in keys for key in item))
    done = total - sum(map(len, lacking))
    progress(done, total)
    again: dict[str, LoggedScore] = {}
    if not wanted:
        return again, None
    key_of = {
        AnswerPlace(asked[at].prompt.id, number): keys[at][place]
        for at, places in wanted
        for number, place in enumerate(places)
    }
    with logging.log.appending() as stream:
        scores = scorer.score(Missing(asked, wanted))
        while True:
            try:
                raw = next(scores, None)
            except StoppedError:
                raise
            except MMPrefError as err:
                return again, err
            if raw is None:
                return again, None
            if raw.place not in key_of:
                raise ValueError(f"scorer {name!r} scored {raw.place}, which it was not asked for")
            key = key_of[raw.place]
            if key in logged:  # of a prompt whose other answers are new, or the same text in two prompts
                continue
            raw = _finite(raw)
            if raw.again and raw.value is None:
                again[key] = LoggedScore(raw=None, why=raw.why or NOT_GIVEN, detail=raw.detail)
                continue
            with writing_to(logging.log.file):
                append(stream, key, raw)
            logged[key] = LoggedScore(raw=raw.value, why=raw.why, detail=raw.detail, failed=raw.failed)
            again.pop(key, None)
            done += 1
            progress(done, total)


def _finite(raw: RawScore) -> RawScore:
    """The score as it can be written: a finite number or a reason, and evidence that is JSON."""
    try:
        json_text(dict(raw.detail))
    except (TypeError, ValueError, RecursionError):  # NaN among the evidence, say: the score is none the worse
        raw = replace(raw, detail={"text": str(dict(raw.detail))[:_MOST_EVIDENCE]})
    if raw.value is None:
        return raw if raw.why else replace(raw, why=NOT_GIVEN)
    value = float(raw.value)
    if is_on((None, None), value):
        return replace(raw, value=value, why="")
    return replace(raw, value=None, why=NOT_FINITE, failed=True)


def _score(name: str, version: str, scale: Scale, found: LoggedScore) -> Score:
    """A logged score; one outside the scale is none, and says what it was."""
    raw, why, detail = found.raw, found.why, found.detail
    if raw is not None and not is_on(scale, raw):
        raw, why, detail = None, OUT_OF_SCALE, {**detail, "raw": raw}
    return Score(scorer=name, version=version, scale=scale, raw=raw, why=why, detail=detail)
