"""The part of ``scripts/gpu_check.py`` that compares a training step with TRL's: both do the same work, each of the two
libraries by its own means over one set of weights, and what is counted is what is computed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench_models import make_pairs  # noqa: E402
from gpu_parts import pair_step  # noqa: E402
from gpu_parts.case import Context  # noqa: E402
from gpu_parts.counted import count_flops  # noqa: E402
from gpu_parts.profiled import _union  # noqa: E402
from gpu_parts.random_models import LLAVA_7B, QWEN_7B, random_model  # noqa: E402
from gpu_parts.shared_weights import in_nf4, separate_bytes, twin  # noqa: E402
from gpu_parts.steps import Ours, Trl, nearest_to_mean, recipe_tree, runners, same_adapters  # noqa: E402

from mmpref.planning.plan import make_plan  # noqa: E402
from mmpref.planning.plan_input import PlanInput  # noqa: E402
from mmpref.processing import family_of  # noqa: E402
from mmpref.recipe.loading import build_recipe  # noqa: E402
from tests.dry_runs import dry_run  # noqa: E402

# TRL's settings are given by the name that transformers 5.17 knows, which newer releases call deprecated
pytestmark = pytest.mark.filterwarnings(r"ignore:`gradient_checkpointing\w*` is deprecated:FutureWarning")

FIGURES = {
    "ms", "forward_ms", "backward_ms", "vision_ms", "head_ms", "pairs_per_second", "peak_gib", "reserved_gib",
    "over_rest_gib", "counted_tflop", "share_of_bf16",
}  # fmt: skip


@pytest.mark.slow
def test_the_dry_run_of_the_part_fills_every_field(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "pair_step")["pair_step"]
    assert {(row["model"], row["mode"], row["batch"]) for row in rows} == {
        (LLAVA_7B, "lora", 1), (QWEN_7B, "lora", 1), (LLAVA_7B, "qlora", 1), (QWEN_7B, "qlora", 1),
        (LLAVA_7B, "lora", 4),
    }  # fmt: skip
    assert [row["profiled_before"] for row in rows] == [False] + [True] * (len(rows) - 1)
    for row in rows:
        assert_filled(row)


def test_a_setting_fills_every_field(context: Context) -> None:
    """One of the five of the dry run: weights in four bits."""
    pytest.importorskip("bitsandbytes")
    setting = pair_step.Setting(QWEN_7B, "qlora", (pair_step.SHORT,), 1)
    assert_filled(pair_step._Sides(context, setting).measure(pair_step.SHORT))


def assert_filled(row: dict[str, Any]) -> None:
    for library in ("trl", "live", "cached"):
        assert row[library].keys() >= FIGURES
        phases = row[library]
        assert phases["ms"] > phases["forward_ms"] > phases["vision_ms"] + phases["decoder_ms"] > 0
        assert phases["backward_ms"] > 0
        assert phases["share_of_bf16"] > 0
    assert row["ratio"]["live"] > 0
    assert row["ideal"]["cached"] > row["ideal"]["live"] > 1
    assert row["memory_ratio"] == {"live": None, "cached": None}  # a CPU counts no bytes
    assert row["difference"] < 1e-3
    assert all(0 < len(row["profile"][library]) <= 10 for library in ("trl", "live"))
    assert row["planned"]["flop"] > 0


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(
        dry_run=True, device="cpu", deadline=time.monotonic() + 600, work=tmp_path, environment={"bf16_tflops": 1.0}
    )


@pytest.mark.slow
def test_without_trl_ours_is_measured_alone_and_can_be_planned(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_step, "_has_no_trl", lambda: True)
    sides = pair_step._Sides(context, pair_step.Setting(QWEN_7B, "lora", (pair_step.SHORT,), 1, batch=2))
    row = {"case": "alone", **sides.measure(pair_step.SHORT)}
    assert not {"trl", "ratio", "ideal"} & row.keys()
    assert min(row["live"]["ms"], row["cached"]["ms"]) > 0
    assert "pip install trl" in pair_step.line_of(row)

    planned = row["planned"]
    made = make_plan(
        build_recipe(planned["recipe"], where="test"), PlanInput(image_size=tuple(planned["image"]),
        prompt_tokens=planned["prompt_tokens"], answer_tokens=planned["answer_tokens"]),
    )  # fmt: skip
    assert planned["answer_tokens"] == 25 + 1  # words and the end
    pairs = sides.pairs(2, (250, 250), seed=2)
    assert made.memory.tokens == sides.ours.collator(pairs).num_tokens


@pytest.mark.slow
def test_a_trl_that_cannot_be_run_is_a_note_and_ours_is_measured(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise TypeError("DPOConfig has no max_length\nmore")

    monkeypatch.setattr(pair_step, "Trl", fails)
    sides = pair_step._Sides(context, pair_step.Setting(QWEN_7B, "lora", (pair_step.SHORT,), 1))
    row = {"case": "alone", **sides.measure(pair_step.SHORT)}
    assert row["note"] == "TRL could not be run: TypeError: DPOConfig has no max_length"
    assert row["live"]["ms"] > 0


def test_longer_answers_wait_for_models_that_were_not_measured(context: Context) -> None:
    def answers_measured(seconds: float) -> list[bool]:
        timed = replace(context, dry_run=False, deadline=time.monotonic() + seconds)
        rows = pair_step.rows_of(timed, pair_step.SETTINGS[0], 60.0, lambda answers: {"answers": list(answers)})
        return ["answers" in row for row in rows]

    assert answers_measured(5) == [True, False]
    assert answers_measured(60 + pair_step.EACH + 5) == [True, True]


@pytest.mark.parametrize("hub", [LLAVA_7B, QWEN_7B])
def test_both_libraries_compute_the_same_from_one_set_of_weights(hub: str, tmp_path: Path) -> None:
    subject = random_model(hub, tiny=True)
    model = subject.build("cpu", torch.float32)
    other = twin(model)
    pairs = make_pairs(2, shortest=8, longest=20, seed=1, vocabulary=400)
    tree = recipe_tree(hub, tmp_path / "run", kind="lora", bf16=False, checkpointing=True, use_cpu=True)
    ours = Ours(subject, model, tree, pairs[:1])
    trl = Trl(subject, other, tmp_path / "trl", pairs[:1], bf16=False, checkpointing=True, use_cpu=True)
    assert separate_bytes(ours.model, trl.model) == 0
    same_adapters(ours.model, trl.model)
    ours.fill(tmp_path / "cache", pairs)
    of = {name: _logps_and_gradients(runner, pairs) for name, runner in runners(ours, trl).items()}
    torch.testing.assert_close(of["cached"], of["live"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(of["trl"], of["live"], rtol=1e-4, atol=1e-5)

    # adapters that add something, so that the reference is another model and both their factors have gradients
    with torch.no_grad():
        for name, parameter in ours.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.02)
    same_adapters(ours.model, trl.model)
    of = {name: _logps_and_gradients(runner, pairs) for name, runner in runners(ours, trl).items() if name != "cached"}
    torch.testing.assert_close(of["trl"], of["live"], rtol=1e-3, atol=1e-5)
    assert sum(float(gradient.abs().sum()) for name, gradient in of["trl"].items() if ".lora_A." in name) > 0

    # neither has what the other hangs on its modules
    mine, theirs = ours.model.get_base_model(), trl.model.get_base_model()
    assert mine.config.get_text_config()._attn_implementation == "pair_sdpa"
    assert theirs.config.get_text_config()._attn_implementation == "sdpa"
    assert "_fused_forward" in theirs.forward.__code__.co_qualname
    assert "forward" not in mine.__dict__
    assert {id(module) for module in mine.modules()}.isdisjoint(id(module) for module in theirs.modules())


def _logps_and_gradients(runner: tuple[Any, Any], pairs: list[Any]) -> dict[str, Any]:
    library, step = runner
    found: dict[str, Any] = {}
    for pair in pairs:
        step(library.batch([pair]))
        found[f"logps of {pair.id}"] = torch.tensor(library.logps())
    found |= {name: p.grad.clone() for name, p in library.model.named_parameters() if p.grad is not None}
    assert len(found) > len(pairs)
    library.model.zero_grad(set_to_none=True)
    return found


def test_weights_in_nf4_are_those_that_a_model_read_in_nf4_has(tmp_path: Path) -> None:
    from mmpref.models.load import LoadSettings, load

    subject = random_model(LLAVA_7B, tiny=True)
    subject.save(tmp_path / "model", "cpu")
    read = load(tmp_path / "model", LoadSettings(quantization="nf4", dtype="bfloat16")).model
    made = in_nf4(subject.build("cpu"), family_of(subject.family, has_vision=True))
    for name in ("is_quantized", "is_loaded_in_4bit", "quantization_method"):
        assert str(getattr(made, name)) == str(getattr(read, name)), name
    assert made.config.quantization_config.to_dict() == read.config.quantization_config.to_dict()
    ours, theirs = dict(made.named_parameters()), dict(read.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, parameter in ours.items():
        assert type(parameter) is type(theirs[name])
        assert torch.equal(parameter, theirs[name]), name
    second = twin(made)
    assert separate_bytes(made, second) == 0
    assert separate_bytes(made, in_nf4(subject.build("cpu"), family_of(subject.family, has_vision=True))) > 0


def test_a_causal_kernel_is_counted_by_what_it_looks_at() -> None:
    query, key, value = (torch.randn(1, 4, 10, 8, requires_grad=True) for _ in range(3))

    def attend(causal: bool) -> None:
        nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal).sum().backward()

    places = 4 * 8 * 2  # heads, head size, a multiply-add
    assert count_flops(lambda: attend(False)) == (2 + 5) * places * 100
    assert count_flops(lambda: attend(True)) == (2 + 5) * places * 55


def test_a_product_with_a_four_bit_weight_is_counted_as_a_plain_one() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    plain = nn.Linear(64, 128, bias=False)
    packed = bnb.nn.Linear4bit(64, 128, bias=False, quant_type="nf4", compute_dtype=torch.float32)
    packed.load_state_dict(plain.state_dict())
    packed = packed.to("cpu")
    given = torch.randn(5, 64, requires_grad=True)
    plain.requires_grad_(False)
    once = 2 * 5 * 64 * 128
    for layer in (plain, packed):
        assert count_flops(lambda layer=layer: layer(given).sum().backward()) == 2 * once
        with torch.no_grad():
            assert count_flops(lambda layer=layer: layer(given)) == once


def test_products_of_half_precision_with_sums_in_float32_are_counted() -> None:
    """What the output head runs on a GPU; a CPU has no such products, and a device without data counts the same."""
    a, b = (torch.empty(*size, dtype=torch.bfloat16, device="meta") for size in ((4, 8), (8, 6)))
    into = torch.empty(4, 6, device="meta")
    once = 2 * 4 * 8 * 6
    assert count_flops(lambda: torch.mm(a, b, out_dtype=torch.float32)) == once
    assert count_flops(lambda: torch.mm(a, b, out_dtype=torch.float32, out=into)) == once
    assert count_flops(lambda: torch.addmm(into, a, b, out_dtype=torch.float32, out=into)) == once
    assert count_flops(lambda: torch.addmm(into, a.float(), b.float())) == once
    assert count_flops(lambda: into.addmm_(a.float(), b.float())) == once


def test_recomputation_is_counted() -> None:
    from torch.utils.checkpoint import checkpoint

    layer = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), nn.Linear(16, 16, bias=False)).requires_grad_(False)
    given = torch.randn(3, 16, requires_grad=True)
    once = 2 * 3 * 16 * 16
    assert count_flops(lambda: layer(given).sum().backward()) == 4 * once
    again = count_flops(lambda: checkpoint(layer, given, use_reentrant=False).sum().backward())
    assert again in (5 * once, 6 * once)  # it stops early where it has what is wanted


def test_time_in_which_kernels_overlap_is_busy_once() -> None:
    assert _union([(0, 4), (2, 5), (7, 9), (8, 8.5)]) == 7


def test_the_batch_nearest_to_the_mean_stands_for_all() -> None:
    groups = [make_pairs(1, shortest=n, longest=n, seed=n) for n in (10, 60, 200)]
    assert nearest_to_mean(groups) is groups[1]
