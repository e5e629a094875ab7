"""``mmpref plan --gpus``: what is split is split, what is not is not, and what is sent is what rings send."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.models.find_config import find_config
from mmpref.planning.gpus import GIB
from mmpref.planning.network import EFFICIENCY, link_rate, seconds
from mmpref.planning.parallelism import ALONE, BUCKET, ParallelPlan
from mmpref.planning.plan import Plan, compare_strategies, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.subject import described
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel.strategy import SharedStrategy

FULL, QLORA = "qwen2_vl_2b_uni_dpo_full", "qwen2_5_vl_7b_uni_dpo_qlora"
SCALING = Path(__file__).resolve().parents[2] / "scripts" / "make_scaling.py"
ONE = ("train.gradient_accumulation_steps=1", "reference.kind=cache")


def recipe(name: str = FULL, *changes: str) -> Recipe:
    return load_recipe(name, list(changes))


def over(gpus: int, strategy: SharedStrategy, nodes: int = 1) -> ParallelPlan:
    return ParallelPlan(gpus=gpus, nodes=nodes, strategy=strategy)


def on(parallel: ParallelPlan, gpu: str | None = None, link: str | None = None, pairs: int | None = None) -> PlanInput:
    return PlanInput(parallel=parallel, gpu=gpu, link=link, pairs=pairs)


def sizes(name: str = FULL) -> tuple[int, int, int]:
    """(weights, weights that train themselves, adapter weights) of a recipe's model."""
    wanted = recipe(name)
    model = described(find_config(wanted.model.path)[0], wanted, "shared_prefix")
    return sum(model.parameters.values()), sum(model.trained.values()), model.lora


def test_ddp_keeps_everything_everywhere_and_every_gradient_twice() -> None:
    alone, parallel = make_plan(recipe(FULL, *ONE)), make_plan(recipe(FULL, *ONE), on(over(8, "ddp")))
    _, trained, _ = sizes()
    assert parallel.memory.step == alone.memory.step
    assert parallel.memory.before == {**alone.memory.before, "buckets": 4 * trained}


@pytest.mark.parametrize("gpus", [2, 8, 64])
def test_fsdp2_splits_sixteen_bytes_a_trained_weight_and_nothing_of_the_activations(gpus: int) -> None:
    alone, parallel = (
        make_plan(recipe(FULL, *ONE)),
        make_plan(recipe(FULL, *ONE), on(over(gpus, "fsdp2"))),
    )
    weights, trained, _ = sizes()
    assert parallel.memory.before["weights, not quantised"] == (4 * trained + 2 * (weights - trained)) // gpus
    assert parallel.memory.step["gradients"] == 4 * trained // gpus
    assert parallel.memory.step["optimizer"] == 8 * trained // gpus
    for part in ("activations", "head", "vision", "recomputed layer"):
        assert 0 < parallel.memory.step[part] <= alone.memory.step[part]  # a float32 stream of hidden states, alone
        assert parallel.memory.step[part] == make_plan(recipe(FULL, *ONE), on(over(2, "fsdp2"))).memory.step[part]
    assert parallel.memory.step["autocast's copies"] == 0 < alone.memory.step["autocast's copies"]
    assert parallel.memory.step["gathered"] > 2 * 2 * max(151936 * 1536 // 2, 1)


def test_zero_keeps_a_float32_copy_and_splits_by_stage() -> None:
    weights, trained, _ = sizes()
    second = make_plan(recipe(FULL, *ONE), on(over(8, "zero2"))).memory
    assert second.before["weights, not quantised"] == 2 * weights
    assert second.step["optimizer"] == 12 * trained // 8
    assert second.before["buckets"] == 2 * 2 * min(BUCKET, trained)
    assert second.step["gathered"] == 0
    third = make_plan(recipe(FULL, *ONE), on(over(8, "zero3"))).memory
    assert third.before["weights, not quantised"] == 2 * weights // 8
    assert third.step["optimizer"] == second.step["optimizer"]
    assert third.step["gathered"] > 0


def test_a_packed_base_and_a_copied_reference_are_split_by_fsdp2() -> None:
    alone = make_plan(recipe(QLORA)).memory
    parallel = make_plan(recipe(QLORA), on(over(8, "ddp"))).memory
    assert parallel.before["weights, quantised"] == alone.before["weights, quantised"] > 0
    sliced = make_plan(recipe(QLORA, "train.optim=adamw_torch"), on(over(8, "fsdp2"))).memory
    # of 4.127 bits a weight, 4 are split and the scales are not
    assert sliced.before["weights, quantised"] / alone.before["weights, quantised"] == pytest.approx(
        (4 / 8 + 0.127) / 4.127, rel=0.02
    )
    assert sliced.before["weights, not quantised"] == alone.before["weights, not quantised"] // 8
    whole = make_plan(recipe(FULL)).memory.before["reference"]
    assert make_plan(recipe(FULL), on(over(8, "ddp"))).memory.before["reference"] == whole > 0
    assert make_plan(recipe(FULL), on(over(8, "fsdp2"))).memory.before["reference"] == whole // 8


def test_split_gradients_travel_after_every_micro_batch_and_are_never_whole() -> None:
    _, trained, _ = sizes()
    many, one = (make_plan(recipe(FULL, *c), on(over(8, "fsdp2"))) for c in (["reference.kind=cache"], ONE))
    assert many.memory.step["gradients"] == one.memory.step["gradients"] == 4 * trained // 8
    assert many.network.traffic.gradients == pytest.approx(128 * one.network.traffic.gradients, rel=1e-6)


def test_weights_that_train_cost_what_the_page_says() -> None:
    """By default 16 bytes, and 2 for what is frozen; all in float32 or all in bfloat16 where that is asked for."""
    _, trained, _ = sizes()
    found = [make_plan(recipe(FULL, *ONE, *change)).memory
             for change in ([], ["model.dtype=float32"], ["model.dtype=bfloat16"])]  # fmt: skip
    per_weight = [
        (m.before["weights, not quantised"] + m.step["gradients"] + m.step["optimizer"]) / trained for m in found
    ]
    frozen = (sizes()[0] - trained) / trained
    assert per_weight == pytest.approx([16 + 2 * frozen, 16 + 4 * frozen, 8 + 2 * frozen])
    assert found[0].step["autocast's copies"] == found[1].step["autocast's copies"] > 1.6 * trained
    assert found[2].step["autocast's copies"] == 0


def test_a_plan_without_bf16_takes_what_a_card_does_by_default() -> None:
    left = make_plan(recipe(FULL, *ONE, "train.bf16=null"))
    assert left.recipe.train.bf16 is True
    assert left.needed == make_plan(recipe(FULL, *ONE)).needed
    assert make_plan(recipe(FULL, *ONE, "train.bf16=null", "train.use_cpu=true")).recipe.train.bf16 is False
    assert make_plan(recipe(FULL, *ONE, "train.bf16=null", "model.dtype=float16")).recipe.train.bf16 is False


def test_updates_in_half_precision_are_told_where_they_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for change, told in ([], False), (["model.dtype=bfloat16"], True):
        assert main(["plan", FULL, *change]) == 0
        assert ("updated in half precision" in " ".join(capsys.readouterr().out.split())) == told


@pytest.mark.parametrize("nodes", [1, 4])
def test_what_is_sent_is_what_rings_send(nodes: int) -> None:
    weights, trained, _ = sizes()
    world = 4 * nodes
    share = (world - 1) / world

    def sent(strategy: SharedStrategy, *changes: str) -> tuple[int, int]:
        traffic = make_plan(
            recipe(FULL, "reference.kind=cache", *changes), on(over(4, strategy, nodes))
        ).network.traffic
        return traffic.gradients, traffic.weights

    batches = 128
    assert sent("ddp") == (int(2 * share * 4 * trained), 0)  # once an update, whatever is accumulated
    assert sent("zero2") == (int(share * 2 * trained * batches), int(share * 2 * trained))
    assert sent("zero3") == (int(share * 2 * trained * batches), int(share * 2 * weights * 2 * batches))
    assert sent("fsdp2") == (int(share * 2 * trained * batches), int(share * 2 * weights * 2 * batches))


def test_a_reference_with_the_adapter_off_gathers_weights_once_more() -> None:
    def weights_sent(*changes: str) -> int:
        lora = recipe("qwen2_5_vl_3b_uni_dpo_lora", "train.optim=adamw_torch", *changes)
        return make_plan(lora, on(over(8, "fsdp2"))).network.traffic.weights

    assert weights_sent() == pytest.approx(1.5 * weights_sent("reference.kind=cache"), rel=1e-9)
    assert weights_sent("loss={name: simpo}") == weights_sent("reference.kind=cache")


def test_adapters_alone_travel_under_ddp() -> None:
    _, trained, lora = sizes(QLORA)
    assert trained == 0
    plan = make_plan(recipe(QLORA), on(over(2, "ddp")))
    assert plan.network.traffic.gradients == int(2 * 0.5 * 4 * lora)  # adapters are float32


@pytest.mark.parametrize(("typed", "name", "gb"), [
    ("nvlink4", "NVLink 4", 450), ("PCIe 4", "PCIe 4", 32), ("pcie3", "PCIe 3", 16), ("25gbe", "25 GbE", 3.125),
    ("100g", "100 Gb/s InfiniBand", 12.5), ("400 Gb/s InfiniBand", "400 Gb/s InfiniBand", 50),
    ("200Gbps", "200 Gb/s InfiniBand", 25), ("8x400g", "8x 400 Gb/s InfiniBand", 400), ("100 GbE", "100 GbE", 12.5),
])  # fmt: skip
def test_links_have_names_and_rates(typed: str, name: str, gb: float) -> None:
    assert link_rate(typed) == (name, gb * 1e9)
    assert seconds(int(EFFICIENCY * gb * 1e9), gb * 1e9) == pytest.approx(1.0, rel=1e-6)


def test_time_goes_by_the_link_and_the_number_of_gpus() -> None:
    def plan(link: str | None, nodes: int = 1) -> Plan:
        return make_plan(recipe(FULL, *ONE), on(over(8, "zero3", nodes), gpu="H100", link=link))

    assert plan(None).network.link == "NVLink 4"
    assert plan(None, nodes=2).network.link == "100 Gb/s InfiniBand"
    assert plan("25gbe").network.seconds == pytest.approx(4 * plan("100g").network.seconds)
    quick, slow = plan("nvlink4").speed, plan("25gbe").speed
    assert quick is not None
    assert slow is not None
    assert quick.computing == slow.computing
    assert slow.pairs_per_hour[0] < slow.pairs_per_hour[1] < quick.pairs_per_hour[0]
    alone = make_plan(recipe(FULL, *ONE), PlanInput(gpu="H100")).speed
    assert alone is not None
    assert alone.pairs_per_hour[0] == alone.pairs_per_hour[1]
    assert quick.pairs_per_hour[1] == pytest.approx(8 * alone.pairs_per_hour[1])
    assert quick.tokens_per_second[1] / quick.pairs_per_hour[1] == pytest.approx(991 / 3600)


def test_the_global_batch_is_over_all_gpus() -> None:
    plan = make_plan(recipe(FULL, "train.per_device_train_batch_size=2"), on(over(8, "ddp", 2)))
    assert plan.global_batch == 2 * 128 * 16


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


def test_the_fix_for_too_few_pairs_is_one() -> None:
    changed = recipe(FULL, "train.gradient_accumulation_steps=125")
    assert make_plan(changed, on(over(8, "ddp"), pairs=1000)).global_batch == 1000
    with pytest.raises(ConfigError, match="there are 999"):
        make_plan(changed, on(over(8, "ddp"), pairs=999))


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
    spec = importlib.util.spec_from_file_location("make_scaling", SCALING)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


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
