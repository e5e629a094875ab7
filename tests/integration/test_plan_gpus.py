"""``mmpref plan --gpus``: what is split is split, what is not is not, and what is sent is what rings send."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.planning.gpus import GIB
from mmpref.planning.parallelism import ALONE
from mmpref.planning.plan import compare_strategies, make_plan
from tests.loaded_scripts import script
from tests.unit.planning.shared_recipes import FULL, QLORA, on, over, recipe

SCALING = Path(__file__).resolve().parents[2] / "scripts" / "make_scaling.py"


@pytest.mark.parametrize(("name", "arguments", "message"), [
    (QLORA, ["--gpus", "8", "--strategy", "zero3"], "a base in 4 bits cannot be sharded by DeepSpeed ZeRO"),
    (QLORA, ["--gpus", "8", "--strategy", "zero2"], "a base in 4 bits cannot be sharded by DeepSpeed ZeRO"),
    (QLORA, ["--gpus", "8", "--strategy", "fsdp2"], "use `train.optim=adamw_torch_fused`"),
    (FULL, ["--gpus", "8", "--strategy", "zero3"], "use reference.kind=cache, which keeps no second model"),
    (QLORA, ["--gpus", "8", "--strategy", "fsdp2", "adapter={kind: lora, quantization: int8}", "train.optim=sgd"],
     "an 8-bit base cannot be sharded by FSDP2"),
    (FULL, ["--gpus", "8", "--strategy", "zero2", "train.bf16=false", "model.dtype=bfloat16"], "set train.bf16=true"),
    (FULL, ["--gpus", "8", "--strategy", "ddp", "--pairs", "1000"], "set train.gradient_accumulation_steps=125"),
    (FULL, ["--gpus", "8", "--nodes", "64", "--strategy", "ddp", "--pairs", "100"], "use at most 100 GPUs"),
    (FULL, ["--gpus", "8", "--strategy", "fsdp1"], "no strategy 'fsdp1'; known: ddp, fsdp2, zero2, zero3"),
    (FULL, ["--strategy", "ddp"], "is given for one GPU"),
    (FULL, ["--link", "pcie4"], "is given for one GPU"),
    (FULL, ["--gpus", "2", "--strategy", "ddp", "--link", "string"], "no link 'string' in the table; known: NVLink 4"),
    (FULL, ["--gpus", "2", "--strategy", "ddp", "train.use_cpu=true", "train.bf16=false"], "train.use_cpu is set"),
])  # fmt: skip
def test_contradictions_are_refused_with_the_fix(
    name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", name, *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_does_not_fit_many_gpus_is_told_with_changes_that_hold(capsys: pytest.CaptureFixture[str]) -> None:
    big = ["model.path=Qwen/Qwen2.5-VL-72B-Instruct"]
    arguments = ["plan", FULL, *big, "--gpus", "8", "--strategy", "ddp", "--gpu", "H100"]
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fits │ no" in said
    plan = make_plan(recipe(FULL, *big), on(over(8, "ddp"), gpu="H100"))
    assert plan.on_card is not None
    words = [change for change, _ in plan.on_card.changes]
    assert words[0] == "reference.kind=cache"
    assert "--strategy fsdp2" in words
    nodes = next(change for change in words if change.startswith("--nodes"))
    count = int(nodes.split()[1])
    kept = ["reference.kind=cache", "train.optim=adamw_torch_fused"]
    for number, fits in ((count, True), (count // 2, False)):
        assert make_plan(recipe(FULL, *big, *kept), on(over(8, "fsdp2", number), gpu="H100")).fits is fits
    assert plan.on_card.changes[-1][1] <= 80


def test_without_a_strategy_all_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", FULL, "--gpus", "8", "--gpu", "H100", "reference.kind=cache"]) == 0
    said = capsys.readouterr().out
    assert [line.split("│")[1].strip() for line in said.splitlines() if "│" in line] == [
        "ddp", "fsdp2", "zero2", "zero3"]  # fmt: skip
    assert main(["plan", QLORA, "--gpus", "8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "zero3: a base in 4 bits cannot be sharded" in said
    assert "fsdp2: train.optim=adamw_8bit" in said
    with pytest.raises(ConfigError, match="use_cpu"):
        compare_strategies(recipe(FULL, "train.use_cpu=true", "train.bf16=false"), on(over(8, "ddp")))


def test_a_plan_for_many_gpus_says_how_it_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", FULL, "--gpus", "8", "--nodes", "2", "--strategy", "fsdp2", "--gpu", "H100"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fsdp2 over 16 GPUs on 2 nodes" in said
    assert "2,048 pairs: 16 GPUs x 1 x 128 micro-batches" in said
    assert "train.gradient_accumulation_steps=8 makes it 128" in said
    assert main(["plan", FULL, "--gpus", "2", "--strategy", "ddp", "model.dtype=bfloat16"]) == 0
    assert "updated in half precision" in " ".join(capsys.readouterr().out.split())


# ---- the page ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return script("make_scaling")


def test_rows_of_the_scaling_page_are_what_the_script_counts(scaling: ModuleType) -> None:
    lines = scaling.PAGE.read_text(encoding="utf-8").splitlines()
    model = "Qwen2-VL-2B"
    for mode, columns in (("full", scaling.FULL), ("lora", scaling.LORA), ("qlora", scaling.QLORA)):
        plan = scaling.planned(model, mode, ALONE)
        before = plan.memory.before
        weights = before["weights, not quantised"] + before["weights, quantised"]
        cells = [scaling.gib(scaling.planned(model, mode, column.parallel)) for column in columns]
        row = [model, f"{weights / GIB:.0f}", f"{plan.memory.tokens:,}", *cells]
        assert f"| {' | '.join(row)} |" in lines


@pytest.mark.slow
def test_the_scaling_page_is_what_the_script_writes(scaling: ModuleType) -> None:
    assert scaling.PAGE.read_text(encoding="utf-8") == scaling.page()
