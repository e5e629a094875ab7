"""Columns that change a pair, from a file to what training, checks and comparisons see of it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from mmpref.data.audit.text import TextTally
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import PairSource, load_pairs
from mmpref.data.manifest import Listing
from mmpref.data.pairs import pair_from_row, pair_to_row
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.data.reading.source import open_source
from mmpref.records import PreferencePair
from tests.unit.data.formats.more_rows import ANSWERS, Row, said
from tests.unit.data.formats.test_formats import ROWS, read

ZOOM = {"type": "function", "function": {"name": "zoom", "parameters": {"properties": {"x": {"type": "number"}}}}}
CUT = {"type": "function", "function": {"name": "cut", "strict": True}}


def written(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path, **options: float) -> tuple[list[PreferencePair], Quarantine]:
    quarantine = Quarantine()
    return load_pairs([path], allow_demonstrations=False, quarantine=quarantine, **options), quarantine


def test_what_a_parquet_writer_fills_in_says_nothing(tmp_path: Path) -> None:
    def message(text: str) -> list[Row]:
        return [said("assistant", [{"type": "text", "index": None, "text": text}])]

    image = [{"type": "image", "index": 0, "text": None}, {"type": "text", "index": None, "text": "What?"}]
    plain = [{"type": "text", "index": None, "text": "What?"}]
    answers = {"chosen": message("a"), "rejected": message("b"), "video": None}
    rows = [
        {"prompt": [said("user", image)], "images": [{"bytes": b"x", "path": None}], "tools": [ZOOM], **answers},
        {"prompt": [said("user", plain)], "images": [], "tools": [CUT], **answers},
        {"prompt": [said("user", plain)], "images": None, "tools": None, **answers},
    ]
    rows[0]["objects"] = {"ref": [], "bbox": []}
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pairs, quarantine = loaded(tmp_path / "rows.parquet")
    assert [pair.template_kwargs for pair in pairs] == [{"tools": [ZOOM]}, {"tools": [CUT]}, None]
    assert [len(pair.images) for pair in pairs] == [1, 0, 0]
    assert not quarantine.left_over


def test_the_start_of_training_names_what_nothing_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": f"{n}?", "origin": "web", "img": "a.png", **ANSWERS} for n in range(3)]
    with caplog.at_level(logging.WARNING):
        pairs, quarantine = loaded(written(tmp_path / "rows.jsonl", [*rows, {"prompt": "x", "note": 1, **ANSWERS}]))
    assert dict(quarantine.left_over) == {"origin": 3, "note": 1}
    (line,) = [record.getMessage() for record in caplog.records if "nothing is read" in record.getMessage()]
    assert line.endswith("(rows): origin (3), note (1)")
    assert [len(pair.images) for pair in pairs] == [1, 1, 1, 0]


def test_a_url_is_an_image_that_has_to_be_fetched_first() -> None:
    pair = read({"prompt": "What?", "image_url": "https://example.org/a.jpg", **ANSWERS})
    with pytest.raises(RowError, match="mmpref data fetch") as caught:
        ImageLoader(None).size(pair.images[0])
    assert caught.value.reason == "image_url"


def test_a_canonical_file_takes_template_kwargs_and_columns_of_one_meaning(tmp_path: Path) -> None:
    row = {"id": "1", "prompt": [said("user", "What?")], **ANSWERS}
    switch = {"enable_thinking": False}
    rows = [
        {**row, "template_kwargs": {"tools": [ZOOM], **switch}},
        {**row, "id": "2", "tools": [ZOOM], "chat_template_kwargs": switch},
        {**row, "id": "3", "template_kwargs": json.dumps({"tools": [ZOOM], **switch})},
        {**row, "id": "4", "template_kwargs": {}},
    ]
    path = written(tmp_path / "rows.jsonl", rows)
    for name in ("auto", "canonical"):
        source = PairSource(rows=open_source(path), format=name)
        pairs = [found.pair for found in source.pairs(Quarantine(), demonstrations=False)]
        assert [pair.template_kwargs for pair in pairs] == [{"tools": [ZOOM], **switch}] * 3 + [None]
        assert pair_from_row(pair_to_row(pairs[0]), source="rows", line=1) == pairs[0]
    for wrong in ([1], "x", {"a": float("nan")}, {"a": b"x"}):
        with pytest.raises(RowError) as caught:
            pair_from_row({**row, "template_kwargs": wrong}, source="rows", line=1)
        assert caught.value.reason == "template_kwargs"


def test_pairs_that_differ_in_their_tools_are_two() -> None:
    plain = read(ROWS["canonical"])
    armed = replace(plain, id="2", template_kwargs={"tools": [ZOOM]})
    listings = [Listing(), Listing()]
    for listing, pair in zip(listings, (replace(plain, id="2"), armed), strict=True):
        listing.add_pair(pair, None)
    assert listings[0].pairs != listings[1].pairs
    assert plain != replace(plain, template_kwargs={"tools": [ZOOM]})


def test_the_audit_takes_the_same_question_with_other_tools_for_another() -> None:
    plain = read(ROWS["canonical"])
    same, armed = replace(plain, id="2"), replace(plain, id="3", template_kwargs={"tools": [ZOOM]})
    audit = TextTally(seed=0)
    for pair in (plain, same, armed):
        audit.add(pair, images=("a.png",))
    found = audit.repeats()
    assert (found.num_questions, found.num_same_pair) == (2, 1)
