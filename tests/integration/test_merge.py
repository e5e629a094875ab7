"""``mmpref merge``: one plain folder that answers as the adapter did, or a refusal that leaves nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpref.cli.main import main
from mmpref.models import LoadSettings, load, pair_logps
from mmpref.processing import PairCollator, PairEncoder
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place
from tests.tiny_vlms import build, draw, pair

FAST = ("train.per_device_train_batch_size=8", "train.learning_rate=1e-2", "train.warmup_steps=0",
        "train.max_steps=4", "data.eval=[]", "train.logging_steps=1", "model.dtype=float32")  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for name in ("llava", "qwen2_5_vl", "qwen3_vl"):
        build(name, root / name)
    return root


def trained(place: Place, model: Path, out: Path, adapter: str, *changes: str) -> Path:
    arguments = place.training("demo_dpo", out, *FAST, f"model.path={model}", f"adapter={adapter}", *changes)
    if not any(change.startswith("tune=") for change in changes):
        arguments.append("tune={language: lora}")
    assert main(arguments) == 0
    return out


def answers(loaded: Any) -> torch.Tensor:
    batch = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)(
        [pair("a", images=("40x60-2",)), pair("b", images=("60x40-1",))]
    )
    with torch.no_grad():
        logps = pair_logps(loaded.model, batch)
    assert logps.rejected is not None
    return torch.cat([logps.chosen, logps.rejected])


@pytest.mark.parametrize(("family", "adapter", "changes"), [
    ("llava", "{kind: lora, rank: 4, alpha: 8}", ["tune={vision: lora, projector: full, language: lora}"]),
    ("qwen2_5_vl", "{kind: qlora, rank: 4, alpha: 8}", []),
    pytest.param(
        "qwen3_vl", "{kind: lora, rank: 4, alpha: 8, use_dora: true, use_rslora: true}", [], marks=pytest.mark.slow
    ),
    pytest.param("llava", "{kind: lora, rank: 4, alpha: 8, init: pissa}", [], marks=pytest.mark.slow),
])  # fmt: skip
def test_the_merged_folder_is_a_plain_model_that_answers_as_the_adapter_did(
    place: Place, models: Path, tmp_path: Path, family: str, adapter: str, changes: list[str]
) -> None:
    from transformers import AutoModelForImageTextToText

    run = trained(place, models / family, tmp_path / "run", adapter, *changes)
    out = tmp_path / "merged"
    assert main(["merge", str(run), "--out", str(out), "--dtype", "float32", "--device", "cpu"]) == 0
    assert not list(out.glob("adapter*"))
    config = json.loads((out / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["architectures"]
    base = models / family
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "processor_config.json"):
        if (base / file).is_file():
            assert (out / file).read_bytes() == (base / file).read_bytes()
    plain = AutoModelForImageTextToText.from_pretrained(out)
    # vLLM and older releases read the names of the published files
    assert set(load_file(out / "model.safetensors")) == set(load_file(base / "model.safetensors"))
    ours = answers(load(base, LoadSettings(dtype="float32"), adapter=RunDir(run).model))
    theirs = load(out)
    torch.testing.assert_close(answers(theirs), ours, atol=1e-3, rtol=1e-4)
    assert (answers(load(base, LoadSettings(dtype="float32"))) - ours).abs().max() > 1e-2
    assert plain.dtype == torch.float32
    report = json.loads((out / "merge.json").read_text())
    assert report["drift"]["mean"] < 1e-4
    assert report["drift"]["answers"] == 32
    assert ("drift_from_quantized_base" in report) == ("qlora" in adapter)
    if "qlora" in adapter:
        assert report["drift_from_quantized_base"]["mean"] > report["drift"]["mean"]


def test_a_merge_is_in_bfloat16_and_within_the_bound_by_default(
    place: Place, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(place, models / "qwen2_5_vl", tmp_path / "run", "{kind: qlora, rank: 4}")
    assert main(["merge", str(run), "--out", str(tmp_path / "merged"), "--samples", "4"]) == 0
    assert {weight.dtype for weight in load_file(tmp_path / "merged" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert "drift of the merge (8 answers)" in " ".join(capsys.readouterr().out.split())
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 6
    assert "already exists and is not empty" in capsys.readouterr().err


def test_a_merge_that_changes_the_answers_fails_with_code_6_and_leaves_nothing(
    place: Place, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mmpref.merge as module

    run = trained(place, models / "llava", tmp_path / "run", "{kind: lora, rank: 4, alpha: 8}")
    monkeypatch.setattr(module, "merged", lambda model: model.unload())  # peft forgets the adapter
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 6
    err = " ".join(capsys.readouterr().err.split())
    assert "the merged model does not reproduce the adapter: log-probs differ by" in err
    assert "--dtype float32" in err
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run"]


def test_what_cannot_be_merged_is_named(
    place: Place, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "merged")]
    assert main(["merge", str(tmp_path), *out]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    full = tmp_path / "full"
    assert main(place.training("demo_dpo", full, *FAST, "train.max_steps=1")) == 0
    assert main(["merge", str(full), *out]) == 2
    assert "trained the weights themselves" in capsys.readouterr().err
    run = trained(place, models / "llava", tmp_path / "run", "{kind: lora, rank: 4}", "train.max_steps=1")
    RunDir(run).set_state("stopped")
    assert main(["merge", str(run), *out]) == 2
    assert "finish it with mmpref train --resume" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_a_pair_that_training_set_aside_does_not_stop_a_merge(place: Place, models: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()[:9]]
    rows[0]["prompt"][-1]["content"][-1]["text"] += " please" * 300
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    changes = [f"data.train={tmp_path / 'pairs.jsonl'}", "processing.max_length=300"]
    run = trained(place, models / "llava", tmp_path / "run", "{kind: lora, rank: 4, alpha: 8}", *changes)
    assert RunDir(run).manifest()["fit"]["set_aside"]["reasons"] == {"too_long_prompt": 1}
    assert main(["merge", str(run), "--out", str(tmp_path / "merged"), "--dtype", "float32"]) == 0


def test_a_base_that_is_not_the_one_that_was_trained_on_is_refused(
    place: Place, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(models / "llava", base)
    run = trained(place, base, tmp_path / "run", "{kind: lora, rank: 4}")
    weights = load_file(base / "model.safetensors")
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, base / "model.safetensors", metadata={"format": "pt"})
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"{base} is not the model that the run in {run} trained on: model.files.model.safetensors differ" in told
    assert not (tmp_path / "merged").exists()
    shutil.copy2(models / "llava" / "model.safetensors", base)  # the advice
    assert main(["merge", str(run), "--out", str(tmp_path / "merged"), "--dtype", "float32"]) == 0
