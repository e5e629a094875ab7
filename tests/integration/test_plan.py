"""``mmpref plan``: every shipped recipe without a weight being read, and a plain answer to "does it fit"."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.models.find_config import find_config
from mmpref.models.known_configs import known_config, known_models
from mmpref.planning.architecture import describe
from mmpref.planning.gpus import GIB, on_card, parse_memory
from mmpref.planning.memory import estimate
from mmpref.planning.meta_model import skeleton
from mmpref.planning.pair_shape import Shape
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.speed import flops_per_pair
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import read_recipe_text, shipped_recipes
from mmpref.records import ImageRef, PreferencePair, user_turn
from tests.recomputing import recompute
from tests.tiny_vlms import build, build_model, draw

# the published sizes of the checkpoints, in weights
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": 2.209, "Qwen/Qwen2-VL-7B-Instruct": 8.291, "Qwen/Qwen2.5-VL-3B-Instruct": 3.755,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.292, "Qwen/Qwen3-VL-4B-Instruct": 4.438, "Qwen/Qwen3-VL-8B-Instruct": 8.767,
    "llava-hf/llava-1.5-7b-hf": 7.063, "llava-hf/llava-v1.6-mistral-7b-hf": 7.567,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 0.894, "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.031,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8.030, "Qwen/Qwen2.5-0.5B-Instruct": 0.494,
    "Qwen/Qwen2-VL-72B-Instruct": 73.406, "Qwen/Qwen2.5-VL-32B-Instruct": 33.453,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73.411, "Qwen/Qwen3-VL-32B-Instruct": 33.357,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.544, "Qwen/Qwen2.5-3B-Instruct": 3.086, "Qwen/Qwen2.5-7B-Instruct": 7.616,
}  # fmt: skip
# published with one decimal only
PUBLISHED_ROUNDED = {"llava-hf/llava-1.5-13b-hf": 13.4, "llava-hf/llava-v1.6-34b-hf": 34.8}
FOR_REAL_MODELS = [name for name in shipped_recipes() if not name.startswith("demo_")]


@pytest.fixture(scope="module")
def config_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that hold a config.json and nothing else."""
    root = tmp_path_factory.mktemp("configs")
    for name in ("llava", "qwen2_5_vl", "text"):
        build_model(name).config.save_pretrained(root / name)
        assert [entry.name for entry in (root / name).iterdir()] == ["config.json"]
    return root


def recipe(name: str = "qwen2_5_vl_7b_uni_dpo_qlora", *changes: str) -> Recipe:
    return load_recipe(name, list(changes))


@pytest.mark.parametrize("model", known_models())
def test_the_built_in_architectures_have_the_published_number_of_weights(model: str) -> None:
    import torch

    config = known_config(model)
    assert config is not None
    found = sum(p.numel() for p in skeleton(config, model, torch.bfloat16).model.parameters())
    if model in PUBLISHED_ROUNDED:
        assert round(found / 1e9, 1) == PUBLISHED_ROUNDED[model]
    else:
        assert found / 1e9 == pytest.approx(PUBLISHED[model], abs=6e-4)


@pytest.mark.parametrize("name", FOR_REAL_MODELS)
def test_every_recipe_is_planned_and_needs_what_its_header_says(name: str) -> None:
    plan = make_plan(recipe(name), PlanInput())
    stated = re.search(r"# Memory: ([0-9.]+) GiB estimated by mmpref plan", read_recipe_text(name)[0])
    if stated is not None:
        assert plan.needed / GIB == pytest.approx(float(stated[1]), abs=0.06)


def test_the_parts_answer_to_the_keys_that_are_said_to_change_them() -> None:
    base = make_plan(recipe())
    kept = base.memory
    assert base.other_checkpointing.peak > 1.3 * kept.peak
    plain = make_plan(recipe(), PlanInput(layout="plain")).memory
    assert plain.tokens > 1.4 * kept.tokens
    assert plain.step["activations"] > 1.4 * kept.step["activations"]
    doubled = make_plan(recipe("qwen2_5_vl_7b_uni_dpo_qlora", "train.per_device_train_batch_size=2")).memory
    assert doubled.tokens == 2 * kept.tokens
    whole = make_plan(recipe("qwen2_5_vl_7b_uni_dpo_qlora", "adapter.kind=lora")).memory
    assert whole.resting > 2 * kept.resting
    plain_adam = make_plan(recipe("qwen2_5_vl_7b_uni_dpo_qlora", "train.optim=adamw_torch")).memory
    assert plain_adam.step["optimizer"] == pytest.approx(4 * kept.step["optimizer"], rel=0.03)
    full = make_plan(recipe("qwen2_vl_2b_uni_dpo_full")).memory
    frozen = 665_000_000 * 2  # the tower of Qwen2-VL without its merger is the same for both
    assert full.before["reference"] == pytest.approx(full.before["weights, not quantised"] - frozen, rel=0.03)
    cached = make_plan(recipe("qwen2_vl_2b_uni_dpo_full", "reference.kind=cache")).memory
    assert cached.before["reference"] == 0
    assert full.step["optimizer"] == 2 * full.step["gradients"]
    assert kept.before["reference"] == 0


def test_four_bits_with_double_quantisation_are_4_127_bits_a_weight() -> None:
    config = known_config("llava-hf/llava-1.5-7b-hf")
    assert config is not None
    memory = make_plan(recipe("llava_1_5_7b_uni_dpo_qlora")).memory
    text = config.get_text_config()
    layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    weights = text.num_hidden_layers * layer
    assert 8 * memory.before["weights, quantised"] / weights == pytest.approx(4.127, abs=1e-3)


def test_a_reference_that_the_loss_does_not_need_costs_nothing() -> None:
    found = make_plan(recipe("qwen2_vl_2b_uni_dpo_full", "loss={name: simpo}"))
    assert found.memory.before["reference"] == 0
    assert found.flops_per_pair < make_plan(recipe("qwen2_vl_2b_uni_dpo_full")).flops_per_pair


@pytest.mark.parametrize(("kind", "changes"), [
    ("text", ["adapter={kind: none}", "tune={language: full}", "train.gradient_checkpointing=false"]),
    ("text", ["adapter={kind: none}", "tune={language: full}", "loss={name: simpo}"]),
    ("text", ["adapter.rank=1", "train.gradient_checkpointing=false"]),
    ("llava", ["adapter={kind: none}", "tune={language: full}", "loss={name: dpo}"]),
])  # fmt: skip
def test_operations_are_those_that_torch_counts(kind: str, changes: list[str], tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mmpref.losses import build_objective
    from mmpref.models import LoadSettings, choose_reference, load, pair_logps, prepare
    from mmpref.models.tuning import AdapterSettings, Tuning
    from mmpref.processing import PairCollator, PairEncoder

    path = f"model.path={build(kind, tmp_path / 'model')}"
    wanted = recipe("qwen2_5_vl_3b_uni_dpo_lora", path, "processing.max_pixels=null", "loss={name: dpo}", *changes)
    adapter = None if wanted.adapter.kind == "none" else AdapterSettings(rank=wanted.adapter.rank)
    loaded = prepare(
        load(tmp_path / "model", LoadSettings(dtype="float32"), trainable=True),
        Tuning(**wanted.tune.model_dump()),
        adapter,
    )
    if wanted.train.gradient_checkpointing:
        recompute(loaded.model)
    objective = build_objective(wanted.loss.as_mapping())
    images = (ImageRef(path="28x28-0"),) if kind != "text" else ()
    pair = PreferencePair(
        id="a", images=images, prompt=user_turn("what is in the image ? " * 20, num_images=len(images)),
        chosen="there is one cat . " * 25, rejected="it is not a red square , " * 20,
    )  # fmt: skip
    encoder = PairEncoder(loaded.processor, loaded.family)
    encoded = encoder.encode(pair, draw)
    assert encoded.rejected_ids is not None
    image = sum(encoded.prompt.image_tokens)
    shape = Shape(
        prompt=len(encoded.prompt_ids) - image, image=image, patches=image + bool(image),
        chosen=len(encoded.chosen_ids), rejected=len(encoded.rejected_ids),
    )  # fmt: skip

    def product(a: Any, b: Any, c: Any, *_: Any, **__: Any) -> int:
        return 2 * int(b[0] * b[1] * c[1])

    def attention(query: Any, key: Any, *_: Any, **__: Any) -> int:
        return 2 * int(query[0] * query[1] * query[2] * key[2] * query[3])  # two products, half of each masked

    def attention_back(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
        return 2 * attention(query, key)

    aten = torch.ops.aten
    counted = {
        aten.addmm_: product, aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_back,
    }  # fmt: skip
    batch = PairCollator(encoder, draw, layout="plain")([pair])
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        reference = choose_reference(loaded.model) if objective.needs_reference else None
        objective(pair_logps(loaded.model, batch, reference=reference)).per_pair.sum().backward()
    config, _ = find_config(str(tmp_path / "model"))
    found = flops_per_pair(describe(config, wanted, "plain"), wanted, shape, "plain")
    assert found == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_folder_with_nothing_but_a_config_is_planned(config_alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, loss in (("llava", "adadpo"), ("text", "dpo")):
        changes = [f"model.path={config_alone / name}", f"loss={{name: {loss}}}", "processing.max_pixels=null"]
        assert main(["plan", "qwen2_5_vl_3b_uni_dpo_lora", *changes, "--gpu", "RTX 4090"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "peak: what is always there" in said
        assert "pairs an hour on one RTX 4090" in said
        assert "its config.json" in said


def test_a_plan_of_a_float16_run_is_made_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("train.fp16=true", "train.bf16=false")
    assert main(["plan", "llava_1_5_7b_uni_dpo_qlora", *changes, "--gpu", "RTX 4090"]) == 0
    assert "float16" in capsys.readouterr().out


def test_what_does_not_fit_is_told_with_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen2_vl_2b_uni_dpo_full", "--gpu-memory", "12GiB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fits │ no" in said
    assert "adapter.kind=lora with tune.language=lora: then" in said
    plan = make_plan(recipe("qwen2_vl_2b_uni_dpo_full"), PlanInput(gpu_memory=12 * GIB))
    assert plan.on_card is not None
    needs = [needed for _, needed in plan.on_card.changes]
    assert needs == sorted(needs, reverse=True)
    assert needs[-1] <= 12 < plan.needed / GIB
    assert plan.on_card.longest == 0


def test_the_largest_pair_is_the_last_that_fits() -> None:
    import torch

    room = 24 * GIB
    wanted = recipe("llava_1_5_7b_uni_dpo_qlora")
    plan = make_plan(wanted, PlanInput(gpu_memory=room))
    assert plan.on_card is not None
    longest = plan.on_card.longest
    config, _ = find_config(wanted.model.path)
    model = describe(config, wanted)
    for tokens, fits in ((longest, True), (longest + 1, False)):
        shape = Shape(prompt=100, image=plan.shape.image, patches=plan.shape.patches, chosen=tokens, rejected=tokens)
        assert (on_card(estimate(model, wanted, shape, dtype=torch.bfloat16).peak) <= room) == fits


@pytest.mark.parametrize(("arguments", "message"), [
    (["--gpu", "Voodoo 2"], "no card 'Voodoo 2' in the table; known: RTX 3060"),
    (["--gpu-memory", "lots"], "'lots' is not a size of memory"),
    (["--image-size", "big"], "'big' is not the size of an image"),
    (["model.path=/nowhere/at/all"], "/nowhere/at/all does not exist"),
    (["tune={language: full}"], "no part is tuned by it"),
])  # fmt: skip
def test_what_cannot_be_planned_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "llava_1_5_7b_uni_dpo_qlora", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("text", "size"), [
    ("24GiB", 24 * GIB), ("24", 24 * GIB), ("11.5 gb", int(11.5 * GIB)), ("512MiB", 512 * 2**20),
])  # fmt: skip
def test_sizes_of_memory_are_read(text: str, size: int) -> None:
    assert parse_memory(text) == size
    with pytest.raises(ConfigError):
        parse_memory(text + "?")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [
    "small lora", "small lora ckpt", "small full", "small qlora ckpt",
    "mini full float32, autocast ckpt",
])  # fmt: skip
def test_the_estimate_is_within_15_percent_of_a_measured_run(case: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    script = Path(__file__).resolve().parents[2] / "scripts" / "bench_memory.py"
    out = tmp_path / "figures.json"
    subprocess.run([sys.executable, str(script), "--case-named", case, "--out", str(out)], check=True)
    (row,) = json.loads(out.read_text())
    assert abs(row["error"]) <= 0.15, row
