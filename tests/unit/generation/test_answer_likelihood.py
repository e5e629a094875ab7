"""Single answers measured: with the adapter that is on the model, and each with a reason where there is no number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mmpref.errors import OutOfMemoryError  # noqa: E402
from mmpref.generation import LikelihoodAnswerer, ModelSource, ProcessesAnswerer  # noqa: E402
from mmpref.generation.answer_likelihood import AnswerLikelihood, WordLikelihood, likelihood_of  # noqa: E402
from mmpref.generation.local_model import Batches  # noqa: E402
from mmpref.models import AdapterSettings, LoadedModel, Tuning, prepare  # noqa: E402
from mmpref.records import EvalSample, user_turn  # noqa: E402
from tests.plain_forward import build_deep, by_hand  # noqa: E402
from tests.tiny_vlms import build, pair  # noqa: E402

QUESTION = "is there a dog ?"
ANSWERS = ("there is no dog .", "yes", "there is one cat .")


def samples(*answers: str, **meta: Any) -> list[EvalSample]:
    prompt = user_turn(QUESTION, num_images=0)
    return [
        EvalSample(id=f"s{at}", images=(), prompt=prompt, target=(text, None), meta=meta)
        for at, text in enumerate(answers)
    ]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    found = prepare(build_deep("text"), Tuning(language="lora"), AdapterSettings(rank=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in found.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return found


def test_an_answer_alone_has_the_numbers_that_it_has_in_a_pair_with_the_adapter(loaded: LoadedModel) -> None:
    found = dict(AnswerLikelihood(loaded).measure(samples(*ANSWERS)))
    asked = samples(ANSWERS[0])[0]
    of_pair = EvalSample(id="p", images=(), prompt=asked.prompt, target=ANSWERS[:2])
    [answer] = LikelihoodAnswerer(loaded).answer([of_pair])
    row = json.loads(answer.text)
    assert found["s0"].logp == pytest.approx(row["chosen"], abs=1e-4)
    assert found["s1"].logp == pytest.approx(row["rejected"], abs=1e-4)
    assert found["s0"].tokens == row["chosen_len"]
    assert abs(row["chosen"] - row["ref_chosen"]) > 1e-2
    [alone] = AnswerLikelihood(loaded).answer(samples(ANSWERS[0]))
    assert set(json.loads(alone.text)) == {"chosen", "chosen_len"}  # the base model did not run for it


def test_one_of_several_answers_that_cannot_be_read_leaves_the_others(loaded: LoadedModel) -> None:
    found = dict(AnswerLikelihood(loaded).measure(samples("yes", " ", "there is one cat .")))
    assert {name: one.why for name, one in found.items()} == {"s0": "", "s1": "empty_response", "s2": ""}
    assert "'s1' has an empty answer" in found["s1"].detail
    assert found["s1"].logp is None


def test_what_ends_the_turn_is_not_counted_of_words(loaded: LoadedModel) -> None:
    prompt = user_turn(QUESTION, num_images=0)
    [(_, found)] = WordLikelihood(loaded).measure([EvalSample(id="s", images=(), prompt=prompt, target=("yes", "no"))])
    row = pair(images=(), question=QUESTION, chosen="yes", rejected="no")
    with torch.no_grad():
        yes, no = by_hand(loaded.model, loaded, [row])
    assert found.logp == pytest.approx(float(yes[:-1].sum()), abs=1e-4)
    assert found.other == pytest.approx(float(no[:-1].sum()), abs=1e-4)
    assert found.tokens == len(yes) - 1


def test_an_item_without_memory_has_the_result_that_stands_in_its_place_or_is_an_error() -> None:
    def work(batch: list[int]) -> list[str]:
        if 7 in batch:
            raise torch.OutOfMemoryError("no memory")
        return [str(item) for item in batch]

    def run(batches: Batches) -> list[tuple[int, str]]:
        return list(
            batches.run([1, 7, 2, 3], tokens_of=lambda _: 1, work=work, too_large=lambda item: f"{item} is large")
        )

    assert run(Batches(4, 100, instead=str.upper)) == [(1, "1"), (7, "7 IS LARGE"), (2, "2"), (3, "3")]
    with pytest.raises(OutOfMemoryError, match="7 is large"):
        run(Batches(4, 100))


@pytest.mark.slow
def test_several_processes_measure_together(tmp_path: Path) -> None:
    source = ModelSource(path=str(build("text", tmp_path / "model")))
    other = user_turn("why ?", num_images=0)
    asked = samples(*ANSWERS) + [
        EvalSample(id=f"o{at}", images=(), prompt=other, target=(text, None)) for at, text in enumerate((*ANSWERS, " "))
    ]
    here = dict(AnswerLikelihood(source).measure(asked))
    answerer = ProcessesAnswerer(source=source, num=2, kind=AnswerLikelihood)
    there = {answer.id: likelihood_of(answer) for answer in answerer.answer(asked)}
    assert there.keys() == here.keys()
    assert there["o3"].why == "empty_response"
    for name, one in here.items():
        assert (there[name].logp is None) == (one.logp is None) == (name == "o3")
        assert one.logp is None or there[name].logp == pytest.approx(one.logp, abs=1e-4)
