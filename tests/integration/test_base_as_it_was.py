"""What belongs to the base model: its cache setting is saved as it was, its dropout is told before it trains."""

from __future__ import annotations

import json
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.tiers import corners
from tests.tiny_vlms import build

FAST = ("train.use_cpu=true", "train.per_device_train_batch_size=4", "train.logging_steps=1", "train.max_steps=2",
        "cpu_threads=1", "data.eval=[]", "train.warmup_steps=0", "train.learning_rate=1e-3")  # fmt: skip
MARGINS = "policy equals reference before the first step"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "pairs.jsonl"
    rows = [{"id": f"t{n}", "prompt": f"is there a dog {'or a cat ' * n}?", "chosen": "yes , a dog .", "rejected": "no"}
            for n in range(8)]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for name in ("text", "llava", "idefics3"):
        build(name, root / name)
    return root


def command(place: Place, texts: Path, model: Path, out: Path, *changes: str) -> list[str]:
    data = [f"data.train={texts}"] if model.name.startswith("text") else []
    part = "tune={language: full}"
    return place.training("demo_dpo", out, f"model.path={model}", *data, *FAST, part, *changes)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def changed(models: Path, name: str, to: Path, **keys: Any) -> Path:
    """A copy of a model with other values in its config.json; None takes a key out."""
    shutil.copytree(models / name, to)
    tree = {key: value for key, value in (config(to) | keys).items() if value is not None}
    (to / "config.json").write_text(json.dumps(tree))
    return to


@pytest.mark.parametrize(
    ("name", "value"),
    corners(
        product(("text", "llava", "idefics3"), ("as it is", True, False)),
        ("text", "as it is"), ("llava", True), ("idefics3", False),
    ),
)  # fmt: skip
def test_the_saved_model_uses_a_cache_where_its_base_does(
    place: Place, texts: Path, models: Path, tmp_path: Path, name: str, value: Any
) -> None:
    base = models / name if value == "as it is" else changed(models, name, tmp_path / f"{name}-base", use_cache=value)
    assert main(command(place, texts, base, tmp_path / "run", "train.save_steps=1")) == 0
    saved = RunDir(tmp_path / "run").model
    kind = AutoModelForCausalLM if name == "text" else AutoModelForImageTextToText
    ours, theirs = (kind.from_pretrained(folder) for folder in (saved, base))
    theirs.save_pretrained(tmp_path / "stock")  # what transformers makes of this base's config
    assert config(saved).get("use_cache", "absent") == config(tmp_path / "stock").get("use_cache", "absent")
    caches = [model(input_ids=torch.tensor([[5, 6, 7]])).past_key_values for model in (ours, theirs)]
    assert (caches[0] is None) == (caches[1] is None)
    if value is not False:
        assert caches[0] is not None


@pytest.mark.parametrize("how", ["full", "lora"])
def test_dropout_in_the_models_config_is_told_and_the_advice_switches_it_off(
    place: Place, texts: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    model = changed(models, "text", tmp_path / "text", attention_dropout=0.3)
    tuned = () if how == "full" else ("adapter.kind=lora", "tune={language: lora}")
    assert main(command(place, texts, model, tmp_path / "run", *tuned)) == 0
    told = said(capsys)
    assert f"check: {MARGINS}: WARNING (0 nats per token when evaluated, and up to" in told
    assert "every margin starts at 0" not in told
    assert any(first_margins(tmp_path / "run"))
    advice = re.search(r"to train without it set (\S+) to 0 in (\S+/config\.json)", told)
    assert advice is not None
    tree = json.loads(Path(advice[2]).read_text())
    Path(advice[2]).write_text(json.dumps(tree | {advice[1]: 0}))
    assert main(command(place, texts, model, tmp_path / "without", *tuned)) == 0
    assert f"check: {MARGINS}: ok (0 nats per token, so every margin starts at 0)" in said(capsys)
    assert not any(first_margins(tmp_path / "without"))


def test_layers_in_8_bits_on_a_cpu_are_told(
    place: Place, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    eight = ("adapter={kind: lora, quantization: int8}", "tune={language: lora}")
    assert main(command(place, models, models / "llava", tmp_path / "run", *eight)) == 0
    told = said(capsys)
    assert f"check: {MARGINS}: WARNING (" in told
    assert "Margins do not start at 0: layers in 8 bits are computed in another way while they train" in told
    assert any(first_margins(tmp_path / "run"))
    four = ("adapter={kind: qlora}", "tune={language: lora}")
    assert main(command(place, models, models / "llava", tmp_path / "four", *four)) == 0
    assert "so every margin starts at 0" in said(capsys)
    assert not any(first_margins(tmp_path / "four"))


def first_margins(run: Path) -> list[float]:
    log = read_pair_log(RunDir(run).pairs_file)
    return [margin for step, margin in zip(log["step"], log["rewards/margins"], strict=True) if step == 1]
