"""Adapters, quantised bases and small optimizers through ``mmpref train``, on the CPU with small real architectures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.tiers import corners
from tests.tiny_vlms import build

pytest.importorskip("bitsandbytes")

SIX = ("train.per_device_train_batch_size=8", "train.learning_rate=2e-3", "train.warmup_steps=0",
       "train.logging_steps=1", "train.max_steps=6", "data.eval=[]", "model.dtype=float32")  # fmt: skip
LORA = ("tune={language: lora}",)
WIDE = "rank: 64, alpha: 64"  # 64 x 64 = 4,096 weights: from that size on 8-bit optimizers keep 8-bit states


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for name in ("llava", "qwen2_5_vl"):
        build(name, root / name)
    return root


@pytest.fixture(scope="module")
def few(place: Place, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight pairs, which every step of these runs sees again."""
    file = tmp_path_factory.mktemp("few") / "pairs.jsonl"
    file.write_text("\n".join(place.world.pairs.read_text().splitlines()[:8]) + "\n")
    return f"data.train={file}"


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested mappings."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)


def adapter(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "adapter_model.safetensors")


def margins(run: Path) -> list[float]:
    log = read_pair_log(RunDir(run).pairs_file)
    return [sum(m for s, m in zip(log["step"], log["rewards/margins"], strict=True) if s == step) for step in (1, 6)]


@pytest.mark.parametrize(("family", "optimizer"), corners([
    ("llava", "adamw_8bit"), ("qwen2_5_vl", "paged_adamw_8bit"), ("llava", "paged_adamw_32bit"),
    ("qwen2_5_vl", "lion_8bit"),
], ("qwen2_5_vl", "paged_adamw_8bit")))  # fmt: skip
def test_nf4_with_double_quantisation_and_lora_learns_with_small_optimizers(
    place: Place, models: Path, few: str, tmp_path: Path, family: str, optimizer: str
) -> None:
    run = tmp_path / "run"
    changes = (f"model.path={models / family}", f"adapter={{kind: qlora, {WIDE}, double_quant: true}}", *LORA)
    saving = (f"train.optim={optimizer}", "train.save_steps=3", "train.gradient_checkpointing=true")
    assert main(place.training("demo_dpo", run, *SIX, few, *changes, *saving)) == 0
    first, last = margins(run)
    assert first == 0.0
    assert last > 0.1
    state = torch.load(run / "checkpoints" / "step-6" / "optimizer.pt", weights_only=True)["state"]
    kinds = {tensor.dtype for tensor in tensors(state)}
    assert (torch.uint8 in kinds) == ("8bit" in optimizer)


def test_a_resumed_qlora_run_with_an_8_bit_optimizer_ends_with_the_same_bits(
    place: Place, models: Path, tmp_path: Path
) -> None:
    import shutil

    changes = (f"model.path={models / 'llava'}", f"adapter={{kind: qlora, {WIDE}, dropout: 0.1}}", *LORA)
    changes += ("train.optim=adamw_8bit", "train.save_steps=2", "train.save_total_limit=null")
    for name in ("whole", "resumed"):
        assert main(place.training("demo_dpo", tmp_path / name, *SIX, *changes)) == 0
    resumed = tmp_path / "resumed"
    for folder in ("model", "checkpoints/step-4", "checkpoints/step-6"):
        shutil.rmtree(resumed / folder)
    RunDir(resumed).set_state("running")
    assert main([*place.training("demo_dpo", resumed, *SIX, *changes), "--resume"]) == 0
    ours, theirs = adapter(resumed), adapter(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_lora_on_a_base_in_8_bits_learns(place: Place, models: Path, few: str, tmp_path: Path) -> None:
    changes = (f"model.path={models / 'llava'}", f"adapter={{kind: lora, quantization: int8, {WIDE}}}", *LORA)
    assert main(place.training("demo_dpo", tmp_path / "run", *SIX, few, *changes)) == 0
    assert margins(tmp_path / "run")[1] > 0.1


@pytest.mark.parametrize(("section", "message"), [
    ("{kind: none, quantization: nf4}", "adapter.quantization would do nothing: it belongs to LoRA"),
    ("{kind: qlora, quantization: int8}", "for 8 bits write kind: lora with quantization: int8"),
    ("{kind: lora, init: pizza}", "'adapter.init'"),
    ("{kind: qlora, init: pissa}", "splits the base's own weights"),
])  # fmt: skip
def test_adapters_that_cannot_be_are_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], section: str, message: str
) -> None:
    assert main(place.training("demo_dpo", tmp_path / "run", *SIX, f"adapter={section}", *LORA)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_pissa_run_is_resumed_exactly_and_saved_as_plain_lora(place: Place, tmp_path: Path) -> None:
    import shutil

    changes = ("adapter={kind: lora, rank: 4, alpha: 8, init: pissa}", *LORA, "train.save_steps=3")
    for name in ("whole", "resumed"):
        assert main(place.training("demo_dpo", tmp_path / name, *SIX, *changes, "train.save_total_limit=null")) == 0
    resumed = tmp_path / "resumed"
    for folder in ("model", "checkpoints/step-6"):
        shutil.rmtree(resumed / folder)
    RunDir(resumed).set_state("running")
    assert main([*place.training("demo_dpo", resumed, *SIX, *changes, "train.save_total_limit=null"), "--resume"]) == 0
    ours, theirs = adapter(resumed), adapter(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    config = json.loads((resumed / "model" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)


def test_parts_train_at_their_own_rates(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step of SGD without clipping: a part's weights move in proportion to its rate."""
    one = ("train.optim=sgd", "train.max_steps=1", "train.max_grad_norm=0", "train.learning_rate=1e-2")
    full = "tune={vision: full, projector: full, language: full}"
    for name, rates in (("same", "{}"), ("own", "{vision: 5e-2, projector: 2e-3}")):
        arguments = place.training("demo_dpo", tmp_path / name, *SIX, *one, full, f"train.learning_rates={rates}")
        assert main(arguments) == 0
    start, same, own = (
        load_file(folder / "model.safetensors")
        for folder in (place.model, tmp_path / "same" / "model", tmp_path / "own" / "model")
    )
    for part, factor in (("vision_tower", 5.0), ("multi_modal_projector", 0.2), ("language_model", 1.0)):
        moved = {name: (same[name] - start[name]) for name in start if part in name}
        name = max(moved, key=lambda key: float(moved[key].norm()))
        ratio = float((own[name] - start[name]).norm() / moved[name].norm())
        assert ratio == pytest.approx(factor, rel=0.02)
    idle = "train.learning_rates={vision: 1e-5}"
    assert main(place.training("demo_dpo", tmp_path / "idle", *SIX, "tune={language: full}", idle)) == 2
    assert "nothing in vision trains" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_model_trains_to_the_same_weights(place: Place, tmp_path: Path) -> None:
    """With the backend that only traces: what mmpref wraps around a compiled model is what is tested here."""
    sgd = ("train.optim=sgd", "train.max_steps=1", "train.learning_rate=0.1", "adapter={kind: lora, rank: 4}", *LORA)
    compiled = ("train.torch_compile=true", "train.extra={torch_compile_backend: eager}", "train.save_steps=1")
    assert main(place.training("demo_dpo", tmp_path / "plain", *SIX, *sgd)) == 0
    assert main(place.training("demo_dpo", tmp_path / "compiled", *SIX, *sgd, *compiled)) == 0
    plain, other = (adapter(tmp_path / name) for name in ("plain", "compiled"))
    assert plain.keys() == other.keys()
    assert max(float((plain[name] - other[name]).abs().max()) for name in plain) < 1e-5
    assert any("lora_B" in name and bool(value.any()) for name, value in plain.items())
