"""What scoring writes: candidates or pairs with their scores, what has none and why, and ``scores.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmpref.data.audit.scores import ScoreTally
from mmpref.data.pair_writing import write_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.errors import DataError
from mmpref.files.writing import json_text, replacing, write_json
from mmpref.records import Candidates, PreferencePair
from mmpref.sampling.candidate_files import write_candidates
from mmpref.sampling.score_results import SCORES, Scored
from mmpref.sampling.score_source import Asked, ScoreSource
from mmpref.sampling.steps import CANDIDATES, PAIRS, QUARANTINE

_UNI_DPO_ETA = 0.7  # the authors'; a tally asks for one, and only what it proposes is taken
RAW_SCORES, SCORES_BEFORE = "raw_scores", "scores_before"
"""Keys of the ``meta`` of scored pairs: scorer -> [chosen, rejected], and the scores that the pair had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What is in the files.

    Args:
        counts: by what people call it.
        eta: the slope of Uni-DPO's quality weight that fits pairs on the range; None for candidates.
        tau_good: the median score of chosen answers; None for candidates.
    """

    counts: Counter[str]
    eta: float | None = None
    tau_good: float | None = None


def write_scored(folder: Path, source: ScoreSource, asked: Asked, scored: Scored) -> Written:
    """Write the candidates or pairs with their scores, what has none, and ``scores.json``.

    Raises:
        DataError: the source changed meanwhile.
        CheckpointError: something cannot be written.
    """
    counts: Counter[str] = Counter()
    unscored: list[dict[str, Any]] = []
    quarantine, tally = Quarantine(), ScoreTally()
    if source.has_pairs:
        pairs = _scored_pairs(source, asked, scored, quarantine, unscored, counts)
        write_pairs(folder / PAIRS, _tallied(pairs, tally))
    else:
        write_candidates(folder / CANDIDATES, _scored_candidates(source, asked, scored, unscored, counts))
    with replacing(folder / QUARANTINE) as stream:
        for row in (*(row.as_json() for row in quarantine.rows), *unscored):
            stream.write((json_text(row) + "\n").encode("utf-8"))
    for reason, count in quarantine.counts.items():
        counts[f"not read: {reason}"] = count
    write_json(
        folder / SCORES,
        {
            "range": list(scored.range),
            "weights": dict(scored.weights),
            "scorers": scored.scorers_json(),
            "agreement": [found.as_json() for found in scored.agreement],
            "notes": list(scored.notes),
            "counts": dict(counts),
        },
    )
    if not counts["pairs"]:
        return Written(counts=counts)
    found = tally.finish(eta=_UNI_DPO_ETA, tau_good=None, scale=scored.range, words=np.zeros(counts["pairs"]))
    return Written(counts=counts, eta=found.proposed_eta, tau_good=found.proposed_tau_good)


def _tallied(pairs: Iterator[PreferencePair], tally: ScoreTally) -> Iterator[PreferencePair]:
    for pair in pairs:
        tally.add(pair)
        yield pair


def _scored_candidates(
    source: ScoreSource, asked: Asked, scored: Scored, unscored: list[dict[str, Any]], counts: Counter[str]
) -> Iterator[Candidates]:
    for at, item in enumerate(source.candidates()):
        if at >= len(asked) or asked[at] != item:
            raise _changed(source)
        counts["prompts"] += 1
        if not item.answers:
            unscored.append({"id": item.prompt.id, "reason": "no_candidate", "detail": "it has no candidate"})
        answers = []
        for place, answer in enumerate(item.answers):
            score = scored.scores[at][place]
            counts["answers"] += 1
            counts["scored"] += score is not None
            if score is None:
                why, detail = scored.why_none(at, place)
                unscored.append({"id": item.prompt.id, "candidate": place, "reason": why, "detail": detail})
            said = tuple(result.scores[at][place] for result in scored.results)
            answers.append(replace(answer, scores=said, score=score))
        yield replace(item, answers=tuple(answers))
    if counts["prompts"] != len(asked):
        raise _changed(source)


def _scored_pairs(
    source: ScoreSource,
    asked: Asked,
    scored: Scored,
    quarantine: Quarantine,
    unscored: list[dict[str, Any]],
    counts: Counter[str],
) -> Iterator[PreferencePair]:
    counts["prompts"] = len(asked)
    counts["answers"] = asked.num_answers
    counts["scored"] = sum(score is not None for item in scored.scores for score in item)
    for pair in source.pairs(quarantine):
        if (places := asked.of_pair(pair)) is None:
            raise _changed(source)
        at, *sides = places
        chosen, rejected = (scored.scores[at][place] for place in sides)
        counts["pairs read"] += 1
        if chosen is None or rejected is None:
            why, detail = scored.why_none(at, sides[chosen is not None])
            side = "rejected" if chosen is not None else "chosen"
            unscored.append({"id": pair.id, "reason": why, "detail": f"the {side} answer: {detail}"})
            continue
        counts["pairs"] += 1
        counts["pairs whose rejected answer scores higher"] += rejected > chosen
        counts["pairs with equal scores"] += rejected == chosen
        if pair.score_chosen is not None:
            counts["pairs with scores from before, kept in meta"] += 1
        before = pair.meta.get(RAW_SCORES)
        raw = dict(before) if isinstance(before, Mapping) else {}
        raw |= {result.name: [result.scores[at][place].raw for place in sides] for result in scored.results}
        yield replace(pair, score_chosen=chosen, score_rejected=rejected, meta={**_meta_before(pair), RAW_SCORES: raw})


def _meta_before(pair: PreferencePair) -> dict[str, Any]:
    """What was known of a pair, the scores that it had with it."""
    before = [*pair.meta.get(SCORES_BEFORE, ())] if isinstance(pair.meta.get(SCORES_BEFORE), list) else []
    if pair.score_chosen is None:
        return dict(pair.meta)
    return {**pair.meta, SCORES_BEFORE: [*before, [pair.score_chosen, pair.score_rejected]]}


def _changed(source: ScoreSource) -> DataError:
    return DataError(f"{source.spec} changed while it was scored; what was scored is kept: run the same command again")
