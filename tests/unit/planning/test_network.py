"""What is sent is what rings send, and it takes what the link takes."""

from __future__ import annotations

import pytest

from mmpref.planning.network import EFFICIENCY, link_rate, seconds
from mmpref.planning.plan import Plan, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.training.parallel.strategy import SharedStrategy
from tests.unit.planning.shared_recipes import FULL, ONE, QLORA, on, over, recipe, sizes


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
