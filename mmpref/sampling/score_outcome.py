"""What a scoring made, for people and for ``step.json``, and why not all is there that was asked for."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    EvalIncompleteError,
    MMPrefError,
    OutOfMemoryError,
)
from mmpref.files.rows import first_ids
from mmpref.sampling.agreement_of_scorers import COLUMNS
from mmpref.sampling.pair_card import next_command
from mmpref.sampling.score_files import Written
from mmpref.sampling.score_results import Scored
from mmpref.sampling.score_settings import ScoreSettings
from mmpref.sampling.score_source import Asked, ScoreSource
from mmpref.sampling.steps import PAIRS, QUARANTINE, Step


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
        facts = self.step.facts
        if (alike := facts["of them with equal scores only"]) and not (self.folder / PAIRS).is_file():
            of = facts["prompts with two or more scored answers"]
            lines.append(
                f"{alike:,} of {of:,} prompts with two or more scored answers have equal scores only, and no pair"
            )
        if facts.get("source complete") is False:
            made_from = ", ".join(self.step.made_from)
            lines.append(f"note: {made_from} is not complete: run that step again, and this one after it, for the rest")
        for result in self.scored.results:
            if result.took:
                took = ", ".join(f"{name} {_amount(count)}" for name, count in result.took.items())
                lines.append(f"scorer '{result.name}' took in this run: {took}")
        lines.append(f"written to {self.folder}")
        if self.failure is not None:
            return lines
        if (self.folder / PAIRS).is_file():
            file = (self.folder / PAIRS).absolute()
            lines.append(f"next: {next_command(file, self.step.image_root, facts.get('eta'), facts.get('tau_good'))}")
        else:
            lines.append(f"next: mmpref sample pair {shlex.quote(str(self.folder))} --out DIR")
        return lines

    def agreement_table(self) -> tuple[Sequence[str], list[list[str]]]:
        """Columns and rows for people: two scorers a row."""
        return COLUMNS, [found.row() for found in self.scored.agreement]


def outcome_of(
    source: ScoreSource, asked: Asked, scored: Scored, settings: ScoreSettings, written: Written, out: Path
) -> ScoreOutcome:
    """What ``step.json`` shall say, and what is wrong, if anything is."""
    lacking = sum(result.lacking.total() for result in scored.results)
    wanted = asked.num_answers * len(settings.scorers)
    complete = lacking <= settings.max_missing * wanted
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
    failure = None if complete else _failure(asked, scored, f"{lacking:,} of {wanted:,}", out)
    if failure is None and not written.counts["pairs" if source.has_pairs else "scored"]:
        failure = _nothing(scored, "pair has two scores" if source.has_pairs else "answer has a score", out)
    return ScoreOutcome(folder=out, step=step, scored=scored, failure=failure)


def _failure(asked: Asked, scored: Scored, how_many: str, out: Path) -> MMPrefError:
    failures = [result for result in scored.results if result.failure is not None]
    lacking = [asked[at].prompt.id for at in range(len(asked)) if _lacks(scored, at)]
    why = ", ".join(f"{reason} {count:,}" for reason, count in _reasons(scored).most_common())
    said = "".join(f"; scorer '{result.name}' stopped: {result.failure}" for result in failures)
    can_come = any(result.final < result.lacking.total() for result in scored.results)
    advice = "run the same command again to score it" if can_come else "no other run would score it"
    message = (
        f"{how_many} scores are missing ({why}), of the prompts {first_ids(lacking)}{said}; what there is "
        f"is in {out}, and {QUARANTINE} there lists the rest: {'put that right and ' if failures else ''}{advice}, and "
        "--max-missing FRACTION takes what there is"
    )
    first = failures[0].failure if failures else None
    kept = ConfigError | DataError | OutOfMemoryError | CheckpointError  # with their exit codes
    kind = type(first) if isinstance(first, kept) else EvalIncompleteError
    return kind(message)


def _nothing(scored: Scored, what: str, out: Path) -> DataError:
    """The error where all is final and nothing of it is of use: training on what was written would train on nothing."""
    why = ", ".join(
        f"{result.name}: {reason} {count:,}" for result in scored.results for reason, count in result.missing().items()
    )
    return DataError(f"no {what} ({why}); {out / QUARANTINE} lists them all, with what was said of each")


def _lacks(scored: Scored, at: int) -> bool:
    return any(
        score.raw is None and score.why in result.lacking for result in scored.results for score in result.scores[at]
    )


def _reasons(scored: Scored) -> Counter[str]:
    found: Counter[str] = Counter()
    for result in scored.results:
        found.update(result.lacking)
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
