"""``train.extra`` takes what this trainer reads; whatever would do nothing, or override another key, is refused."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import transformers
from packaging.version import Version
from transformers import TrainingArguments

from mmpref.errors import ConfigError
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe, TrainSection
from mmpref.training.trainer.arguments import training_arguments
from mmpref.training.trainer.extra_arguments import ELSEWHERE, NOT_HERE, READ, UNDER, check_extra
from tests.advice import alternatives, followed

LOOKED_THROUGH = Version("5.24.0")
"""The newest transformers whose names were looked through, one by one."""
FIELDS = {field.name: field.type for field in fields(TrainingArguments)}
CLASSES = (READ, frozenset(UNDER), frozenset(NOT_HERE), frozenset(ELSEWHERE), frozenset(TrainSection.model_fields))


def recipe(*overrides: str) -> Recipe:
    return load_recipe("demo_dpo", list(overrides))


def section(extra: dict[str, Any]) -> TrainSection:
    return TrainSection(learning_rate=1e-6, extra=extra)


def refused(*overrides: str) -> str:
    """What is said; every advice in it is carried out, and taken."""
    with pytest.raises(ConfigError) as caught:
        training_arguments(recipe(*overrides))
    for words in alternatives(str(caught.value)):
        training_arguments(recipe(*followed(overrides, words)))
    return str(caught.value)


# ---- the list -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_every_name_of_transformers_is_read_or_refused(name: str) -> None:
    classes = sum(name in names for names in CLASSES)
    assert classes <= 1
    if Version(transformers.__version__) <= LOOKED_THROUGH:
        assert classes == 1, f"look whether our trainer reads {name}"
    if name not in READ | UNDER.keys():
        with pytest.raises(ConfigError, match=f"'train.extra.{name}'.*leave `train.extra.{name}` out"):
            check_extra(section({name: 1}), FIELDS, {})


def test_a_name_that_a_later_release_adds_is_refused_until_it_is_known() -> None:
    later = {**FIELDS, "a_later_setting": bool}
    with pytest.raises(ConfigError, match="a_later_setting' is newer than this version of mmpref"):
        check_extra(section({"a_later_setting": True}), later, {})


@pytest.mark.parametrize(
    "extra",
    [
        "label_names=[labels]", "length_column_name=n", "eval_accumulation_steps=2",
        "batch_eval_metrics=true", "include_for_metrics=[loss]", "eval_use_gather_object=true",
        "eval_do_concat_batches=false", "do_train=false", "do_eval=false", "do_predict=true",
        "hub_model_id=me/mine", "hub_strategy=end", "hub_token=x", "greater_is_better=true",
        "metric_for_best_model=eval_loss", "optim_target_modules=all-linear", "dataloader_in_order=false",
        "dataloader_multiprocessing_context=spawn", "use_cache=true", "logging_strategy=no",
        "logging_strategy=epoch", "eval_on_start=true", "use_liger_kernel=true",
        "liger_kernel_config={rope: true}", "average_tokens_across_devices=false", "local_rank=1",
        "save_on_each_node=true", "disable_tqdm=false", "run_name=mine", "trackio_space_id=me/mine",
        "hub_private_repo=true", "eval_delay=3", "fsdp_config={fsdp_version: 2}",
        "dataloader_persistent_workers=true", "parallelism_config={tp_size: 2}",
    ],
)  # fmt: skip
def test_a_name_that_would_do_nothing_is_refused(extra: str) -> None:
    refused(f"train.extra.{extra}")


def test_all_names_are_told_at_once() -> None:
    told = refused("train.extra={do_train: false, seed: 3, torch_compile_mode: default}")
    assert alternatives(told) == [
        ["train.extra.do_train", "train.extra.seed", "train.extra.torch_compile_mode", "seed=3"]
    ]


@pytest.mark.parametrize(
    ("extra", "advice"),
    [
        ("report_to=none", "train.report_to=[]"),
        ("warmup_ratio=0.1", "train.warmup_steps=0.1"),
        ("learning_rate=1e-5", "train.learning_rate=1e-05"),
    ],
)
def test_a_name_that_the_recipe_has_is_told_with_a_value_that_the_recipe_takes(extra: str, advice: str) -> None:
    (words,) = alternatives(refused(f"train.extra.{extra}"))
    assert advice in words


def test_one_tracker_is_advised_as_the_list_that_the_recipe_takes() -> None:
    with pytest.raises(ConfigError) as caught:
        training_arguments(recipe("train.extra.report_to=tensorboard"))
    (words,) = alternatives(str(caught.value))
    assert 'train.report_to=["tensorboard"]' in words  # not carried out: it need not be installed
    assert recipe(words[-1]).train.report_to == ["tensorboard"]


@pytest.mark.parametrize("extra", ["logging_steps=0.1", "save_steps=0.5", "lr_scheduler_kwargs=null"])
def test_a_value_that_the_recipe_does_not_take_is_not_advised(extra: str) -> None:
    name = extra.partition("=")[0]
    told = refused(f"train.extra.{extra}")
    assert f"is set elsewhere in the recipe, by train.{name}, which takes no" in told
    assert alternatives(told) == [[f"train.extra.{name}"]]


def test_the_backend_of_several_processes_does_not_stop_one_alone() -> None:
    training_arguments(recipe("train.extra.ddp_backend=gloo", "train.use_cpu=true"))


def test_a_name_is_taken_where_its_condition_holds() -> None:
    training_arguments(recipe("train.extra={eval_delay: 3}", "train.eval_steps=2", "data.held_out=0.1", "data.eval=[]"))
    training_arguments(recipe("train.extra={dataloader_persistent_workers: true}", "train.dataloader_num_workers=1"))
    plateau = ("train.lr_scheduler_type=reduce_lr_on_plateau", "train.warmup_steps=0", "train.eval_steps=2")
    training_arguments(recipe("train.extra={metric_for_best_model: eval_loss}", *plateau))
    training_arguments(recipe("train.extra={dataloader_persistent_workers: false, eval_delay: 0}"))  # as it is anyway


def test_a_typing_error_is_told_the_name_that_would_be_read() -> None:
    assert "did you mean 'train.extra.logging_first_step'" in refused("train.extra.loging_first_step=true")
    assert "did you mean" not in refused("train.extra.push_to_hubb=true")  # it would be refused


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("{optim_args: {momentum: 0.9}}", "str or null"),
        ("{torch_empty_cache_steps: often}", "int or null"),
        ("{tf32: 1}", "bool or null"),
        ("{data_seed: true}", "int or null"),
        ("{ddp_timeout: null}", "int"),
        ("{neftune_noise_alpha: '5'}", "float or null"),
    ],
)
def test_a_value_of_another_type_is_refused(extra: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"must be {words}, got"):
        training_arguments(recipe(f"train.extra={extra}"))


# ---- names that would override a key of the recipe ----------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["gradient_accumulation_kwargs: {num_steps: 4}", "split_batches: true", "even_batches: false"]
)
def test_accelerate_has_no_say_in_what_an_update_is(key: str) -> None:
    assert "train.gradient_accumulation_steps" in refused(f"train.extra.accelerator_config={{{key}}}")


def test_what_transformers_does_to_its_settings_is_not_done_to_the_recipe() -> None:
    given = recipe("train.extra={fsdp: true, fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: true}}")
    before = copy.deepcopy(given.train.extra)
    assert training_arguments(given).fsdp_config["version"] == 2
    assert given.train.extra == before


@pytest.mark.skipif("activation_checkpointing" not in FIELDS, reason="a name of later releases of transformers")
def test_the_newer_name_of_checkpointing_does_not_go_before_the_recipe() -> None:
    advice = alternatives(refused("train.extra.activation_checkpointing=true"))
    assert advice == [["train.extra.activation_checkpointing", "train.gradient_checkpointing=true"]]
    refused("train.extra.activation_checkpointing=false", "train.gradient_checkpointing=true")
    both = ("gradient_checkpointing_kwargs={use_reentrant: true}", "activation_checkpointing_kwargs={}")
    told = refused(*(f"train.extra.{one}" for one in both), "train.gradient_checkpointing=true")
    assert "both are given" in told


def test_checkpointing_of_fsdp_is_left_to_the_recipe() -> None:
    for name in ("activation_checkpointing", "fsdp_activation_checkpointing"):
        told = refused("train.extra.fsdp=true", f"train.extra.fsdp_config={{{name}: true, fsdp_version: 2}}")
        assert "train.gradient_checkpointing=true" in told


@pytest.mark.parametrize("name", ["torch_compile_backend", "torch_compile_mode"])
def test_settings_of_the_compiler_do_not_switch_it_on(name: str) -> None:
    value = {"torch_compile_backend": "eager", "torch_compile_mode": "default"}[name]
    assert len(alternatives(refused(f"train.extra.{name}={value}"))) == 2
    assert training_arguments(recipe(f"train.extra.{name}={value}", "train.torch_compile=true")).torch_compile


@pytest.mark.parametrize("name", ["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"])
def test_settings_of_checkpointing_are_for_runs_that_have_it(name: str) -> None:
    if name in FIELDS:
        assert len(alternatives(refused(f"train.extra.{name}={{use_reentrant: true}}"))) == 2


# ---- the optimizer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optim", "extra", "told"),
    [
        ("adamw_torch", "optim_args: 'momentum=0.9'", "'momentum' in train.extra.optim_args is nothing that adamw"),
        ("adafactor", "optim_args: 'scale_parameter=true'", "nothing that adafactor reads"),
        ("sgd", "optim_args: 'momentum=0.9,decay=1'", "'decay' in train.extra.optim_args is nothing that sgd reads"),
        ("sgd", "optim_args: 'momentum=0.9, weight_decay=0.1'", "'weight_decay' in train.extra.optim_args is set else"),
        ("sgd", "adam_epsilon: 1e-6", "train.optim sgd reads none"),
        ("adafactor", "adam_epsilon: 1e-6", "train.optim adafactor reads none"),
    ],
)
def test_a_setting_that_the_optimizer_does_not_read_is_refused(optim: str, extra: str, told: str) -> None:
    assert told in refused(f"train.optim={optim}", f"train.extra={{{extra}}}")


@pytest.mark.parametrize(
    ("optim", "extra"),
    [
        ("sgd", "optim_args: 'momentum=0, nesterov=false, dampening=0'"),
        ("rmsprop", "optim_args: 'alpha=0.99,eps=1e-8,centered=false'"),
        ("adagrad", "optim_args: 'lr_decay=0'"),
        ("adamw_torch", "adam_epsilon: 1e-8"),
        ("adamw_torch_fused", "adam_epsilon: 1e-5"),
    ],
)
def test_a_setting_that_the_optimizer_reads_is_taken_even_where_it_says_the_default(optim: str, extra: str) -> None:
    training_arguments(recipe(f"train.optim={optim}", f"train.extra={{{extra}}}"))


def test_settings_that_cannot_be_read_are_shown_how() -> None:
    with pytest.raises(ConfigError, match="optim_args' must be name=value,name=value, got 'momentum'"):
        training_arguments(recipe("train.optim=sgd", "train.extra.optim_args=momentum"))


# ---- float16 without a GPU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("reference.kind=cache",), ("train.bf16=false",)])
def test_float16_on_a_cpu_is_refused_where_it_would_be_left_out(more: tuple[str, ...]) -> None:
    overrides = ("train.fp16=true", "train.use_cpu=true", *more)
    assert refused(*overrides).startswith("train.fp16 does nothing on a CPU")
    assert len(alternatives(refused(*overrides))) == 2
