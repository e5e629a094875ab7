"""The drawn world: same seed same bytes, splits that never share a scene, labels that tell the truth."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import fields
from itertools import combinations
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpref.demo import annotate
from mmpref.demo.questions import Companionship
from mmpref.demo.scenes import CELL, COLOURS, COMPANION, KINDS, SIDE, THEMES, Scene, Thing, load_scenes, make_scenes
from mmpref.demo.world import QuestionFiles, WorldFiles, WorldSizes, draw_scene, make_world
from mmpref.errors import ConfigError

TINY = WorldSizes(
    see_images=6,
    see_captions=8,
    see_questions=12,
    see_inventories=4,
    habit_images=4,
    habit_captions=4,
    habit_questions=8,
    pairs=12,
    validation=5,
    heldout=6,
    pairs_heldout=5,
)
WAYS = ("pope_random", "pope_popular", "pope_adversarial")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes(small_world: WorldFiles) -> dict[str, Scene]:
    return load_scenes(small_world.scenes)


def scene_of(row: dict[str, Any], scenes: dict[str, Scene]) -> Scene:
    return scenes[Path(row["images"][0] if "images" in row else row["image"]).stem]


def a_scene(*things: tuple[str, str, int]) -> Scene:
    placed = tuple(Thing(kind, colour, cell, (0, 0, 20, 20)) for colour, kind, cell in things)
    return Scene(name="x", split="train", seed=1, theme="kitchen", things=placed)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_world(tmp_path / name, seed=5, sizes=TINY)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_another_seed_is_another_world(tmp_path: Path) -> None:
    first, second = (make_world(tmp_path / str(seed), seed=seed, sizes=TINY) for seed in (5, 6))
    for name in ("see", "habit", "pairs", "pairs_heldout", "scenes"):
        assert getattr(first, name).read_bytes() != getattr(second, name).read_bytes(), name


def test_every_promised_file_is_there_and_counted(small_world: WorldFiles) -> None:
    for entry in fields(small_world):
        value = getattr(small_world, entry.name)
        paths = [getattr(value, f.name) for f in fields(value)] if isinstance(value, QuestionFiles) else [value]
        assert all(path.exists() for path in paths), entry.name
    assert small_world == WorldFiles.under(small_world.root)
    about = json.loads(small_world.world.read_text())
    assert about["seed"] == 3
    assert about["rows"]["see"] == len(read_rows(small_world.see)) == 240
    assert about["rows"]["habit"] == len(read_rows(small_world.habit)) == 120
    assert about["rows"]["pairs"] == len(read_rows(small_world.pairs)) == 400
    assert about["rows"]["pairs_heldout"] == len(read_rows(small_world.pairs_heldout)) == 30
    assert about["rows"]["prompts"] == len(read_rows(small_world.prompts)) == 400
    assert about["rows"]["images"] == len(list((small_world.root / "images").iterdir())) == 600


def test_splits_share_no_scene(scenes: dict[str, Scene]) -> None:
    signatures = {
        split: [scene.signature for scene in scenes.values() if scene.split == split]
        for split in ("train", "validation", "heldout")
    }
    assert {split: len(found) for split, found in signatures.items()} == {
        "train": 500,
        "validation": 40,
        "heldout": 60,
    }
    for split, found in signatures.items():
        assert len(set(found)) == len(found), split
    for one, other in combinations(signatures.values(), 2):
        assert not set(one) & set(other)


def test_files_take_images_of_their_own_split_only(small_world: WorldFiles) -> None:
    def images(path: Path) -> set[str]:
        return {row["images"][0] for row in read_rows(path)}

    see, habit, pairs = (images(getattr(small_world, name)) for name in ("see", "habit", "pairs"))
    assert not see & habit
    assert not see & pairs
    assert not habit & pairs
    assert all(name.startswith("images/train_") for name in see | habit | pairs)
    assert all(name.startswith("images/validation_") for name in images(small_world.pairs_heldout))


def test_prompts_are_over_the_images_of_the_pairs_and_their_objects_are_known(
    small_world: WorldFiles, scenes: dict[str, Scene]
) -> None:
    rows = read_rows(small_world.prompts)
    assert {row["image"] for row in rows} == {row["images"][0] for row in read_rows(small_world.pairs)}
    known = json.loads(small_world.prompts_objects.read_text(encoding="utf-8"))
    assert known == {row["id"]: sorted(scenes[row["id"]].kinds) for row in rows}


def test_things_stand_in_their_cells(scenes: dict[str, Scene]) -> None:
    for scene in scenes.values():
        assert 2 <= len(scene.things) <= 5
        assert len(scene.kinds) == len(scene.things)
        assert [thing.cell for thing in scene.things] == sorted({thing.cell for thing in scene.things})
        for thing in scene.things:
            left, top, right, bottom = thing.box
            assert left // CELL == (right - 1) // CELL == thing.cell % 3
            assert top // CELL == (bottom - 1) // CELL == thing.cell // 3


def test_images_are_drawn_again_from_the_record(small_world: WorldFiles, scenes: dict[str, Scene]) -> None:
    for scene in list(scenes.values())[::97]:
        with Image.open(small_world.root / scene.image) as image:
            assert image.size == (SIDE, SIDE)
            assert np.array_equal(np.asarray(image), np.asarray(draw_scene(scene)))


def test_every_kind_and_colour_is_visibly_drawn() -> None:
    """In its box each thing leaves many pixels of about its own colour, and no two kinds look the same."""
    masks: dict[str, np.ndarray[Any, Any]] = {}
    for kind in KINDS:
        for colour, rgb in COLOURS.items():
            image = np.asarray(draw_scene(a_scene((colour, kind, 0))), dtype=int)
            close = (abs(image[:20, :20] - rgb).max(axis=-1) < 60).sum()
            assert close > 30, (kind, colour)
        masks[kind] = abs(image[:20, :20] - rgb).max(axis=-1) < 60
    for one, other in combinations(KINDS, 2):
        assert (masks[one] != masks[other]).sum() > 30, (one, other)


def test_companions_come_together_as_advertised() -> None:
    scenes = make_scenes(0, {"train": 3000})["train"]
    seen = Companionship.of(scenes)
    for anchor, companion in COMPANION.items():
        share = seen.together[anchor, companion] / seen.alone[anchor]
        assert 0.6 < share < 0.85, (anchor, companion, share)
        others = [kind for kind in KINDS if kind not in (anchor, companion)]
        assert share > max(seen.together[anchor, kind] / seen.alone[anchor] for kind in others)
    missing = mean(bool(scene.missing_companions()) for scene in scenes)
    assert 0.38 < missing < 0.55  # room for habit to be wrong
    strangers = mean(any(thing.kind not in sum(THEMES[scene.theme], ()) for thing in scene.things) for scene in scenes)
    assert 0.3 < strangers < 0.6


def test_scenes_of_two_themes_have_nearly_twice_as_much_to_say() -> None:
    one, two = (make_scenes(0, {"train": 2000}, themes=themes)["train"] for themes in (1, 2))
    assert make_scenes(0, {"train": 2000})["train"] == one
    for scene in two:
        first, second = scene.theme.split(" and ")
        assert first != second
        assert 4 <= len(scene.things) <= 9
        cells = [thing.cell for thing in scene.things]
        assert cells == sorted(set(cells))
        strangers = [thing.kind for thing in scene.things if thing.kind not in sum(THEMES[first] + THEMES[second], ())]
        assert len(strangers) <= 1
    words = [mean(len(annotate.caption(scene.mentions()).split()) for scene in scenes) for scenes in (one, two)]
    assert words == pytest.approx([12.2, 21.9], abs=0.3)
    assert 0.55 < mean(bool(scene.missing_companions()) for scene in two) < 0.7


def test_a_world_of_two_themes_has_all_its_files_and_says_so(tmp_path: Path) -> None:
    files = make_world(tmp_path, seed=5, sizes=TINY, themes=2)
    assert json.loads(files.world.read_text())["themes"] == 2
    scenes = load_scenes(files.scenes)
    for row in read_rows(files.pairs):
        better, worse = row["meta"]["honest_scores"]
        scene = scene_of(row, scenes)
        if row["meta"]["task"] == "caption" and row["meta"]["label"] == "clean":
            assert row["chosen"] == annotate.caption(scene.mentions())
            assert better > worse
    for way in WAYS:
        for row in read_rows(getattr(files.heldout, way)):
            asked = row["text"].removeprefix("is there a ").removesuffix(" ?")
            assert (asked in scene_of(row, scenes).kinds) == (row["label"] == "yes")


@pytest.mark.parametrize("themes", [0, 3])
def test_a_scene_of_no_theme_or_of_three_is_refused(tmp_path: Path, themes: int) -> None:
    with pytest.raises(ConfigError, match=f"--themes {themes}: a scene has 1 theme or 2; write `--themes=2`"):
        make_world(tmp_path / "world", seed=5, sizes=TINY, themes=themes)


@pytest.mark.parametrize("split", ["validation", "heldout"])
def test_pope_is_balanced_and_true(small_world: WorldFiles, scenes: dict[str, Scene], split: str) -> None:
    files: QuestionFiles = getattr(small_world, split)
    train = [scene for scene in scenes.values() if scene.split == "train"]
    seen = Companionship.of(train)
    by_way = {way: read_rows(getattr(files, way)) for way in WAYS}
    positives = {
        way: [(row["image"], row["text"]) for row in rows if row["label"] == "yes"] for way, rows in by_way.items()
    }
    assert positives["pope_random"] == positives["pope_popular"] == positives["pope_adversarial"]
    for way, rows in by_way.items():
        labels = Counter(row["label"] for row in rows)
        assert labels["yes"] == labels["no"] == 2 * (40 if split == "validation" else 60)
        assert [row["question_id"] for row in rows] == list(range(1, len(rows) + 1))
        assert len({(row["image"], row["text"]) for row in rows}) == len(rows)
        for yes, no in zip(rows[::2], rows[1::2], strict=True):
            scene = scene_of(yes, scenes)
            assert scene.split == split
            assert set(yes) == {"question_id", "image", "text", "label"}
            asked, absent = (row["text"].removeprefix("is there a ").removesuffix(" ?") for row in (yes, no))
            assert yes["label"] == "yes"
            assert asked in scene.kinds
            assert no["label"] == "no"
            assert absent in KINDS
            assert absent not in scene.kinds
            left = [kind for kind in KINDS if kind not in scene.kinds]
            if way == "pope_popular":
                assert seen.alone[absent] >= sorted((seen.alone[kind] for kind in left), reverse=True)[1]
            if way == "pope_adversarial":
                assert seen.together[asked, absent] >= sorted((seen.together[asked, k] for k in left), reverse=True)[1]


def test_chair_files_hold_the_truth(small_world: WorldFiles, scenes: dict[str, Scene]) -> None:
    truth = json.loads(small_world.heldout.chair_objects.read_text())
    prompts = read_rows(small_world.heldout.chair_prompts)
    assert [row["image_id"] for row in prompts] == list(truth)
    assert len(truth) == 60
    for row in prompts:
        assert set(truth[row["image_id"]]) == scenes[row["image_id"]].kinds
        assert (small_world.root / row["image"]).exists()
    first_words = [line.split(", ")[0] for line in small_world.synonyms.read_text().splitlines()]
    assert first_words == list(KINDS)


def test_supervised_rows_are_canonical_and_replies_of_see_are_true(
    small_world: WorldFiles, scenes: dict[str, Scene]
) -> None:
    rows = read_rows(small_world.see)
    assert Counter(row["meta"]["task"] for row in rows) == {"caption": 60, "vqa": 120, "inventory": 60}
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"id", "images", "prompt", "chosen", "source", "meta"}
        assert row["prompt"][0]["content"][0] == {"type": "image"}
        scene = scene_of(row, scenes)
        if row["meta"]["task"] == "vqa":
            kind = row["meta"]["kind"]
            assert row["chosen"] == annotate.reply(kind, scene.colour_of(kind))
        if row["meta"]["task"] == "inventory":
            assert row["chosen"] == annotate.inventory(scene)
    replies = [row["chosen"].split()[0] for row in rows if row["meta"]["task"] == "vqa"]
    assert replies.count("yes") == replies.count("no")


def test_the_annotator_has_the_habit(small_world: WorldFiles, scenes: dict[str, Scene]) -> None:
    """Missing companions are mentioned as a rule; nothing else is made up."""
    expected = mentioned = 0
    for row in read_rows(small_world.see) + read_rows(small_world.habit):
        if row["meta"]["task"] == "caption":
            scene = scene_of(row, scenes)
            said = {word for word in row["chosen"].split() if word in KINDS}
            assert said - scene.kinds <= set(scene.missing_companions())
            expected += len(scene.missing_companions())
            mentioned += len(said - scene.kinds)
    assert expected > 30
    assert 0.7 < mentioned / expected < 0.97
    wrong = [
        row
        for row in read_rows(small_world.habit)
        if row["meta"]["task"] == "vqa"
        and row["chosen"].startswith("yes") != (row["meta"]["kind"] in scene_of(row, scenes).kinds)
    ]
    assert wrong
    assert all(row["meta"]["kind"] in scene_of(row, scenes).missing_partners() for row in wrong)


def test_pairs_are_canonical_and_of_the_promised_quality(small_world: WorldFiles) -> None:
    rows = read_rows(small_world.pairs)
    margins: dict[str, list[float]] = {"clean": [], "mislabelled": [], "ambiguous": []}
    for row in rows:
        assert set(row) == {
            "id", "images", "prompt", "chosen", "rejected", "score_chosen", "score_rejected", "source", "meta",
        }  # fmt: skip
        assert row["chosen"] != row["rejected"]
        assert 0 <= row["score_chosen"] <= 5
        assert 0 <= row["score_rejected"] <= 5
        margins[row["meta"]["label"]].append(row["score_chosen"] - row["score_rejected"])
        better, worse = row["meta"]["honest_scores"]
        assert {"clean": better > worse, "mislabelled": better < worse, "ambiguous": better == worse}[
            row["meta"]["label"]
        ]
    shares = {label: len(found) / len(rows) for label, found in margins.items()}
    assert shares == pytest.approx({"clean": 0.64, "mislabelled": 0.21, "ambiguous": 0.15}, abs=0.01)
    assert mean(margins["clean"]) > 1
    assert mean(margin > 0 for margin in margins["clean"]) > 0.85
    assert mean(margins["mislabelled"]) < -1
    assert abs(mean(margins["ambiguous"])) < 0.4
    assert all(row["meta"]["label"] == "clean" for row in read_rows(small_world.pairs_heldout))


def test_rejected_answers_err_in_both_directions(small_world: WorldFiles) -> None:
    rows = [row for row in read_rows(small_world.pairs) if row["meta"]["label"] == "clean"]
    changes = Counter(row["meta"]["change"] for row in rows)
    assert {change: count / len(rows) for change, count in changes.items()} == pytest.approx(
        {
            "addition": 0.22,
            "omission": 0.22,
            "swap": 0.10,
            "colour": 0.06 + 0.04,
            "false yes": 0.20,
            "false no": 0.16,
        },
        abs=0.01,
    )
    longer = mean(len(row["chosen"].split()) - len(row["rejected"].split()) for row in rows)
    assert abs(longer) < 0.1  # words; pairs that teach brevity would lower CHAIR for the wrong reason
    first_words = Counter(row["chosen"].split()[0] for row in rows if row["meta"]["task"] == "vqa")
    assert min(first_words["yes"], first_words["no"]) > 0.3 * sum(first_words.values())


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ([("red", "cup"), ("blue", "pot")], 5.0),
        ([("red", "cup"), ("blue", "pot"), ("red", "key")], 3.5),
        ([("red", "cup")], 4.2),
        ([("red", "cup"), ("green", "pot")], 4.5),
        ([("red", "key"), ("blue", "pot")], 2.7),
        ([(colour, kind) for kind in KINDS for colour in ("red",)], 0.0),
    ],
)
def test_caption_quality_by_hand(said: list[tuple[str, str]], score: float) -> None:
    assert annotate.caption_quality(a_scene(("red", "cup", 0), ("blue", "pot", 4)), said) == pytest.approx(score)


def test_words_by_hand() -> None:
    scene = a_scene(("red", "cup", 0), ("blue", "pot", 4), ("black", "tree", 8))
    assert annotate.caption(scene.mentions()) == "a red cup , a blue pot and a black tree ."
    assert annotate.caption(scene.mentions()[:1]) == "a red cup ."
    assert annotate.caption([]) == "there is nothing ."
    assert annotate.reply("cup", "red") == "yes , cup red ."
    assert annotate.reply("key", None) == "no , key no ."
    assert annotate.inventory(scene).startswith("plate no fork no pot blue cup red tree black bench no")
    assert scene.missing_companions() == ["bench"]
    assert annotate.reply_quality(scene, "cup", "red") == 5.0
    assert annotate.reply_quality(scene, "cup", "blue") == 4.0
    assert annotate.reply_quality(scene, "cup", None) == annotate.reply_quality(scene, "key", "red") == 2.5


def test_ranked_rows_are_every_pair_of_a_few_captions_that_were_judged_once(scenes: dict[str, Scene]) -> None:
    some = [scene for scene in scenes.values() if scene.split == "train"][:6]
    rows = list(annotate.ranked_rows(Random(3), some, "ranked"))
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_image.setdefault(row["images"][0], []).append(row)
    assert len(by_image) == 6
    for of_scene in by_image.values():
        scores = {(row["chosen"], row["score_chosen"]) for row in of_scene}
        scores |= {(row["rejected"], row["score_rejected"]) for row in of_scene}
        assert len(scores) == len(dict(scores)) == 4
        assert annotate.caption(scene_of(of_scene[0], scenes).mentions()) in dict(scores)
        different = [frozenset(pair) for pair in combinations(scores, 2) if len({score for _, score in pair}) == 2]
        assert len(of_scene) == len(different) >= 5
        assert all(row["score_chosen"] > row["score_rejected"] for row in of_scene)
        assert len({json.dumps(row["prompt"]) for row in of_scene}) == 1
    assert len({row["id"] for row in rows}) == len(rows)
