"""Runs whose loss looks at another image: the same whoever opens it, however often they stop, and from a cache."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mmpref import PreferenceTrainer
from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.processing import OtherImageSettings
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.options import TrainerOptions
from mmpref.training.trainer.pair_log import read_pair_log
from tests.advice import alternatives
from tests.integration.conftest import Place
from tests.integration.test_from_python import arguments

MDPO = ("loss={name: mdpo}", "data.other_image=made", "processing.other_image.kind=crop", "preflight=false")
SHORT = ("train.per_device_train_batch_size=8", "train.learning_rate=1e-3", "train.warmup_steps=0",
         "train.logging_steps=1", "train.num_train_epochs=1.5")  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(one: Path, other: Path) -> bool:
    """Bit by bit: weights, and what was measured of every pair."""
    first, second = weights(one), weights(other)
    logs = [read_pair_log(RunDir(run).pairs_file) for run in (one, other)]
    return all(torch.equal(value, second[name]) for name, value in first.items()) and str(logs[0]) == str(logs[1])


def close(one: Path, other: Path) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_new_picture_in_every_epoch_is_the_same_with_workers_and_after_a_stop(place: Place, tmp_path: Path) -> None:
    keys = (*MDPO, *SHORT, "processing.other_image.per=epoch", "train.save_steps=2", "train.save_total_limit=null")
    command = place.training("demo_dpo", tmp_path / "one", *keys)
    assert main(command) == 0
    whole, run = tmp_path / "whole", tmp_path / "one"
    shutil.copytree(run, whole)
    workers = ("train.dataloader_num_workers=2", "train.extra={dataloader_persistent_workers: true}")
    assert main(place.training("demo_dpo", tmp_path / "workers", *keys, *workers)) == 0
    assert same(whole, tmp_path / "workers")
    assert main(place.training("demo_dpo", tmp_path / "pair", *MDPO, *SHORT)) == 0
    assert not same(whole, tmp_path / "pair")
    for last in (8, 4):  # in the second epoch, and in the first
        shutil.rmtree(run / "model")
        for step in RunDir(run).checkpoints.iterdir():
            if int(step.name.partition("-")[2]) > last:
                shutil.rmtree(step)
        (run / "pairs.parquet").unlink()
        RunDir(run).set_state("running")
        assert main([*command, "--resume"]) == 0
        assert same(whole, run)


@pytest.mark.slow
def test_a_cache_of_a_dpo_run_serves_and_only_the_other_answers_are_computed(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    cached = ("reference.kind=cache", f"reference.cache={folder}")
    assert main(place.training("demo_dpo", tmp_path / "dpo", *SHORT, *cached)) == 0
    assert "120 answers of 60 pairs computed, 0 were there" in capfd.readouterr().out
    assert main(place.training("demo_dpo", tmp_path / "live", *SHORT, *MDPO)) == 0
    capfd.readouterr()
    assert main(place.training("demo_dpo", tmp_path / "mdpo", *SHORT, *MDPO, *cached)) == 0
    assert "60 answers of 60 pairs computed, 120 were there" in capfd.readouterr().out
    close(tmp_path / "live", tmp_path / "mdpo")
    seeded = ("seed=3",)  # another run sees the same images
    assert main(place.training("demo_dpo", tmp_path / "again", *SHORT, *MDPO, *cached, *seeded)) == 0
    assert "answers of 60 pairs computed" not in capfd.readouterr().out


@pytest.mark.slow
def test_features_of_made_pictures_are_kept_like_others(place: Place, tmp_path: Path) -> None:
    keys = (*SHORT, *MDPO, "tune.vision=freeze")
    assert main(place.training("demo_dpo", tmp_path / "plain", *keys)) == 0
    kept = (*keys, f"processing.feature_cache={tmp_path / 'features'}")
    for name in ("first", "second"):
        assert main(place.training("demo_dpo", tmp_path / name, *kept)) == 0
        close(tmp_path / "plain", tmp_path / name)
    assert "those of 0 computed" in (tmp_path / "second" / "train.log").read_text()


def rows_with(place: Place, tmp_path: Path, count: int, change: Any) -> Path:
    """A file of the first pairs, each changed."""
    rows = [json.loads(line) for line in place.world.pairs.read_text().splitlines()[:count]]
    for number, row in enumerate(rows):
        change(number, row)
    file = place.world.root / f"{tmp_path.name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def run_on(place: Place, tmp_path: Path, file: Path, *changes: str) -> int:
    given = ("loss={name: mdpo}", "data.other_image=column", "preflight=false", "train.max_steps=1", "data.eval=[]")
    return main([*place.training("demo_dpo", tmp_path / "run", *given), f"data.train={file}", *changes])


def test_rows_name_their_other_pictures_and_text_rows_have_none(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = [json.loads(line)["images"] for line in place.world.pairs.read_text().splitlines()[:10]]
    different = next(one for one in images if one != images[0])

    def change(number: int, row: dict[str, Any]) -> None:
        row["other_images"] = different if row["images"] != different else images[0]
        if number == 5:
            row["prompt"] = [{"role": "user", "content": [{"type": "text", "text": "what is there ?"}]}]
            row["images"] = row["other_images"] = []
            del row["other_images"]

    file = rows_with(place, tmp_path, 8, change)
    assert run_on(place, tmp_path, file) == 0
    assert "data.train: 1 of 8 pairs have no image" in " ".join(capfd.readouterr().out.split())


def test_where_no_row_has_a_picture_the_loss_is_refused_and_the_advice_helps(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(number: int, row: dict[str, Any]) -> None:
        row["prompt"] = [{"role": "user", "content": [{"type": "text", "text": "what is there ?"}]}]
        row["images"] = []

    file = rows_with(place, tmp_path, 4, change)
    assert run_on(place, tmp_path, file) == 2
    said = " ".join(capfd.readouterr().err.split())
    assert "none of the 4 pairs that train has an image" in said
    assert run_on(place, tmp_path, file, *alternatives(said)[0]) == 0


@pytest.mark.parametrize("fault", ["missing", "size", "same"])
def test_rows_whose_other_picture_cannot_be_are_refused_with_advice_that_helps(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], fault: str
) -> None:
    first = json.loads(place.world.pairs.read_text().splitlines()[0])["images"][0]
    with Image.open(place.world.root / first) as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).resize((40, 50)).save(place.world.root / "odd.png")

    def change(number: int, row: dict[str, Any]) -> None:
        if fault == "same":  # in a file of its own
            shutil.copy(place.world.root / row["images"][0], place.world.root / f"copy-{number}.png")
            row["other_images"] = [f"copy-{number}.png"]
        elif fault == "size" or number:
            row["other_images"] = ["odd.png"]

    file = rows_with(place, tmp_path, 6, change)
    assert run_on(place, tmp_path, file) == 3
    said = " ".join(capfd.readouterr().err.split())
    names = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert any(f"'{name}'" in said for name in (names if fault == "same" else names[:1]))  # seen when it is opened
    command = next(words for words in said.split("`") if words.startswith(("data.other_image=", "processing.other")))
    if fault == "missing":  # the others have other sizes
        assert command.startswith("data.other_image=made")
    assert run_on(place, tmp_path, file, *command.split()) == 0


@pytest.mark.slow
def test_pictures_of_other_rows_are_found_by_the_run_and_the_same_in_a_repetition(place: Place, tmp_path: Path) -> None:
    keys = (*SHORT, "loss={name: mdpo}", "data.other_image=random_row")
    for name, more in (("one", ()), ("again", ("seed=0",)), ("other", ("processing.other_image.seed=1",))):
        assert main(place.training("demo_dpo", tmp_path / name, *keys, *more)) == 0
    assert same(tmp_path / "one", tmp_path / "again")
    assert not same(tmp_path / "one", tmp_path / "other")


def test_from_python_the_other_picture_is_asked_for(place: Place, tmp_path: Path) -> None:
    file = rows_with(place, tmp_path, 8, lambda number, row: None)
    other = TrainerOptions(other_image=OtherImageSettings(kind="noise"))
    given = {"train_pairs": file, "eval_pairs": file}
    trainer = PreferenceTrainer(
        str(place.model), arguments(tmp_path, max_steps=2), objective={"name": "mdpo"}, options=other, **given
    )
    trainer.train()
    found = trainer.evaluate()
    assert any("image/margin" in name for name in found)
    rows = TrainerOptions(other_image=OtherImageSettings(source="random_row"))
    trainer = PreferenceTrainer(
        str(place.model), arguments(tmp_path, max_steps=1), objective={"name": "mdpo"}, options=rows, train_pairs=file
    )
    trainer.train()
    with pytest.raises(ConfigError, match="OtherImageSettings"):
        PreferenceTrainer(str(place.model), arguments(tmp_path), objective={"name": "mdpo"}, **given)
    with pytest.raises(ConfigError, match="one image only"):
        PreferenceTrainer(str(place.model), arguments(tmp_path), objective={"name": "dpo"}, options=other, **given)


def test_an_image_of_one_colour_is_refused_before_training_and_each_advice_leads_on(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in place.world.pairs.read_text(encoding="utf-8").splitlines()[:8]]
    Image.new("RGB", (48, 48), (255, 255, 255)).save(tmp_path / "white.png")
    rows[5]["images"] = [str(tmp_path / "white.png")]
    for row in rows[:5] + rows[6:]:
        row["images"] = [str(place.world.root / path) for path in row["images"]]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    given = (*MDPO, *SHORT, f"data.train={file}", "data.root=/", "data.eval=[]")
    assert main(place.training("demo_dpo", tmp_path / "run", *given)) == 3
    said = capsys.readouterr().err
    assert f"'{rows[5]['id']}'" in said
    assert "kind crop makes the very same image" in said
    [cure] = re.findall(r"`(data\.max_bad_fraction=\S+)`", said)
    for number, advice in enumerate((cure, "processing.other_image.kind=noise")):
        assert main(place.training("demo_dpo", tmp_path / str(number), *given, advice)) == 0
