"""What a demo can be asked for, and what it says to what it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.demo.pipeline import DemoSettings
from mmpref.errors import ConfigError
from tests.advice import alternatives


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "qwen2-vl"}, "--model qwen2-vl: unknown, did you mean 'qwen2_vl'?; it is one of llava, qwen2_vl"),
        ({"until": "habit"}, "--until habit: unknown; it is one of world, start, report"),
        ({"themes": 3}, "--themes 3: a scene has 1 theme or 2"),
        ({"themes": 0}, "--themes 0: a scene has 1 theme or 2"),
    ],
)
def test_what_cannot_be_asked_for_is_said_with_what_can(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        DemoSettings(seed=0, **given)  # type: ignore[arg-type]
    assert str(found.value).startswith(said)


@pytest.mark.parametrize("wrong", ["--model=qwen", "--until=habit", "--themes=3"])
def test_the_advice_works_and_the_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "demo.json").write_text("{}")
    command = ["demo", "--out", str(out), "--scale", "0.02"]
    assert main([*command, wrong]) == 2
    assert [file.name for file in out.iterdir()] == ["demo.json"]
    ((advice,),) = alternatives(capsys.readouterr().err)
    option, _, value = advice.partition("=")
    assert option == wrong.partition("=")[0]
    DemoSettings(seed=0, **{option[2:]: int(value) if value.isdigit() else value})
