"""``mmpref config`` and ``mmpref recipes``, and what a command line is refused for before any command looks at it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mmpref.cli.arguments import hint_for
from mmpref.cli.main import app, main
from mmpref.losses.presets import PRESETS
from mmpref.losses.settings import needs_other, resolve
from mmpref.models import AdapterSettings, Tuning, load, prepare, save_model
from mmpref.recipe.keys import described
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import shipped_recipes
from mmpref.training.loss_settings import objective_from
from mmpref.training.run.start_adapter import with_start_adapter
from tests.advice import alternatives, followed
from tests.tiers import checkerboard
from tests.tiny_vlms import build

PAGES = Path(__file__).resolve().parents[3] / "docs"
QLORA = "qwen2_5_vl_3b_uni_dpo_qlora"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", shipped_recipes())
def test_a_printed_recipe_is_one_and_prints_itself(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, "config", recipe)
    file = tmp_path / "resolved.yaml"
    file.write_text(text, encoding="utf-8")
    assert printed(capsys, "config", str(file)) == text
    given, found = load_recipe(recipe), load_recipe(file)
    settings = resolve(given.loss.as_mapping())
    assert found.loss.as_mapping() == settings
    assert yaml.safe_load(text)["loss"] == settings
    assert found.model_copy(update={"loss": given.loss}) == given


@dataclass(frozen=True)
class Start:
    """A small model, and an adapter on it that holds what was asked for."""

    model: Path
    adapter: Path

    def overrides(self, *changes: str, kind: str = "lora") -> list[str]:
        return [f"model.path={self.model}", f"adapter={{path: {self.adapter}, kind: {kind}}}", "tune={}", *changes]


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Start]:
    root = tmp_path_factory.mktemp("starts")
    model = build("llava", root / "model")
    tunings = {
        "every part": Tuning(vision="lora", projector="full", language="lora"),
        "language": Tuning(language="lora"),
    }
    for name, tuning in tunings.items():
        loaded = prepare(load(str(model)), tuning, AdapterSettings(rank=4, alpha=6, dropout=0.1))
        save_model(loaded.model, model, root / name)
    return {name: Start(model, root / name) for name in tunings}


def printed_as_advised(capsys: pytest.CaptureFixture[str], recipe: str, given: list[str]) -> str:
    """What is printed, once the advice is followed where a key of the recipe does nothing beside an adapter."""
    code = main(["config", recipe, *given])
    said = capsys.readouterr()
    if code == 0:
        return said.out
    (words,) = alternatives(said.err)
    return printed(capsys, "config", recipe, *followed(given, words))


@pytest.mark.parametrize(("recipe", "name"), checkerboard(shipped_recipes(), ["every part", "language"]))
def test_a_printed_recipe_that_starts_from_an_adapter_is_one_and_prints_itself(
    recipe: str, name: str, starts: dict[str, Start], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = starts[name]
    stored = load_recipe(recipe).adapter.stored_as
    given = start.overrides(kind="qlora" if stored in ("nf4", "fp4") else "lora")
    given += [f"train.learning_rates.{part}=1e-6" for part in ("vision", "projector") if name == "every part"]
    text = printed_as_advised(capsys, recipe, given)
    tree = yaml.safe_load(text)
    assert tree["adapter"]["rank"] == 4
    assert tree["adapter"]["alpha"] == 6
    assert tree["adapter"]["dropout"] == 0.1
    every = {"vision": "lora", "projector": "full", "language": "lora"}
    assert tree["tune"] == (every if name == "every part" else {**every, "vision": "freeze", "projector": "freeze"})
    file = tmp_path / "resolved.yaml"
    file.write_text(text, encoding="utf-8")
    assert printed(capsys, "config", str(file)) == text
    assert with_start_adapter(load_recipe(file)) == load_recipe(file)
    rates = tree["train"]["learning_rates"]
    assert (rates.get("projector"), rates.get("vision")) == ((1e-6, 1e-6) if name == "every part" else (None, None))


def test_what_train_refuses_of_a_start_adapter_is_not_printed(
    starts: dict[str, Start], capsys: pytest.CaptureFixture[str]
) -> None:
    start = starts["language"]
    for change in ("train.learning_rates.vision=1e-6", "adapter.rank=8", "tune.language=full"):
        given = start.overrides(change)
        assert main(["config", "demo_uni_dpo", *given]) == 2
        (words,) = alternatives(capsys.readouterr().err)
        printed(capsys, "config", "demo_uni_dpo", *given, *words)
    assert main(["config", "demo_uni_dpo", *start.overrides()[:1], "adapter={path: nothing-there}", "tune={}"]) == 2
    assert "nothing-there" in capsys.readouterr().err


def test_a_printed_recipe_holds_its_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = yaml.safe_load(printed(capsys, "config", QLORA, "loss.name=adadpo", "train.learning_rate=1e-6"))
    assert tree["loss"] == resolve({"name": "adadpo"})
    assert tree["train"]["learning_rate"] == 1e-6


def test_every_key_has_a_meaning_and_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    keys = described(Recipe)
    assert [key.name for key in keys if not key.meaning] == []
    text = printed(capsys, "config", "--keys")
    assert all(f"{key.name}  (" in text for key in keys)
    part = printed(capsys, "config", "--keys", "loss.uni")
    assert "loss.uni.eta  (number | null; default: the preset's, mostly 0.7)" in part
    assert "loss.beta" not in part
    assert "train.learning_rate  (number; default: required)" in printed(capsys, "config", "--keys", "train")
    assert main(["config", "--keys", "trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err


def test_research_switches_are_marked_and_are_those_of_their_page(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "config", "--keys", "loss").splitlines()
    marked = {line.partition("  ")[0] for line in lines if line.endswith("; research switch)")}
    assert marked == {key.name for key in described(Recipe) if key.research}
    assert {"loss.uni.perf_mode", "loss.ada.form"} < marked
    assert not {"loss.beta", "loss.uni.tau_good", "loss.ada.clip"} & marked
    pages = ((PAGES / name).read_text(encoding="utf-8") for name in ("research_switches.md", "losses.md"))
    of_page, elsewhere = (set(re.findall(r"`(\w+)`", cells)) for cells in map(first_cells, pages))
    switches = {name.rpartition(".")[2] for name in marked}
    assert switches <= of_page
    assert not switches & elsewhere


def first_cells(page: str) -> str:
    """What tables say in their first column."""
    return " ".join(line.split("|")[1] for line in page.splitlines() if line.startswith("|"))


def test_recipes_are_listed_and_printed_with_their_header(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "recipes").splitlines()
    assert [line.partition(":")[0] for line in lines] == shipped_recipes()
    assert printed(capsys, "recipes", QLORA).startswith("# ")


def test_a_wrong_name_asks_for_the_near_ones_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("config", "train", "plan", "recipes"):
        assert main([command, "qwen2_5_vl_3b_uni_dpo_loro"]) == 2
        said = capsys.readouterr().err
        assert "did you mean 'qwen2_5_vl_3b_uni_dpo_lora'?" in said
        assert len(said) < 400


def test_neither_needs_torch() -> None:
    code = "import sys; from mmpref.cli.main import main; main(sys.argv[1:]); "
    code += "print('torch' in sys.modules, file=sys.stderr)"
    for arguments in (["config", QLORA], ["config", "--keys"], ["recipes"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.strip().endswith("False")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["score", "--benchmark", "chair", "--questions", "q", "--answers", ""], "--answers"),
        (["score", "--benchmark", "chair", "--questions", "q", "--answers="], "--answers"),
        (["eval", "--model", "m", "--benchmark", "pope", "--questions", "q", "--out", " "], "--out"),
        (["export", "--benchmark", "pope", "--questions", "", "--answers", "a", "--to", "jsonl", "--out", "o"],
         "--questions"),
        (["data", "check", ""], "argument 3"),
        (["train", ""], "argument 2"),
        (["merge", "", "--out", "x"], "argument 2"),
        (["report", "run", "--out", ""], "--out"),
        (["report", "run", "--table", "paper", "--columns", ""], "--columns"),
        (["eval", "--model", "m", "--benchmark", "chair", "--questions", "q", "--setting="], "--setting"),
    ],
)  # fmt: skip
def test_an_empty_argument_is_refused(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{named} is empty" in said
    assert ("or write . for the working directory" in said) is (named not in ("--setting", "--columns"))


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["--train.learning_rate", "1e-6"], "train.learning_rate=1e-6"),
        (["--train.learning_rate=1e-6"], "train.learning_rate=1e-6"),
        (["--learning_rate", "1e-6"], "train.learning_rate=1e-6"),
        (["--learning-rate", "1e-6"], "train.learning_rate=1e-6"),
        (["--loss.name", "dpo"], "loss.name=dpo"),
        (["--output", "a b"], "output=a b"),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan", "config"])
def test_a_key_written_as_an_option_is_pointed_to_key_value(
    command: str, words: list[str], written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "demo_dpo", *words]) == 2
    said = capsys.readouterr().err
    assert f"`{shlex.quote(written)}`" in said
    load_recipe("demo_dpo", [written])


def test_an_option_of_a_benchmark_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--benchmark", "chair", "--questions", "q", "--answers", "a", "--synonyms", "s"]) == 2
    assert "`synonyms=s`" in capsys.readouterr().err


def test_a_former_option_is_refused_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["demo", "--threads", "2"], ["demo", "--threads=2"]):
        assert main(words) == 2
        assert "--threads is called --cpu-threads now" in capsys.readouterr().err


def test_an_option_that_there_is_gets_no_pointer() -> None:
    assert hint_for(app, ["train", "demo_dpo", "--processes", "two"]) is None
    assert hint_for(app, ["data", "check", "x", "--root.y", "z"]) is None
    assert hint_for(app, ["sample", "score", "x", "--scorer", "agreement"]) is None  # a command `score` there is too


def test_what_train_refuses_of_a_reference_that_no_loss_reads_is_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["loss.name=simpo", "reference.kind=cache", "reference.cache=somewhere"]
    assert main(["config", QLORA, *given]) == 2
    (words,) = alternatives(capsys.readouterr().err)
    printed(capsys, "config", QLORA, *given, *words)


@pytest.mark.parametrize(
    ("recipe", "given"),
    [
        ("qwen2_5_vl_3b_uni_dpo_qlora", ["loss.name=mdpo"]),
        ("qwen2_5_vl_3b_uni_dpo_qlora", ["loss.image.weight=1"]),
        ("qwen2_5_vl_3b_uni_dpo_qlora", ["data.other_image=made"]),
        ("qwen2_5_vl_3b_uni_dpo_qlora", ["loss.name=dpo", "loss.anchor.other=1"]),
    ],
)
def test_a_loss_and_another_picture_that_do_not_fit_are_refused_as_training_does(
    capsys: pytest.CaptureFixture[str], recipe: str, given: list[str]
) -> None:
    assert main(["config", recipe, *given]) == 2
    said = capsys.readouterr().err
    for words in alternatives(said):
        printed(capsys, "config", recipe, *followed(given, words))


def test_whether_a_loss_reads_another_picture_is_one_rule_with_and_without_torch() -> None:
    losses = [{"name": name} for name in PRESETS]
    losses += [{"name": "dpo", "anchor": {"other": 1}}, {"name": "dpo", "anchor": {"chosen": 1}}]
    losses += [{"name": "dpo", "image": {"weight": 0}}]
    found = [needs_other(resolve(loss)) for loss in losses]
    assert found == [objective_from(loss).needs_other for loss in losses]
    assert len(set(found)) == 2
