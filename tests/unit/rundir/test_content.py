"""What --overwrite may delete, and where a run may lie: nothing that a training did not write is ever lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.rundir.claim import check_output, start_run
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.checkpoint import keep_others, prune, seal
from tests.unit.rundir.test_folder import recipe


def files(root: Path) -> list[str]:
    return sorted(entry.relative_to(root).as_posix() for entry in root.rglob("*"))


def a_run(path: Path, **facts: object) -> RunDir:
    """Everything that a training may leave in its folder, and what systems drop there."""
    run = start_run(recipe(path))
    for name in (
        "metrics.jsonl", "pairs.parquet", "pairs_eval.parquet", "quarantine.jsonl", "train.log", ".mmpref.lock.3",
        ".metrics.jsonl.abcd1234.tmp", ".DS_Store", ".nfs0000", "logs/tensorboard/events.out.tfevents.1",
        "logs/wandb/run-1/files/recipe.txt", "logs/mlruns/0/meta.yaml", "faults/nonfinite-step-3.json",
        "faults/nonfinite-step-3-rank-1.json", "faults/.nonfinite-step-4.json.abcd1234.tmp", "model/config.json",
        "model/model.safetensors", "model/additional_chat_templates/x.jinja", ".model.abcd1234.tmp/half",
        "checkpoints/step-2/trained.safetensors", "checkpoints/step-2/sharded/.metadata", "checkpoints/emissions.csv",
        "checkpoints/.step-6.abcd1234.tmp/optimizer.pt", "checkpoints/step-4/optimizer.pt",
    ):  # fmt: skip
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")
    seal(path / "checkpoints" / "step-2", {"run": "its name"}, step=2)
    for name in ("checkpoints/step-2/__pycache__", "evals", "checkpoints/step-8"):  # empty
        (path / name).mkdir()
    run.set_state("complete", **facts)
    return run


OTHERS = {
    "notes.txt": "notes.txt",
    "inner/recipe.yaml": "inner/ (a run folder)",
    "runs/a/b/recipe.yaml": "runs/ (with the run folder ",
    "pope/results.json": "pope/",
    "evals/chair/items.jsonl": "evals/",
    ".git/config": ".git/",
    "checkpoints/notes.txt": "checkpoints/notes.txt",
    "checkpoints/best/COMPLETE.json": "checkpoints/best/",
    "checkpoints/step-2/notes.txt": "checkpoints/step-2/notes.txt",
    "checkpoints/step-2/inner/recipe.yaml": "checkpoints/step-2/inner/recipe.yaml",
    "checkpoints/step-4/thesis.tex": "checkpoints/step-4/thesis.tex",
    "checkpoints/step-8/recipe.yaml": "checkpoints/step-8/recipe.yaml",
    "model/pope/results.json": "model/pope/",
    "faults/why.md": "faults/why.md",
    "logs/notes.txt": "logs/notes.txt",
    "logs/wandb/inner/recipe.yaml": "logs/wandb/inner/ (a run folder)",
}


def test_what_a_training_writes_is_replaced_and_all_of_it_goes(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    start_run(recipe(run.path), overwrite=True)
    assert files(run.path) == [".DS_Store", ".mmpref.lock.3", ".nfs0000", "evals", "manifest.json", "recipe.yaml"]


@pytest.mark.parametrize("name", OTHERS)
def test_what_no_training_wrote_is_named_and_nothing_is_deleted(tmp_path: Path, name: str) -> None:
    run = a_run(tmp_path / "run")
    (run.path / name).parent.mkdir(parents=True, exist_ok=True)
    (run.path / name).write_text("mine")
    if name.endswith("recipe.yaml"):
        (run.path / name).with_name("manifest.json").write_text("{}")
    before = files(run.path)
    with pytest.raises(ConfigError, match="--overwrite would delete what mmpref train did not write: ") as caught:
        check_output(recipe(run.path), overwrite=True)
    assert OTHERS[name] in str(caught.value)
    assert "away, or choose another folder with output=" in str(caught.value)
    assert files(run.path) == before


def test_what_came_into_the_model_afterwards_is_found_by_the_list_of_the_run(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    listed = ["config.json", "model.safetensors", "additional_chat_templates/x.jinja"]
    run.set_state("complete", model_files=listed)
    check_output(recipe(run.path), overwrite=True)
    (run.model / "model-q4.gguf").write_text("an hour of work")
    with pytest.raises(ConfigError, match=r"did not write: model/model-q4\.gguf in"):
        check_output(recipe(run.path), overwrite=True)


def test_many_are_counted_and_links_stay_what_they_are(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("x")
    for number in range(7):
        (run.path / f"link{number}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"link0, link1, link2, link3, link4 and 2 more in .*; move them away"):
        check_output(recipe(run.path), overwrite=True)


def test_a_reference_cache_in_the_folder_is_read_by_the_run(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run.path / "cache").mkdir()
    wanted = recipe(run.path)
    wanted = wanted.model_copy(update={"reference": wanted.reference.model_copy(update={"cache": run.path / "cache"})})
    with pytest.raises(ConfigError, match=r"would delete what this run reads: .*cache lies in"):
        check_output(wanted, overwrite=True)


def test_going_on_does_not_delete_what_lies_in_the_model_folder(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.set_state("stopped")
    (run.model / "pope").mkdir()
    (run.model / "pope" / "results.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"--resume writes .*model anew, .* did not write model/pope/ in"):
        check_output(recipe(run.path), resume=True)


@pytest.mark.parametrize("below", [
    "checkpoints/step-1", "checkpoints/mine", "model", "model/deep/er", "logs", "faults/x", "metrics.jsonl/x",
])  # fmt: skip
def test_no_run_goes_into_the_folders_of_another(tmp_path: Path, below: str) -> None:
    run = start_run(recipe(tmp_path / "run"))
    for way in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match=r"lies in .*, which the run in .*run writes and deletes itself"):
            check_output(recipe(run.path / below), **way)


@pytest.mark.parametrize("beside", ["run/inner", "run/modelled", "logs/a", "model/b"])
def test_a_plain_folder_in_a_run_and_folders_with_such_names_elsewhere_are_free(tmp_path: Path, beside: str) -> None:
    start_run(recipe(tmp_path / "run"))
    check_output(recipe(tmp_path / beside))


def saved(root: Path, step: int) -> None:
    (root / f"step-{step}").mkdir(parents=True)
    (root / f"step-{step}" / "trained.safetensors").write_text("x")
    seal(root / f"step-{step}", {}, step=step)


@pytest.mark.parametrize("other", ["mine.txt", "recipe.yaml"])
def test_pruning_leaves_a_folder_that_holds_something_else(tmp_path: Path, other: str) -> None:
    for step in (2, 3, 4, 5):
        saved(tmp_path, step)
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / other).write_text("x")
    (tmp_path / "step-3" / other).write_text("x")
    (tmp_path / "step-4" / "COMPLETE.json").unlink()  # as a deletion that was cut short leaves it
    prune(tmp_path, 1, newest=5)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-1", "step-3", "step-5"]


def test_a_save_gives_what_has_its_name_another(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    assert keep_others(tmp_path / "step-2") is None
    (tmp_path / "step-2" / "notes.txt").write_text("mine")
    aside = keep_others(tmp_path / "step-2")
    assert aside == tmp_path / "step-2-kept-1"
    assert (aside / "notes.txt").read_text() == "mine"


def _cut(run: RunDir) -> None:
    (run.path / "manifest.json").write_text((run.path / "manifest.json").read_text()[:20])


def _gone(run: RunDir) -> None:
    (run.path / "manifest.json").unlink()


def _empty(run: RunDir) -> None:
    (run.path / "manifest.json").write_text("")


def _other(run: RunDir) -> None:
    (run.path / "manifest.json").write_text('{"name": "x"}')


@pytest.mark.parametrize(("harm", "told"), [
    (_cut, "is damaged ("), (_gone, "is missing"), (_empty, "is empty"), (_other, "is damaged: it has no 'mmpref'"),
])  # fmt: skip
def test_a_damaged_manifest_is_named_and_the_advice_lets_the_run_go_on(
    tmp_path: Path, harm: Callable[[RunDir], None], told: str
) -> None:
    run = a_run(tmp_path / "the run")
    run.set_state("stopped")
    harm(run)
    for way in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(ConfigError, match="contains a run whose ") as caught:
            check_output(recipe(run.path), **way)
        assert f"{run.path / 'manifest.json'} {told}" in str(caught.value)
        assert "\n" not in str(caught.value)
    subprocess.run(str(caught.value).split("`")[1], shell=True, check=True)
    check_output(recipe(run.path), resume=True)
    assert json.loads((run.path / "manifest.json").read_text())["run"] == "its name"


def test_a_run_without_its_recipe_is_told_so(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.recipe_file.unlink()
    with pytest.raises(ConfigError, match=r"recipe.yaml is missing; put it back from a copy"):
        check_output(recipe(run.path), resume=True)
