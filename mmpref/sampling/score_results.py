"""What the scorers said, put together: mapped to one range, averaged and compared."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import read_json
from mmpref.files.writing import json_text
from mmpref.records import Candidates, Prompt, Score
from mmpref.sampling.agreement_of_scorers import Agreement, ScoredPrompt, agreements
from mmpref.sampling.mapping import (
    EARLIER_STEP,
    FEW,
    Bounds,
    KnownMapping,
    ScaleMapping,
    combined,
    mapping_of,
    read_mappings,
)
from mmpref.sampling.score_run import ScorerResult
from mmpref.sampling.score_settings import ScoreSettings
from mmpref.sampling.score_source import ScoreSource
from mmpref.yaml_text import did_you_mean

SCORES = "scores.json"
_MOST_SAID = 300  # characters
NOT_SCORED = "not_scored"
"""The reason of an answer that an earlier step has no score of this scorer for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What an earlier step has scored: its scorers' results, mappings and weights."""

    results: tuple[ScorerResult, ...] = ()
    range: Bounds | None = None
    mappings: Mapping[str, KnownMapping] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)


def earlier_scores(source: ScoreSource, asked: Sequence[Candidates]) -> Earlier:
    """The scores that the candidates of a source have already.

    Raises:
        DataError: one scorer has scores of two versions or scales.
    """
    facts: dict[str, tuple[str, tuple[float | None, float | None]]] = {}
    found: list[list[dict[str, Score]]] = []
    for item in asked:
        found.append([{score.scorer: score for score in answer.scores} for answer in item.answers])
        for score in (score for answer in item.answers for score in answer.scores):
            if facts.setdefault(score.scorer, (score.version, score.scale)) != (score.version, score.scale):
                raise DataError(
                    f"{source.files[0]}: scorer '{score.scorer}' has scores of two versions or scales; score the "
                    "candidates anew with one"
                )
    if not facts:
        return Earlier()
    results = tuple(_earlier_result(name, *facts[name], found) for name in facts)
    file = source.files[0].parent / SCORES
    if not file.is_file():
        return Earlier(results=results)
    declared, mappings = read_mappings(file)
    try:
        weights = {name: float(weight) for name, weight in read_json(file, DataError)["weights"].items()}
    except (LookupError, TypeError, ValueError, AttributeError):
        weights = {}
    return Earlier(results=results, range=declared, mappings=mappings, weights=weights)


def _earlier_result(
    name: str,
    version: str,
    scale: tuple[float | None, float | None],
    found: Sequence[Sequence[Mapping[str, Score]]],
) -> ScorerResult:
    none = Score(scorer=name, version=version, scale=scale, raw=None, why=NOT_SCORED)
    return ScorerResult(
        name=name,
        kind="",
        version=version,
        scale=scale,
        options={},
        depends_on={},
        scores=[[answer.get(name, none) for answer in item] for item in found],
        lacking=Counter(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """All scores, on one range.

    Args:
        results: of each scorer, those of an earlier step first.
        range: that all are mapped to.
        weights: of every scorer.
        mappings: of every scorer; None where it has no score at all.
        scores: for each prompt the mean of each answer, None where a scorer has none.
        agreement: of each two scorers.
        notes: what a reader of the scores should know.
    """

    results: tuple[ScorerResult, ...]
    range: Bounds
    weights: Mapping[str, float]
    mappings: Mapping[str, ScaleMapping | None]
    scores: Sequence[Sequence[float | None]]
    agreement: Sequence[Agreement]
    notes: tuple[str, ...]

    def why_none(self, at: int, place: int) -> tuple[str, str]:
        """Why an answer has no mean: the reason of the first scorer that has none, and what each of them says."""
        none = [
            result.scores[at][place]
            for result in self.results
            if self.weights[result.name] and result.scores[at][place].raw is None
        ]
        return none[0].why, "; ".join(f"{score.scorer}: {score.why}{_in_words(score)}" for score in none)

    def scorers_json(self) -> dict[str, Any]:
        """Scorer -> all that is known of it, as ``scores.json`` has it."""
        return {result.name: self._scorer_json(result) for result in self.results}

    def _scorer_json(self, result: ScorerResult) -> dict[str, Any]:
        raw, mapping = result.raw(), self.mappings[result.name]
        return {
            "kind": result.kind or EARLIER_STEP,
            "version": result.version,
            "scale": list(result.scale),
            "options": dict(result.options),
            "depends_on": dict(result.depends_on),
            "mapping": None if mapping is None else mapping.as_json(),
            "scored": len(raw),
            "missing": dict(result.missing()),
            "raw_mean": statistics.fmean(raw) if raw else None,
            "mean": statistics.fmean(map(mapping.apply, raw)) if raw and mapping is not None else None,
        }


def _in_words(score: Score) -> str:
    """What a scorer says of an answer without a score, beside the word that is counted."""
    said = score.detail.get("why")
    return f" ({said:.{_MOST_SAID}})" if isinstance(said, str) and said else ""


def put_together(
    asked: Sequence[Candidates], results: Sequence[ScorerResult], earlier: Earlier, settings: ScoreSettings
) -> Scored:
    """Map, average and compare.

    Raises:
        ConfigError: the mapping that is to be taken does not fit the scorers, or all weights are 0.
    """
    everything = (*earlier.results, *results)
    names = [result.name for result in everything]
    weights = weights_of(names, earlier, settings)
    declared, taken = mappings_taken(names, settings)
    mappings: dict[str, ScaleMapping | None] = {}
    notes: list[str] = []
    for result in everything:
        if taken is not None:
            mappings[result.name] = _taken(result, taken, settings.mapping)
            notes += _notes_of_taken(result, taken[result.name])
            continue
        before = earlier.mappings.get(result.name) if result in earlier.results else None
        if before is not None and earlier.range == declared and before.version == result.version:
            mappings[result.name] = before.mapping
            continue
        raw = result.raw()
        mappings[result.name] = made = mapping_of(result.scale, raw, declared)
        if made is not None and made.scores:
            notes += _notes_of(result.name, made)
    mapped = {
        result.name: [
            [
                None if score.raw is None or (of := mappings[result.name]) is None else of.apply(score.raw)
                for score in item
            ]
            for item in result.scores
        ]
        for result in everything
    }
    scores = [
        [combined({name: of[at][place] for name, of in mapped.items()}, weights) for place in range(len(item.answers))]
        for at, item in enumerate(asked)
    ]
    prompts = [
        ScoredPrompt(_unit(item.prompt), {name: mapped[name][at] for name in names}) for at, item in enumerate(asked)
    ]
    return Scored(
        results=everything,
        range=declared,
        weights=weights,
        mappings=mappings,
        scores=scores,
        agreement=agreements(prompts, names),
        notes=tuple(notes),
    )


def weights_of(names: Sequence[str], earlier: Earlier, settings: ScoreSettings) -> dict[str, float]:
    """The weight of every scorer.

    Raises:
        ConfigError: a weight is for a scorer that there is not, or all are 0.
    """
    for name in settings.weights:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ConfigError(f"--weights names a scorer '{name}' that is none of {', '.join(names)}{hint}")
    found = {name: settings.weights.get(name, earlier.weights.get(name, 1.0)) for name in names}
    if not any(found.values()):
        raise ConfigError("all weights are 0, and then no answer has a score; give one scorer a weight above 0")
    return found


def mappings_taken(names: Sequence[str], settings: ScoreSettings) -> tuple[Bounds, Mapping[str, KnownMapping] | None]:
    """The range, and the mappings that are to be taken for scorers of these names; None: none are.

    Raises:
        ConfigError: the file has none for a scorer, or one of another kind, or another range.
    """
    if settings.mapping is None:
        return settings.declared_range(None), None
    declared, found = read_mappings(settings.mapping)
    kinds = {scorer.name: scorer.kind for scorer in settings.scorers}
    for name in names:
        if name not in found:
            raise ConfigError(
                f"{settings.mapping} has no mapping for scorer '{name}'; it has: {', '.join(found) or 'none'}; call "
                "the scorer as it was called there, or leave --mapping out"
            )
        if found[name].kind and kinds.get(name, found[name].kind) != found[name].kind:
            raise ConfigError(
                f"{settings.mapping}: scorer '{name}' is a '{found[name].kind:.60}' there and a '{kinds[name]:.60}' "
                "here; their scores do not compare: call it as a scorer of its kind was called there, or leave "
                "--mapping out"
            )
    return settings.declared_range(declared), found


def _taken(result: ScorerResult, mappings: Mapping[str, KnownMapping], file: Path | None) -> ScaleMapping:
    known = mappings[result.name]
    if known.version != result.version:
        raise ConfigError(
            f"{file}: the mapping of scorer '{result.name}' is of version {known.version:.60}, and this one is "
            f"{result.version:.60}; their scores do not compare, leave --mapping out"
        )
    return known.mapping


def _notes_of_taken(result: ScorerResult, known: KnownMapping) -> list[str]:
    """What to know of a mapping that was made of the scores of a scorer with another model, say."""
    before, now = known.depends_on, json.loads(json_text(dict(result.depends_on)))
    changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    if not known.mapping.scores or not changed:
        return []
    return [
        f"{result.name}: its mapping was made of the scores of another scorer ({', '.join(changed)} differ), so the "
        "scores need not compare with those"
    ]


def _notes_of(name: str, made: ScaleMapping) -> list[str]:
    if made.low == made.high:
        return [
            f"{name}: its scores are all {made.low:g}, so they are mapped to {made.apply(made.low):g} and say nothing"
        ]
    if made.scores < FEW:
        return [
            f"{name}: its scale has no bound, and the percentiles of only {made.scores} scores take its place; "
            f"{name}.scale=LO..HI or --mapping would keep the mapping from one run to the next"
        ]
    return []


def _unit(prompt: Prompt) -> str:
    paths = [image.path for image in prompt.images if image.path is not None]
    return " ".join(paths) if paths and len(paths) == len(prompt.images) else prompt.id
