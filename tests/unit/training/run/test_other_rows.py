"""The other images of a run come from its rows as ``data.other_image`` says, or the run does not begin."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.data.quarantine import Quarantine
from mmpref.errors import DataError
from mmpref.losses import build_objective
from mmpref.recipe.sections import Recipe
from mmpref.training.run.data import RunData, load_data

TURN = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]


def row(number: int, **changes: Any) -> dict[str, Any]:
    found = {"id": f"p{number}", "images": [f"{number % 6}.png"], "prompt": TURN, "chosen": "a", "rejected": "b"}
    return {key: value for key, value in (found | changes).items() if value is not ...}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        Image.new("RGB", (20, 20), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    return tmp_path


def load(
    folder: Path,
    rows: list[dict[str, Any]],
    loss: dict[str, Any] | None = None,
    said: list[str] | None = None,
    **data: Any,
) -> RunData:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    loss = {"name": "dpo"} if loss is None else loss
    section = {"train": str(path), "root": str(folder), "check_images": "header", "held_out": 0.0, **data}
    train = {"learning_rate": 1e-4}
    given = {"model": {"path": "none"}, "data": section, "loss": loss, "train": train, "output": str(folder)}
    recipe = Recipe.model_validate(given)
    say = None if said is None else said.append
    return load_data(recipe, build_objective(recipe.loss.as_mapping()), Quarantine(), say=say)


def others(data: RunData) -> dict[str, str | None]:
    found = [*data.train, *data.eval]
    return {pair.id: None if pair.other_images is None else pair.other_images[0].path for pair in found}


def test_images_of_the_rows_are_given_as_they_are(folder: Path) -> None:
    rows = [row(0, other_images=["3.png"]), row(1, other_images=["2.png"])]
    text = row(9, images=[], prompt=[{"role": "user", "content": "Hi"}])
    assert others(load(folder, [*rows, text], other_image="column")) == {"p0": "3.png", "p1": "2.png", "p9": None}


def test_rows_without_other_images_are_refused_with_ids_and_file(folder: Path) -> None:
    rows = [row(0, other_images=["3.png"]), *(row(number) for number in range(1, 6))]
    with pytest.raises(DataError) as caught:
        load(folder, rows, other_image="column")
    message = str(caught.value)
    assert message.startswith(f"5 of the 6 rows of {folder / 'rows.jsonl'} with images have no 'other_images'")
    assert "(ids 'p1', 'p2', 'p3', ...)" in message
    cure = shlex.split(message.split("`")[1])
    assert cure == ["data.other_image=made", "processing.other_image.kind=crop"]
    load(folder, rows, other_image="made")


def test_a_copy_of_the_image_under_another_name_is_no_other_image(folder: Path) -> None:
    rows = [row(0, other_images=["copy.png"]), row(1, other_images=["2.png"])]
    with pytest.raises(DataError, match=r"1 of the 2 rows of .*rows\.jsonl .* \(id 'p0'\)"):
        load(folder, rows, other_image="column")


@pytest.mark.parametrize("mode", [None, "random_row"])
def test_other_images_that_are_not_used_are_told(folder: Path, mode: str | None) -> None:
    said: list[str] = []
    rows = [row(0, other_images=["3.png"]), row(1)]
    found = others(load(folder, rows, said=said, other_image=mode))
    assert [line for line in said if line.startswith("other_images of 1 row are not used")] == said[-1:]
    assert f"data.other_image is {mode or 'null'}" in said[-1]
    assert found["p0"] == ("1.png" if mode == "random_row" else "3.png")
    said.clear()
    load(folder, [row(0), row(1)], said=said, other_image=mode)
    assert not said


def test_images_of_other_rows_are_dealt_out_once_for_every_start(folder: Path) -> None:
    rows = [row(number) for number in range(24)]
    found = others(load(folder, rows, other_image="random_row"))
    assert all(path is not None and path != f"{int(name[1:]) % 6}.png" for name, path in found.items())
    assert others(load(folder, rows[::-1], other_image="random_row")) == found


def test_held_out_rows_see_images_of_held_out_rows_where_there_are_two(folder: Path) -> None:
    rows = [row(number) for number in range(24)]
    data = load(folder, rows, other_image="random_row", held_out=0.4)
    for pairs in (data.train, data.eval):
        own = {pair.images[0].path for pair in pairs}
        assert len(own) > 1
        assert {pair.other_images[0].path for pair in pairs if pair.other_images} <= own
    few = load(folder, rows, other_image="random_row", held_out=0.04)
    assert len({pair.images for pair in few.eval}) == 1
    assert all(pair.other_images not in (None, pair.images) for pair in few.eval)


def test_a_source_with_one_image_has_no_other_one(folder: Path) -> None:
    rows = [row(0), row(1, images=["copy.png"])]
    with pytest.raises(DataError, match=r"2 rows of .*rows\.jsonl with images show one image"):
        load(folder, rows, other_image="random_row")


def test_held_out_files_are_given_other_images_too(folder: Path) -> None:
    held = folder / "held.jsonl"
    held.write_text("".join(json.dumps(row(number, id=f"e{number}")) + "\n" for number in range(2)))
    data = load(folder, [row(number) for number in range(6)], other_image="random_row", eval=[str(held)])
    assert {pair.id: pair.other_images[0].path for pair in data.eval if pair.other_images} == {
        "e0": "1.png", "e1": "0.png"
    }  # fmt: skip
    rows = [row(number, other_images=[f"{(number + 1) % 6}.png"]) for number in range(6)]
    with pytest.raises(DataError, match=r"2 of the 2 rows of .*held\.jsonl"):
        load(folder, rows, other_image="column", eval=[str(held)])


LABELLED = row(0, rejected=..., label=False)


@pytest.mark.parametrize(
    ("loss", "rows", "reason"),
    [
        ({"name": "dpo"}, [LABELLED], r"single_answer.*`loss\.name=kto`"),
        ({"name": "sft"}, [LABELLED], r"undesirable.*`loss\.name=kto`"),
        ({"name": "kto"}, [row(0, rejected=...)], r"no_label.*`loss\.name=sft`"),
        ({"name": "dpo"}, [row(0, rejected=...)], "no_rejected"),
    ],
)
def test_single_answers_that_a_loss_cannot_learn_stop_the_run(
    folder: Path, loss: dict[str, Any], rows: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(DataError, match=f"(?s){reason}"):
        load(folder, [row(1), *rows], loss)
