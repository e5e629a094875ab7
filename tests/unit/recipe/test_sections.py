"""Recipes: read with YAML 1.2 rules, typed, refused with the dotted key and the nearest known name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.recipe.loading import dump_recipe, load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import shipped_recipes
from mmpref.yaml_text import parse_yaml

SMALL = """
output: out
model: {path: some/model}
data: {train: pairs.jsonl}
loss: {name: uni_dpo, uni: {eta: 0.5}}
train: {learning_rate: 5e-7}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL, encoding="utf-8")
    return file


def test_a_number_in_scientific_notation_is_a_number(recipe_file: Path) -> None:
    assert load_recipe(recipe_file).train.learning_rate == 5e-7


def test_one_file_may_be_written_without_the_list(recipe_file: Path) -> None:
    assert load_recipe(recipe_file).data.train == ["pairs.jsonl"]


def test_only_the_loss_keys_that_were_given_reach_the_loss_core(recipe_file: Path) -> None:
    assert load_recipe(recipe_file).loss.as_mapping() == {"name": "uni_dpo", "uni": {"eta": 0.5}}


def test_overrides_reach_nested_keys_and_make_missing_sections(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["loss.uni.gamma=1.5", "processing.max_length=512", "loss.ada.clip=null"])
    assert recipe.loss.as_mapping() == {"name": "uni_dpo", "uni": {"eta": 0.5, "gamma": 1.5}, "ada": {"clip": None}}
    assert recipe.processing.max_length == 512


def test_a_dumped_recipe_reads_back_equal(recipe_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file, ["tune.vision=full", "data.root=/data", "train.extra={eval_steps: 5}"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(again) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trian.learning_rate=1", "unknown key 'trian', did you mean 'train'?"),
        ("train.learning_rat=1", "unknown key 'train.learning_rat', did you mean 'train.learning_rate'?"),
        ("loss.uni.etaa=1", "unknown key 'loss.uni.etaa', did you mean 'loss.uni.eta'?"),
        ("train.zzz=1", "unknown key 'train.zzz' (known here: learning_rate"),
        ("train.bf16=yes", "'train.bf16': input should be a valid boolean, got 'yes' (write true or false)"),
        ("train.max_grad_norm=None", "got 'None' (write null for no value)"),
        ("train.learning_rate='5e-7'", "'train.learning_rate': input should be a valid number, got '5e-7'"),
        ("processing.video_fps=1e-30", "'processing.video_fps': input should be greater than or equal to 0.00001"),
        ("train.learning_rate=-1", "'train.learning_rate': input should be greater than 0, got -1"),
        ("train.per_device_train_batch_size=1.5", "'train.per_device_train_batch_size'"),
        ("model=null", "'model'"),
        ("tune.vision=froze", "'tune.vision'"),
        ("nonsense", "override 'nonsense' must be written key=value"),
        ("seed.x=1", "override 'seed.x=1': 'seed' is a value, not a section"),
        ("data.train=[]", "'data.train'"),
        ("data.train=[a, b", "override 'data.train=[a, b' is not valid YAML"),
    ],
)
def test_a_wrong_key_or_value_is_named(recipe_file: Path, override: str, message: str) -> None:
    overrides = ["seed=1", override] if override.startswith("seed.") else [override]
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe_file, overrides)
    assert message in str(caught.value)


def test_all_problems_are_listed_at_once(recipe_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'train\.lrr'.*unknown key 'modle'"):
        load_recipe(recipe_file, ["train.lrr=1", "modle=x"])


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("seed: 1\nmodel: {path: a}\nseed: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"twice\.yaml: key 'seed' is given twice \(lines 1 and 3\)"):
        load_recipe(file)


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b\n", "a: [", "\t- x"])
def test_a_file_that_is_not_a_recipe_is_a_config_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_recipe(file)


def test_bytes_that_are_not_text_are_a_config_error(tmp_path: Path) -> None:
    file = tmp_path / "binary.yaml"
    file.write_bytes(b"\xff\xfe\x00seed")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(file)


def test_a_missing_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"no recipe file 'demo_dpoo'.*did you mean 'demo_dpo'\?"):
        load_recipe("demo_dpoo")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("yes", "no", "on", "None", "1_000", "0x10", "1:30", "2026-11-21", ".")),
        *(("true", True), ("null", None), ("~", None), ("", None)),
        *(("1e-5", 1e-5), ("012", 12), (".5", 0.5), ("+3", 3)),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert parse_yaml(f"x: {text}", where="test")["x"] == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_reads_back_as_itself(number: float) -> None:
    assert parse_yaml(f"x: {number!r}", where="test")["x"] == number


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_a_recipe(name: str) -> None:
    assert isinstance(load_recipe(name), Recipe)


@pytest.mark.parametrize(("written", "meant"), [("true", {}), ("{}", {}), ("false", None), ("null", None)])
def test_a_part_of_the_loss_is_switched_on_or_off_in_a_word(recipe_file: Path, written: str, meant: object) -> None:
    assert load_recipe(recipe_file, [f"loss.ada={written}"]).loss.as_mapping()["ada"] == meant


def test_the_recipe_has_every_key_of_the_loss_core_and_no_other() -> None:
    from mmpref.losses.presets import ADA_DEFAULTS, TOP_KEYS, UNI_DEFAULTS
    from mmpref.recipe.sections import AdaSection, LossSection, UniSection

    assert set(LossSection.model_fields) == set(TOP_KEYS)
    assert set(UniSection.model_fields) == set(UNI_DEFAULTS)
    assert set(AdaSection.model_fields) == set(ADA_DEFAULTS)


@pytest.mark.parametrize("written", ["median", "q05", "q95", "3", "2.5"])
def test_a_good_score_is_a_number_or_a_quantile(recipe_file: Path, written: str) -> None:
    uni = load_recipe(recipe_file, [f"loss.uni.tau_good={written}"]).loss.as_mapping()["uni"]
    assert str(uni["tau_good"]).removesuffix(".0") == written


@pytest.mark.parametrize("written", ["mean", "q0", "q100", "true", "[1]"])
def test_a_good_score_that_is_neither_is_refused_in_one_sentence(recipe_file: Path, written: str) -> None:
    with pytest.raises(ConfigError, match=r"'loss\.uni\.tau_good': .*median or a quantile") as caught:
        load_recipe(recipe_file, [f"loss.uni.tau_good={written}"])
    assert ";" not in str(caught.value)


BOMB = "b0: &b0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("? [a, b]\n: 1\n", "line 1: a list or a mapping cannot be a key"),
        ("{a: {{b: 1}: 2}}", "cannot be a key"),
        ("a: " + "9" * 5000, r"line 1: 9{30}\.\.\. is larger than any whole number"),
        ("a: !!int foo", "line 1: the value does not fit its tag int"),
        ("a: !!float foo", "line 1: the value does not fit its tag float"),
        ("a: !!bool foo", "line 1: the value does not fit its tag bool"),
        ("a: !!timestamp foo", "line 1: the tag !timestamp is not read; write text"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply"),
        (BOMB + "data: {train: *b8}\n", "stand for more than"),
        ("&a [*a]", "stand for more than"),
        ("a: &a {b: [1, {c: *a}]}", "line 1: found unconstructable recursive node"),
    ],
    ids=[
        "list",
        "mapping",
        "digits",
        "int",
        "float",
        "bool",
        "timestamp",
        "deep",
        "aliases",
        "in itself",
        "deep inside",
    ],
)
def test_broken_yaml_is_one_error(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as caught:
        load_recipe(file)
    assert len(str(caught.value)) < 1000
