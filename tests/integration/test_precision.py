"""Full fine-tuning really updates: what a run keeps its weights in, what it writes, and what it says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from mmpref import PreferenceTrainer, TrainerOptions
from mmpref.cli.main import main
from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.models import AdapterSettings, LoadSettings, Tuning, load_model
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.folder import RunDir
from mmpref.training.precision import resolved
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place

TEN = ("model.dtype=auto", "train.learning_rate=6e-6", "train.max_steps=10", "train.warmup_steps=0", "data.eval=[]",
       "train.lr_scheduler_type=constant", "train.per_device_train_batch_size=4", "train.logging_steps=5")  # fmt: skip


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as most are published: saved in bfloat16."""
    folder = tmp_path_factory.mktemp("half") / "model"
    build_tiny_llava(folder, seed=0)
    load_model(folder, LoadSettings(dtype="bfloat16")).save_pretrained(folder)
    return folder


def train(place: Place, half: Path, run: Path, *changes: str) -> int:
    return main(place.training("demo_dpo", run, f"model.path={half}", *TEN, *changes))


def changed(half: Path, run: Path) -> float:
    """Share of the weights of language model and projector that are not what they were."""
    start, end = load_file(half / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    names = [name for name in start if "vision" not in name]
    moved = sum(int((end[name].float() != start[name].float()).sum()) for name in names)
    return moved / sum(start[name].numel() for name in names)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunDir(run).metrics_file.read_text().splitlines()]


@pytest.mark.slow
def test_ten_steps_at_6e_6_change_most_weights_by_default_and_next_to_none_in_bfloat16(
    place: Place, half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, half, tmp_path / "auto", "train.bf16=true") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "precision: weights vision bfloat16, projector float32, language float32; autocast to bfloat16" in said
    assert "model: written in float32, as trained, and the base is bfloat16: model.save_dtype=bfloat16" in said
    assert changed(half, tmp_path / "auto") > 0.84
    assert RunDir(tmp_path / "auto").manifest()["updates_swallowed"] is None
    log = read_pair_log(tmp_path / "auto" / "pairs.parquet")
    first = [margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 1]
    assert first == [0.0] * 4  # the reference runs in the precision of the policy
    assert json.loads((tmp_path / "auto" / "model" / "config.json").read_text())["dtype"] == "float32"

    assert train(place, half, tmp_path / "half", "train.bf16=true", "model.dtype=bfloat16") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "weights are updated in half precision, as model.dtype asks" in said
    assert "of the updates of the first steps were rounded away" in said
    assert "model.dtype=float32" in said
    assert changed(half, tmp_path / "half") < 0.1
    share = RunDir(tmp_path / "half").manifest()["updates_swallowed"]
    assert 0.9 < share < 1
    assert [line["updates_swallowed"] for line in lines(tmp_path / "half") if "updates_swallowed" in line] == [share]
    assert [line["step"] for line in lines(tmp_path / "half") if line.get("event") == "alarm/updates_swallowed"] == [10]
    # and the advice
    assert train(place, half, tmp_path / "advised", "model.dtype=float32", "train.bf16=true") == 0
    assert changed(half, tmp_path / "advised") > 0.84


def test_a_rate_that_half_precision_can_hold_raises_no_alarm(place: Place, half: Path, tmp_path: Path) -> None:
    changes = ("model.dtype=bfloat16", "train.learning_rate=3e-3", "train.max_steps=4", "preflight=false")
    assert train(place, half, tmp_path / "run", *changes) == 0
    events = {line["event"] for line in lines(tmp_path / "run") if "event" in line}
    assert "updates_swallowed" in events  # told, in fewer steps than are looked at at most
    assert "alarm/updates_swallowed" not in events
    assert RunDir(tmp_path / "run").manifest()["updates_swallowed"] < 0.2


def test_a_resumed_run_goes_on_in_float32_to_the_same_bits(place: Place, half: Path, tmp_path: Path) -> None:
    changes = ("train.bf16=true", "train.save_steps=4", "train.max_steps=6", "train.save_total_limit=null")
    for name in ("whole", "resumed"):
        assert train(place, half, tmp_path / name, *changes) == 0
    stored = load_file(tmp_path / "resumed" / "checkpoints" / "step-4" / "trained.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    for folder in (tmp_path / "resumed" / "model").iterdir():
        folder.unlink()
    (tmp_path / "resumed" / "model").rmdir()
    RunDir(tmp_path / "resumed").set_state("running")
    command = place.training("demo_dpo", tmp_path / "resumed", f"model.path={half}", *TEN, *changes, "--resume")
    assert main(command) == 0
    whole, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_whole_parts_are_held_in_is_a_fact_of_a_checkpoint(
    place: Place, half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(place, half, tmp_path / "run", "train.save_steps=2", "train.max_steps=2") == 0
    RunDir(tmp_path / "run").set_state("running")
    assert train(place, half, tmp_path / "run", "train.save_steps=2", "model.dtype=bfloat16", "--resume") == 6
    assert "model.dtype: 'auto: float32 where whole parts train' then, 'bfloat16' now" in " ".join(
        capsys.readouterr().err.split()
    )


def test_a_cached_reference_starts_where_the_policy_does(place: Place, half: Path, tmp_path: Path) -> None:
    assert train(place, half, tmp_path / "run", "train.bf16=true", "reference.kind=cache", "train.max_steps=1") == 0
    log = read_pair_log(tmp_path / "run" / "pairs.parquet")
    assert max(map(abs, log["rewards/margins"])) < 1e-6


@pytest.mark.parametrize(("changes", "parts"), [
    (["adapter={kind: lora, rank: 4}", "tune={projector: full, language: lora}"],
     "projector float32, language bfloat16 + float32 LoRA"),
    (["adapter={kind: qlora, rank: 4}", "tune={projector: full, language: lora}"],
     "projector float32, language 4 bits + float32 LoRA + bfloat16"),
])  # fmt: skip
def test_a_projector_that_trains_beside_lora_is_float32_and_merges(
    place: Place, half: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], parts: str
) -> None:
    run = tmp_path / "run"
    assert train(place, half, run, "train.bf16=true", "train.max_steps=2", *changes) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"precision: weights vision bfloat16, {parts}; autocast to bfloat16" in out
    stored = load_file(run / "model" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 0


def test_a_model_is_written_in_the_dtype_that_is_asked_for(place: Place, half: Path, tmp_path: Path) -> None:
    assert train(place, half, tmp_path / "run", "model.save_dtype=bfloat16", "train.max_steps=1") == 0
    assert {value.dtype for value in load_file(tmp_path / "run" / "model" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert load_model(tmp_path / "run" / "model").dtype == torch.bfloat16


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("adapter", [None, AdapterSettings(rank=4)])
def test_from_python_a_path_is_trained_in_float32_too(
    place: Place, half: Path, tmp_path: Path, bf16: bool, adapter: AdapterSettings | None
) -> None:
    args = TrainingArguments(
        str(tmp_path), max_steps=1, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, bf16=bf16,
        per_device_train_batch_size=4,
    )  # fmt: skip
    tuning = Tuning(projector="full", language="full" if adapter is None else "lora")
    pairs = place.world.root / "four.jsonl"
    pairs.write_text("\n".join(place.world.pairs.read_text().splitlines()[:4]) + "\n")
    trainer = PreferenceTrainer(
        str(half),
        args,
        objective={"name": "dpo"},
        train_pairs=pairs,
        adapter=adapter,
        options=TrainerOptions(tuning=tuning),
    )
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}


def test_bf16_is_left_to_the_device_where_a_recipe_does_not_say(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*changes: str) -> bool | None:
        left = ("train.bf16=null", "train.use_cpu=false", f"model.path={half}", "model.dtype=auto", *changes)
        return resolved(load_recipe("demo_dpo", left)).train.bf16

    assert asked() is False  # no GPU here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    lora = ("adapter={kind: lora}", "tune={language: lora, projector: freeze}")
    assert asked() is asked("model.dtype=float32") is asked("model.dtype=bfloat16") is asked(*lora) is True
    assert asked("train.use_cpu=true") is asked("train.fp16=true") is asked("model.dtype=float16") is False
    assert asked("train.bf16=false") is False
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: False)
    assert asked() is False
    assert asked("train.bf16=true") is True
