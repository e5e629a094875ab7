"""Overrides mean what they say: a loss named later replaces the section, and what would be ignored is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mmpref.errors import ConfigError, MMPrefError
from mmpref.losses.settings import SuspiciousLossWarning, resolve
from mmpref.recipe.keys import known_keys
from mmpref.recipe.loading import dump_recipe, load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import shipped_recipes
from mmpref.yaml_text import parse_options
from tests.advice import alternatives, followed

QLORA = "qwen2_5_vl_3b_uni_dpo_qlora"
FULL = "qwen2_vl_2b_uni_dpo_full"
UNI = [name for name in shipped_recipes() if load_recipe(name).loss.uni is not None]


@pytest.mark.parametrize("recipe", UNI)
@pytest.mark.parametrize("loss", ["dpo", "adadpo", "simpo"])
def test_a_loss_named_later_replaces_the_whole_section(recipe: str, loss: str) -> None:
    for change in (f"loss.name={loss}", f"loss={{name: {loss}}}"):
        assert load_recipe(recipe, [change]).loss.as_mapping() == {"name": loss}
    assert load_recipe(recipe, {"loss": {"name": loss}}).loss.as_mapping() == {"name": loss}
    assert resolve(load_recipe(recipe, [f"loss.name={loss}"]).loss.as_mapping())["uni"] is None


@pytest.mark.parametrize("name", ["loss.name=uni_dpo", "loss={name: uni_dpo}"])
def test_keys_given_with_the_name_stay_in_any_order(name: str) -> None:
    with_it = [name, "loss.beta=0.2", "loss.uni.eta=1", "loss.ada=true"]
    for order in itertools.permutations(with_it):
        found = load_recipe(QLORA, list(order)).loss.as_mapping()
        assert found == {"name": "uni_dpo", "beta": 0.2, "uni": {"eta": 1.0}, "ada": {}}, order


def test_other_keys_are_merged_one_by_one() -> None:
    assert load_recipe(QLORA, ["loss.uni.gamma=1"]).loss.as_mapping() == {
        "name": "uni_dpo",
        "uni": {"tau_good": 2.5, "gamma": 1.0},
    }
    assert load_recipe(QLORA, ["loss.base=simpo"]).loss.as_mapping()["uni"] == {"tau_good": 2.5}


def test_a_switch_turns_on_what_is_there_and_a_mapping_replaces_it() -> None:
    assert load_recipe(QLORA, ["loss.uni=true"]).loss.as_mapping()["uni"] == {"tau_good": 2.5}
    assert load_recipe(QLORA, ["loss.uni={eta: 1}"]).loss.as_mapping()["uni"] == {"eta": 1.0}
    for off in ("false", "null"):
        assert load_recipe(QLORA, [f"loss.uni={off}"]).loss.as_mapping()["uni"] is None


def test_a_resolved_loss_is_replaced_as_a_short_one_is(tmp_path: Path) -> None:
    whole = {**load_recipe(QLORA).model_dump(mode="json"), "loss": resolve({"name": "uni_dpo", "uni": {"tau_good": 1}})}
    file = tmp_path / "whole.yaml"
    file.write_text(dump_recipe(Recipe.model_validate(whole)), encoding="utf-8")
    assert load_recipe(file, ["loss.name=adadpo"]).loss.as_mapping() == {"name": "adadpo"}


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_every_shipped_recipe_is_the_same_when_it_is_written_out(recipe: str, tmp_path: Path) -> None:
    file = tmp_path / "again.yaml"
    file.write_text(dump_recipe(load_recipe(recipe)), encoding="utf-8")
    assert load_recipe(file) == load_recipe(recipe)


# recipe, overrides: each would be ignored in part, or contradicts itself
REFUSED = [
    (QLORA, ["adapter.kind=none"]),
    (QLORA, ["adapter={kind: none}"]),
    (QLORA, ["adapter.kind=none", "tune.language=full"]),
    (QLORA, ["adapter.kind=none", "adapter.rank=8"]),
    (QLORA, ["adapter.kind=none", "adapter.quantization=nf4"]),
    (QLORA, ["adapter={kind: none, init: pissa}", "tune.language=full"]),
    (QLORA, ["adapter={kind: none, path: runs/x}", "tune.language=full"]),
    (QLORA, ["adapter.quantization=int8"]),
    (QLORA, ["adapter.init=pissa"]),
    (QLORA, ["adapter.init=pissa", "adapter.use_dora=true"]),
    (QLORA, ["adapter.kind=lora", "adapter.init=pissa", "adapter.use_dora=true"]),
    (QLORA, ["adapter.kind=lora", "adapter.double_quant=false"]),
    (QLORA, ["adapter.kind=lora", "adapter.quantization=int8", "adapter.compute_dtype=float32"]),
    (QLORA, ["adapter.path=runs/x", "adapter.init=pissa", "adapter.kind=lora"]),
    (QLORA, ["tune.language=full"]),
    (QLORA, ["tune.language=freeze"]),
    (QLORA, ["tune.language=full", "tune.vision=lora"]),
    (QLORA, ["tune={}"]),
    (FULL, ["adapter.kind=lora"]),
    (FULL, ["adapter.kind=qlora"]),
    (FULL, ["adapter.rank=8"]),
    (FULL, ["adapter.rank=16"]),
    (FULL, ["adapter.double_quant=false"]),
    (FULL, ["tune.vision=lora"]),
    (FULL, ["tune={vision: freeze, projector: freeze, language: freeze}"]),
    (FULL, ["adapter.kind=lora", "tune.vision=lora"]),
    (FULL, ["reference.cache=somewhere"]),
    (FULL, ["reference={cache: somewhere}"]),
    (FULL, ["reference={kind: frozen_copy, cache: somewhere}"]),
    (FULL, ["train.fp16=true", "train.bf16=true"]),
    (FULL, ["data.eval=held.jsonl", "data.held_out=0.1"]),
    ("demo_dpo", ["data.held_out=0.1"]),
    (FULL, ["data.eval={path: held.jsonl, weight: 3}"]),
    (FULL, ["data.eval=[{path: held out.jsonl, weight: 0.5, root: /img, split: dev}, other.jsonl]"]),
    (FULL, ["data.verify=full"]),
    (FULL, ["processing.max_length=null", "processing.shrink_images=true"]),
    (FULL, ["train.learning_rates.vision=1e-6"]),
    (QLORA, ["train.learning_rates.projector=1e-6"]),
    ("demo_dpo", ["train.lr_scheduler_type=constant"]),
    (FULL, ["train.lr_scheduler_type=constant", "train.warmup_steps=10"]),
    (FULL, ["train.lr_scheduler_type=constant_with_warmup", "train.lr_scheduler_kwargs={num_cycles: 2}"]),
    ("demo_see", ["train.optim=sgd"]),
    (FULL, ["train.optim=adafactor", "train.adam_beta1=0.8"]),
    ("demo_see", ["train.num_train_epochs=3"]),
    (FULL, ["train.num_train_epochs=3", "train.max_steps=10"]),
    (FULL, ["train.eval_steps=10"]),
    (FULL, ["train.save_steps=null", "train.save_total_limit=5"]),
    (FULL, ["data.eval=null"]),
    (FULL, ["train.extra=null"]),
    (FULL, ["train.max_grad_norm=null"]),
]


@pytest.mark.parametrize(
    ("recipe", "overrides"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else None
)
def test_what_would_be_ignored_is_refused_and_every_advice_puts_it_right(recipe: str, overrides: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    for words in alternatives(str(caught.value)):
        load_recipe(recipe, followed(overrides, words))


def test_a_quantised_recipe_made_plain_lora_says_what_becomes_of_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "nf4.yaml"
    file.write_text(dump_recipe(load_recipe(QLORA, ["adapter.quantization=nf4"])), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"adapter\.kind=lora leaves the weights in 4 bits") as caught:
        load_recipe(file, ["adapter.kind=lora"])
    (words,) = alternatives(str(caught.value))
    assert load_recipe(file, followed(["adapter.kind=lora"], words)).adapter.stored_as is None


def test_the_advice_after_adapter_none_is_the_whole_way_to_full_fine_tuning() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(QLORA, ["adapter.kind=none"])
    assert alternatives(str(caught.value)) == [["adapter={kind: none}", "tune.language=full"]]
    recipe = load_recipe(QLORA, ["adapter.kind=none", "adapter={kind: none}", "tune.language=full"])
    assert (recipe.adapter.kind, recipe.tune.language) == ("none", "full")


def test_the_advice_leaves_what_was_given_last_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "bf16.yaml"
    file.write_text(dump_recipe(load_recipe(FULL, ["train.bf16=true"])), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, ["train.fp16=true"])
    assert alternatives(str(caught.value)) == [["train.bf16=false"]]


def test_taking_a_key_back_to_its_default_is_no_left_over() -> None:
    changes = ["adapter.kind=none", "adapter.rank=16", "adapter.alpha=32", "tune.language=full"]
    assert load_recipe(QLORA, changes).adapter.kind == "none"


@pytest.mark.parametrize(
    "override",
    [
        "train.eval_steps=null", "reference.cache=null", "processing.shrink_images=false", "data.held_out=0",
        "adapter.use_dora=false", "adapter.quantization=null", "train.lr_scheduler_kwargs={}", "data.eval=[]",
        "train.learning_rates.vision=null",
    ],
)  # fmt: skip
def test_a_key_that_says_no_is_no_left_over(override: str) -> None:
    load_recipe(FULL, [override, "processing.max_length=null", "train.lr_scheduler_type=constant"])


LOSSES = [
    ["loss={}"],
    ["loss.name=dpo", "loss.base=ipo"],
    ["loss.name=hinge", "loss.label_smoothing=0.1"],
    ["loss.name=orpo", "loss.nll_weight=0"],
    ["loss.name=dpo", "loss.label_smoothing=0.5"],
    ["loss.base=sft"],
    ["loss.name=uni_adadpo", "loss.base=sft"],
    ["loss.name=orpo", "loss.length_normalize=false"],
    ["loss.name=simpo", "loss.ada.use_reference=true"],
    ["loss.name=orpo", "loss.ada.granularity=sequence"],
    ["loss.name=orpo", "loss.ada={granularity: power, length_power: 0.5}"],
]


@pytest.mark.filterwarnings("ignore::mmpref.losses.settings.SuspiciousLossWarning")
@pytest.mark.parametrize("overrides", LOSSES, ids=" ".join)
def test_every_advice_about_a_loss_leads_to_a_loss(overrides: list[str]) -> None:
    with pytest.raises(MMPrefError) as caught:
        resolve(load_recipe(QLORA, overrides).loss.as_mapping())
    for words in alternatives(str(caught.value)):
        resolve(load_recipe(QLORA, followed(overrides, words)).loss.as_mapping())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output=a\nb", "line break"),
        ("output='a\nb'", "line break"),
        ("data.train=[a\nb, c]", "line break"),
        ("output=runs/a #1", "comment"),
        ("output=", "nothing after the ="),
        ("output=''", "'output': is empty"),
        ("model.path=''", "'model.path': is empty"),
        ("data.train=''", "is empty"),
        ("data.train={path: ''}", "is empty"),
        ("reference={kind: cache, cache: ''}", "'reference.cache': is empty"),
        ("train.extra=[&a [x], *a]", "alias"),
    ],
)
def test_a_value_is_taken_as_it_was_written_or_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(FULL, [override])


def test_a_line_break_can_be_written() -> None:
    written = load_recipe(FULL, ['processing.template_kwargs={note: "a\\nb"}'])
    assert written.processing.template_kwargs == {"note": "a\nb"}
    with pytest.raises(ConfigError, match="'output': has the control character"):  # no file may be called so
        load_recipe(FULL, ['output="a\\nb"'])
    assert load_recipe(FULL, ["loss={name: dpo,\n beta: 0.2}"]).loss.as_mapping() == {"name": "dpo", "beta": 0.2}
    with pytest.raises(ConfigError, match="line break"):
        parse_options(["synonyms=a\nb"])


LED_ASTRAY = [
    (QLORA, ["tune.language=full", "adapter.alpha=16"]),
    (QLORA, ["tune={language: full}", "adapter.use_rslora=true", "adapter.double_quant=true"]),
    (QLORA, ["adapter.rank=8", "adapter.kind=none", "adapter.alpha=16"]),
    (QLORA, ["train.learning_rates.projector=1e-6", "tune.language=full"]),
    (QLORA, ["adapter.init=pissa", "adapter.compute_dtype=float16"]),
    (QLORA, ["adapter.init=pissa", "tune.language=full"]),
    (QLORA, ["adapter.quantization=int8"]),
    (QLORA, ["adapter.quantization=null"]),
    (QLORA, ["adapter={kind: none, rank: 8}", "tune.language=full"]),
    (QLORA, ["train.learning_rates.language=1e-5", "train.learning_rate=1e-6"]),
    (FULL, ["model.save_dtype=bfloat16", "adapter.rank=8"]),
    (FULL, ["tune.language=freeze", "tune.projector=freeze", "adapter.use_dora=true"]),
    (FULL, ["adapter.init=pissa", "adapter.quantization=int8"]),
    ("llava_1_5_7b_adadpo_qlora", ["train.warmup_steps=10", "train.lr_scheduler_type=constant"]),
]


@pytest.mark.parametrize(("recipe", "overrides"), LED_ASTRAY)
def test_advice_is_the_whole_way_and_leads_into_no_other_refusal(recipe: str, overrides: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    for words in alternatives(str(caught.value)):
        load_recipe(recipe, followed(overrides, words))
        assert not {"adapter={kind: none}", "adapter.kind=lora"} <= set(words)


def test_advice_holds_for_a_second_layer_given_as_a_mapping_too() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(QLORA, {"adapter": {"alpha": 16}, "tune": {"language": "full"}})
    assert alternatives(str(caught.value)) == [["adapter.alpha", "adapter={kind: none}"]]


def test_eight_bits_over_qlora_keep_what_was_asked_for() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(QLORA, ["adapter.quantization=int8"])
    assert alternatives(str(caught.value)) == [["adapter.kind=lora"]]


def test_no_quantization_over_qlora_is_not_four_bits_in_silence(tmp_path: Path) -> None:
    for overrides in (["adapter.quantization=null"], ["adapter.quantization=null", "adapter.kind=qlora"]):
        with pytest.raises(ConfigError, match="4 bits all the same"):
            load_recipe(QLORA, overrides)
    file = tmp_path / "written_out.yaml"
    file.write_text(dump_recipe(load_recipe(QLORA)), encoding="utf-8")
    assert load_recipe(file).adapter.stored_as == "nf4"


@pytest.mark.parametrize("section", ["adapter", "tune", "reference", "processing", "train.learning_rates", "loss"])
def test_an_empty_section_says_what_to_do(section: str) -> None:
    with pytest.raises(ConfigError, match="null is no value for a section") as caught:
        load_recipe(FULL, [f"{section}=null"])
    for words in alternatives(str(caught.value)):
        load_recipe(FULL, followed([f"{section}=null"], words))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("loss.desirable_weight=1", "loss.kto.desirable_weight"),  # as TRL names it
        ("loss.delta=1", "loss.anchor.delta"),
        ("processing.sigma=3", "processing.other_image.sigma"),
        ("learning_rate=1e-5", "train.learning_rate"),
        ("loss.image.wieght=1", "loss.image.weight"),
        ("loss.rule=diff", "loss.token_weights.rule"),
    ],
)
def test_a_key_that_stands_a_section_deeper_is_named(written: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{meant}'"):
        load_recipe(FULL, [written])


def test_one_number_in_the_place_of_a_range_is_answered_with_a_range() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("qwen2_5_vl_3b_mdpo_qlora", ["processing.other_image.scale=0.2"])
    [words] = alternatives(str(caught.value))
    assert load_recipe("qwen2_5_vl_3b_mdpo_qlora", words).processing.other_image.scale == [0.01, 0.2]


@pytest.mark.parametrize("section", ["loss.image", "loss.kto", "loss.uni", "processing.other_image", "tune"])
def test_a_value_in_the_place_of_a_section_is_told_the_keys_of_that_section(section: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(FULL, [f"{section}=3"])
    told = str(caught.value)
    assert f"'{section}' is a section with keys of its own (" in told
    assert "instance of" not in told
    named = told.partition("its own (")[2].partition(")")[0].split(", ")
    assert named
    known = known_keys(Recipe, section.split("."))
    assert sorted(named) == sorted(known)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["loss.uni.nll_lambda=0", "loss.uni.tau_good=median"], "tau_good median has no effect with nll_lambda 0"),
        (["loss.base=simpo", "loss.uni.nll_margin=0.5"], "nll_margin 0.5 has no effect with nll_lambda 0"),
        (["loss.uni.perf_mode=none", "loss.uni.tau_ref=3"], "tau_ref 3.0 has no effect with perf_mode none"),
        (["loss.uni.gamma=0", "loss.uni.tau_ref=3"], "tau_ref 3.0 has no effect with gamma 0"),
        (["loss.ada={clip: null, clip_mode: both}"], "clip_mode both has no effect with no clip"),
    ],
)
def test_a_key_of_the_loss_that_does_nothing_is_warned_of(overrides: list[str], told: str) -> None:
    with pytest.warns(SuspiciousLossWarning, match=told):
        resolve(load_recipe(QLORA, overrides).loss.as_mapping())


def test_a_weight_in_data_eval_is_taken_out_and_the_rest_of_the_source_stays() -> None:
    sources = "data.eval=[{path: held out.jsonl, weight: 0.5, root: /img, split: dev}, {path: b.jsonl, weight: 2}, c]"
    with pytest.raises(ConfigError, match="an evaluation takes every held-out pair once") as caught:
        load_recipe(FULL, [sources])
    [words] = alternatives(str(caught.value))
    first, *others = load_recipe(FULL, followed([sources], words)).data.eval
    assert not isinstance(first, str)
    assert (first.path, first.weight, first.root, first.split) == ("held out.jsonl", 1.0, Path("/img"), "dev")
    assert others == ["b.jsonl", "c"]
    load_recipe(FULL, ["data.eval={path: held.jsonl, weight: 1}"])
    load_recipe(FULL, ["data.train={path: pairs.jsonl, weight: 3}"])


BOTH_WAYS = [
    ["loss.uni=null", "loss.uni.eta=0.3"],
    ["loss.uni=false", "loss.uni.eta=0.3"],
    ["loss.ada=null", "loss.ada.clip=3"],
    ["loss={name: uni_dpo, uni: null}", "loss.uni.eta=0.3"],
    ["loss={name: uni_dpo, uni: false}", "loss.uni.eta=0.3", "loss.uni.gamma=1"],
    ["loss.uni=null", "loss.uni.eta=0.3", "loss.uni=null"],
    ["adapter=null", "adapter.rank=8"],
    ["processing=null", "processing.max_length=512"],
    ["train.learning_rates=null", "train.learning_rates.language=1e-6"],
    ["train.extra=null", "train.extra.adam_epsilon=1e-6"],
    ["train=null", "train.lr_scheduler_kwargs.num_cycles=0.5"],
    ["train.extra=null", "train.extra.fsdp_config.fsdp_version=2"],
]


@pytest.mark.parametrize("overrides", BOTH_WAYS, ids=" ".join)
def test_a_section_is_not_off_and_given_keys_at_once_in_any_order(overrides: list[str]) -> None:
    for order in (overrides, [*overrides[1:-1], overrides[0], overrides[-1]], [*overrides[1:], overrides[0]]):
        with pytest.raises(ConfigError, match="nothing can be said of what is in it") as caught:
            load_recipe(QLORA, order)
        ways = alternatives(str(caught.value))
        assert len(ways) == (2 if overrides[0].startswith("loss") else 1)
        for words in ways:
            load_recipe(QLORA, followed(order, words))


def test_a_value_that_was_taken_back_is_not_there() -> None:
    for order in itertools.permutations(["loss.uni=null", "loss.uni.eta=0.3"]):
        found = load_recipe(QLORA, [*order, "loss.uni=true"]).loss.as_mapping()
        assert found["uni"] == {"tau_good": 2.5, "eta": 0.3}
    assert load_recipe(QLORA, ["loss.uni={eta: 0.3}", "loss.uni=null"]).loss.as_mapping()["uni"] is None
    assert load_recipe(QLORA, ["loss.uni=null", "loss.uni={eta: 0.3}"]).loss.as_mapping()["uni"] == {"eta": 0.3}
    assert load_recipe(QLORA, ["loss.uni={eta: 0.3}", "loss.uni=true"]).loss.as_mapping()["uni"] == {"eta": 0.3}


def test_a_value_after_keys_below_it_drops_none_of_them() -> None:
    for order in (
        ["train.eval_steps.every=1", "train.eval_steps=5"],
        ["train.eval_steps=5", "train.eval_steps.every=1"],
    ):
        with pytest.raises(ConfigError, match="eval_steps' is a value, not a section"):
            load_recipe(FULL, order)
    with pytest.raises(ConfigError, match="nothing can be said of what is in it"):
        load_recipe(QLORA, ["loss.uni=true", "loss.uni.eta=0.3", "loss.uni=false"])
