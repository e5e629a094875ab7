"""``mmpref plan --fit``: a recipe's settings for a card, printed, written, and good to train with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from tests.integration.conftest import Place

FULL, QLORA = "qwen2_vl_2b_uni_dpo_full", "qwen2_5_vl_7b_uni_dpo_qlora"


def update(recipe: Recipe) -> int:
    return recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps


def test_several_gpus_keep_their_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", FULL, "--gpus", "8", "--strategy", "fsdp2", "--fit", "H100"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fsdp2 over 8 GPUs" in said
    assert "pairs an hour on 8 x H100" in said


@pytest.mark.parametrize(("arguments", "message"), [
    (["--write", "new.yaml"], "--write goes with --fit"),
    (["--fit", "16GiB", "--gpu-memory", "16GiB"], "leave --gpu-memory out"),
    (["--fit", "16GiB", "--gpus", "2"], "give --strategy as well"),
    (["--fit", "Voodoo 2"], "no card 'Voodoo 2' in the table; known: RTX 3060"),
    (["--fit", "Voodoo 2"], "H200; or give its memory, 24GiB"),
    (["--fit", "16 apples"], "'16 apples' is not a size of memory"),
    (["--fit", "3GiB"], "no settings fit 3.0 GiB: the least that would do is"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", QLORA, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not Path("new.yaml").exists()


def test_a_written_recipe_says_what_it_is_and_trains(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my card.yaml"
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    asked = ["plan", recipe, *changes, "--image-size", "64x64", "--fit", "12GiB", "--write", str(file)]
    assert main(asked) == 0
    said = capsys.readouterr().out
    command = next(line for line in said.splitlines() if line.startswith("  mmpref train "))
    planned = load_recipe(recipe, [*changes, *shlex.split(command)[3 + len(changes) :]])
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "# Made by mmpref" in text
    assert "--fit 12GiB" in text
    assert re.search(r"# Memory: [0-9.]+ GiB estimated by mmpref plan .*; not measured\.", text)
    assert "# Result: not measured." in text
    written = load_recipe(file)
    assert written.model_copy(update={"loss": planned.loss}) == planned
    assert update(written) == update(load_recipe(recipe, changes))
    assert main(["train", str(file), "train.max_steps=1"]) == 0
    assert (tmp_path / "run" / "model").is_dir()

    capsys.readouterr()
    assert main(asked) == 2
    assert "is there already; choose another name for --write" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == text


def test_a_former_recipe_names_the_new_one_and_how_to_fit_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    former, name = "qwen2_5_vl_7b_uni_dpo_qlora_16gb", "qwen2_5_vl_7b_uni_dpo_qlora"
    said = set()
    for words in (["train", former], ["plan", f"{former}.yaml"], ["config", former], ["recipes", former]):
        assert main(words) == 2
        said |= set(re.findall(r"`mmpref ([^`]+)`.* --write FILE", capsys.readouterr().err))
    (advice,) = said
    file = tmp_path / "settings.yaml"
    assert main([*shlex.split(advice), "--write", str(file)]) == 0
    assert load_recipe(file).model == load_recipe(name).model
    assert "with settings for 16GiB" in file.read_text(encoding="utf-8")
