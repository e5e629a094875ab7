"""Cards are typed documents, and every card's rows are read by the format it names."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmpref.data import card as card_module
from mmpref.data.card import Card, list_cards, load_card, parse_card
from mmpref.data.formats import FORMATS, detect, format_named, to_canonical
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError, DataError
from mmpref.records import PreferencePair

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures" / "cards"
CARDS = {card.name: card for card in list_cards()}

# card -> pairs of its four rows, and the rows that give none, by reason
EXPECTED: dict[str, dict[str, int]] = {
    "bpo": {"pair": 5},
    "demo_world": {"pair": 4},
    "gemma2_ultrafeedback_armorm": {"pair": 3, "score_place": 1},
    "ha_dpo": {"pair": 4, "no_pair": 1},
    "llama3_ultrafeedback": {"pair": 3, "no_pair": 1},
    "llama3_ultrafeedback_armorm": {"pair": 3, "no_pair": 1},
    "llava_rlhf": {"pair": 3, "preference": 1},
    "mm_rlhf": {"pair": 3, "no_pair": 1},
    "mmpr": {"pair": 4},
    "omnialign_v_dpo": {"pair": 3, "image_count": 1},
    "povid": {"pair": 3, "prompt_differs": 1},
    "rlaif_v": {"pair": 4},
    "rlhf_v": {"pair": 3, "json_text": 1},
    "sentinel": {"pair": 4},
    "spa_vl": {"pair": 4},
    "tpo": {"pair": 4},
    "ultrafeedback_binarized": {"pair": 3, "prompt_differs": 1},
    "uni_dpo_math": {"pair": 3, "chat_markup": 1},
    "uni_dpo_multimodal": {"pair": 4},
    "uni_dpo_textual": {"pair": 4},
    "vlfeedback": {"pair": 11, "rating": 1, "no_pair": 1},
}
FIRST_IMAGE = {
    "bpo": "coco/train2017/000000000000.jpg",
    "ha_dpo": "11.jpg",
    "povid": "COCO_train2014_000000000000.jpg",
    "uni_dpo_multimodal": "long/0.jpg",
    "vlfeedback": "harbour/0.jpg",
}


def rows_of(name: str) -> list[dict[str, Any]]:
    (file,) = FIXTURES.glob(f"{name}.*")
    content = file.read_text(encoding="utf-8")
    found = json.loads(content) if file.suffix == ".json" else [json.loads(line) for line in content.splitlines()]
    assert isinstance(found, list)
    return found


def read_all(card: Card, rows: list[dict[str, Any]]) -> tuple[list[PreferencePair], Counter[str]]:
    pairs, counts = [], Counter[str]()
    for number, row in enumerate(rows, start=1):
        try:
            found = to_canonical(row, card.format, card.options(), place=f"{card.name}:{number}")
            pairs += [pair_from_row(item, source=card.name, line=number) for item in found]
            counts["pair" if found else "no_pair"] += max(len(found), 1)
        except RowError as fault:
            counts[fault.reason] += 1
    return pairs, counts


def test_every_card_has_a_fixture_and_an_expectation() -> None:
    assert set(EXPECTED) == set(CARDS) == {file.stem for file in FIXTURES.iterdir()}


@pytest.mark.parametrize("name", CARDS)
def test_the_four_rows_of_a_card_become_the_expected_pairs(name: str) -> None:
    card = CARDS[name]
    rows = rows_of(name)
    assert len(rows) == 4
    pairs, counts = read_all(card, rows)
    assert counts == EXPECTED[name]
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert {pair.source for pair in pairs} == {name}
    assert all((pair.score_chosen is not None) == (card.scores is not None) for pair in pairs)
    if card.scores is not None and card.scores.scale is not None:
        low, high = card.scores.scale
        for pair in pairs:
            assert pair.score_chosen is not None
            assert low <= pair.score_chosen <= high
    assert all(bool(pair.images or pair.videos) == (card.images.kind != "none") for pair in pairs)
    assert (card.images.kind == "bytes") == any(image.data for pair in pairs for image in pair.images)
    if name in FIRST_IMAGE:
        assert pairs[0].images[0].path == FIRST_IMAGE[name]


@pytest.mark.parametrize("name", CARDS)
def test_the_rows_of_a_card_are_told_by_their_keys(name: str) -> None:
    wanted = format_named(CARDS[name].format).name
    found = {detect(row).name for row in rows_of(name)}
    # a placeholder in the prompt makes the two readers agree: it says where the image stands
    assert found <= {wanted, "qwen_vl_finetune"} if wanted == "omnialign_v" else found == {wanted}


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.images.kind == "bytes"])
def test_images_inside_parquet_are_read(name: str, tmp_path: Path) -> None:
    rows = rows_of(name)
    for row in rows:
        row["image"] = {"bytes": base64.b64decode(row["image"]["bytes"]), "path": row["image"]["path"]}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    again = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    pairs, counts = read_all(CARDS[name], again)
    assert counts == EXPECTED[name]
    assert ImageLoader(None).size(pairs[0].images[0]) == (16, 16)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_says_what_it_must(name: str) -> None:
    card = CARDS[name]
    assert load_card(name) == card
    assert format_named(card.format).name in FORMATS
    assert card.text.startswith("# ")
    if card.on_hub:
        assert card.revision is None or re.fullmatch(r"[0-9a-f]{40}", card.revision)
        assert {"license", "format"} & set(card.sure)
        assert "verify" in card.text.lower() or "assumed" not in card.sure.values()
    if card.images.kind == "own_root":
        assert card.images.root
    if card.scores is not None and card.scores.eta is not None and card.on_hub:
        assert card.scores.origin
    facts = dict(card.facts())
    assert facts["format"].startswith(card.format)
    assert all("\n" not in line for line in facts.values())


def front(**changes: str | None) -> str:
    """A card's text with other lines in its front matter; None removes one."""
    lines = {
        "name": "x",
        "summary": "Invented",
        "source": "someone/x",
        "revision": "null",
        "license": "MIT",
        "commercial_use": "yes",
        "size": "{train: 4}",
        "format": "trl",
        "fields": "{}",
        "images": "paths",
        "scores": "{kind: judge, scale: [1, 5], eta: 0.7}",
        "defects": "{}",
        "leaks": "not checked",
        "expected": "{train: {read: 4, used: 3, quarantined: 1, reasons: {tie: 1}}}",
        "sure": "{size: measured}",
    } | changes
    return "---\n" + "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None) + "---\n\n# X\n"


def test_a_card_is_typed() -> None:
    card = parse_card(front(), where="card x")
    assert (card.commercial_use, card.images.kind, card.leaks.note) == ("yes", "paths", "not checked")
    assert card.scores is not None
    assert card.scores.scale == (1.0, 5.0)
    assert (card.expected["train"].quarantined, card.expected["train"].reasons) == (1, {"tie": 1})
    assert parse_card(front(scores="null"), where="card x").scores is None
    rooted = parse_card(front(images="{kind: own_root, root: COCO, path_after: coco}"), where="card x")
    assert (rooted.options().image_after, rooted.options().source) == ("coco", "x")


BROKEN: list[tuple[str, str]] = [
    (front(licence="MIT"), "unknown key 'licence', did you mean 'license'?"),
    (front(summary=None), "missing key 'summary'"),
    (front(name="3"), "'name' must be text, got '3'"),
    (front(commercial_use="true"), "'commercial_use' must be yes or no or unclear"),
    (front(size="{train: 1.5}"), "'size.train' must be a whole number"),
    (front(size="4"), "'size' must be a mapping"),
    (front(images="{kind: films}"), "'images.kind' must be none or paths"),
    (front(images="{kind: paths, rot: x}"), "unknown key 'images.rot', did you mean 'images.root'?"),
    (front(scores="{scale: [1, 5]}"), "missing key 'scores.kind'"),
    (front(scores="{kind: judge, scale: [5, 1]}"), "'scores.scale' must be [lowest, highest]"),
    (front(scores="{kind: judge, scale: [1, 3, 5]}"), "'scores.scale' must be a list"),
    (front(scores="{kind: judge, eta: high}"), "'scores.eta' must be a number, got 'high'"),
    (front(expected="{train: {read: 4, used: 4, quarantined: 1}}"), "read must be used + quarantined"),
    (front(expected="{train: {red: 4}}"), "unknown key 'expected.train.red', did you mean 'expected.train.read'?"),
    (front(commercial_use="{a: b}"), "'commercial_use' must be yes or no or unclear, got \"{'a': 'b'}\""),
    (front(size="{1: 2}"), "'size' has the key 1, which must be text"),
    (front(fields="{}\n1: x"), "unknown key '1'"),
    (front(images="{kind: zip, files: [a, 3]}"), "'images.files[1]' must be text, got '3'"),
    (front(expected="{train: {read: many}}"), "'expected.train.read' must be a whole number"),
    (front(sure="{size: known}"), "'sure.size' must be measured or read or assumed"),
    (front(sure="{sise: read}"), "'sure' names 'sise'"),
    (front(format="trk"), "unknown format 'trk', did you mean 'trl'?"),
    (front(revision="[1]"), "'revision' must be text"),
    (front(text="x"), "the front matter must be a mapping"),
    ("# no front matter\n", "has no front matter"),
    ("---\nname: x\n", "without its closing line"),
    ("---\n- a\n---\n", "must be a mapping"),
    ("---\nname: {\n---\n", "is not valid YAML"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_wrong_card_is_refused_by_the_name_of_its_key(content: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        parse_card(content, where="card x")


def test_cards_are_found_by_name_or_path(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text(front(), encoding="utf-8")
    assert load_card(path).name == "x"
    assert load_card(str(path)).license == "MIT"
    path.rename(tmp_path / "y.md")
    with pytest.raises(DataError, match="must be the file's name 'y'"):
        load_card(tmp_path / "y.md")
    with pytest.raises(DataError, match=r"absent\.md does not exist; check the path"):
        load_card(tmp_path / "absent.md")
    with pytest.raises(ConfigError, match="no data card 'rlhfv', did you mean 'rlhf_v'"):
        load_card("rlhfv")


def test_cards_of_an_installation_in_a_folder_of_its_own_lie_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "mmpref" / "data_cards"
    folder.mkdir(parents=True)
    (folder / "mine.md").write_text("", encoding="utf-8")
    monkeypatch.setattr(card_module, "__file__", str(tmp_path / "mmpref" / "data" / "card.py"))
    assert card_module._shipped() == {"mine": folder / "mine.md"}
