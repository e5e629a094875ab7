"""Image-conditioned gain: how much more likely the image makes an answer.

``(log p(answer | images, prompt) - log p(answer | prompt without its images)) / tokens of the answer``, in nats.
An answer that the question alone makes likely gains nothing; one about something that is not in the image loses.
Contrastive and mutual-information decoding weigh the same ratio (VCD, arXiv 2311.16922; M3ID, arXiv 2403.14003).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpref.errors import ConfigError
from mmpref.generation.answer_likelihood import AnswerLikelihood, Likelihood
from mmpref.records import Candidates, EvalSample, Message, Prompt
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore, ScoreContext, Scorer, options_of
from mmpref.sampling.scorers.local import (
    ModelOptions,
    facts_of_model,
    missing,
    portions,
    refuse_other,
    what_shows_no_image,
    without_score,
)

_WITHOUT = " without its images"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ModelOptions):
    """The model, and how its answers are counted.

    Args:
        per_token: divide by the tokens of the answer, the end of its turn among them; else long answers have more to
            gain.
    """

    per_token: bool = True

    def __post_init__(self) -> None:
        ModelOptions.__post_init__(self)
        refuse_other("per_token", self.per_token, (True, False))


def build(name: str, options: Mapping[str, Any], context: ScoreContext) -> Scorer:
    """The scorer, with its model loaded.

    Raises:
        ConfigError: a wrong option, a model that cannot be loaded, or one that looks at no images.
    """
    found = options_of(Options, options, name)
    source = found.source()
    facts = facts_of_model(source)
    measure = AnswerLikelihood(source, context.answering, images_root=context.image_root)
    if measure.no_images:
        raise ConfigError(f"scorer '{name}' compares with the image, and {source.path} {measure.no_images}")
    return GainScorer(measure, per_token=found.per_token, facts=facts)


class GainScorer:
    """Measures every answer twice, with the images of its prompt and without.

    Args:
        measure: the model.
        per_token: as the option.
        facts: of the model.
    """

    version = "1"
    scale = (None, None)

    def __init__(self, measure: AnswerLikelihood, *, per_token: bool = True, facts: Mapping[str, Any]) -> None:
        self._measure = measure
        self._per_token = per_token
        self.depends_on: Mapping[str, Any] = {**facts, "per_token": per_token}

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        """One score for each answer; prompts without images have none (``no_image``)."""
        for portion in portions(items):
            yield from self._score(portion)

    def _score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        samples: list[EvalSample] = []
        places: dict[str, AnswerPlace] = {}
        for item in items:
            if why := what_shows_no_image(item):
                yield from missing(item, why)
                continue
            for at, answer in enumerate(item.answers):
                place = AnswerPlace(item.prompt.id, at)
                seeing = _sample(f"{item.prompt.id} #{at}", item.prompt, answer.text)
                blind = _sample(seeing.id + _WITHOUT, without_images(item.prompt), answer.text)
                places |= {seeing.id: place, blind.id: place}
                samples += [seeing, blind]
        halves: dict[AnswerPlace, dict[bool, Likelihood]] = {}
        for sample_id, found in self._measure.measure(samples):
            of_answer = halves.setdefault(places[sample_id], {})
            of_answer[not sample_id.endswith(_WITHOUT)] = found
            if len(of_answer) == 2:
                yield self._of_answer(places[sample_id], **_named(halves.pop(places[sample_id])))

    def _of_answer(self, place: AnswerPlace, *, seeing: Likelihood, blind: Likelihood) -> RawScore:
        if seeing.logp is None or blind.logp is None:
            failed = seeing if seeing.logp is None else blind
            return without_score(place, failed.why, failed.detail, failed=True)
        value = (seeing.logp - blind.logp) / (seeing.tokens if self._per_token else 1)
        if not math.isfinite(value):
            return without_score(place, "not_finite", failed=True)
        detail = {"logp": seeing.logp, "logp_without_images": blind.logp, "tokens": seeing.tokens}
        return RawScore(place=place, value=value, detail=detail)


def without_images(prompt: Prompt) -> Prompt:
    """The same question with nothing to look at: its image places are taken out, and its turns stay."""
    turns = tuple(
        Message(message.role, tuple(part for part in message.parts if part.kind != "image"))
        for message in prompt.prompt
    )
    return replace(prompt, images=(), prompt=turns)


def _named(halves: Mapping[bool, Likelihood]) -> dict[str, Likelihood]:
    return {"seeing": halves[True], "blind": halves[False]}


def _sample(sample_id: str, prompt: Prompt, answer: str) -> EvalSample:
    meta = {"response_prefix": prompt.response_prefix, "template_kwargs": prompt.template_kwargs}
    return EvalSample(id=sample_id, images=prompt.images, prompt=prompt.prompt, target=(answer, None), meta=meta)
