"""Which prompts are answered in the course of a training, what is said where that cannot be, and the metrics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mmpref.errors import ConfigError, DistributedError
from mmpref.processing.length_plan import FitPlan
from mmpref.processing.pair_fit import Fit, PromptLength
from mmpref.recipe.loading import dump_recipe, load_recipe
from mmpref.recipe.sections import SamplesSection
from mmpref.records import PreferencePair, VideoRef
from mmpref.training.loss_settings import objective_of, reference_for
from mmpref.training.parallel.strategy import refuse_what_cannot_shard
from mmpref.training.run.sample_answers import choose_prompts, metrics_of, text_of
from mmpref.training.run.samples import why_no_kl
from tests.advice import alternatives, followed
from tests.tiny_vlms import pair, turn


def plan(*pairs: PreferencePair, tokens: int = 10) -> FitPlan:
    fits = [
        Fit(pair_id=one.id, prompts=(PromptLength(tokens + place, 0),), answers=(3, 3), space=None)
        for place, one in enumerate(pairs)
    ]
    return FitPlan(list(pairs), fits)


def asking(*texts: str, first: int = 0) -> list[PreferencePair]:
    return [pair(str(first + place), question=text, images=()) for place, text in enumerate(texts)]


def test_prompts_are_chosen_by_their_ids_alone_and_each_once() -> None:
    pairs = asking(*(f"what is {number} ?" for number in range(20)), "what is 3 ?", "what is 4 ?")
    settings, lines = SamplesSection(count=6), []
    chosen = choose_prompts(settings, plan(*pairs), plan(), None, lines.append)
    again = choose_prompts(settings, plan(*reversed(pairs)), plan(*asking("other")), None, lines.append)
    assert [one.id for one in chosen] == [one.id for one in again]
    assert len({one.prompt for one in chosen}) == 6
    assert not lines
    more = choose_prompts(SamplesSection(count=8), plan(*pairs), plan(), None, lines.append)
    assert more[:6] == chosen
    other = choose_prompts(SamplesSection(count=6, seed=1), plan(*pairs), plan(), None, lines.append)
    assert other != chosen


def test_training_pairs_are_asked_where_none_are_held_out() -> None:
    lines: list[str] = []
    chosen = choose_prompts(SamplesSection(count=3), plan(), plan(*asking("a", "b", "a")), None, lines.append)
    assert sorted(text_of(one.prompt) for one in chosen) == ["a", "b"]
    assert lines == ["train.samples: the training pairs have 2 different prompts, of 3 asked for"]


def test_prompts_that_leave_no_space_for_an_answer_are_left_out_and_the_advice_makes_space() -> None:
    pairs = plan(*asking("a", "b", "c"), tokens=40)  # 40, 41 and 42 tokens
    assert len(choose_prompts(SamplesSection(count=2, max_new_tokens=10), pairs, plan(), 51, print)) == 2
    with pytest.raises(ConfigError, match="3 leave less space") as caught:
        choose_prompts(SamplesSection(count=2, max_new_tokens=30), pairs, plan(), 60, print)
    [[word], off] = alternatives(str(caught.value))
    assert off == ["train.samples=null"]
    room = int(word.removeprefix("train.samples.max_new_tokens="))
    assert len(choose_prompts(SamplesSection(count=1, max_new_tokens=room), pairs, plan(), 60, print)) == 1


def test_prompts_with_videos_are_not_asked() -> None:
    film = PreferencePair(
        id="film", images=(), prompt=(turn("user", "what ?"),), chosen="a", rejected="b", videos=(VideoRef("a.mp4"),)
    )
    [chosen] = choose_prompts(SamplesSection(count=1), plan(film, *asking("a")), plan(), None, print)
    assert chosen.id == "0"
    with pytest.raises(ConfigError, match="1 show videos") as caught:
        choose_prompts(SamplesSection(), plan(film), plan(), None, print)
    assert alternatives(str(caught.value)) == [["train.samples=null"]]


def line(prompt: str, tokens: int, k1: float, k3: float, *, cut: bool = False) -> dict[str, object]:
    return {"id": prompt, "kind": "drawn", "tokens": tokens, "cut": cut, "k1": k1, "k3": k3}


def test_metrics_are_means_over_drawn_answers_with_errors_over_prompts() -> None:
    greedy = {"id": "a", "kind": "greedy", "tokens": 100, "cut": True}
    lines = [greedy, line("a", 2, 1.0, 0.5), line("a", 4, 3.0, 0.5), line("b", 6, -1.0, 2.5, cut=True)]
    found = metrics_of(lines)
    assert found["samples/len"] == 4.0
    assert found["samples/n"] == 3.0
    assert found["samples/cut"] == pytest.approx(1 / 3)
    assert found["samples/kl_k1"] == 1.0
    assert found["samples/kl_k3"] == pytest.approx(3.5 / 3)
    # sums of what is off the mean: a: 0 + 2, b: -2; 2 prompts, 3 answers
    assert found["samples/kl_k1_se"] == pytest.approx(math.sqrt(2 / 1 * 8) / 3)
    assert "samples/kl_k1_se" not in metrics_of(lines[:3])
    assert metrics_of([greedy]) == {"samples/len": 100.0, "samples/cut": 1.0, "samples/n": 1.0}
    assert metrics_of([]) == {}


def test_a_prompt_of_several_turns_says_who_speaks() -> None:
    assert text_of((turn("user", None, " what ? "),)) == "what ?"
    assert text_of((turn("system", "be kind"), turn("user", "what ?"))) == "system: be kind\nuser: what ?"


# ---- the recipe -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "count", "kl"),
    [
        (["train.samples=3"], 3, 4),
        (["train.samples=true"], 8, 4),
        (["train.samples={kl: 0}"], 8, 0),
        (["train.samples=3", "train.samples.kl=0"], 3, 0),
        (["train.samples.kl=0", "train.samples=3"], 3, 0),
        (["train.samples.kl=0"], 8, 0),
    ],
)
def test_a_number_or_a_mapping_switches_samples_on(changes: list[str], count: int, kl: int) -> None:
    section = load_recipe("demo_dpo", changes).train.samples
    assert section is not None
    assert (section.count, section.kl) == (count, kl)


def test_samples_are_off_until_asked_for() -> None:
    for changes in ([], ["train.samples=null"], ["train.samples=false"]):
        assert load_recipe("demo_dpo", changes).train.samples is None


@pytest.mark.parametrize("value", ["3.5", "many", "[1]", "0", "-1", "{count: 0}", "{kl: -1}", "{steps: 0}", "{n: 2}"])
def test_what_is_no_number_of_prompts_is_refused_by_its_key(value: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.samples"):
        load_recipe("demo_dpo", [f"train.samples={value}"])


def test_a_number_in_a_file_is_a_section_to_changes(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(load_recipe("demo_dpo")).replace("samples: null", "samples: 5"))
    assert load_recipe(file).train.samples == SamplesSection(count=5)
    assert load_recipe(file, ["train.samples.kl=0"]).train.samples == SamplesSection(count=5, kl=0)
    assert load_recipe(file, ["train.samples=6"]).train.samples == SamplesSection(count=6)
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(load_recipe(file, ["train.samples.kl=0"])))
    assert load_recipe(again).train.samples == SamplesSection(count=5, kl=0)


LORA = ["adapter={kind: lora}", "tune={language: lora, projector: freeze, vision: freeze}"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (["loss.name=simpo"], "frozen_copy"),
        (["loss.name=sft", *LORA], "adapter_off"),
        (["reference.kind=cache"], "frozen_copy"),
        (["reference={kind: cache, cache: there}", *LORA], "adapter_off"),
    ],
)
def test_advice_on_a_missing_reference_gives_one(changes: list[str], kind: str) -> None:
    changes = [*changes, "train.samples=2"]
    recipe = load_recipe("demo_dpo", changes)
    said = why_no_kl(recipe, objective_of(recipe))
    measured, off = alternatives(said)
    better = load_recipe("demo_dpo", followed(changes, measured))
    assert objective_of(better)
    assert reference_for(better).kind == better.reference.kind == kind
    recipe = load_recipe("demo_dpo", followed(changes, off))
    assert why_no_kl(recipe, objective_of(recipe)) == ""


def test_a_reference_that_neither_loss_nor_samples_read_is_refused() -> None:
    for changes in ([], ["train.samples={kl: 0}"]):
        with pytest.raises(ConfigError, match="has no reference"):
            objective_of(load_recipe("demo_dpo", ["loss.name=simpo", "reference.kind=frozen_copy", *changes]))


@pytest.mark.parametrize("strategy", ["fsdp2", "zero2", "zero3"])
def test_ranks_that_share_weights_are_refused_before_the_model_loads(strategy: str) -> None:
    recipe = load_recipe("demo_dpo", ["train.samples=2", "reference.kind=cache"])
    with pytest.raises(DistributedError, match=r"train\.samples") as caught:
        refuse_what_cannot_shard(recipe, strategy)  # type: ignore[arg-type]
    [off] = alternatives(str(caught.value))
    refuse_what_cannot_shard(load_recipe("demo_dpo", followed(["reference.kind=cache"], off)), strategy)  # type: ignore[arg-type]
