"""Chat templates from the command line: what is learnt is shown, what cannot be is refused by row, and what was set is
remembered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.evals.model_facts import template_kwargs_of
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.folder import RunDir
from mmpref.training.run.facts import facts_of
from mmpref.training.trainer.checkpoint import differences
from tests.integration.conftest import Place
from tests.tiny_vlms import build

TEXTS = ("part['text']", "' ' + message['content']")


def model_with(place: Place, folder: Path, changes: dict[str, str]) -> Path:
    """The small model with another template."""
    shutil.copytree(place.model, folder)
    file = folder / "chat_template.jinja"
    template = file.read_text()
    for old, new in changes.items():
        assert old in template
        template = template.replace(old, new)
    file.write_text(template)
    return folder


def training(place: Place, tmp_path: Path, model: Path, *changes: str) -> list[str]:
    return place.training(
        "demo_dpo", tmp_path / "run", f"model.path={model}", "train.max_steps=2", "preflight=false", *changes
    )


def pairs_of(place: Place, file: Path, *, number: int = 2, **changes: str) -> Path:
    """Eight of the world's pairs, the third one changed."""
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()[:8]]
    rows[number] |= changes
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_doctor_shows_a_pair_as_the_model_reads_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, recipe, *changes = place.training("demo_dpo", tmp_path / "run")
    assert main(["doctor", recipe, *changes]) == 0
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
    quiet = {text: f"({text} | replace('QUITE', 'quite'))" for text in TEXTS}
    model = model_with(place, tmp_path / "model", quiet)
    data = pairs_of(place, tmp_path / "pairs.jsonl", chosen="it is QUITE red .")
    root = f"data.root={place.world.root}"
    assert main(training(place, tmp_path, model, f"data.train={data}", root, "data.eval=[]")) == 3
    err = capsys.readouterr().err
    name = json.loads(data.read_text().splitlines()[2])["id"]
    assert name in err
    assert "QUITE" in err
    assert "quite" in err
    allowed = [f"data.train={data}", root, "data.eval=[]", "data.max_bad_fraction=0.2", "--overwrite"]
    assert main(training(place, tmp_path, model, *allowed)) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["template"]


def test_tokens_that_answers_only_spell_are_counted_and_marked_by_doctor(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build("llava", tmp_path / "model")  # letter by letter, as most tokenizers are
    data = pairs_of(place, tmp_path / "pairs.jsonl", number=0, chosen="it is <image> red .")
    name = json.loads(data.read_text().splitlines()[0])["id"]
    changes = [f"data.train={data}", f"data.root={place.world.root}", "data.eval=[]", f"model.path={model}"]
    _, recipe, *usual = place.training("demo_dpo", tmp_path / "run", *changes)
    assert main(["doctor", recipe, *usual]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"template: 1 answer writes special tokens as text, <image> (first seen in '{name}')" in out
    assert "⟦it is ‹<image>› red .<|im_end|>⟧" in out
    assert "between ‹ and ›: letters, not the token" in out
    assert main(training(place, tmp_path, model, *changes)) == 0
    assert "1 answer writes special tokens as text, <image>" in "".join(capsys.readouterr())


def test_a_thought_that_was_cut_goes_to_quarantine_under_its_own_reason(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = "{%- for message in messages -%}"
    model = model_with(place, tmp_path / "model", {loop: "{%- set mark = '<think>' -%}" + loop})
    data = pairs_of(place, tmp_path / "pairs.jsonl", rejected="<think> it is")
    root = f"data.root={place.world.root}"
    changes = [f"data.train={data}", root, "data.eval=[]", "data.max_bad_fraction=0.2"]
    assert main(training(place, tmp_path, model, *changes)) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/quarantine.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in rows] == ["unclosed_thought"]
    assert "never writes </think>" in json.dumps(rows)
    capsys.readouterr()


def test_a_template_without_any_answer_stops_the_run(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_with(place, tmp_path / "model", {text: f"({text} | reverse)" for text in TEXTS})
    assert main(training(place, tmp_path, model)) == 2
    err = capsys.readouterr().err
    assert "no answer can be trained on with this chat template" in err
    assert "Traceback" not in err


def test_template_kwargs_are_used_refused_and_remembered(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = "{%- for message in messages -%}"
    model = model_with(place, tmp_path / "model", {loop: "{{ motto }}" + loop})
    kwargs = "processing.template_kwargs={moto: hello}"
    assert main([*training(place, tmp_path, model, kwargs), f"output={tmp_path / 'mistyped'}"]) == 2
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
    file = RunDir(tmp_path / "run").recipe_file
    same, changed, none = (
        facts_of(load_recipe(file, [f"processing.template_kwargs={text}"]), ["hash"])
        for text in ("{motto: hello}", "{motto: bye}", "{}")
    )
    assert [line.partition(":")[0] for line in differences(same, changed)] == ["processing.template_kwargs"]
    assert "processing.template_kwargs" not in none  # as in runs from before the key
    assert template_kwargs_of(None, str(tmp_path / "run")) == {"motto": "hello"}  # a run is asked as it was trained
    assert template_kwargs_of("{motto: bye}", str(tmp_path / "run")) == {"motto": "bye"}
