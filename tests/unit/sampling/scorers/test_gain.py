"""Image-conditioned gain: the numbers of two plain forwards, and what has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mmpref.errors import ConfigError, DataError  # noqa: E402
from mmpref.generation import AnswerSettings  # noqa: E402
from mmpref.generation.answer_likelihood import AnswerLikelihood  # noqa: E402
from mmpref.models import LoadedModel  # noqa: E402
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, VideoRef, user_turn  # noqa: E402
from mmpref.sampling.scorers import build_scorer  # noqa: E402
from mmpref.sampling.scorers.contract import RawScore, ScoreContext  # noqa: E402
from mmpref.sampling.scorers.gain import GainScorer, without_images  # noqa: E402
from tests.plain_forward import build_deep, by_hand  # noqa: E402
from tests.tiny_vlms import build, draw, pair, refs, turn  # noqa: E402

TEXTS = ("a red square .", "there is no dog , there is one cat .", "yes")


def asked(prompt_id: str, *images: str, texts: tuple[str, ...] = TEXTS, **rest: Any) -> Candidates:
    prompt = rest.pop("prompt", None) or user_turn("what is in the image ?", num_images=len(images))
    shown = Prompt(id=prompt_id, images=refs(*images), prompt=prompt, **rest)
    return Candidates(prompt=shown, answers=tuple(Candidate(text=text) for text in texts))


def items() -> list[Candidates]:
    turns = (turn("user", "is it red ?"), turn("assistant", "yes ."), turn("user", None, "and here ?"))
    return [
        asked("one", "28x28-1"),
        asked("other", "60x60-2"),
        asked("turns", "56x28-3", prompt=turns),
        asked("begun", "28x28-4", response_prefix="the image shows", texts=(" a red square .", " two boxes .")),
        asked("image alone", "28x28-5", prompt=(turn("user", None),)),
    ]


def scorer(loaded: LoadedModel, load_image: Any = draw, **settings: Any) -> GainScorer:
    measure = AnswerLikelihood(loaded, AnswerSettings(**settings), load_image=load_image)
    return GainScorer(measure, facts={})


def scores(made: GainScorer, asked_of: list[Candidates]) -> dict[tuple[str, int], RawScore]:
    found = list(made.score(asked_of))
    assert len(found) == len({score.place for score in found})
    return {tuple(score.place): score for score in found}


def by_two_forwards(loaded: LoadedModel, item: Candidates) -> list[float]:
    blind = without_images(item.prompt)
    gains = []
    for answer in item.answers:
        rows = [
            pair(images=tuple(str(ref.path) for ref in shown.images), prompt=shown.prompt, chosen=answer.text,
                 rejected=None, response_prefix=shown.response_prefix)
            for shown in (item.prompt, blind)
        ]  # fmt: skip
        [seeing], [unseeing] = (by_hand(loaded.model, loaded, [row]) for row in rows)
        assert len(seeing) == len(unseeing)
        gains.append(float(seeing.sum() - unseeing.sum()) / len(seeing))
    return gains


_MORE = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "idefics3", "qwen3_vl", "internvl")]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", *_MORE])
def test_the_gain_is_the_difference_of_two_plain_forwards(name: str) -> None:
    loaded = build_deep(name)
    rows = items()
    with torch.no_grad():
        wanted = {(item.prompt.id, at): gain for item in rows for at, gain in enumerate(by_two_forwards(loaded, item))}
    found = scores(scorer(loaded, batch_size=4), rows)
    assert found.keys() == wanted.keys()
    for place, gain in wanted.items():
        assert found[place].value == pytest.approx(gain, abs=2e-4), place
    assert len({round(gain, 3) for gain in wanted.values()}) == len(wanted)
    assert min(wanted.values()) < 0 < max(wanted.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("llava", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return build_deep("llava")


def test_the_image_of_another_prompt_gives_another_gain_and_whole_gains_are_longer(loaded: LoadedModel) -> None:
    one, other = asked("p", "28x28-1"), asked("p", "60x60-2")
    found = [scores(scorer(loaded), [item]) for item in (one, other)]
    assert all(abs(found[0][place].value - found[1][place].value) > 1e-3 for place in found[0])
    measure = AnswerLikelihood(loaded, load_image=draw)
    whole = {tuple(score.place): score for score in GainScorer(measure, per_token=False, facts={}).score([one])}
    for place, score in found[0].items():
        assert whole[place].value == pytest.approx(score.value * score.detail["tokens"], abs=1e-4)
        logps = score.detail["logp"] - score.detail["logp_without_images"]
        assert whole[place].value == pytest.approx(logps, abs=1e-4)


def test_template_kwargs_of_a_prompt_reach_the_template(loaded: LoadedModel) -> None:
    import copy

    tokenizer = copy.deepcopy(loaded.processor)
    template = tokenizer.chat_template
    tokenizer.chat_template = "{% if calm %}please . {% endif %}" + template
    other = replace(loaded, processor=tokenizer)
    plain, calm = asked("p", "28x28-1"), asked("p", "28x28-1", template_kwargs={"calm": True})
    found = [scores(scorer(other), [item])["p", 0].value for item in (plain, calm)]
    assert found[0] == pytest.approx(scores(scorer(loaded), [plain])["p", 0].value, abs=1e-5)
    assert abs(found[0] - found[1]) > 1e-4


def test_what_cannot_be_compared_has_no_score_and_ends_nothing(loaded: LoadedModel) -> None:
    def load(ref: ImageRef) -> Any:
        if ref.path == "56x28-9":
            raise DataError("image 56x28-9 is gone")
        return draw(ref)

    film = replace(asked("film", "28x28-1").prompt, videos=(VideoRef(path="60x60x4-1"),))
    rows = [
        asked("blind"),
        asked("empty", "28x28-1", texts=("a dog .", " ")),
        asked("lost", "56x28-9"),
        Candidates(prompt=film, answers=(Candidate(text="a dog ."),)),
        asked("nothing", "28x28-1", texts=()),
    ]
    found = scores(scorer(loaded, load), rows)
    reasons = {place: score.why for place, score in found.items()}
    assert reasons == {
        **{("blind", at): "no_image" for at in range(3)},
        ("empty", 0): "",
        ("empty", 1): "empty_response",
        **{("lost", at): "unreadable" for at in range(3)},
        ("film", 0): "video",
    }
    assert all((score.value is None) == bool(score.why) for score in found.values())
    assert "56x28-9 is gone" in found["lost", 0].detail["why"]


def test_a_model_without_memory_for_one_answer_scores_the_others(loaded: LoadedModel) -> None:
    rows = [asked("p", "28x28-1", texts=("yes", "a red square on a blue background . " * 3))]
    made = scorer(loaded)
    inner = made._measure._logps

    def short(pairs: Any) -> Any:
        if sum(len(pair.chosen_ids) for pair in pairs) > 30:
            raise torch.OutOfMemoryError("no memory")
        return inner(pairs)

    made._measure._logps = short
    found = scores(made, rows)
    assert (found["p", 0].why, found["p", 1].why) == ("", "out_of_memory")
    assert "'p #1'" in found["p", 1].detail["why"]
    assert found["p", 0].value == pytest.approx(scores(scorer(loaded), rows)["p", 0].value, abs=1e-5)


def test_a_number_that_is_none_is_no_score(loaded: LoadedModel) -> None:
    made = scorer(loaded)
    made._measure._logps = lambda pairs: [{"chosen": float("nan"), "chosen_len": 3.0} for _ in pairs]
    assert {score.why for score in scores(made, [asked("p", "28x28-1")]).values()} == {"not_finite"}


def test_it_is_built_from_options(folder: Path, tmp_path: Path) -> None:
    draw(ImageRef(path="28x28-1")).save(tmp_path / "a.png")
    made = build_scorer("g", "gain", {"model": str(folder)}, ScoreContext(image_root=tmp_path))
    assert made.scale == (None, None)
    assert made.depends_on["per_token"] is True
    assert made.depends_on["model_files"]
    found = list(made.score([asked("p", "a.png")]))
    assert [score.value is not None for score in found] == [True] * 3
    whole = build_scorer("g", "gain", {"model": str(folder), "per_token": False}, ScoreContext(image_root=tmp_path))
    assert whole.depends_on != made.depends_on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs g.model"),
        ({"model": "x", "modle": 1}, "did you mean"),
        ({"model": "x", "per_token": "no"}, "scorer 'g': per_token must be one of true, false"),
        ({"model": "x", "per_token": 1}, "scorer 'g': per_token must be one of true, false"),
        ({"model": "x", "max_pixels": 0}, "scorer 'g': max_pixels must be a whole number from 1"),
        ({"model": 3}, "scorer 'g': model must be a text"),
        ({"model": "not/a/model"}, "not/a/model does not exist"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scorer("g", "gain", options, ScoreContext())


def test_a_model_for_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"compares with the image, and .* takes text only"):
        build_scorer("g", "gain", {"model": str(build("text", tmp_path))}, ScoreContext())
