"""Divide and ask: an answer is divided into claims, and a model is asked about each whether it is true of the image.

The idea is RLAIF-V's (arXiv 2405.17220): single claims are easier to check than whole answers, and a model of the same
size can check them. What decides is ``log p(yes) - log p(no)`` at the beginning of the model's answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from mmpref.errors import ConfigError
from mmpref.generation.answer_likelihood import Likelihood, WordLikelihood
from mmpref.generation.fact_lists import FactList, FactLister
from mmpref.records import Candidates, EvalSample, user_turn
from mmpref.sampling.scorers.claim_rules import claims_of, distinct, facts_of_list
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore, ScoreContext, Scorer, options_of
from mmpref.sampling.scorers.local import (
    ModelOptions,
    facts_of_model,
    missing,
    portions,
    refuse_other,
    refuse_small,
    what_shows_no_image,
    without_score,
)

QUESTION = "Statement: {claim}\nIs this statement true of the image? Answer with Yes or No."
_CLAIM = "{claim}"
_SCALES: Mapping[str, tuple[float | None, float | None]] = {
    "share": (0.0, 1.0),
    "mean": (0.0, 1.0),
    "rejected": (None, 0.0),
}
_PROMPTS_AT_ONCE = 64
"""Divided before their claims are asked, so that an end in the middle loses little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options(ModelOptions):
    """The model that is asked, and how.

    Args:
        divider: ``rules`` (sentences and joined clauses) or ``model``: the same model lists the facts.
        divider_tokens: its list stops here; a line that is not whole is left out.
        measure: ``share`` of the claims that are accepted; ``mean`` of p(yes); or ``rejected``: minus the number of
            claims with p(no) > p(yes), RLAIF-V's, which says nothing against an answer that claims little.
        question: what the model is asked about a claim, which stands in the place of ``{claim}``.
        yes, no: how its two answers begin.
    """

    divider: str = "rules"
    divider_tokens: int = 512
    measure: str = "share"
    question: str = QUESTION
    yes: str = "Yes"
    no: str = "No"

    def __post_init__(self) -> None:
        ModelOptions.__post_init__(self)
        refuse_other("divider", self.divider, ("rules", "model"))
        refuse_other("measure", self.measure, tuple(_SCALES))
        refuse_small("divider_tokens", self.divider_tokens)
        if self.divider_tokens is None:
            raise ConfigError("divider_tokens must be a whole number from 1")
        for key in ("question", "yes", "no"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                raise ConfigError(f"{key} must be a text, got {getattr(self, key)!r}")
        if self.question.count(_CLAIM) != 1:
            raise ConfigError(f"question must hold {_CLAIM} once, where the claim is to stand; got {self.question!r}")


def build(name: str, options: Mapping[str, Any], context: ScoreContext) -> Scorer:
    """The scorer, with its model loaded.

    Raises:
        ConfigError: a wrong option, a model that cannot be loaded, one that looks at no images, or one that has the
            same tokens for both answers.
    """
    found = options_of(Options, options, name)
    source = found.source()
    facts = facts_of_model(source)
    asker = WordLikelihood(source, context.answering, images_root=context.image_root)
    if asker.no_images:
        raise ConfigError(f"scorer '{name}' asks about the image, and {source.path} {asker.no_images}")
    yes, no = asker.tokens_of(found.yes, found.no)
    if yes[: len(no)] == no[: len(yes)]:
        raise ConfigError(
            f"scorer '{name}': the tokens of {found.yes!r} and {found.no!r} begin alike for {source.path}, so that its "
            "answers cannot be told apart; give other words as yes and no"
        )
    lister = None
    if found.divider == "model":
        answering = replace(context.answering, max_new_tokens=found.divider_tokens, num_beams=1)
        lister = FactLister(asker.loaded, answering, template_kwargs=source.template_kwargs)
    return ClaimScorer(asker, found, facts=facts, lister=lister)


class Asker(Protocol):
    """What measures the two answers to a question."""

    def measure(self, samples: Sequence[EvalSample]) -> Iterator[tuple[str, Likelihood]]:
        """Id and log-probs (of yes, and as ``other`` of no) of each sample, whose ``target`` is both words."""
        ...


class Lister(Protocol):
    """What lists the facts of texts."""

    def lists(self, texts: Mapping[str, str]) -> Iterator[tuple[str, FactList]]:
        """The list of each text, by its id."""
        ...


@dataclass(slots=True)
class _Asked:
    """One prompt, the claims of its answers, and what is known of them so far."""

    item: Candidates
    claims: Sequence[Sequence[str]]
    refused: Mapping[int, FactList] = field(default_factory=dict)
    """Answers that could not be divided."""
    found: dict[str, Likelihood] = field(default_factory=dict)
    missing: int = 0


class ClaimScorer:
    """Asks about the claims of all answers of a prompt, about equal ones once.

    Args:
        asker: measures yes and no.
        options: divider, measure, question and words.
        facts: of the model.
        lister: divides answers, where the divider is ``model``.
    """

    version = "1"

    def __init__(
        self, asker: Asker, options: Options, *, facts: Mapping[str, Any], lister: Lister | None = None
    ) -> None:
        self._asker = asker
        self._options = options
        self._lister = lister
        self.scale = _SCALES[options.measure]
        of_divider = ("divider", "divider_tokens") if options.divider == "model" else ("divider",)
        settings = {key: getattr(options, key) for key in (*of_divider, "measure", "question", "yes", "no")}
        self.depends_on: Mapping[str, Any] = {**facts, **settings}

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        """One score for each answer; those of prompts without images have none (``no_image``), and those that state
        nothing neither (``no_claim``)."""
        for portion in portions(items, _PROMPTS_AT_ONCE):
            yield from self._score(portion)

    def _score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        seen = []
        for item in items:
            if why := what_shows_no_image(item):
                yield from missing(item, why)
            else:
                seen.append(item)
        samples: list[EvalSample] = []
        asked_by: dict[str, tuple[_Asked, str]] = {}
        for asked in self._divided(seen):
            claims = distinct(asked.claims)
            asked.missing = len(claims)
            if not claims:
                yield from self._scores(asked)
            for number, (key, claim) in enumerate(claims.items()):
                samples.append(self._question(f"{asked.item.prompt.id} claim {number}", asked.item, claim))
                asked_by[samples[-1].id] = (asked, key)
        for sample_id, found in self._asker.measure(samples):
            asked, key = asked_by[sample_id]
            asked.found[key] = found
            asked.missing -= 1
            if not asked.missing:
                yield from self._scores(asked)

    def _divided(self, items: Sequence[Candidates]) -> Iterator[_Asked]:
        """The prompts with the claims of their answers, each with the beginning that was given to it."""
        texts = {
            AnswerPlace(item.prompt.id, at): item.prompt.response_prefix + answer.text
            for item in items
            for at, answer in enumerate(item.answers)
        }
        lists: dict[AnswerPlace, FactList] = {}
        if self._lister is not None:
            places = {f"{place.prompt_id} #{place.at}": place for place, text in texts.items() if text.strip()}
            asked = {text_id: texts[place] for text_id, place in places.items()}
            lists = {places[text_id]: found for text_id, found in self._lister.lists(asked)}
        for item in items:
            of_item = [AnswerPlace(item.prompt.id, at) for at in range(len(item.answers))]
            if self._lister is None:
                yield _Asked(item, [claims_of(texts[place]) for place in of_item])
                continue
            written = [lists.get(place, FactList()) for place in of_item]
            claims = [facts_of_list(found.text, cut=found.cut) for found in written]
            yield _Asked(item, claims, {at: found for at, found in enumerate(written) if found.why})

    def _question(self, sample_id: str, item: Candidates, claim: str) -> EvalSample:
        shown = item.prompt
        return EvalSample(
            id=sample_id,
            images=shown.images,
            prompt=user_turn(self._options.question.replace(_CLAIM, claim), num_images=len(shown.images)),
            target=(self._options.yes, self._options.no),
            meta={"template_kwargs": shown.template_kwargs},
        )

    def _scores(self, asked: _Asked) -> Iterator[RawScore]:
        for at, claims in enumerate(asked.claims):
            place = AnswerPlace(asked.item.prompt.id, at)
            if refused := asked.refused.get(at):
                yield without_score(place, refused.why, refused.detail, failed=True)
            else:
                yield self._of_answer(place, claims, [asked.found[claim.casefold()] for claim in claims])

    def _of_answer(self, place: AnswerPlace, claims: Sequence[str], found: Sequence[Likelihood]) -> RawScore:
        if not claims:
            return without_score(place, "no_claim")
        margins = []
        for claim, one in zip(claims, found, strict=True):
            if one.logp is None or one.other is None:  # a score of the rest would be of another answer
                return without_score(place, one.why, f"{claim} {one.detail}", failed=True)
            if not math.isfinite(one.logp - one.other):
                return without_score(place, "not_finite", claim, failed=True)
            margins.append(one.logp - one.other)
        chances = [1 / (1 + math.exp(-max(-700.0, margin))) for margin in margins]
        rejected = sum(margin < 0 for margin in margins)
        values = {
            "share": 1 - rejected / len(claims),
            "mean": sum(chances) / len(claims),
            "rejected": float(-rejected),
        }
        shown = [{"claim": claim, "p_yes": chance} for claim, chance in zip(claims, chances, strict=True)]
        return RawScore(place=place, value=values[self._options.measure], detail={"claims": shown})
