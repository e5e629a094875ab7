"""``mmpref new``: every choice makes a recipe that loads, wrong ones are refused at once, nothing is half written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from mmpref.data.card import list_cards
from mmpref.errors import ConfigError
from mmpref.losses import build_objective
from mmpref.project import folder as folders
from mmpref.project.choices import METHODS, READS_SCORES, Data, Model, find_data, find_method, find_model
from mmpref.project.recipe import project_tree, recipe_text
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.shipped import shipped_recipes
from tests.architecture.test_imports import loaded_after

RECIPES = [name for name in shipped_recipes() if not name.startswith("demo_")]
EXAMPLE = Data(kind="example", source="data/pairs.jsonl", root="data")


@pytest.mark.parametrize("method", METHODS)
def test_every_model_with_every_method_is_a_recipe(method: str) -> None:
    for number, name in enumerate(RECIPES):
        tree, _ = project_tree(find_model(name), EXAMPLE, method, "cpu" if number % 3 == 0 else None)
        assert build_recipe(tree, where=name).loss.name == method
    loss = tree["loss"]
    build_objective({**loss, "uni": {"tau_good": 1.0}} if method in READS_SCORES else loss)


@pytest.mark.parametrize("card", [card.name for card in list_cards()])
def test_every_card_with_its_methods_is_a_recipe(card: str) -> None:
    data = find_data(card)
    model = Model(path="some/model", recipe="qwen2_5_vl_3b_uni_dpo_qlora")
    for method in METHODS:
        if method in READS_SCORES and not data.has_scores:
            with pytest.raises(ConfigError) as caught:
                find_method(method, data)
            assert "`--method adadpo`" in str(caught.value)
            assert find_method("adadpo", data) == find_method(None, data) == "adadpo"
        else:
            recipe = build_recipe(project_tree(model, data, find_method(method, data), None)[0], where=card)
            assert recipe.data.train_paths == [data.source]


@pytest.mark.site
def test_a_card_s_settings_are_those_of_the_planner(tmp_path: Path) -> None:
    assert main(["new", str(tmp_path / "p"), "--model", "qwen2_5_vl_3b", "--data", "example", "--gpu", "24GiB"]) == 0
    text = (tmp_path / "p" / "recipe.yaml").read_text()
    assert "gradient_checkpointing: false" in text
    assert "# For 24GiB: train.gradient_checkpointing=false" in text
    with pytest.raises(ConfigError):
        project_tree(find_model("qwen2_5_vl_7b"), EXAMPLE, "uni_dpo", "2GiB")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"--model": "qwen2_5_vl_3"}, "no model 'qwen2_5_vl_3' is known, did you mean 'qwen2_5_vl"),
        ({"--model": "Qwen/Qwen2.5-VL-3B-Instuct"}, "did you mean 'Qwen/Qwen2.5-VL-3B-Instruct'"),
        ({"--data": "rlhf"}, "no file and no data card 'rlhf'"),
        ({"--data": "rlhf_w"}, "did you mean 'rlhf_v'"),
        ({"--gpu": "RTX 40900"}, "no card 'RTX 40900' in the table"),
        ({"--method": "uni_dp"}, "no method 'uni_dp', did you mean 'uni_dpo'"),
        ({"--data": "rlhf_v", "--method": "uni_dpo"}, "rlhf_v has no judge scores, which uni_dpo reads"),
        ({"--model": "qwen2_5_3b"}, "takes no images"),
        ({"--image-root": "."}, "--image-root goes with a file of pairs"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_answers_are_refused_and_nothing_is_written(
    options: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--model": "qwen2_5_vl_3b", "--data": "example", "--gpu": "none", **options}
    code = main(["new", str(tmp_path / "p"), *(word for pair in given.items() for word in pair)])
    assert code == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


ASKED = ["--model", "qwen2_5_vl_3b", "--data", "example", "--gpu", "none"]


def test_a_used_folder_a_file_and_the_working_directory_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used, file = tmp_path / "used", tmp_path / "file"
    used.mkdir()
    (used / "mine").write_text("kept")
    file.write_text("kept")
    monkeypatch.chdir(tmp_path)
    for place, says in ((used, "is not empty"), (file, "is no folder"), (Path(), "is the working directory")):
        assert main(["new", str(place), *ASKED]) == 2
        assert says in capsys.readouterr().err
    assert (used / "mine").read_text() == file.read_text() == "kept"
    (tmp_path / "empty").mkdir()
    assert main(["new", "empty", *ASKED]) == 0


def test_without_a_terminal_the_options_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "p"), "--data", "example"]) == 2
    assert "--model, --gpu not given, and there is no terminal to ask on" in capsys.readouterr().err


def test_on_a_terminal_it_asks_until_an_answer_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["nothing", "qwen2_5_vl_3b", "example", "none"])
    asked: list[str] = []

    def prompt(question: str, default: str) -> str:
        asked.append(question)
        return next(answers)

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert main(["new", str(tmp_path / "p")]) == 0
    assert [question.split()[1] for question in asked] == ["model", "model", "data", "card"]


@pytest.mark.parametrize("at", ["write_text", "_write_data"])
def test_a_stop_at_any_moment_leaves_no_folder(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = getattr(folders, at)
    calls = iter(range(10))

    def stopped(*arguments: Any) -> None:
        written(*arguments)
        if at == "_write_data" or next(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(folders, at, stopped)
    assert main(["new", str(tmp_path / "p"), *ASKED]) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_one_s_own_is_named_and_not_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    row: dict[str, Any] = {"id": "1", "images": ["a.png"], "chosen": "Cat.", "rejected": "Dog.", "prompt": asked}
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps(row) + "\n")
    given = ["--model", "qwen2_5_vl_3b", "--data", str(file), "--gpu", "none"]
    assert main(["new", str(tmp_path / "p"), *given]) == 0
    assert "has no judge scores, which Uni-DPO reads: the recipe is for adadpo" in capsys.readouterr().out
    text = (tmp_path / "p" / "recipe.yaml").read_text()
    assert f"train: {file}" in text
    assert "held_out: 0.05" in text
    assert find_data(str(file)).has_scores is False
    file.write_text(json.dumps({**row, "score_chosen": 4, "score_rejected": 1}) + "\n")
    assert find_data(str(file)).has_scores is True
    file.write_text("{}\n")
    assert main(["new", str(tmp_path / "q"), *given]) == 2
    assert "has no pair that can be read" in capsys.readouterr().err


def test_a_recipe_without_a_card_needs_no_torch() -> None:
    code = ("from mmpref.project.choices import *\nfrom mmpref.project.folder import *\n"
            "readme('x', find_model('qwen2_5_vl_3b'), find_data('example'), 'dpo', None)")  # fmt: skip
    assert not loaded_after(code) & {"torch", "transformers"}


def test_the_text_of_a_recipe_is_checked() -> None:
    tree, _ = project_tree(find_model("qwen2_5_vl_3b"), EXAMPLE, "dpo", None)
    assert recipe_text(tree, ["one"]).startswith("# one\n\noutput: runs/first\n")
    with pytest.raises(ConfigError):
        recipe_text({**tree, "sed": 1}, [])
    assert os.sep in EXAMPLE.source
