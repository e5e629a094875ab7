"""Scores of a reward model in this process: one number for the conversation that the answer completes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mmpref.generation.reward_model import Reward, RewardModel
from mmpref.records import Candidates, EvalSample
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore, ScoreContext, Scorer, options_of
from mmpref.sampling.scorers.local import ModelOptions, facts_of_model, missing, portions, refuse_small, without_score


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ModelOptions):
    """The model, and which of its numbers.

    Args:
        label: of a head that gives several numbers, the one that is the score, from 0.
    """

    label: int | None = None

    def __post_init__(self) -> None:
        ModelOptions.__post_init__(self)
        refuse_small("label", self.label, least=0)


def build(name: str, options: Mapping[str, Any], context: ScoreContext) -> Scorer:
    """The scorer, with its model loaded.

    Raises:
        ConfigError: a wrong option, or a model that cannot be loaded or is no reward model.
    """
    found = options_of(Options, options, name)
    source = found.source()
    facts = facts_of_model(source)
    model = RewardModel(source, context.answering, label=found.label, images_root=context.image_root)
    return RewardScorer(model, facts={**facts, "label": found.label or 0})


class Rewarder(Protocol):
    """What gives rewards."""

    def rewards(self, samples: Sequence[EvalSample]) -> Iterator[tuple[str, Reward]]:
        """Id and reward of each sample, whose ``target`` is (answer, None)."""
        ...


class RewardScorer:
    """Scores every answer by itself.

    Args:
        model: the reward model.
        facts: of the model.
    """

    version = "1"
    scale = (None, None)

    def __init__(self, model: Rewarder, *, facts: Mapping[str, Any]) -> None:
        self._model = model
        self.depends_on: Mapping[str, Any] = dict(facts)

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        """One score for each answer; those of prompts with videos have none (``video``)."""
        for portion in portions(items):
            yield from self._score(portion)

    def _score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        samples: list[EvalSample] = []
        places: dict[str, AnswerPlace] = {}
        for item in items:
            shown = item.prompt
            if shown.videos:
                yield from missing(item, "video")
                continue
            meta = {"response_prefix": shown.response_prefix, "template_kwargs": shown.template_kwargs}
            for at, answer in enumerate(item.answers):
                sample_id = f"{shown.id} #{at}"
                places[sample_id] = AnswerPlace(shown.id, at)
                target = (answer.text, None)
                samples.append(
                    EvalSample(id=sample_id, images=shown.images, prompt=shown.prompt, target=target, meta=meta)
                )
        for sample_id, found in self._model.rewards(samples):
            if found.value is None:
                yield without_score(places[sample_id], found.why, found.detail, failed=True)
            elif not math.isfinite(found.value):
                yield without_score(places[sample_id], "not_finite", failed=True)
            else:
                yield RawScore(place=places[sample_id], value=found.value)
