"""What ``mmpref train --launch`` and its processes refuse before anything is loaded, and what they say to do."""

from __future__ import annotations

import re
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from mmpref.errors import DistributedError
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel import launch as launching
from mmpref.training.parallel import profiles
from mmpref.training.parallel.launch import Launch, launch
from mmpref.training.parallel.profiles import environment_of, read_profile, shipped_profile
from mmpref.training.parallel.strategy import (
    STRATEGIES,
    refuse_launch_contradictions,
    refuse_other_than_asked,
    refuse_what_cannot_shard,
)

PROFILES = sorted((Path(launching.__file__).parents[3] / "scripts" / "accelerate").glob("*.yaml"))
LORA = ("adapter.kind=lora", "tune={language: lora, projector: freeze, vision: freeze}")
QLORA = ("adapter.kind=qlora", LORA[1])
SHARDING = ("fsdp2", "zero2", "zero3")


def recipe(*changes: str) -> Recipe:
    return load_recipe("demo_dpo", list(changes))


def with_profile(folder: Path, text: str) -> str:
    file = folder / "profile.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def told(strategy: str, *lines: str, section: str = "") -> dict[str, str]:
    """What a shipped profile, with more lines at its end, will say to the processes."""
    profile: dict[str, Any] = read_profile(strategy)[0]
    extra = dict(line.split(": ") for line in lines)
    profile = {**profile, section: {**profile[section], **extra}} if section else {**profile, **extra}
    return environment_of(profile, strategy)


# ---- profiles -----------------------------------------------------------------------------------------------------


def test_there_is_a_profile_for_every_strategy_and_no_other() -> None:
    assert {file.stem for file in PROFILES} == set(STRATEGIES)
    assert all(shipped_profile(name).is_file() for name in STRATEGIES)


def test_profiles_of_an_installation_in_a_folder_of_its_own_lie_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "share" / "mmpref" / "accelerate" / "ddp.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("", encoding="utf-8")
    monkeypatch.setattr(profiles, "__file__", str(tmp_path / "mmpref" / "training" / "parallel" / "profiles.py"))
    assert profiles.shipped_profile("ddp") == file


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.stem)
def test_a_shipped_profile_stands_for_its_strategy_and_accelerate_takes_it(file: Path) -> None:
    assert read_profile(str(file))[1] == file.stem
    config = load_config_from_file(str(file))
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "--num_processes", "2", "train.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    kind = {"ddp": "multi_gpu", "fsdp2": "use_fsdp"}.get(file.stem, "use_deepspeed")
    assert [name for name in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(arguments, name)] == [kind]
    section = config.fsdp_config or config.deepspeed_config
    assert all(hasattr(arguments, key) for key in section)  # a key that the launcher does not know does nothing
    if kind == "use_deepspeed":
        assert arguments.zero_stage == int(file.stem[-1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_shipped_profile_contradicts_no_recipe(strategy: str) -> None:
    tried = recipe("train.bf16=true", "train.gradient_accumulation_steps=4", "train.max_grad_norm=0.3", *LORA)
    refuse_launch_contradictions(tried, environment_of(*read_profile(strategy)))
    refuse_what_cannot_shard(tried, read_profile(strategy)[1])


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("distributed_type: FSDP\nfsdp_config: {fsdp_version: 1}\n", "fsdp_version: 2"),
        ("distributed_type: FSDP\n", "fsdp_version: 2"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 1}\n", "must be 2 or 3"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {deepspeed_config_file: ds.json}\n", "must be 2 or 3"),
        ("distributed_type: MULTI_CPU\n", "use MULTI_GPU"),
        ("distributed_type: 'NO'\n", "use MULTI_GPU"),
        ("num_processes: 2\n", "is not there"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: 2\n", "must have keys and values"),
        ("distributed_type: MULTI_GPU\nnumber_of_processes: 2\n", "number_of_processes"),
        ("- MULTI_GPU\n", "expected keys and values"),
    ],
)
def test_a_profile_of_another_kind_is_refused(tmp_path: Path, text: str, fix: str) -> None:
    with pytest.raises(DistributedError, match=fix):
        read_profile(with_profile(tmp_path, text))


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DistributedError, match="neither one of ddp, fsdp2, zero2, zero3 nor a file"):
        read_profile(str(tmp_path / "zero4"))


# ---- profile against recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("said", "set_"), [("bf16", ()), ("fp16", ("train.bf16=true",))])
def test_another_precision_than_the_recipes(strategy: str, said: str, set_: tuple[str, ...]) -> None:
    with pytest.raises(DistributedError, match=f"train.{said}=true"):
        refuse_launch_contradictions(recipe(*set_), told(strategy, f"mixed_precision: {said}"))


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_another_accumulation_or_clipping_than_the_recipes(strategy: str) -> None:
    tried = recipe("train.gradient_accumulation_steps=2", "train.max_grad_norm=0.5", *LORA)
    with pytest.raises(DistributedError, match=r"write `train.gradient_accumulation_steps=4`"):
        refuse_launch_contradictions(
            tried, told(strategy, "gradient_accumulation_steps: 4", section="deepspeed_config")
        )
    with pytest.raises(DistributedError, match=r"write `train.max_grad_norm=1.0`, or gradient_clipping: auto"):
        refuse_launch_contradictions(tried, told(strategy, "gradient_clipping: 1.0", section="deepspeed_config"))
    for same in ("gradient_clipping: 0.5", "gradient_accumulation_steps: 2"):
        refuse_launch_contradictions(tried, told(strategy, same, section="deepspeed_config"))


def test_checkpointing_of_activations_is_the_recipes() -> None:
    with pytest.raises(DistributedError, match=r"train.gradient_checkpointing=true"):
        refuse_launch_contradictions(
            recipe(), told("fsdp2", "fsdp_activation_checkpointing: true", section="fsdp_config")
        )


def test_processes_of_another_launcher_than_torchrun_name_what_is_missing() -> None:
    started = {"WORLD_SIZE": "4", "RANK": "0"}
    with pytest.raises(DistributedError, match=r"is set without MASTER_ADDR, MASTER_PORT: .* unset WORLD_SIZE"):
        refuse_launch_contradictions(recipe(), started)
    for whole in ({"WORLD_SIZE": "1"}, {**started, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}):
        refuse_launch_contradictions(recipe(), whole)


def test_a_launcher_that_started_one_process_where_several_were_asked_for() -> None:
    with pytest.raises(DistributedError, match="--launch ddp"):
        refuse_launch_contradictions(recipe(), {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"})


# ---- what a strategy cannot hold ----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SHARDING)
@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        (("adapter={kind: lora, quantization: int8}", LORA[1]), "or --launch ddp"),
        ((*LORA, "train.optim=paged_adamw_8bit"), "train.optim=adamw_torch_fused"),
        ((*LORA, "train.optim=adamw_bnb_8bit"), "train.optim=adamw_torch_fused"),
        ((*LORA, "train.torch_compile=true"), "train.torch_compile=false"),
    ],
)
def test_what_sharding_cannot_hold(strategy: str, changes: tuple[str, ...], fix: str) -> None:
    tried = recipe(*changes)
    with pytest.raises(DistributedError, match=fix):
        refuse_launch_contradictions(tried, environment_of(*read_profile(strategy)))
    with pytest.raises(DistributedError, match=fix):
        refuse_what_cannot_shard(tried, read_profile(strategy)[1])
    refuse_launch_contradictions(tried, environment_of(*read_profile("ddp")))


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_four_bits_under_deepspeed(strategy: str) -> None:
    tried = recipe(*QLORA)
    with pytest.raises(DistributedError, match="--launch fsdp2, or --launch ddp"):
        refuse_launch_contradictions(tried, environment_of(*read_profile(strategy)))
    refuse_launch_contradictions(tried, environment_of(*read_profile("fsdp2")))


def test_a_copied_reference_under_zero3() -> None:
    for changes in ((), (*LORA, "reference.kind=frozen_copy")):
        with pytest.raises(DistributedError, match=r"reference.kind=(auto or )?cache"):
            refuse_what_cannot_shard(recipe(*changes), "zero3")
        refuse_what_cannot_shard(recipe(*changes), "zero2")
    whole_projector = (LORA[0], "tune={language: lora, projector: full}")  # which the adapter keeps
    for changes in (("reference.kind=cache",), LORA, whole_projector, ("loss={name: sft}",)):
        refuse_what_cannot_shard(recipe(*changes), "zero3")


# ---- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_process_is_no_launch(strategy: str) -> None:
    with pytest.raises(DistributedError, match="--processes 2"):
        launch(recipe(*LORA), Launch(profile=strategy, processes=1), [])


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the number is known")
def test_processes_must_be_given_without_a_gpu() -> None:
    with pytest.raises(DistributedError, match="--processes N"):
        launch(recipe(), Launch(profile="ddp"), [])


@pytest.mark.parametrize(
    ("wanted", "fix"),
    [
        (Launch(profile="ddp", processes=1, nodes=2), "--main-address HOST:PORT"),
        (Launch(profile="ddp", processes=1, nodes=2, node_rank=2, main_address="a:1"), "--node-rank 2"),
    ],
)
@pytest.mark.skipif(torch.cuda.device_count() == 1, reason="counts GPUs first")
def test_machines_that_cannot_find_each_other(wanted: Launch, fix: str) -> None:
    with pytest.raises(DistributedError, match=fix):
        launch(recipe(), wanted, [])


def test_launch_inside_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DistributedError, match="leave out --launch"):
        launch(recipe(), Launch(profile="ddp", processes=2), [])


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="DeepSpeed is here")
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_deepspeed_that_is_not_installed(strategy: str) -> None:
    with pytest.raises(DistributedError, match=r"pip install 'mmpref\[deepspeed\]', or --launch fsdp2"):
        launch(recipe(*LORA), Launch(profile=strategy, processes=2), [])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_something_else_than_what_was_asked_for(strategy: str) -> None:
    refuse_other_than_asked(read_profile(strategy)[1], 2, {"MMPREF_LAUNCH": f"{strategy}:2"})
    for found, size in (("single", 1), (read_profile(strategy)[1], 4)):
        with pytest.raises(DistributedError, match=f"asked for {strategy} with 2 processes"):
            refuse_other_than_asked(found, size, {"MMPREF_LAUNCH": f"{strategy}:2"})


@pytest.mark.parametrize("dead_first", [0, 1])
@pytest.mark.parametrize(
    ("codes", "told", "code"),
    [
        ((7, -signal.SIGKILL), "rank 1 was killed (SIGKILL)", 7),
        ((-signal.SIGTERM, -signal.SIGKILL), "rank 1 was killed (SIGKILL)", 7),
        ((7, 3), "rank 1 ended with exit code 3", 3),
        ((-signal.SIGSEGV, 7), "rank 0 was ended by SIGSEGV", 7),
    ],
)
def test_the_rank_that_ended_the_others_is_named(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int], told: str, code: int, dead_first: int
) -> None:
    """Whichever the launcher finds dead first: one that lost its partner ends a moment after it."""
    failures = {rank: ProcessFailure(rank, 100 + rank, ended, "") for rank, ended in enumerate(codes)}
    failures[1 - dead_first].timestamp += 1

    def fails(_: object) -> None:
        raise ChildFailedError("mmpref", failures)

    monkeypatch.setattr(launching, "launch_command", fails)
    with pytest.raises(DistributedError, match=re.escape(told)) as caught:
        launching._run(None)
    assert caught.value.exit_code == code


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there are GPUs they are used")
def test_without_a_gpu_processes_on_the_cpu_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(launching, "_launch_once", lambda *_: begun.append(True))
    with pytest.raises(DistributedError, match="no GPU") as refusal:
        launch(recipe("train.use_cpu=false"), Launch(profile="ddp", processes=2), ["demo_dpo"])
    advice = re.findall(r"`([^`]+)`", str(refusal.value))
    assert not begun
    launch(recipe("train.use_cpu=false", *advice), Launch(profile="ddp", processes=2), ["demo_dpo", *advice])
    assert begun
