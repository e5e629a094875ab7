"""``mmpref sample score``: candidates or pairs in, the same with scores out.

The folder of the step gets ``candidates.jsonl`` (or ``pairs.jsonl``: the pairs whose answers both have a score),
``quarantine.jsonl`` with everything that has none and why, ``scores.json`` with the scorers, their mappings and their
agreement, and at last ``step.json``. ``scores.NAME.jsonl`` is the log of a scorer, from which a run that was stopped
goes on.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.data.quarantine import Quarantine
from mmpref.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EvalIncompleteError,
    MMPrefError,
    OutOfMemoryError,
)
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over
from mmpref.files.rows import first_ids
from mmpref.files.writing import writing_to
from mmpref.sampling.agreement_of_scorers import COLUMNS
from mmpref.sampling.pair_card import next_command
from mmpref.sampling.score_results import (
    SCORES,
    Earlier,
    Scored,
    Written,
    earlier_scores,
    mappings_taken,
    put_together,
    weights_of,
    write_scored,
)
from mmpref.sampling.score_run import Progress, run_scorer
from mmpref.sampling.score_settings import ScoreSettings
from mmpref.sampling.score_source import Asked, ScoreSource
from mmpref.sampling.scorers import build_scorer
from mmpref.sampling.scorers.contract import PaidScorer, ScoreContext
from mmpref.sampling.steps import CANDIDATES, PAIRS, QUARANTINE, STEP, Step, read_step, write_step

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOutcome:
    """What a step made.

    ``failure`` says why not all is there that was asked for; what there is has been written.
    """

    folder: Path
    step: Step
    scored: Scored
    failure: MMPrefError | None

    def scorer_table(self) -> tuple[Sequence[str], list[list[str]]]:
        """Columns and rows for people: one scorer a row."""
        rows = []
        for name, entry in self.scored.scorers_json().items():
            missing = ", ".join(f"{why} {count:,}" for why, count in entry["missing"].items())
            mapping = self.scored.mappings[name]
            rows.append(
                [
                    name,
                    entry["kind"],
                    f"{entry['scored']:,}",
                    missing or "0",
                    _number(entry["raw_mean"]),
                    "none" if mapping is None else mapping.describe(),
                    _number(entry["mean"]),
                    f"{self.scored.weights[name]:g}",
                ]
            )
        return ("scorer", "kind", "scored", "missing", "raw mean", "mapping", "mean", "weight"), rows

    def lines(self) -> list[str]:
        """What else a reader should know, and what to do next."""
        counts = {name: count for name, count in self.step.counts.items() if name != "missing"}
        lines = [", ".join(f"{name} {count:,}" for name, count in counts.items()), *self.scored.notes]
        if (mean := self.step.facts["mean score"]) is not None:
            low, high = self.scored.range
            lines.append(f"mean score {mean:.4g} on {low:g}..{high:g}, every answer as often as it was sampled")
        for result in self.scored.results:
            if result.took:
                took = ", ".join(f"{name} {_amount(count)}" for name, count in result.took.items())
                lines.append(f"scorer '{result.name}' took in this run: {took}")
        lines.append(f"written to {self.folder}")
        if self.failure is not None:
            return lines
        if (self.folder / PAIRS).is_file():
            facts = self.step.facts
            file = (self.folder / PAIRS).absolute()
            lines.append(f"next: {next_command(file, self.step.image_root, facts.get('eta'), facts.get('tau_good'))}")
        else:
            lines.append(f"next: mmpref sample pair {shlex.quote(str(self.folder))} --out DIR")
        return lines

    def agreement_table(self) -> tuple[Sequence[str], list[list[str]]]:
        """Columns and rows for people: two scorers a row."""
        return COLUMNS, [found.row() for found in self.scored.agreement]


def score_source(
    source: ScoreSource,
    out: Path,
    settings: ScoreSettings,
    *,
    progress: Progress = lambda done, total: None,
    say: Say = lambda text: None,
) -> ScoreOutcome:
    """Score a source; what was scored before in this folder is taken up.

    A scorer that fails loses nothing of the others: they score all the same, and the outcome has its failure.

    Raises:
        ConfigError: settings that cannot be, or a folder with something else in it.
        DataError: the source cannot be read, or has nothing to score.
        CheckpointError: the folder cannot be written.
    """
    _refuse_outputs(source, out, settings)
    with only_writer(out, "choose another --out"):
        _refuse_other_step(out, source)
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
        asked, quarantine = read_asked(source, out)
        if len(quarantine):
            say(quarantine.summary())
        with contextlib.closing(asked):
            return _score(source, asked, out, settings, progress, say)


def _score(
    source: ScoreSource, asked: Asked, out: Path, settings: ScoreSettings, progress: Progress, say: Say
) -> ScoreOutcome:
    earlier = earlier_scores(source, asked)
    _refuse_unfit(earlier, settings)
    context = ScoreContext(image_root=source.image_root, answering=settings.answering, folder=out)
    results = []
    for wanted in settings.scorers:
        results.append(result := run_scorer(asked, wanted, out, context, progress))
        if result.failure is not None:
            say(f"scorer '{result.name}' could not go on: {result.failure}")
        if result.ignored:
            say(f"scorer '{result.name}': {result.ignored:,} scores of answers that are there no more are left out")
    scored = put_together(asked, results, earlier, settings)
    with writing_to(out):
        (out / STEP).unlink(missing_ok=True)  # it would say of the new files what was true of the old ones
    written = write_scored(out, source, asked, scored)
    step, failure = _outcome(source, asked, scored, settings, written, out)
    write_step(out, step)
    return ScoreOutcome(folder=out, step=step, scored=scored, failure=failure)


def read_asked(source: ScoreSource, folder: Path) -> tuple[Asked, Quarantine]:
    """All answers of a source, and the rows of it that cannot be used.

    Raises:
        DataError: it has no answer, or cannot be read.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    asked, quarantine = Asked(folder), Quarantine()
    if source.has_pairs:
        for pair in source.pairs(quarantine):
            asked.add_pair(pair)
    else:
        for item in source.candidates():
            asked.add(item)
    if not asked.num_answers:
        first = f"; the first: {quarantine.rows[0].describe()}" if len(quarantine) else ""
        raise DataError(f"{source.spec} has no answer to score ({quarantine.summary()}){first}")
    return asked, quarantine


def estimates(source: ScoreSource, settings: ScoreSettings, folder: Path) -> list[tuple[str, str]]:
    """What scoring would take, as far as the scorers say it: labels and texts; nothing is scored or written.

    Raises:
        ConfigError: a scorer cannot be built.
        DataError: the source has nothing to score.
    """
    with tempfile.TemporaryDirectory() as temporary:  # nothing is written into the folder of the step
        return _estimates(source, settings, folder, Path(temporary))


def _estimates(source: ScoreSource, settings: ScoreSettings, folder: Path, temporary: Path) -> list[tuple[str, str]]:
    asked, _ = read_asked(source, temporary)
    with contextlib.closing(asked):
        return _estimated(source, asked, settings, folder)


def _estimated(source: ScoreSource, asked: Asked, settings: ScoreSettings, folder: Path) -> list[tuple[str, str]]:
    rows = [("prompts", f"{len(asked):,}"), ("answers", f"{asked.num_answers:,}")]
    context = ScoreContext(image_root=source.image_root, answering=settings.answering, folder=folder)
    for wanted in settings.scorers:
        scorer = build_scorer(wanted.name, wanted.kind, wanted.options, context)
        found = [("estimate", "none: it costs time only")]
        if isinstance(scorer, PaidScorer):
            found = scorer.estimate(asked)
        rows += [(f"{wanted.name}: {label}", text) for label, text in found]
    return rows


def _refuse_outputs(source: ScoreSource, out: Path, settings: ScoreSettings) -> None:
    written = [PAIRS if source.has_pairs else CANDIDATES, QUARANTINE, SCORES, STEP]
    logs = [f"scores.{scorer.name}.jsonl" for scorer in settings.scorers]
    mapping = settings.mapping
    read = None if mapping is None else mapping / SCORES if mapping.is_dir() else mapping
    refuse_written_over({f"--out ({name})": out / name for name in (*written, *logs)}, [*source.files, read])


def _refuse_other_step(out: Path, source: ScoreSource) -> None:
    """Refuse a folder in which something lies that scoring this source did not make."""
    if (out / STEP).is_file():
        step = read_step(out)
        if step.name != "score":
            raise ConfigError(f"{out} has a finished step '{step.name}' in it; choose another --out")
        if step.made_from != (source.made_from,):
            raise ConfigError(f"{out} has the scores of {', '.join(step.made_from)} in it; choose another --out")
        return
    found = [name for name in (CANDIDATES, PAIRS, QUARANTINE, SCORES) if (out / name).exists()]
    if found and not any(out.glob("scores.*.jsonl")):
        raise ConfigError(f"{out} has a {found[0]} that no scoring has written; choose another --out")


def _refuse_unfit(earlier: Earlier, settings: ScoreSettings) -> None:
    """Refuse what could not be put together in the end, before a scorer works for hours."""
    names = [result.name for result in earlier.results]
    for scorer in settings.scorers:
        if scorer.name in names:
            raise ConfigError(
                f"the candidates have scores of a scorer '{scorer.name}' already; give this one another name "
                f"(--scorer NAME={scorer.kind}), or score the candidates from before that step"
            )
    everything = [*names, *(scorer.name for scorer in settings.scorers)]
    weights_of(everything, earlier, settings)
    mappings_taken(everything, settings)


def _outcome(
    source: ScoreSource, asked: Asked, scored: Scored, settings: ScoreSettings, written: Written, out: Path
) -> tuple[Step, MMPrefError | None]:
    again = sum(result.again.total() for result in scored.results)
    wanted = asked.num_answers * len(settings.scorers)
    failures = [result for result in scored.results if result.failure is not None]
    complete = again <= settings.max_missing * wanted
    missing = {result.name: dict(found) for result in scored.results if (found := result.missing())}
    step = Step(
        name="score",
        complete=complete,
        image_root=source.image_root,
        made_from=(source.made_from,),
        settings={
            "scorers": {scorer.name: {"kind": scorer.kind, **scorer.options} for scorer in settings.scorers},
            "range": list(scored.range),
            "weights": dict(scored.weights),
            "mapping": None if settings.mapping is None else str(settings.mapping),
            "max_missing": settings.max_missing,
        },
        counts={**written.counts, "missing": missing},
        facts=_facts(source, asked, scored) | _thresholds(written),
    )
    if complete:
        return step, None
    lacking = [
        asked[at].prompt.id
        for at, item in enumerate(scored.scores)
        if any(score is None for score in item) and _lacks(scored, at)
    ]
    why = ", ".join(f"{reason} {count:,}" for reason, count in _reasons(scored).most_common())
    said = "".join(f"; scorer '{result.name}' stopped: {result.failure}" for result in failures)
    message = (
        f"{again:,} of {wanted:,} scores are missing ({why}), of the prompts {first_ids(lacking)}{said}; what there is "
        f"is in {out}, and {QUARANTINE} there lists the rest: {'put that right and ' if failures else ''}run the same "
        "command again to score it"
    )
    first = failures[0].failure if failures else None
    kept = ConfigError | DataError | OutOfMemoryError | CheckpointError  # with their exit codes
    kind = type(first) if isinstance(first, kept) else EvalIncompleteError
    return step, kind(message)


def _lacks(scored: Scored, at: int) -> bool:
    return any(
        score.raw is None and score.why in result.again for result in scored.results for score in result.scores[at]
    )


def _reasons(scored: Scored) -> Counter[str]:
    found: Counter[str] = Counter()
    for result in scored.results:
        found.update(result.again)
    return found


def _thresholds(written: Written) -> dict[str, Any]:
    """Settings of Uni-DPO that fit scored pairs, by the rules of ``mmpref data audit``."""
    return {} if written.eta is None else {"eta": written.eta, "tau_good": written.tau_good}


def _facts(source: ScoreSource, asked: Asked, scored: Scored) -> dict[str, Any]:
    """Means over the samples, each answer as often as it was given, and how many prompts have something to choose."""
    total, samples, alike, comparable = 0.0, 0, 0, 0
    for at, item in enumerate(asked):
        known = [
            (score, answer.times)
            for score, answer in zip(scored.scores[at], item.answers, strict=True)
            if score is not None
        ]
        total += sum(score * times for score, times in known)
        samples += sum(times for _, times in known)
        comparable += len(known) > 1
        alike += len(known) > 1 and len({score for score, _ in known}) == 1
    facts: dict[str, Any] = {
        "mean score": total / samples if samples else None,
        "prompts with two or more scored answers": comparable,
        "of them with equal scores only": alike,
        "agreement": {f"{one.first}, {one.second}": one.describe() for one in scored.agreement},
        "notes": list(scored.notes),
    }
    if took := {result.name: dict(result.took) for result in scored.results if result.took}:
        facts["took"] = took
    if source.step is not None and not source.step.complete:
        facts["source complete"] = False
    return facts


def _amount(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
