"""Chat templates from the command line: what is learnt is shown, what cannot be is refused by row, and what was set is
remembered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmpref.cli import main
from mmpref.rundir import RunDir
from tests.integration.conftest import Place

THINKS = "{% if add_generation_prompt %}{{ '<think>\n\n</think>\n\n' if enable_thinking is false else '' }}{% endif %}"
BEFORE = "{% if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"


def model_with(place: Place, folder: Path, change: tuple[str, str], end: str = "") -> Path:
    """The small model with another template."""
    shutil.copytree(place.model, folder)
    file = folder / "chat_template.jinja"
    template = file.read_text()
    assert change[0] in template
    file.write_text(template.replace(*change) + end)
    return folder


def training(place: Place, tmp_path: Path, model: Path, *changes: str) -> list[str]:
    return place.training(
        "demo_dpo", tmp_path / "run", f"model.path={model}", "train.max_steps=2", "preflight=false", *changes
    )


def pairs_of(place: Place, file: Path, **changes: str) -> Path:
    """Eight of the world's pairs, the third one changed."""
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()[:8]]
    rows[2] |= changes
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_doctor_shows_a_pair_as_the_model_reads_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, recipe, *changes = place.training("demo_dpo", tmp_path / "run")
    assert main(["doctor", *changes, "--recipe", recipe]) == 0
    out = capsys.readouterr().out
    row = json.loads(place.world.pairs.read_text().splitlines()[0])
    flat = "".join(out.split())
    for side in ("chosen", "rejected"):
        assert f"{side} of '{row['id']}', learnt between" in out
        assert f"⟦{''.join(row[side].split())}" in flat
    assert "<image x " in out
    assert out.count("⟦") == out.count("⟧")


def test_a_rewritten_row_is_quarantined_by_name_and_counted(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = (place.model / "chat_template.jinja").read_text()
    words = "message['content']" if "message['content']" in file else "content"
    assert words in file
    model = model_with(place, tmp_path / "model", ("part['text']", "(part['text'] | replace('QUITE', 'quite'))"))
    data = pairs_of(place, tmp_path / "pairs.jsonl", chosen="it is QUITE red .")
    root = f"data.root={place.world.root}"
    assert main(training(place, tmp_path, model, f"data.train={data}", root, "data.eval=[]")) == 3
    err = capsys.readouterr().err
    name = json.loads(data.read_text().splitlines()[2])["id"]
    assert name in err
    assert "QUITE" in err
    assert "quite" in err
    allowed = [f"data.train={data}", root, "data.eval=[]", "data.max_bad_fraction=0.2"]
    assert main(training(place, tmp_path, model, *allowed, "train.per_device_train_batch_size=1")) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["template"]


def test_a_template_without_any_answer_stops_the_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_with(place, tmp_path / "model", ("part['text']", "(part['text'] | reverse)"))
    assert main(training(place, tmp_path, model)) == 2
    err = capsys.readouterr().err
    assert "no answer can be trained on with this chat template" in err
    assert "Traceback" not in err


def test_template_kwargs_are_used_refused_and_remembered(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = "{% for message in messages %}"
    model = model_with(place, tmp_path / "model", (loop, "{{ motto }}" + loop))
    kwargs = "processing.template_kwargs={moto: hello}"
    assert main(training(place, tmp_path, model, kwargs)) == 2
    assert "does not read 'moto'; did you mean 'motto'?" in capsys.readouterr().err
    cached = ["reference.kind=cache", f"reference.cache={tmp_path / 'cache'}", "train.save_steps=1"]
    kwargs = "processing.template_kwargs={motto: hello}"
    assert main(training(place, tmp_path, model, kwargs, *cached)) == 0
    assert "motto: hello" in RunDir(tmp_path / "run").recipe_file.read_text()
    capsys.readouterr()
    other = training(place, tmp_path, model, "processing.template_kwargs={motto: bye}", *cached)
    assert main([*other, "output=" + str(tmp_path / "other")]) == 2
    err = capsys.readouterr().err
    assert "the reference cache" in err
    assert "processing.template_kwargs: {'motto': 'hello'} then, {'motto': 'bye'} now" in err
    assert main([*other, "train.max_steps=3", "--resume"]) == 6
    assert "processing.template_kwargs" in capsys.readouterr().err
