"""The shell completes words by asking ``mmpref`` itself: the protocols of bash, zsh and fish, as their scripts do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.cli import completion
from mmpref.cli.main import app
from mmpref.data.card import _shipped
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.recipe.shipped import shipped_recipes

ROOT = Path(__file__).resolve().parents[3]


def ask(before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """What ``mmpref`` answers a shell; the last line says which heavy libraries it has loaded for that."""
    code = (
        "import atexit, sys\n"
        "names = ('torch', 'numpy', 'transformers')\n"
        "atexit.register(lambda: print([name for name in names if name in sys.modules]))\n"
        "sys.argv = ['mmpref']\nfrom mmpref.__main__ import start\nstart()\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [before, str(ROOT)])), **variables}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mmpref rec", ["recipes"]),
        ("mmpref train --ov", ["--overwrite"]),
        ("mmpref train qwen2_5_vl_3b_uni", ["qwen2_5_vl_3b_uni_dpo_lora", "qwen2_5_vl_3b_uni_dpo_qlora"]),
        ("mmpref train demo_dpo train.warm", ["train.warmup_steps="]),
        ("mmpref plan demo_dpo train.group_pairs=", ["train.group_pairs=off", "train.group_pairs=prompt"]),
        ("mmpref score --benchmark hal", ["hallusionbench"]),
        ("mmpref data show rlh", ["rlhf_v"]),
    ],
)
def test_bash_is_told_the_words(line: str, words: list[str]) -> None:
    done = ask(_MMPREF_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(line.split()) - 1))
    assert done.stdout.splitlines() == [*words, "[]"], done.stderr


def test_zsh_and_fish_are_told_the_words_and_what_they_mean() -> None:
    line = "mmpref train demo_dpo train.warm"
    zsh = ask(_MMPREF_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    meaning = next(text for word, text in completion.recipe_keys("train.warm"))
    assert meaning.startswith("A number of steps")
    assert '"train.warmup_steps=":"A number of steps' in zsh.stdout
    fish = ask(_MMPREF_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS=line, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert fish.stdout.startswith("train.warmup_steps=\tA number of steps")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script_that_asks_mmpref(shell: str) -> None:
    done = ask(_MMPREF_COMPLETE=f"source_{shell}")
    assert "_MMPREF_COMPLETE" in done.stdout
    assert f"complete_{shell}" in done.stdout


def test_a_real_bash_completes_with_that_script(tmp_path: Path) -> None:
    (tmp_path / "mmpref").write_text(f'#!/bin/sh\nexec {sys.executable} -m mmpref "$@"\n')
    (tmp_path / "mmpref").chmod(0o755)
    script = ask(_MMPREF_COMPLETE="source_bash").stdout.rpartition("[")[0]
    asked = 'COMP_WORDS=(mmpref train demo_s); COMP_CWORD=2; _mmpref_completion mmpref; echo "${COMPREPLY[@]}"'
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["demo_see", "demo_sft_chosen"], done.stderr


def test_a_broken_installation_says_nothing_while_words_are_completed(tmp_path: Path) -> None:
    (tmp_path / "typer-0.1.dist-info").mkdir()
    (tmp_path / "typer-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: typer\nVersion: 0.1\n")
    done = ask(str(tmp_path), _MMPREF_COMPLETE="complete_bash", COMP_WORDS="mmpref tr", COMP_CWORD="1")
    assert (done.returncode, done.stdout, done.stderr) == (2, "[]\n", "")


def test_the_lists_are_those_of_the_packages_that_have_them() -> None:
    assert set(completion.BENCHMARKS) == set(BENCHMARKS)
    assert [word for word, _ in completion.card_names("")] == sorted(_shipped())
    assert [word for word, _ in completion.recipe_names("")] == shipped_recipes()
    assert all("[" not in word for word, _ in completion.recipe_keys(""))
    assert ("data", "") in completion.recipe_sections("da")


def test_values_are_offered_where_there_are_few() -> None:
    assert [word for word, _ in completion.recipe_keys("train.fp16=")] == ["train.fp16=true", "train.fp16=false"]
    assert completion.recipe_keys("train.learning_rate=") == []
    assert completion.recipe_keys("no.such.key=") == []


def test_the_options_that_install_it_are_there() -> None:
    import typer

    names = [name for option in typer.main.get_command(app).params for name in option.opts]
    assert {"--install-completion", "--show-completion"} <= set(names)
