"""Files that are read as another tool's settings: whose they are, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.migration.convert import TOOLS, migrate
from tests.loaded_scripts import script

LF = "model_name_or_path: m/m\nstage: dpo\npref_beta: 0.2\ndataset: rows\n"
TRL = "model_name_or_path: m/m\ndataset_name: owner/rows\nuse_peft: true\n"


@pytest.mark.parametrize(("text", "tool"), [(LF, "LLaMA-Factory"), (TRL, "TRL")])
def test_the_keys_tell_whose_settings_these_are(text: str, tool: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert migrate(file).tool == tool


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.yaml", b"learning_rate: 1e-5\n", "no key tells whose settings these are; add --format, one of"),
        ("a.yaml", (LF + TRL.partition("\n")[2]).encode(), "could be of several tools"),
        ("a.yaml", b"", "is empty"),
        ("a.yaml", b"- a\n- b\n", "must be a mapping of keys, got list"),
        ("a.yaml", b"a: [1\n", "is not valid YAML"),
        ("a.yaml", b"\xff\xfe\x00\x01", "not UTF-8 text"),
        ("a.yaml", b"a: \x00b\n", "is no text"),
        ("a.yaml", b"beta: 1\n" * 2, "key 'beta' is given twice"),
        ("a.yaml", b"x: " + b"y" * 300_000, "is read up to 262,144"),
        ("a.yaml", BOMB.encode(), "aliases (*name) stand for more than"),
        ("a.yaml", b"a: " + b"[" * 5000, "nested too deeply"),
        ("a.yaml", b"a: !!python/object:os.system {}\n", "the tag"),
        ("a.json", b"{\"beta\": 1", "is not JSON"),
        ("a.json", b"{\"a\": 1, \"a\": 2}", "a"),
        ("a.py", b"print(1)", "is a program, which is not run; write its DPOConfig's arguments into a YAML file"),
        ("a.sh", b"echo hello\n", "has no command that trains on preferences"),
        ("a.sh", b"trl dpo --beta 'x\n", "no closing quotation"),
        ("a.sh", b"trl dpo --config c.yaml extra\n", "its keys are not in this file"),
        ("a.sh", b"trl dpo --beta 1 --beta 2\n", "--beta is given twice"),
        ("a.sh", b"trl dpo --model_name_or_path $MODEL\n", "the variable MODEL is not set in the script"),
        ("a.sh", b"llamafactory-cli train dpo.yaml\n", "mmpref config --from dpo.yaml"),
        ("a.yaml", b"stage: sft\ndataset: a\n", "stage is sft, and only stage dpo and kto train on preferences"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    name: str, content: bytes, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    code = main(["config", "--from", str(file)])
    shown = capsys.readouterr()
    if says == "its keys are not in this file":
        assert code == 0
    else:
        assert code == 2
        assert shown.err.count("\n") == 1
    assert says in shown.err


def test_a_missing_file_a_folder_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    for path, tool, says in ((tmp_path / "no.yaml", None, "does not exist"), (tmp_path, None, "folder"),
                             (tmp_path / "no.yaml", "llama-factory", "did you mean 'llama_factory'")):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            migrate(path, tool)
        assert says in str(caught.value)


def test_format_decides_where_the_keys_do_not(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model_name_or_path: m/m\nlearning_rate: 1e-5\n")
    assert migrate(file, "trl").tool == "TRL"
    assert migrate(file, "trl").tree["train"]["learning_rate"] == 1e-5


def test_out_writes_a_new_file_and_nothing_over_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "a.yaml", tmp_path / "recipe.yaml"
    file.write_text(TRL)
    assert main(["config", "--from", str(file), "--out", str(out)]) == 0
    kept = out.read_bytes()
    assert main(["config", str(out)]) == 0
    for wrong in (out, file):
        assert main(["config", "--from", str(file), "--out", str(wrong)]) == 2
    assert (out.read_bytes(), file.read_text()) == (kept, TRL)
    assert main(["config", "--out", "x"]) == 2
    assert main(["config", str(out), "--from", str(file)]) == 2
    assert "neither a recipe nor --keys" in capsys.readouterr().err


def test_tables_are_facts_that_say_something() -> None:
    for name, tool in TOOLS.items():
        for key, row in tool.table.items():
            assert row.by or row.to or row.why, f"{name}: {key}"
            assert not (row.why and row.to), f"{name}: {key}"


@pytest.fixture
def page() -> ModuleType:
    return script("make_move_here")


def test_the_page_has_the_tables_as_they_are(page: ModuleType) -> None:
    assert page.written(page.PAGE.read_text(encoding="utf-8")) == page.PAGE.read_text(encoding="utf-8")
