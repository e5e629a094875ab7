"""What is said to train learns, or the run says what does not: ``train``, ``doctor`` and ``plan`` from the outside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place
from tests.tiers import corners
from tests.tiny_others import write_mllama, write_paligemma
from tests.tiny_vlms import build

SMALL = (
    "train.use_cpu=true",
    "train.per_device_train_batch_size=2",
    "train.max_steps=2",
    "cpu_threads=1",
    "data.eval=[]",
)
REENTRANT = "train.extra={gradient_checkpointing_kwargs: {use_reentrant: true}}"
VISION_LORA = ("tune={vision: lora, projector: freeze, language: freeze}", "adapter.kind=lora", "adapter.rank=4")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ("llava", "qwen2_5_vl", "qwen3_vl"):
        build(name, root / name)
    return root


@pytest.fixture(scope="module")
def rows(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("\n".join(place.world.pairs.read_text().splitlines()[:6]) + "\n")
    return file


def command(place: Place, rows: Path, model: Path, output: Path, *changes: str) -> list[str]:
    where = [f"output={output}", f"model.path={model}", f"data.train={rows}", f"data.root={place.world.root}"]
    return ["train", "demo_dpo", *where, *SMALL, *changes]


def moved(run: Path) -> tuple[int, int]:
    """(second LoRA factors that are not zero any more, all of them) of a finished run."""
    weights = load_file(run / "model" / "adapter_model.safetensors")
    second = [value for name, value in weights.items() if ".lora_B." in name]
    return sum(bool(torch.any(value != 0)) for value in second), len(second)


def test_vision_lora_under_reentrant_checkpointing_is_refused_by_part_and_the_advice_works(
    place: Place, rows: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the refusal all 8 of its B factors stay zero over a whole run, and every line says ok."""
    changes = (*VISION_LORA, "train.gradient_checkpointing=true")
    asked = command(place, rows, models / "qwen3_vl", tmp_path / "run", *changes, REENTRANT)
    assert main(asked) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "vision LoRA 0 of 8" in told
    assert "reentrant gradient checkpointing cuts off model.visual.blocks.*" in told
    advice = re.search(r"set (train\.extra=\{.*\}\})", told)
    assert advice is not None
    assert main([*asked[:-1], advice[1], "--overwrite"]) == 0
    assert moved(tmp_path / "run") == (8, 8)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_what_the_check_lets_through_under_reentrant_checkpointing_learns(
    place: Place, rows: Path, models: Path, tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """LLaVA's tower and Qwen2.5-VL's: whether they are cut off is for the check to find, and it is right either way."""
    changes = (*VISION_LORA, "train.gradient_checkpointing=true", REENTRANT, "train.learning_rate=1e-2")
    code = main(command(place, rows, models / family, tmp_path / "run", *changes))
    told = capsys.readouterr()
    unchecked = main(command(place, rows, models / family, tmp_path / "bare", *changes, "preflight=false"))
    assert unchecked == 0
    learnt, every = moved(tmp_path / "bare")
    found = re.search(r"vision LoRA (\d+) of (\d+)", told.out + told.err)
    assert found is not None
    assert (int(found[1]), int(found[2])) == (learnt, every)
    assert (code == 0) == (learnt == _learnable(place, rows, models / family, tmp_path / "free"))


def _learnable(place: Place, rows: Path, model: Path, out: Path) -> int:
    assert main(command(place, rows, model, out, *VISION_LORA, "train.learning_rate=1e-2")) == 0
    return moved(out)[0]


def test_a_part_that_sees_images_is_not_trained_on_text(
    place: Place, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "text.jsonl"
    texts = [{"id": f"t{i}", "prompt": f"is it {i} ?", "chosen": "yes it is", "rejected": "no"} for i in range(4)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in texts))
    changes = ("tune={vision: freeze, projector: full, language: lora}", "adapter.kind=lora")
    assert main(command(place, rows, models / "llava", tmp_path / "run", *changes)) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "projector shall train, and no training pair has an image" in told
    assert "tune.projector=freeze" in told
    fixed = (*changes, "tune.projector=freeze")
    assert main(command(place, rows, models / "llava", tmp_path / "fixed", *fixed)) == 0


@pytest.mark.parametrize(
    "tune",
    [
        ("tune={vision: lora, projector: full, language: lora}", "adapter.kind=lora", "adapter.rank=4"),
        ("tune={vision: freeze, projector: full, language: full}",),
    ],
    ids=["lora", "full"],
)
@pytest.mark.parametrize("family", corners(["llava", "qwen3_vl"], "qwen3_vl"))
def test_train_doctor_and_plan_tell_the_same_numbers_of_each_part(
    place: Place, rows: Path, models: Path, tmp_path: Path, family: str, tune: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked = command(place, rows, models / family, tmp_path / "run", *tune)
    assert main(asked) == 0
    parts = RunDir(tmp_path / "run").manifest()["parts"]
    line = "; ".join(
        f"{part} {count['trained']:,} of {count['trained'] + count['frozen']:,} train" for part, count in parts.items()
    )
    assert list(parts) == ["vision", "projector", "language"]
    assert parts["projector"]["trained"] > 0
    assert parts["projector"]["frozen"] == 0
    assert f"parts: {line}" in " ".join(capsys.readouterr().out.split())
    _, recipe, *changes = asked
    assert main(["doctor", recipe, *changes, f"output={tmp_path / 'another'}"]) == 0
    assert f"parts: {line}" in " ".join(capsys.readouterr().out.split())
    assert main(["plan", recipe, *changes]) == 0
    assert line in " ".join(re.sub(r"[│┃|]", " ", capsys.readouterr().out).split())


def test_a_part_named_in_the_recipe_goes_before_what_the_code_says(
    place: Place, rows: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = "model.parts={model.multi_modal_projector: other}"
    asked = command(place, rows, models / "llava", tmp_path / "run", "tune.projector=freeze", named)
    assert main(asked) == 0
    parts = RunDir(tmp_path / "run").manifest()["parts"]
    assert list(parts) == ["vision", "language", "other"]
    assert parts["other"]["trained"] == 0
    assert main(["plan", *asked[1:]]) == 0
    assert f"other 0 of {parts['other']['frozen']:,} train" in " ".join(
        capsys.readouterr().out.replace("│", " ").split()
    )
    wrong = [*asked[:-1], "model.parts={model.nothing: other}", "--overwrite"]
    assert main(wrong) == 2
    assert "model.parts names 'model.nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("write", "layout"),
    corners(
        product((write_paligemma, write_mllama), ("auto", "plain")), (write_paligemma, "auto"), (write_mllama, "plain")
    ),
)
def test_a_prefix_lm_and_cross_attention_train_in_both_layouts(
    place: Place,
    rows: Path,
    tmp_path: Path,
    write: Callable[[Path], Path],
    layout: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = write(tmp_path / "model")
    code = main(command(place, rows, model, tmp_path / "run", f"model.attention={layout}"))
    told = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert ("own copy of the prompt" if layout == "plain" else "prompt and images once, all their answers") in told
