"""``mmpref doctor``: what a machine can do, told even where a library is broken, and a recipe's checks before a run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.integration.conftest import Place


def test_the_machine_is_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for name in ("torch:", "transformers:", "torchvision: not installed, and not needed", "device:", "disk:", "hub:"):
        assert name in out


@pytest.mark.slow
def test_a_broken_torchvision_is_named_and_does_not_end_the_answer(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    done = subprocess.run(
        [sys.executable, "-m", "mmpref", "doctor"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"},
    )
    assert done.returncode == 2
    assert "installed and broken: RuntimeError: operator torchvision::nms does not exist" in done.stdout
    assert "pip uninstall torchvision" in done.stdout
    assert "disk:" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_recipe_is_checked_before_anything_is_written(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    assert main(["doctor", recipe, *changes]) == 0
    out = capsys.readouterr().out
    assert "layout: prompt and images once, all their answers" in out
    for check in (
        "image tokens and features",
        "the image changes the answer's log-probs",
        "shared prefix equals separate rows",
        "a batch equals its pairs alone",
        "policy equals reference before the first step",
        "gradients reach what trains",
    ):
        assert f"ok     {check}" in out
    assert not (tmp_path / "run").exists()


def test_changes_without_a_recipe_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "loss.name=dpo"]) == 2
    assert "'loss.name=dpo' changes a recipe: give one before it" in capsys.readouterr().err


def test_the_recipe_s_former_option_names_the_argument(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    for former in (["--recipe", recipe], [f"--recipe={recipe}"]):
        assert main(["doctor", *changes, *former]) == 2
        said = capsys.readouterr().err
        (written,) = re.findall(r"`mmpref ([^`]+)`", said)
        assert shlex.split(written) == ["doctor", recipe]
    assert main([*shlex.split(written), *changes]) == 0


def test_everything_that_is_wrong_is_told_at_once(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    wrong = [f"data.train={tmp_path / 'no.jsonl'}", f"model.path={tmp_path / 'no_model'}", "train.optim=nothing"]
    assert main(["doctor", recipe, *changes, *wrong]) == 2
    told = capsys.readouterr()
    for name, words in {
        "data": "no.jsonl",
        "model.path": "no_model",
        "train": "nothing",
        "output": "is not a run folder",
    }.items():
        line = next(line for line in told.out.splitlines() if line.startswith(f"  FAILED {name}: "))
        assert words in line
    assert "4 of these need attention" in told.err
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_bf16_without_hardware_is_refused_with_keys_that_help(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmpref.training.trainer.arguments.is_torch_bf16_gpu_available", lambda: False)
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    changes = [change for change in changes if not change.startswith(("train.bf16", "train.use_cpu"))]
    asked = ["doctor", recipe, *changes, "train.use_cpu=false", "train.bf16=true"]
    assert main(asked) == 2
    out = capsys.readouterr().out
    assert "FAILED train: train.bf16=true needs a GPU with bfloat16" in out
    for advice in ("train.bf16=null", "train.use_cpu=true"):
        assert f"`{advice}`" in out
        assert main([*asked, advice]) == 0
        assert "FAILED" not in capsys.readouterr().out


def failed(out: str, name: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(f"  FAILED {name}: ")]


def test_every_fault_of_one_section_is_told(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    wrong = ["train.report_to=[wandb,nothing]", "train.bf16=true", "train.use_cpu=false", "train.optim=nonsense"]
    wrong += ["train.lr_scheduler_type=zigzag"]
    assert main(["doctor", recipe, *changes, *wrong]) == 2
    told = "\n".join(failed(capsys.readouterr().out, "train"))
    for words in ("wandb is not installed", "no tracker 'nothing'", "train.bf16=true needs", "nonsense", "zigzag"):
        assert words in told, words
    assert len(told.splitlines()) == 5


def test_every_fault_of_the_data_is_told(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    wrong = [f"data.eval=[{tmp_path / 'nix.jsonl'},{tmp_path / 'nox.jsonl'}]", "data.root=nodir"]
    assert main(["doctor", recipe, *changes, *wrong]) == 2
    told = failed(capsys.readouterr().out, "data")
    assert [next(word for word in ("nix", "nox", "nodir") if word in line) for line in told] == ["nix", "nox", "nodir"]

    wrong.append(f"data.train={tmp_path / 'nay.jsonl'}")  # and no source is left
    assert main(["doctor", recipe, *changes, *wrong]) == 2
    told = failed(capsys.readouterr().out, "data")
    assert sorted(word for word in ("nay", "nix", "nox", "nodir") for line in told if f"{word}" in line) == [
        "nay", "nix", "nodir", "nox",
    ]  # fmt: skip

    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}"}}\n', encoding="utf-8")
    wrong = [f"data.train=[{tmp_path / 'a.jsonl'},{place.world.pairs}]"]
    wrong += [f"data.eval=[{tmp_path / 'b.jsonl'},{tmp_path / 'nix.jsonl'}]"]
    assert main(["doctor", recipe, *changes, *wrong]) == 2
    out = capsys.readouterr().out
    assert len(failed(out, "data")) == 3
    for words in (f"data file {tmp_path / 'nix.jsonl'} does not exist", f"{tmp_path / 'a.jsonl'}", "b.jsonl"):
        assert words in out, words


@pytest.mark.parametrize("output", ["/proc/x/y", "{file}/run"])
def test_an_output_that_cannot_be_made_is_told(
    place: Place, tmp_path: Path, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if output.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("no /proc here")
    (tmp_path / "file").touch()
    output = output.format(file=tmp_path / "file")
    _, recipe, *changes = place.training("demo_uni_dpo", Path(output))
    assert main(["doctor", recipe, *changes]) == 2
    out = capsys.readouterr().out
    assert len(failed(out, "output")) == 1
    assert "cannot write to" in failed(out, "output")[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert main(["train", recipe, *changes]) == 6  # which it would have been


def test_the_disk_is_looked_at_where_the_output_would_be(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "new" / "run")
    main(["doctor", recipe, *changes, "train.optim=nonsense"])
    assert f"GiB free in {tmp_path}, where the output would be" in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_one_tracker_is_written_as_a_list(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, recipe, *changes = place.training("demo_uni_dpo", tmp_path / "run")
    assert main(["doctor", recipe, *changes, "train.report_to=tensorboard"]) == 2
    told = capsys.readouterr().err
    assert "write `'train.report_to=[tensorboard]'`" in told
    assert main(["config", recipe, *changes, "train.report_to=[tensorboard]"]) == 0
