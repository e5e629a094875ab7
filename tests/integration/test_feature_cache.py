"""``processing.feature_cache``: runs with it end in the same bits, and no image goes through the tower twice."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from transformers import CLIPVisionModel

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.models import load as load_model
from mmpref.models.adapters.lora import prepare
from mmpref.models.tuning import Tuning
from mmpref.processing.image_rows import ImageRow
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.folder import RunDir
from mmpref.training.parallel.world import SINGLE_PROCESS
from mmpref.training.run.feature_cache import FeatureCache, FeatureFiles, refuse_useless
from tests.integration.conftest import Place
from tests.tiny_vlms import build

EPOCHS = ("train.num_train_epochs=2", "train.per_device_train_batch_size=12")
ROWS = 60  # 48 for training, 12 held out, an image each


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(RunDir(run).model / "model.safetensors")


def _assert_same_bits(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture
def towers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of each forward of a CLIP tower."""
    ran: list[int] = []
    stock = CLIPVisionModel.forward

    def forward(self: Any, pixel_values: torch.Tensor, **given: Any) -> Any:
        ran.append(len(pixel_values))
        return stock(self, pixel_values, **given)

    monkeypatch.setattr(CLIPVisionModel, "forward", forward)
    return ran


def test_a_second_epoch_and_a_second_run_never_run_the_tower_and_end_in_the_same_bits(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], towers: list[int]
) -> None:
    folder = tmp_path / "features"
    kept = (f"processing.feature_cache={folder}", "preflight=false")
    assert main(place.training("demo_dpo", tmp_path / "without", *EPOCHS, "preflight=false")) == 0
    assert sum(towers) == 2 * 48 + 2 * 12
    towers.clear()
    capfd.readouterr()
    assert main(place.training("demo_dpo", tmp_path / "first", *EPOCHS, *kept)) == 0
    assert sum(towers) == ROWS
    assert f"the images of {ROWS} rows were read and those of {ROWS} computed" in capfd.readouterr().out
    files = {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")}
    assert len(files) == len({*place_images(place)})
    towers.clear()
    more = ("train.dataloader_num_workers=1",)
    assert main(place.training("demo_dpo", tmp_path / "second", *EPOCHS, *kept, *more)) == 0
    assert not towers
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.safetensors")} == files
    _assert_same_bits(tmp_path / "first", tmp_path / "without")
    _assert_same_bits(tmp_path / "second", tmp_path / "without")


def place_images(place: Place) -> list[str]:
    rows = [*place.world.pairs.read_text().splitlines(), *place.world.pairs_heldout.read_text().splitlines()]
    return [name for row in rows for name in json.loads(row)["images"]]


def test_a_stale_cache_is_refused_and_one_of_other_files_is_left_alone(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = (f"processing.feature_cache={tmp_path / 'features'}", "train.max_steps=1", "data.eval=[]")
    assert main(place.training("demo_dpo", tmp_path / "one", *kept)) == 0
    other = tmp_path / "model"
    shutil.copytree(place.model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "changed": 1}))
    assert main(place.training("demo_dpo", tmp_path / "two", *kept, f"model.path={other}")) == 2
    said = capfd.readouterr().err.replace("\n", " ")
    assert "is stale: model" in said
    assert "processing.feature_cache" in said
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note.txt").write_text("mine")
    again = place.training("demo_dpo", tmp_path / "three", *kept, f"processing.feature_cache={taken}")
    assert main(again) == 2
    assert (taken / "note.txt").read_text() == "mine"


def test_a_cache_goes_with_a_cached_reference_and_stays_when_the_text_side_changes(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], towers: list[int]
) -> None:
    folder = tmp_path / "features"
    kept = (f"processing.feature_cache={folder}", "train.max_steps=2", "data.eval=[]", "preflight=false")
    lora = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze, vision: freeze}")
    assert main(place.training("demo_dpo", tmp_path / "one", *kept, "reference.kind=cache")) == 0
    assert "the images of 48 rows were read" in capfd.readouterr().out  # computed for the reference, read in training
    towers.clear()
    changed = ("processing.max_length=120", "train.gradient_checkpointing=true")
    assert main(place.training("demo_dpo", tmp_path / "two", *kept, *lora, *changed)) == 0
    assert not towers


def test_damaged_files_are_told_and_written_again(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], towers: list[int]
) -> None:
    folder = tmp_path / "features"
    kept = (f"processing.feature_cache={folder}", "train.max_steps=2", "data.eval=[]", "preflight=false")
    assert main(place.training("demo_dpo", tmp_path / "one", *kept)) == 0
    files = sorted(folder.rglob("*.safetensors"))
    whole = {file: file.read_bytes() for file in files}
    files[0].write_bytes(whole[files[0]][:-7])
    files[1].write_bytes(whole[files[1]][:-1] + bytes([whole[files[1]][-1] ^ 1]))
    files[2].write_bytes(whole[files[3]])
    files[4].write_bytes(b"")
    outputs = folder / "outputs.json"
    form = outputs.read_bytes()
    outputs.write_text(json.dumps({**json.loads(form), "calls": [], "kept": []}))
    towers.clear()
    capfd.readouterr()
    assert main(place.training("demo_dpo", tmp_path / "two", *kept)) == 0
    said = capfd.readouterr().out.replace("\n", " ")
    for file, why in (
        (files[0], "is damaged"),
        (files[1], "has other bytes than were written"),
        (files[2], "is of other images than its name says"),
        (files[4], "is damaged"),
        (outputs, "is damaged"),
    ):
        assert f"{file} {why}" in said
    assert "it is written again" in said
    assert outputs.read_bytes() == form
    _assert_same_bits(tmp_path / "one", tmp_path / "two")
    for file in files:
        assert torch.equal(load_file(file)["0.2"], load(whole[file])["0.2"])


def _writing(folder: Path, first: int) -> None:
    cache = FeatureCache.open(folder, {"m": 1}, print)
    for number in itertools.count(first):
        cache.write(f"{number % 256:02x}{number:038d}", {"0.0": torch.full((5, 300), float(number))})


def test_writers_that_are_killed_leave_whole_files_only(tmp_path: Path) -> None:
    """Two at once, over the same rows."""
    folder = tmp_path / "cache"
    writers = [multiprocessing.get_context("fork").Process(target=_writing, args=(folder, at)) for at in (0, 3)]
    for writer in writers:
        writer.start()
    while len([*folder.rglob("*.safetensors")]) < 40:
        time.sleep(0.01)
        assert any(writer.is_alive() for writer in writers)
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    cache = FeatureCache.open(folder, {"m": 1}, print)
    assert not [*folder.rglob(".*")], "what was being written is removed"
    for file in folder.rglob("*.safetensors"):
        found = cache.files.read(file.stem)
        assert isinstance(found, dict)
        assert torch.equal(found["0.0"], torch.full((5, 300), float(int(file.stem[2:]))))


def test_rows_are_joined_in_order_and_are_there_for_all_or_none(tmp_path: Path) -> None:
    said: list[str] = []
    cache = FeatureCache.open(tmp_path / "cache", {"m": 1}, said.append)
    rows = [ImageRow(f"{letter}" * 40, 1) for letter in "abc"]
    for number, row in enumerate(rows[:2]):
        cache.write(row.key, {"0.0": torch.full((number + 1, 2), float(number), dtype=torch.bfloat16)})
    found = cache.files([rows[1], rows[0], rows[1]])
    assert found["0.0"][:, 0].tolist() == [1, 1, 0, 1, 1]
    assert found["0.0"].dtype == torch.bfloat16
    assert cache.files([rows[0], rows[2]]) == {}
    cache.write(rows[2].key, {"0.0": torch.zeros(1, 2, dtype=torch.bfloat16), "0.1": torch.zeros(1)})
    assert cache.files([rows[0], rows[2]]) == {}
    cache.write(rows[0].key, {"0.0": torch.ones(1, 2)})
    assert cache.files([rows[0]])["0.0"].dtype == torch.bfloat16, "what is there stays"
    assert FeatureFiles(cache.files.folder, "of another").read(rows[0].key) == "was written for another cache"
    assert not said


@pytest.mark.parametrize(
    "content", ["", "[]", "1", '{"calls": [], "kept": []}', '{"calls": [1], "kept": ["0.0"]}', "NOT"]
)
def test_how_outputs_are_made_is_read_only_where_it_is_what_was_written(tmp_path: Path, content: str) -> None:
    said: list[str] = []
    form = {"calls": [{"module": "tower", "output": {"tensor": "0.0"}}], "kept": ["0.0"]}
    FeatureCache.open(tmp_path / "cache", {"m": 1}, said.append).write_form(form)
    again = FeatureCache.open(tmp_path / "cache", {"m": 1}, said.append)
    assert again.read_form() == form
    (tmp_path / "cache" / "outputs.json").write_text(content)
    assert again.read_form() is None
    assert again.read_form() is None
    assert len(said) == 1
    assert "outputs.json is damaged; it is written again" in said[0]


def test_a_full_disk_ends_no_training(tmp_path: Path) -> None:
    said: list[str] = []
    cache = FeatureCache.open(tmp_path / "cache", {"m": 1}, said.append)
    (tmp_path / "cache" / "aa").write_text("a file in place of a folder")
    for _ in range(3):
        cache.write("a" * 40, {"0.0": torch.zeros(2, 2)})
    assert len(said) == 1
    assert "training goes on" in said[0]


REFUSED = {
    "text": ({}, "would do nothing: this model has no vision tower"),
    "idefics3": ({}, "known to be right for gemma3, .*'idefics3'"),
    "llava": ({"train.torch_compile": True}, "torch_compile hides them"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_and_settings_that_it_is_not_right_for_are_refused(name: str, place: Place, tmp_path: Path) -> None:
    changes, why = REFUSED[name]
    loaded = prepare(load_model(build(name, tmp_path / "model"), trainable=True), Tuning(language="full"))
    recipe = load_recipe("demo_dpo", [f"{key}={str(value).lower()}" for key, value in changes.items()])
    with pytest.raises(ConfigError, match=f"processing.feature_cache .*{why}"):
        refuse_useless(recipe, loaded, SINGLE_PROCESS)


def test_dropout_in_the_tower_is_refused(tmp_path: Path) -> None:
    folder = build("llava", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["attention_dropout"] = 0.1
    (folder / "config.json").write_text(json.dumps(config))
    loaded = prepare(load_model(folder, trainable=True), Tuning(language="full"))
    with pytest.raises(ConfigError, match=r"vision tower has dropout in model\.vision_tower.*vision_config to 0"):
        refuse_useless(load_recipe("demo_dpo"), loaded, SINGLE_PROCESS)


def test_a_tower_that_trains_is_refused(place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = f"processing.feature_cache={tmp_path / 'features'}"
    assert main(place.training("demo_dpo", tmp_path / "one", kept, "tune.vision=full")) == 2
    said = capfd.readouterr().err.replace("\n", " ")
    assert "processing.feature_cache" in said
    assert "a vision tower that stays as it is" in said
    assert not (tmp_path / "features").exists()
    loaded = prepare(load_model(place.model, trainable=True), Tuning(vision="full", language="full"))
    with pytest.raises(ConfigError, match=r"trains or has an adapter.*tune\.vision=freeze"):
        refuse_useless(load_recipe("demo_dpo"), loaded, SINGLE_PROCESS)
