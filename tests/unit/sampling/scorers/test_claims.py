"""Divide and ask: exact counts with scripted likelihoods, and a real model from end to end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mmpref.errors import ConfigError, DataError  # noqa: E402
from mmpref.generation import AnswerSettings  # noqa: E402
from mmpref.generation.answer_likelihood import Likelihood, WordLikelihood  # noqa: E402
from mmpref.generation.fact_lists import INSTRUCTION, FactList, FactLister  # noqa: E402
from mmpref.models import LoadedModel  # noqa: E402
from mmpref.records import Candidate, Candidates, EvalSample, ImageRef, Prompt, user_turn  # noqa: E402
from mmpref.sampling.scorers import build_scorer  # noqa: E402
from mmpref.sampling.scorers.claims import QUESTION, ClaimScorer, Options  # noqa: E402
from mmpref.sampling.scorers.contract import RawScore, ScoreContext  # noqa: E402
from tests.plain_forward import build_deep, by_hand  # noqa: E402
from tests.tiny_vlms import build, draw, pair, refs  # noqa: E402

TRUE, FALSE = Likelihood(logp=-1.0, other=-3.0), Likelihood(logp=-3.0, other=-1.0)


class Scripted:
    """Says yes to claims with a true word in them."""

    def __init__(self, *, true: str = "cat", special: Mapping[str, Likelihood] | None = None) -> None:
        self.asked: list[EvalSample] = []
        self._true, self._special = true, special or {}

    def measure(self, samples: Sequence[EvalSample]) -> Iterator[tuple[str, Likelihood]]:
        for sample in reversed(samples):  # in any order
            self.asked.append(sample)
            text = sample.prompt[0].text
            found = [one for word, one in self._special.items() if word in text]
            yield sample.id, found[0] if found else TRUE if self._true in text else FALSE


def asked(prompt_id: str, *texts: str, images: tuple[str, ...] = ("28x28-1",), **rest: Any) -> Candidates:
    question = user_turn("what is in the image ?", num_images=len(images))
    shown = Prompt(id=prompt_id, images=refs(*images), prompt=question, **rest)
    return Candidates(prompt=shown, answers=tuple(Candidate(text=text) for text in texts))


def scores(made: ClaimScorer, *items: Candidates) -> dict[tuple[str, int], RawScore]:
    found = list(made.score(items))
    assert len(found) == len({score.place for score in found}) == sum(len(item.answers) for item in items)
    return {tuple(score.place): score for score in found}


ITEM = asked(
    "p",
    "A cat sits. A dog runs. It is a cat.",
    "A dog runs. A red dog sleeps.",
    "There is a cat.",
    "Yes",
    "What is it?",
)


@pytest.mark.parametrize(
    ("measure", "scale", "values"),
    [
        ("share", (0.0, 1.0), [2 / 3, 0.0, 1.0, None, None]),
        ("rejected", (None, 0.0), [-1.0, -2.0, 0.0, None, None]),
    ],
)
def test_claims_are_counted(measure: str, scale: Any, values: list[float | None]) -> None:
    asker = Scripted()
    made = ClaimScorer(asker, Options(model="m", measure=measure), facts={"model": "m"})
    found = scores(made, ITEM)
    assert [found["p", at].value for at in range(5)] == pytest.approx(values)
    assert [found["p", at].why for at in range(5)] == ["", "", "", "no_claim", "no_claim"]
    assert made.scale == scale
    assert len(asker.asked) == 5  # "A dog runs." is in two answers
    chance = 1 / (1 + math.exp(-2))
    assert found["p", 0].detail["claims"] == [
        {"claim": "A cat sits.", "p_yes": pytest.approx(chance)},
        {"claim": "A dog runs.", "p_yes": pytest.approx(1 - chance)},
        {"claim": "It is a cat.", "p_yes": pytest.approx(chance)},
    ]


def test_the_mean_is_of_p_yes() -> None:
    found = scores(ClaimScorer(Scripted(), Options(model="m", measure="mean"), facts={}), ITEM)
    yes = 1 / (1 + math.exp(-2))
    assert found["p", 0].value == pytest.approx((2 * yes + 1 - yes) / 3)


def test_a_claim_that_is_as_likely_as_not_is_not_rejected_and_extremes_are_numbers() -> None:
    even, sure = Likelihood(logp=-2.0, other=-2.0), Likelihood(logp=-5000.0, other=-1.0)
    asker = Scripted(special={"tree": even, "bush": sure})
    found = scores(ClaimScorer(asker, Options(model="m"), facts={}), asked("p", "A tree stands.", "A bush stands."))
    assert [found["p", at].value for at in (0, 1)] == [1.0, 0.0]
    assert found["p", 1].detail["claims"][0]["p_yes"] == pytest.approx(0.0, abs=1e-100)


def test_questions_show_all_images_and_the_kwargs_of_the_prompt() -> None:
    asker = Scripted()
    item = asked("p", " cat sits.", images=("28x28-1", "28x28-2"), response_prefix="A", template_kwargs={"calm": True})
    made = ClaimScorer(asker, Options(model="m", question="Is it so? {claim}", yes="Oui", no="Non"), facts={})
    assert scores(made, item)["p", 0].value == 1.0
    [sample] = asker.asked
    assert sample.prompt == user_turn("Is it so? A cat sits.", num_images=2)
    assert sample.images == refs("28x28-1", "28x28-2")
    assert sample.target == ("Oui", "Non")
    assert sample.meta == {"template_kwargs": {"calm": True}}
    assert made.depends_on["question"] == "Is it so? {claim}"


def test_an_answer_of_which_one_claim_cannot_be_asked_has_no_score_and_others_have() -> None:
    special = {
        "whale": Likelihood(logp=None, why="too_long_prompt", detail="it is too long"),
        "nan": Likelihood(logp=math.nan, other=-1.0),
    }
    asker = Scripted(special=special)
    item = asked("p", "A cat sits. A whale sings.", "A nan sits.", "A cat sits.")
    blind = asked("blind", "A cat sits.", images=())
    found = scores(ClaimScorer(asker, Options(model="m"), facts={}), item, blind)
    assert [found["p", at].why for at in range(3)] == ["too_long_prompt", "not_finite", ""]
    assert found["p", 0].detail == {"why": "A whale sings. it is too long"}
    assert found["p", 2].value == 1.0
    assert found["blind", 0].why == "no_image"


def test_many_prompts_are_asked_in_portions_and_each_once() -> None:
    items = [asked(f"p{number}", f"Number {number} is a cat.", "A dog.") for number in range(150)]
    asker = Scripted()
    found = scores(ClaimScorer(asker, Options(model="m"), facts={}), *items)
    assert [found[f"p{number}", at].value for number in range(150) for at in (0, 1)] == [1.0, 0.0] * 150
    assert len(asker.asked) == 300


def test_a_model_may_divide() -> None:
    class Lists:
        def lists(self, texts: Mapping[str, str]) -> Iterator[tuple[str, FactList]]:
            assert set(texts) == {"p #0", "p #1", "p #2"}
            yield "p #1", FactList(why="control_token", detail="it holds one")
            yield "p #0", FactList(text=f"- {texts['p #0']} A cat.\n- A dog here.\n- Half a", cut=True)
            yield "p #2", FactList(text="NONE")

    made = ClaimScorer(Scripted(), Options(model="m", divider="model"), facts={}, lister=Lists())
    found = scores(made, asked("p", "It is", "b", "c", " "))
    assert [found["p", at].why for at in range(4)] == ["", "control_token", "no_claim", "no_claim"]
    assert found["p", 0].value == 0.5
    assert [one["claim"] for one in found["p", 0].detail["claims"]] == ["It is A cat.", "A dog here."]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return build_deep("qwen2_5_vl")


def test_yes_and_no_are_measured_as_the_beginning_of_an_answer(loaded: LoadedModel) -> None:
    asker = WordLikelihood(loaded, AnswerSettings(batch_size=4), load_image=draw)
    claims = ["A red square.", "There is no dog.", "It is a green circle ."]
    made = ClaimScorer(asker, Options(model="m", measure="mean"), facts={})
    found = scores(made, asked("p", " ".join(claims)), asked("q", *claims, images=("60x60-2",)))
    for shown, name in (("28x28-1", "p"), ("60x60-2", "q")):
        of_claims = []
        for claim in claims:
            question = QUESTION.replace("{claim}", claim.replace(" .", "."))
            row = pair(images=(shown,), question=question, chosen="Yes", rejected="No")
            with torch.no_grad():
                yes, no = by_hand(loaded.model, loaded, [row])
            of_claims.append(float(torch.sigmoid(yes[:-1].sum() - no[:-1].sum())))
        values = [one["p_yes"] for at in range(3 if name == "q" else 1) for one in found[name, at].detail["claims"]]
        assert values == pytest.approx(of_claims, abs=1e-4)
        assert len({round(value, 4) for value in values}) == 3


def test_words_that_are_the_same_to_the_tokenizer_are_known(loaded: LoadedModel) -> None:
    asker = WordLikelihood(loaded, load_image=draw)
    yes, no = asker.tokens_of("Yes", "No")
    assert loaded.tokenizer.decode(list(yes)) == "Yes"
    assert loaded.tokenizer.decode(list(no)) == "No"


def test_a_list_of_facts_comes_from_the_model_and_what_cannot_be_asked_is_named(loaded: LoadedModel) -> None:
    lister = FactLister(loaded, AnswerSettings(max_new_tokens=4))
    inner = lister._encoder.encode_prompt

    def refusing(sample_id: str, prompt: Any, *rest: Any) -> Any:
        if "bad" in prompt[0].text:
            raise DataError(f"'{sample_id}' is bad")
        assert prompt == user_turn(INSTRUCTION + "a red square .", num_images=0)
        return inner(sample_id, prompt, *rest)

    lister._encoder.encode_prompt = refusing
    found = dict(lister.lists({"a": "a red square .", "b": "bad"}))
    assert found["b"] == FactList(why="unreadable", detail="'b' is bad")
    assert found["a"].why == ""
    assert found["a"].cut

    def no_memory(prompts: Any) -> Any:
        raise torch.OutOfMemoryError("no memory")

    lister._generate_batch = no_memory
    assert dict(lister.lists({"a": "a red square ."}))["a"].why == "out_of_memory"


@pytest.mark.parametrize("divider", ["rules", pytest.param("model", marks=pytest.mark.slow)])
def test_a_real_model_scores_answers_from_options(divider: str, tmp_path: Path) -> None:
    draw(ImageRef(path="28x28-1")).save(tmp_path / "a.png")
    folder = build("llava", tmp_path / "model")
    options = {"model": str(folder), "divider": divider, "divider_tokens": 8, "measure": "rejected"}
    made = build_scorer("c", "claims", options, ScoreContext(image_root=tmp_path))
    found = list(made.score([asked("p", "a red square . there is a dog .", "yes", images=("a.png",))]))
    assert {score.place.at for score in found} == {0, 1}
    if divider == "rules":
        by_place = {score.place.at: score for score in found}
        assert [one["claim"] for one in by_place[0].detail["claims"]] == ["A red square.", "There is a dog."]
        rejected = sum(one["p_yes"] < 0.5 for one in by_place[0].detail["claims"])
        assert by_place[0].value == -rejected
        assert by_place[1].why == "no_claim"
    assert made.depends_on["divider"] == divider
    assert ("divider_tokens" in made.depends_on) == (divider == "model")
    with pytest.raises(ConfigError, match="tokens of 'Yes' and 'Yes , it is' begin alike"):
        build_scorer("c", "claims", {**options, "no": "Yes , it is"}, ScoreContext())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "shares"}, "measure must be one of share, mean, rejected"),
        ({"divider": "llm"}, "divider must be one of rules, model"),
        ({"question": "Is it true?"}, "question must hold {claim} once"),
        ({"yes": " "}, "yes must be a text"),
        ({"divider_tokens": True}, "divider_tokens must be a whole number from 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"scorer 'c': {message}"):
        build_scorer("c", "claims", {"model": "m", **options}, ScoreContext())
