"""The commands of rounds: each begins where the round before ended, and says what the recipe says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.recipe.loading import dump_recipe, load_recipe
from mmpref.sampling.round_commands import RoundCommands, Threshold

RECIPE = """
output: unused
model: {path: base/model}
data: {train: asked.jsonl, root: images}
loss: {name: uni_dpo}
tune: {language: lora}
adapter: {kind: lora}
train: {learning_rate: 5e-6}
sample:
  scorers: {objects: {options: {truth: truth.json}}, second: {kind: judge, options: {rubric: 'a: b'}}}
  weights: {second: 0.5}
  pair: {choose: best_worst, balance_length: true, min_margin: 0.25}
  evals:
  - {benchmark: chair, questions: chair.json, options: {synonyms: s.txt}}
  - {benchmark: pope, questions: [a.jsonl, b.jsonl], name: hard}
"""


def commands(tmp_path: Path, *overrides: str, weighs_scores: bool = True) -> RoundCommands:
    file = tmp_path / "rounds.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return RoundCommands(recipe=load_recipe(file, overrides), out=Path("/out"), weighs_scores=weighs_scores)


def train(made: RoundCommands, number: int) -> list[str]:
    return list(made.train(number, image_root=Path("/images"), threshold=Threshold(eta=0.7, tau_good=3.5)).arguments)


def value(arguments: tuple[str, ...] | list[str], option: str) -> list[str]:
    return [arguments[place + 1] for place, word in enumerate(arguments) if word == option]


def test_each_round_samples_the_model_that_the_round_before_trained(tmp_path: Path) -> None:
    made = commands(tmp_path, "sample.seed=7")
    first, second = made.generate(1).arguments, made.generate(2).arguments
    assert (value(first, "--model"), value(second, "--model")) == (["base/model"], ["/out/round-1/run"])
    assert (value(first, "--seed"), value(second, "--seed")) == (["7"], ["8"])
    assert value(first, "--prompts") == ["asked.jsonl"]
    assert value(first, "--image-root") == ["images"]


def test_a_start_adapter_is_on_the_start_model_alone(tmp_path: Path) -> None:
    made = commands(tmp_path, "adapter.path=sft")
    assert value(made.generate(1).arguments, "--adapter") == ["sft"]
    assert not value(made.generate(2).arguments, "--adapter")
    assert "adapter.path=/out/round-1/run" in train(made, 2)
    assert not [word for word in train(made, 1) if word.startswith("adapter.path")]


def test_later_rounds_map_scores_as_the_first_did(tmp_path: Path) -> None:
    made = commands(tmp_path)
    first, second = made.score(1).arguments, made.score(2).arguments
    assert value(first, "--mapping") == []
    assert value(second, "--mapping") == ["/out/round-1/scored/scores.json"]
    assert value(first, "--scorer") == ["objects", "second=judge"]
    assert value(first, "--weights") == ["second=0.5"]
    assert value(first, "--range") == ["0..5"]
    assert "objects.truth=truth.json" in first
    assert 'second.rubric="a: b"' in first  # a text that YAML would read as a mapping is quoted


def test_what_is_kept_of_a_start_model_has_a_folder_of_each_round(tmp_path: Path) -> None:
    made = commands(tmp_path, "reference={kind: cache, cache: kept}", "processing.feature_cache=seen")
    assert [word for word in train(made, 2) if "cache=" in word] == ["reference.cache=kept/round-2"]  # one frozen base
    full = commands(tmp_path, "adapter={kind: none}", "tune.language=full", "processing.feature_cache=seen")
    for number in (1, 2):
        found = [word for word in train(full, number) if "cache=" in word]
        assert found == [f"processing.feature_cache=seen/round-{number}"]
    assert not [word for word in train(commands(tmp_path), 2) if "cache" in word]


def test_training_goes_on_from_the_last_adapter_or_model(tmp_path: Path) -> None:
    lora = commands(tmp_path)
    assert "adapter.path=/out/round-1/run" in train(lora, 2)
    assert 'data.train=["/out/round-2/pairs/pairs.jsonl"]' in train(lora, 2)
    assert "data.root=/images" in train(lora, 2)
    full = commands(tmp_path, "adapter={kind: none}", "tune.language=full")
    assert "model.path=/out/round-1/run/model" in train(full, 2)
    assert not [word for word in train(full, 1) if word.startswith("model.path")]
    pissa = commands(tmp_path, "adapter.init=pissa")
    assert "adapter.init=zero" in train(pissa, 2)
    assert "adapter.init=zero" not in train(pissa, 1)


def test_every_training_command_is_a_recipe(tmp_path: Path) -> None:
    full, checked = ["adapter={kind: none}", "tune.language=full"], ["data.manifest=check"]
    for overrides in (["adapter.init=pissa"], full, checked, [*checked, "data.verify=full"]):
        made = commands(tmp_path, *overrides)
        kept = tmp_path / "recipe.yaml"
        kept.write_text(dump_recipe(made.recipe), encoding="utf-8")
        for number in (1, 2):
            _, _, *changes = train(made, number)
            found = load_recipe(kept, changes)
            assert found.sample is None
            assert found.data.manifest is None
            assert found.output == Path(f"/out/round-{number}/run")


def test_thresholds_come_from_the_pairs_unless_the_recipe_gives_them(tmp_path: Path) -> None:
    assert {"loss.uni.eta=0.7", "loss.uni.tau_good=3.5"} <= set(train(commands(tmp_path), 1))
    given = train(commands(tmp_path, "loss.uni.tau_good=2"), 1)
    assert "loss.uni.eta=0.7" in given
    assert not [word for word in given if word.startswith("loss.uni.tau_good")]
    assert not [word for word in train(commands(tmp_path, weighs_scores=False), 1) if word.startswith("loss.uni")]


def test_pairs_are_chosen_as_the_recipe_says(tmp_path: Path) -> None:
    found = commands(tmp_path).pair(1).arguments
    assert found[:3] == ("sample", "pair", "/out/round-1/scored")
    assert value(found, "--choose") == ["best_worst"]
    assert value(found, "--min-margin") == ["0.25"]
    assert "--balance-length" in found
    assert "--min-score" not in found


def test_evaluations_lie_where_a_report_looks_for_them(tmp_path: Path) -> None:
    made = commands(tmp_path)
    start, trained = list(made.evaluations(0)), list(made.evaluations(1))
    assert [command.folder for command in start] == [Path("/out/round-0/evals/chair"), Path("/out/round-0/evals/hard")]
    assert trained[0].folder == Path("/out/round-1/run/evals/chair")
    assert value(trained[1].arguments, "--questions") == ["a.jsonl", "b.jsonl"]
    assert trained[0].arguments[-1] == "synonyms=s.txt"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no section sample.*sample\.scorers"):
        commands(tmp_path, "sample=null").generate(1)
    with pytest.raises(ConfigError, match=r"data\.train has 2 sources.*sample\.prompts=a\.jsonl"):
        commands(tmp_path, "data.train=[a.jsonl, b.jsonl]").generate(1)
    with pytest.raises(ConfigError, match="scorer 'objects' has no option 'truht', did you mean 'truth'"):
        commands(tmp_path, "sample.scorers={objects: {options: {truht: x}}}", "sample.weights={}").check()
    with pytest.raises(ConfigError, match="two evals are called 'pope'"):
        commands(tmp_path, "sample.evals=[{benchmark: pope, questions: a}, {benchmark: pope, questions: b}]")
    with pytest.raises(ConfigError, match=r"unknown key 'sample\.scorers\.f\.kynd', did you mean"):
        commands(tmp_path, "sample.scorers.f={kynd: objects}")
    with pytest.raises(ConfigError, match="weights names 'second'"):
        commands(tmp_path, "sample.scorers={objects: {}}")


def test_rounds_ask_the_recipe_s_own_evals_where_the_section_names_none_each_in_its_own_batches(
    tmp_path: Path,
) -> None:
    evals = "evals=[{benchmark: pope, questions: q.jsonl, batch_size: 3}, {benchmark: chair, questions: c.json}]"
    made = commands(tmp_path, evals, "sample.evals=[]", "sample.batch_size=7")
    sizes = {command.step: value(command.arguments, "--batch-size") for command in made.evaluations(0)}
    assert sizes == {"eval pope": ["3"], "eval chair": ["7"]}
    assert [command.step for command in commands(tmp_path, evals).evaluations(0)] == ["eval chair", "eval hard"]


def test_two_of_the_recipe_s_own_evals_may_not_share_a_name(tmp_path: Path) -> None:
    twice = "evals=[{benchmark: pope, questions: q.jsonl}, {benchmark: pope, questions: r.jsonl}]"
    with pytest.raises(ConfigError, match="two evals are called 'pope'"):
        commands(tmp_path, twice, "sample.evals=[]").check()
