"""Adapters that others made: what each holds is what trains and what is planned, and variants of LoRA are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.models.adapters.saved import AdapterFolder, read_adapter
from mmpref.models.load import family_of_config, load_config
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place
from tests.tiers import corners

peft = pytest.importorskip("peft")

SHORT = ("train.per_device_train_batch_size=8", "train.learning_rate=1e-2", "train.warmup_steps=0",
         "train.max_steps=1", "data.eval=[]")  # fmt: skip
LANGUAGE = r"model\.language_model\..*\.(q_proj|v_proj|down_proj)"
KINDS: dict[str, dict[str, Any]] = {
    "three layers of each block": {"target_modules": LANGUAGE},
    "embeddings and head": {"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings, tied": {"target_modules": LANGUAGE, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "half a projector": {
        "target_modules": r".*language_model.*\.q_proj|model\.multi_modal_projector\.linear_1",
        "modules_to_save": ["linear_2"],
    },
    "half a projector, no LoRA there": {"target_modules": LANGUAGE, "modules_to_save": ["linear_2"]},
    "ranks of their own": {"target_modules": LANGUAGE, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 16}},
    "biases of B": {"target_modules": LANGUAGE, "lora_bias": True},
    "one block": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "rsLoRA and DoRA": {"target_modules": LANGUAGE, "use_rslora": True, "use_dora": True},
}
TOLD = {
    "embeddings and head": "LoRA on language, whole weights of embed_tokens, lm_head)",
    "half a projector": "LoRA on language, projector, whole weights of linear_2)",
    "half a projector, no LoRA there": "LoRA on language, whole weights of projector)",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "trainable_token_indices: [5, 6]": {"trainable_token_indices": [5, 6]},
    "init_lora_weights: 'mica'": {"init_lora_weights": "mica"},
    "use_qalora: True": {"use_qalora": True, "qalora_group_size": 8},
    "alora_invocation_tokens: [5]": {"alora_invocation_tokens": [5]},
}


def made(place: Place, folder: Path, **settings: Any) -> Path:
    """An adapter with random weights, as peft writes it."""
    torch.manual_seed(0)
    base = AutoModelForImageTextToText.from_pretrained(place.model)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, **settings))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    return folder


def further(place: Place, out: Path, start: Path, *changes: str) -> list[str]:
    return place.training("demo_dpo", out, *SHORT, "tune={}", f"adapter={{path: {start}}}", *changes)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).replace("│", " ").split())


def parts(text: str) -> list[str]:
    """What is said to train of each part."""
    found = re.findall(r"(?:vision|projector|language) [\d,]+ of [\d,]+ train", text)
    assert len(found) == 3, text
    return found


QUICK = ("embeddings and head", "half a projector", "rsLoRA and DoRA")


@pytest.mark.parametrize("kind", corners(KINDS, *QUICK))
def test_what_an_adapter_holds_trains_and_is_planned(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    start, run = made(place, tmp_path / "start", **KINDS[kind]), tmp_path / "run"
    assert main(["plan", *further(place, run, start)[1:]]) == 0
    planned = parts(said(capsys))
    assert main(further(place, run, start)) == 0
    told = said(capsys)
    assert parts(told) == planned
    assert TOLD.get(kind, "LoRA on") in told
    assert "check: policy equals reference before the first step: ok" in told
    before, after = (load_file(at / "adapter_model.safetensors") for at in (start, RunDir(run).model))
    stays = {name for name in before if torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert stays == {name for name in before if ".base_layer." in name}  # peft keeps what lies below an adapted head
    numbers = RunDir(run).manifest()["parts"]
    moved = sum(value.numel() for name, value in before.items() if name not in stays)
    if KINDS[kind].get("ensure_weight_tying"):  # stored twice and one in the model
        moved -= max(value.numel() for value in before.values())
    assert sum(part["trained"] for part in numbers.values()) == moved


def test_freezing_a_part_freezes_all_that_the_adapter_has_on_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, run = made(place, tmp_path / "start", **KINDS["half a projector"]), tmp_path / "run"
    frozen = ("tune.projector=freeze", "tune.language=lora")
    assert main(["plan", *further(place, run, start, *frozen)[1:]]) == 0
    planned = parts(said(capsys))
    assert main(further(place, run, start, *frozen)) == 0
    assert parts(said(capsys)) == planned
    before, after = (load_file(at / "adapter_model.safetensors") for at in (start, RunDir(run).model))
    assert all(torch.equal(before[name], after[name]) == ("projector" in name) for name in before)


@pytest.mark.parametrize("told", VARIANTS)
def test_a_variant_that_would_train_otherwise_is_refused(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str
) -> None:
    start = made(place, tmp_path / "start", target_modules=LANGUAGE, **VARIANTS[told])
    for command in (further(place, tmp_path / "run", start), ["plan", *further(place, tmp_path / "run", start)[1:]]):
        assert main(command) == 2
        text = said(capsys)
        assert f"is a variant of LoRA that training does not go on with ({told})" in text
    assert not (tmp_path / "run").exists()


def test_settings_of_a_later_peft_are_not_passed_over(place: Place, tmp_path: Path) -> None:
    """peft itself warns of a key that it does not know, and goes on without."""
    start = made(place, tmp_path / "start", target_modules=LANGUAGE)
    file = start / "adapter_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    family = family_of_config(load_config(str(place.model)))

    def read(**changes: Any) -> AdapterFolder:
        file.write_text(json.dumps(config | changes), encoding="utf-8")
        return read_adapter(start, family)

    assert read(use_new=False, other_config=None, list_of_it=[]).rank == 4
    with pytest.raises(ConfigError, match=r"\(use_new: True\); train a new adapter"):
        read(use_new=True)
    with pytest.raises(ConfigError, match="belongs to a changed base"):
        read(init_lora_weights="lora_ga")
    for harmless in ("gaussian", "eva", "orthogonal", True, False):
        assert read(init_lora_weights=harmless).rank == 4


def test_the_advice_for_a_variant_works(place: Place, tmp_path: Path) -> None:
    folder = made(place, tmp_path / "start", target_modules=LANGUAGE, **VARIANTS["trainable_token_indices: [5, 6]"])
    base = AutoModelForImageTextToText.from_pretrained(place.model)
    merged = tmp_path / "merged"
    peft.PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(merged)
    for file in place.model.iterdir():
        if not (merged / file.name).exists():
            (merged / file.name).write_bytes(file.read_bytes())
    new = ("adapter={kind: lora, rank: 4}", "tune={language: lora}", f"model.path={merged}")
    assert main(place.training("demo_dpo", tmp_path / "run", *SHORT, *new)) == 0
