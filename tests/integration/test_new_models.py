"""The shipped recipes of the models of 2026 on small models of their types: planned, checked, trained for two steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers as tf
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.model_types import gemma, glm, qwen
from tests.model_types.folders import TEXT, TOWER, Writer, ids_of, write_folder
from tests.tiny_experts import HOLDS_TWO
from tests.tiny_vlms import make_tokenizer

pytestmark = pytest.mark.model_types


def write_mistral3(folder: Path) -> Path:
    """Mistral Small 3: Pixtral's tower, whose patches are merged 2 x 2, before a Mistral."""
    image, line, end = "[IMG]", "[IMG_BREAK]", "[IMG_END]"
    tokens = make_tokenizer({"image_token": image}, image_markup=image, unnamed=(line, end))
    images = tf.PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 14, "width": 14})
    config = tf.Mistral3Config(
        text_config={"model_type": "mistral", **TEXT, **ids_of(tokens)},
        vision_config={"model_type": "pixtral", **TOWER, "head_dim": 16, "image_size": 56},
        image_token_index=tokens.convert_tokens_to_ids(image),
        tie_word_embeddings=False,
    )
    settings = {"patch_size": 14, "spatial_merge_size": 2}
    model = tf.Mistral3ForConditionalGeneration(config)
    return write_folder(folder, model, tokens, images, processor="PixtralProcessor", settings=settings)


RECIPES: dict[str, tuple[str, Writer, tuple[str, ...]]] = {
    "qwen3_vl_moe": ("qwen3_vl_30b_a3b_uni_dpo_lora", qwen.WRITERS["qwen3_vl_moe"], ()),
    "qwen3_5": ("qwen3_5_9b_uni_dpo_qlora", qwen.WRITERS["qwen3_5"], ()),
    "qwen3_5_moe": ("qwen3_5_35b_a3b_uni_dpo_lora", qwen.WRITERS["qwen3_5_moe"], ()),
    "gemma4": ("gemma_4_e4b_uni_dpo_qlora", gemma.WRITERS["gemma4"], ()),
    "glm4v": ("glm_4_1v_9b_uni_dpo_qlora", glm.WRITERS["glm4v"], ()),
    "mistral3": ("mistral_small_3_2_24b_uni_dpo_qlora", write_mistral3, ()),
}
SMALL = ("train.use_cpu=true", "train.bf16=false", "train.logging_steps=1", "cpu_threads=1", "train.max_steps=2",
         "train.gradient_accumulation_steps=1", "train.per_device_train_batch_size=2", "train.warmup_steps=0",
         "train.dataloader_num_workers=0", "train.optim=adamw_torch",
         "model.dtype=float32", "train.learning_rate=2e-3")  # fmt: skip


@pytest.fixture(scope="module")
def pairs(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pairs of the drawn world, which lie beside the world's images."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("\n".join(place.world.pairs.read_text().splitlines()[:8]) + "\n")
    return file


def arguments(name: str, place: Place, pairs: Path, model: Path, *changes: str) -> list[str]:
    recipe, _, own = RECIPES[name]
    return [recipe, f"model.path={model}", f"data.train={pairs}", f"data.root={place.world.root}", *SMALL, *own,
            *changes]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_of_a_model_is_planned_checked_and_trained(
    name: str, place: Place, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    model = tmp_path / "model"
    RECIPES[name][1](model)
    given = arguments(name, place, pairs, model, f"output={tmp_path / 'run'}")
    assert main(["plan", *given]) == 0
    planned = capsys.readouterr().out
    assert main(["doctor", *given]) == 0
    checked = capsys.readouterr().out
    assert "ok     the image changes the answer's log-probs" in checked
    assert "ok     gradients reach what trains" in checked
    assert main(["train", *given]) == 0
    run = RunDir(tmp_path / "run")
    log = read_pair_log(run.pairs_file)
    assert [margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 1] == [0.0] * 2
    assert any(margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 2)
    assert all(bool(value.isfinite().all()) for value in load_file(run.model / "adapter_model.safetensors").values())
    told: dict[str, Any] = json.loads((tmp_path / "run" / "manifest.json").read_text())["parts"]
    for part, count in told.items():  # what the plan said of every part is what trained
        assert f"{part} {count['trained']:,} of {count['trained'] + count['frozen']:,} train" in planned


def test_experts_and_their_routers_are_trained_by_the_keys_of_the_recipe(
    place: Place, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = qwen.WRITERS["qwen3_vl_moe"](tmp_path / "model")
    given = arguments("qwen3_vl_moe", place, pairs, model)
    assert main(["train", *given, f"output={tmp_path / 'plain'}"]) == 0
    assert "they get no LoRA and stay as they are (adapter.experts: true adapts them)" in capsys.readouterr().out
    keys = ("adapter.experts=true", "model.router_aux_loss_coef=0.01")
    assert main(["plan", *given, f"output={tmp_path / 'run'}", *keys]) == 0
    planned = capsys.readouterr().out
    assert main(["train", *given, f"output={tmp_path / 'run'}", *keys]) == 0
    assert "get no LoRA" not in capsys.readouterr().out
    run = RunDir(tmp_path / "run")
    assert all(0.5 < value < 4 for value in read_pair_log(run.pairs_file)["router/aux_loss"])
    weights = load_file(run.model / "adapter_model.safetensors")
    assert any(".mlp.experts." in name for name in weights)
    assert f"{sum(value.numel() for value in weights.values()):,} of" in planned
    assert main(["merge", str(tmp_path / "run"), "--out", str(tmp_path / "merged")]) == 0
    whole, base = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", model))
    assert whole.keys() == base.keys()
    assert any(not whole[name].equal(base[name]) for name in base if ".experts." in name)
    again = arguments("qwen3_vl_moe", place, pairs, model, f"adapter.path={tmp_path / 'run'}")
    own = [one for one in again if not one.startswith("adapter.") or one.startswith("adapter.path")]
    further = ["train", *own, f"output={tmp_path / 'further'}"]
    if not HOLDS_TWO:
        assert main(further) == 2
        assert "write `reference.kind=cache`" in capsys.readouterr().err
        further.append("reference.kind=cache")
    assert main(further) == 0


def test_a_key_for_experts_is_refused_on_a_dense_model(
    place: Place, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    model = qwen.WRITERS["qwen3_5"](tmp_path / "model")
    given = arguments("qwen3_5", place, pairs, model, f"output={tmp_path / 'run'}")
    for command in ("plan", "doctor", "train"):
        assert main([command, *given, "adapter.experts=true"]) == 2, command
        said = capsys.readouterr()
        assert "write `adapter.experts=false`" in said.out + said.err
        assert main([command, *given, "model.router_aux_loss_coef=0.001"]) == 2, command
        said = capsys.readouterr()
        assert "a 'qwen3_5' model has no routers" in said.out + said.err
        assert "write `model.router_aux_loss_coef=0`" in said.out + said.err
    assert main(["train", *given, "adapter.experts=false", "model.router_aux_loss_coef=0"]) == 0
