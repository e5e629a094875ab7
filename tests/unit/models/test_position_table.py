"""Sequences longer than a model's table of places are refused with the number, before they fail inside the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.models import load
from mmpref.processing.errors import EncodeError
from tests.model_types.causal import write_causal
from tests.plain_forward import collator_for
from tests.small_files import write_small_files
from tests.tiny_vlms import pair

LONG = " a red square" * 300


@pytest.mark.parametrize(
    ("name", "places"),
    [("gpt2", 512), ("opt", 512), ("gptj", 512), ("ctrl", 256), ("mpt", 512), ("xglm", None), ("llama", None)],
)
def test_a_table_of_places_is_found(name: str, places: int | None, tmp_path: Path) -> None:
    loaded = load(write_causal(name, tmp_path / "model"))
    assert loaded.family.places == places
    rows = [pair("long", images=(), chosen=LONG, rejected="a cat")]
    if places is None:
        collator_for(loaded, "plain")(rows)
        return
    with pytest.raises(
        EncodeError, match=r"'long' has .* places for " rf"{places} only; set processing\.max_length to {places}"
    ):
        collator_for(loaded, "plain")(rows)
    collator_for(loaded, "plain", max_length=places)(rows)


def test_training_names_the_key_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_causal("gpt2", tmp_path / "model")
    rows = [{"id": str(n), "prompt": "what is it ?", "chosen": LONG, "rejected": f"a cat {n}"} for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["train", "recipe.yaml", "model.path=model", "train.max_steps=1", "train.use_cpu=true"]
    assert main([*command, "output=one"]) != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "3 of 3 pairs are longer than the 512 tokens" in said
    assert "processing.max_length=512" in said
    assert main([*command, "output=two", "processing.max_length=512"]) == 0
