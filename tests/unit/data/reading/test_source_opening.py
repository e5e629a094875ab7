"""What a recipe's data section says becomes sources: formats, roots, weights and the images of all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import load_each
from mmpref.data.mixture import RootedImages
from mmpref.data.opening import open_pairs, recipe_sources, weights
from mmpref.data.quarantine import NO_PAIR, Quarantine
from mmpref.errors import ConfigError
from mmpref.recipe.sections import DataSection


def canonical(name: str, image: str) -> dict[str, Any]:
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    prompt = [{"role": "user", "content": content}]
    return {"id": name, "images": [image], "prompt": prompt, "chosen": "a", "rejected": "b"}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two folders, each with an image of the same name and rows of another format."""
    for folder, colour in (("one", "red"), ("two", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (16, 16), colour).save(tmp_path / folder / "a.png")
    (tmp_path / "one" / "pairs.jsonl").write_text(json.dumps(canonical("x", "a.png")))
    alpaca = {"instruction": "<image>What?", "input": "", "chosen": "c", "rejected": "d", "images": ["a.png"]}
    (tmp_path / "two" / "pairs.json").write_text(json.dumps([alpaca, {**alpaca, "chosen": "e"}]))
    return tmp_path


def section(**content: Any) -> DataSection:
    return DataSection.model_validate(content)


def test_sources_with_roots_of_their_own_stand_in_one_list(place: Path) -> None:
    data = section(
        train=[
            {"path": str(place / "one" / "pairs.jsonl"), "root": str(place / "one"), "weight": 2.0},
            {"path": str(place / "two" / "pairs.json"), "root": str(place / "two"), "format": "llamafactory_alpaca"},
        ]
    )
    sources, held_out, images = recipe_sources(data)
    assert (len(sources), held_out, weights(data)) == (2, [], [2.0, 1.0])
    assert isinstance(images, RootedImages)
    lists = load_each(sources, allow_demonstrations=False, quarantine=Quarantine())
    shown = [images.open(pair.images[0]).getpixel((0, 0)) for pairs in lists for pair in pairs]
    assert shown == [(255, 0, 0), (0, 0, 255), (0, 0, 255)]
    assert len({pair.id for pairs in lists for pair in pairs}) == 3, "rows without ids get one each"


def test_one_root_leaves_paths_as_the_rows_write_them(place: Path) -> None:
    data = section(train=str(place / "one" / "pairs.jsonl"), eval=[{"path": str(place / "one" / "pairs.jsonl")}])
    sources, held_out, images = recipe_sources(data)
    assert isinstance(images, ImageLoader)
    for source in (*sources, *held_out):
        ((pair,),) = load_each([source], allow_demonstrations=False, quarantine=Quarantine())
        assert pair.images[0].path == "a.png"


def test_roots_are_not_guessed(place: Path) -> None:
    files = [str(place / "one" / "pairs.jsonl"), str(place / "two" / "pairs.json")]
    with pytest.raises(ConfigError, match="lie in different folders"):
        recipe_sources(section(train=files))
    recipe_sources(section(train=files, root=str(place)))


@pytest.mark.parametrize("path", ["absent.jsonl", "/nowhere/at/all", "./owner/name"])
def test_a_file_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=f"data file {path} does not exist"):
        recipe_sources(section(train=[{"path": path}]))


def test_unknown_formats_and_cards_are_refused_before_anything_is_read(place: Path) -> None:
    path = place / "one" / "pairs.jsonl"
    with pytest.raises(ConfigError, match="unknown format 'alpacca'"):
        open_pairs(path, format="alpacca")
    with pytest.raises(ConfigError, match="no data card 'rlaif-w'"):
        open_pairs(path, card="rlaif-w")


def test_a_row_without_a_preference_is_put_aside_and_is_not_bad(tmp_path: Path) -> None:
    ratings = {name: {"Rating": "4"} for name in ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")}
    rated = [{"response": text, "annotations": ratings} for text in ("one", "two")]
    rows = [{"id": str(number), "prompt": "What?", "img_path": "a.png", "completions": rated} for number in range(2)]
    (tmp_path / "ties.jsonl").write_text("\n".join(map(json.dumps, rows)))
    quarantine = Quarantine()
    source = open_pairs(tmp_path / "ties.jsonl", format="vlfeedback")
    assert list(source.candidates(quarantine, demonstrations=False)) == []
    assert (quarantine.num_read, quarantine.counts) == (2, {NO_PAIR: 2})
    assert quarantine.num_bad == 0
