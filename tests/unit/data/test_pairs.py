"""Every row is a pair or is quarantined with a reason; the counts always add up."""

from __future__ import annotations

import base64
import copy
import datetime
import json
import logging
import math
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpref.data import ImageLoader, Quarantine, RowError, load_pairs, pair_from_row, pair_to_row, write_pairs
from mmpref.errors import DataError
from mmpref.records import ImageRef, PreferencePair

Row = dict[str, Any]


def row(**changes: Any) -> Row:
    """A good row with one image; a value of ``...`` removes the key."""
    found: Row = {
        "id": "a1",
        "images": ["a.png"],
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is here?"}]}],
        "chosen": "A red cup.",
        "rejected": "A red cup and a dog.",
        "score_chosen": 8,
        "score_rejected": 3.5,
    }
    found.update(changes)
    return {key: value for key, value in found.items() if value is not ...}


def turn(role: str, *parts: str) -> Row:
    """A message; the part ``<image>`` is an image place."""
    content = [{"type": "image"} if part == "<image>" else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content}


def read(found: Row) -> PreferencePair:
    return pair_from_row(found, source="file.jsonl", line=7)


def jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in rows), encoding="utf-8")
    return path


def test_a_good_row_keeps_every_field() -> None:
    pair = read(row(response_prefix="I see", source="cups", meta={"theme": "kitchen"}, rejected_images=["b.png"]))
    assert (pair.id, pair.images, pair.rejected_images) == ("a1", (ImageRef("a.png"),), (ImageRef("b.png"),))
    assert [part.kind for part in pair.prompt[0].parts] == ["image", "text"]
    assert (pair.chosen, pair.rejected, pair.response_prefix) == ("A red cup.", "A red cup and a dog.", "I see")
    assert (pair.score_chosen, pair.score_rejected, pair.source) == (8.0, 3.5, "cups")
    assert pair.meta == {"theme": "kitchen"}
    assert pickle.loads(pickle.dumps(pair)) == pair


def test_defaults() -> None:
    pair = read(row(score_chosen=..., score_rejected=None, rejected=..., id=12))
    assert (pair.id, pair.rejected, pair.score_chosen, pair.source) == ("12", None, None, "file.jsonl")
    text = read(row(images=..., prompt=[{"role": "user", "content": "Hello"}]))
    assert (text.images, text.prompt[0].text) == ((), "Hello")


VIDEO_TURN: Row = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}

GOOD: dict[str, Row] = {
    "several turns": row(
        prompt=[
            turn("system", "Be brief."),
            turn("user", "<image>", "Hi"),
            turn("assistant", "Yes?"),
            turn("user", "More"),
        ]
    ),
    "two images": row(images=["a", "b"], prompt=[turn("user", "<image>", "and", "<image>")]),
    "placeholder as text": row(prompt=[turn("user", "<image>", "what does <image> mean?")], chosen="<image> is a tag"),
    "same answers, other image": row(rejected="A red cup.", rejected_images=["b.png"]),
    "embedded bytes": row(images=[{"bytes": base64.b64encode(b"abc").decode(), "path": None}]),
    "raw bytes": row(images=[b"abc"]),
    "path in a mapping": row(images=[{"path": "a.png", "bytes": None}]),
    "part filled with none": row(
        prompt=[{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "x"}]}]
    ),
    "tied and inverted scores": row(score_chosen=1, score_rejected=1),
    "unstripped answer": row(chosen=" A red cup. \n"),
    "a video": row(images=[], prompt=[VIDEO_TURN], videos=["a.mp4"]),
    "a video as parquet has it": row(images=[], prompt=[VIDEO_TURN], videos=[{"path": "a.mp4", "frames": None}]),
    "frames": row(images=[], prompt=[VIDEO_TURN], videos=[{"frames": ["1.png", "2.png"], "fps": 2}]),
    "frames embedded": row(images=[], prompt=[VIDEO_TURN], videos=[{"frames": [{"bytes": "YWJj"}], "fps": None}]),
    "image and videos": row(
        prompt=[
            {
                "role": "user",
                "content": [{"type": "video", "index": 0}, {"type": "image"}, {"type": "video", "index": 1}],
            }
        ],
        videos=["b.mp4", "a.mp4"],
    ),
    "other scripts": row(chosen="Ένα κόκκινο φλιτζάνι ☕", rejected="赤いカップと犬"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_rows_survive_a_round_trip(name: str) -> None:
    pair = read(GOOD[name])
    assert pair_from_row(json.loads(json.dumps(pair_to_row(pair))), source="elsewhere", line=1) == pair


BAD: list[tuple[str, Row]] = [
    ("id", row(id=...)),
    ("id", row(id=" ")),
    ("id", row(id=True)),
    ("id", row(id=1.5)),
    ("id", row(id=10**5000)),
    ("unknown_key", row(scores=[1, 2])),
    ("unknown_key", row(choosen="A cup")),
    ("images", row(images="a.png")),
    ("images", row(images=[""])),
    ("images", row(images=[3])),
    ("images", row(images=[{"bytes": "not base64!"}])),
    ("images", row(images=[{"url": "x"}])),
    ("image_count", row(images=[])),
    ("image_count", row(images=["a", "b"])),
    ("image_count", row(prompt=[turn("user", "no image")])),
    ("image_place", row(prompt=[turn("system", "<image>"), turn("user", "x")])),
    ("rejected_images", row(rejected=..., rejected_images=["b.png"])),
    ("prompt", row(prompt=...)),
    ("prompt", row(prompt="What is here?")),
    ("prompt", row(prompt=[])),
    ("prompt", row(prompt=["What is here?"])),
    ("prompt", row(prompt=[{"role": "user"}])),
    ("prompt", row(prompt=[{"role": "user", "content": "x", "weight": 1}])),
    ("prompt", row(prompt=[{"role": "user", "content": 3}])),
    ("image_count", row(prompt=[{"role": "user", "content": [{"type": "video"}]}])),
    ("video_count", row(images=[], prompt=[VIDEO_TURN])),
    ("video_count", row(images=[], prompt=[VIDEO_TURN], videos=["a.mp4", "b.mp4"])),
    ("video_count", row(videos=["a.mp4"])),
    ("video_place", row(images=[], prompt=[{**VIDEO_TURN, "role": "system"}, turn("user", "x")], videos=["a.mp4"])),
    (
        "video_place",
        row(images=[], prompt=[{"role": "user", "content": [{"type": "video", "index": 1}]}], videos=["a"]),
    ),
    ("video", row(images=[], prompt=[{"role": "user", "content": [{"type": "video", "start": 2}]}], videos=["a"])),
    *[
        ("videos", row(images=[], prompt=[VIDEO_TURN], videos=value))
        for value in (
            "a.mp4",
            [""],
            [3],
            [b"mp4"],
            [["a.png"]],
            [{"frames": []}],
            [{"frames": "a.png"}],
            [{"bytes": b"mp4"}],
            [{"frames": ["a.png"], "fps": 0}],
            [{"frames": ["a.png"], "fps": 1e-30}],
            [{"frames": ["a.png"], "fps": 1e300}],
            [{"frames": ["a.png"], "fps": True}],
            [{"frames": ["a.png"], "fps": "2"}],
            [{"frames": ["a.png"], "fps": float("nan")}],
            [{"frames": ["a.png"], "start": 1}],
            [{"path": "a.mp4", "frames": ["a.png"]}],
            [{"path": "a.mp4", "fps": 2}],
        )
    ],
    ("images", row(images=[], prompt=[VIDEO_TURN], videos=[{"frames": [""]}])),
    ("prompt", row(prompt=[{"role": "user", "content": [{"type": "text", "text": 3}]}])),
    ("prompt", row(prompt=[{"role": "user", "content": [{"type": "image", "image": "b.png"}]}])),
    ("empty_turn", row(prompt=[turn("user", " ")], images=[])),
    ("empty_turn", row(prompt=[{"role": "user", "content": []}], images=[])),
    ("roles", row(prompt=[turn("human", "<image>", "x")])),
    ("roles", row(prompt=[turn("system", "x")], images=[])),
    ("roles", row(prompt=[turn("assistant", "x"), turn("user", "<image>")])),
    ("roles", row(prompt=[turn("user", "<image>"), turn("user", "x")])),
    ("roles", row(prompt=[turn("user", "<image>"), turn("system", "x"), turn("user", "x")])),
    ("roles", row(prompt=[turn("user", "<image>"), turn("assistant", "x")])),
    ("answer", row(chosen=...)),
    ("answer", row(chosen=None)),
    ("answer", row(rejected=["A cup"])),
    ("empty_response", row(chosen="")),
    ("empty_response", row(rejected=" \n\t")),
    ("empty_response", row(chosen="</s>")),
    ("empty_response", row(chosen=" <|im_end|>\n<|endoftext|>")),
    ("empty_response", row(rejected="\u200b\ufeff\u200e")),
    ("identical_pair", row(rejected="A red cup.")),
    ("identical_pair", row(rejected=" A red cup.\n")),
    ("identical_pair", row(chosen="caf\u00e9", rejected="cafe\u0301")),
    ("identical_pair", row(rejected="A red cup.", rejected_images=["a.png"])),
    ("score", row(score_chosen="8")),
    ("score", row(score_chosen="N/A")),
    ("score", row(score_chosen=True)),
    ("score", row(score_rejected=math.nan)),
    ("score", row(score_rejected=math.inf)),
    ("score", row(score_rejected=-math.inf)),
    ("score", row(score_rejected=10**400)),
    ("score_one_side", row(score_chosen=None)),
    ("score_one_side", row(score_rejected=...)),
    ("response_prefix", row(response_prefix=3)),
    ("source", row(source=["a"])),
    ("meta", row(meta="x")),
    ("text_encoding", row(chosen="half \ud83d")),
    ("text_encoding", row(prompt=[turn("user", "<image>", "\udc00")])),
]


@pytest.mark.parametrize(("reason", "bad"), BAD, ids=[f"{reason}-{place}" for place, (reason, _) in enumerate(BAD)])
def test_bad_rows_are_refused_with_a_reason_and_their_place(reason: str, bad: Row) -> None:
    with pytest.raises(RowError) as caught:
        read(bad)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("file.jsonl, row 7")
    assert len(str(caught.value)) < 1000


def test_the_message_names_the_unknown_key_and_the_row() -> None:
    with pytest.raises(RowError, match=r"file\.jsonl, row 7 \(id 'a1'\): unknown key 'choosen'; known: id, images"):
        read(row(choosen="x"))


def test_image_counts_that_cancel_out_across_rows_are_both_caught(tmp_path: Path) -> None:
    """A check of totals would give the second row's image to the first."""
    one = row(id="one", prompt=[turn("user", "<image>", "<image>", "two places")])
    two = row(id="two", prompt=[turn("user", "no place")])
    quarantine = Quarantine()
    path = jsonl(tmp_path / "pairs.jsonl", [one, two, row(id="three")])
    pairs = load_pairs([path], allow_demonstrations=False, quarantine=quarantine, max_bad_fraction=1)
    assert [pair.id for pair in pairs] == ["three"]
    assert quarantine.counts == {"image_count": 2}


def test_load_counts_and_writes_every_bad_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "mixed.jsonl"
    lines = [
        "\ufeff" + json.dumps(row(id="first")) + "\r",
        "",
        "   ",
        json.dumps(row(id="bad", chosen="")),
        '{"id": "cut", "images": [',
        "[1, 2]",
        json.dumps(row(id="nan")).replace("3.5", "NaN"),
        '{"id": "x", "id": "y"}',
        json.dumps(row(id="last")),
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe broken\n")
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl")
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs([path], allow_demonstrations=False, quarantine=quarantine, max_bad_fraction=1)
    assert [pair.id for pair in pairs] == ["first", "last"]
    assert (quarantine.num_read, quarantine.num_used, len(quarantine)) == (8, 2, 6)
    written = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert [(item["line"], item["id"], item["reason"]) for item in written] == [
        (4, "bad", "empty_response"),
        (5, None, "json"),
        (6, None, "not_an_object"),
        (7, None, "json"),
        (8, None, "json"),
        (10, None, "encoding"),
    ]
    assert {(item["source"], item["file"]) for item in written} == {("mixed", str(path))}
    assert sum("8 rows read, 2 used, 6 quarantined" in record.message for record in caplog.records) == 1


def test_too_many_bad_rows_stop_the_load_and_the_first_five_are_listed(tmp_path: Path) -> None:
    rows = [row(id=f"r{place}", chosen="" if place < 7 else "fine") for place in range(100)]
    path = jsonl(tmp_path / "pairs.jsonl", rows)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    with pytest.raises(DataError) as caught:
        load_pairs([path], allow_demonstrations=False, quarantine=quarantine)
    message = str(caught.value)
    assert "7 of 100 rows cannot be used" in message
    assert "(empty_response 7)" in message
    assert message.count(": empty_response: ") == 5
    assert "pairs.jsonl, line 1 (id 'r0')" in message
    assert f"all of them: {tmp_path / 'quarantine.jsonl'}" in message
    assert "and 2 more" in message
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 7


def test_the_allowed_share_of_bad_rows_is_a_limit_and_not_a_ban(tmp_path: Path) -> None:
    rows = [row(id=f"r{place}", chosen="" if place == 0 else "fine") for place in range(1000)]
    path = jsonl(tmp_path / "pairs.jsonl", rows)
    assert len(load_pairs([path], allow_demonstrations=False, quarantine=Quarantine())) == 999
    path = jsonl(tmp_path / "fewer.jsonl", rows[:999])
    with pytest.raises(DataError, match="1 of 999"):
        load_pairs([path], allow_demonstrations=False, quarantine=Quarantine())


def test_duplicate_ids_are_an_error_that_names_both_places(tmp_path: Path) -> None:
    one = jsonl(tmp_path / "one.jsonl", [row(id="x"), row(id="y")])
    two = jsonl(tmp_path / "two.jsonl", [row(id="z"), row(id="x")])
    with pytest.raises(DataError, match=r"'x' in .*one\.jsonl, line 1 and in .*two\.jsonl, line 2"):
        load_pairs([one, two], allow_demonstrations=False, quarantine=Quarantine())


def test_demonstrations_are_used_only_where_asked_for(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "pairs.jsonl", [row(id="pair"), row(id="demo", rejected=...)])
    pairs = load_pairs([path], allow_demonstrations=True, quarantine=Quarantine())
    assert [pair.rejected is None for pair in pairs] == [False, True]
    with pytest.raises(DataError, match="no_rejected"):
        load_pairs([path], allow_demonstrations=False, quarantine=Quarantine())


def test_with_a_loader_bad_images_are_quarantined_before_training(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "tiny.png")
    images = ["a.png", "absent.png", "tiny.png", "http://example.org/a.png", "../a.png"]
    path = jsonl(tmp_path / "pairs.jsonl", [row(id=name, images=[name]) for name in images])
    quarantine = Quarantine()
    loader = ImageLoader(tmp_path)
    pairs = load_pairs([path], allow_demonstrations=False, quarantine=quarantine, max_bad_fraction=1, images=loader)
    assert [pair.id for pair in pairs] == ["a.png"]
    assert [item.reason for item in quarantine.rows] == [
        "image_missing",
        "image_small",
        "image_url",
        "image_outside_root",
    ]


def test_nothing_usable_and_no_file_are_errors(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="no usable row"):
        load_pairs([empty], allow_demonstrations=False, quarantine=Quarantine())
    with pytest.raises(DataError, match="does not exist"):
        load_pairs([tmp_path / "absent.jsonl"], allow_demonstrations=False, quarantine=Quarantine())
    with pytest.raises(DataError, match="no usable row"):
        load_pairs([tmp_path], allow_demonstrations=False, quarantine=Quarantine())


def test_write_pairs_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out" / "pairs.jsonl"
    pairs = [read(found) for found in GOOD.values() if found["images"] != [b"abc"]]
    pairs = [read({**pair_to_row(pair), "id": f"n{place}"}) for place, pair in enumerate(pairs)]
    write_pairs(path, pairs)
    assert load_pairs([path], allow_demonstrations=False, quarantine=Quarantine()) == pairs
    before = path.read_bytes()
    with pytest.raises(DataError, match="cannot be written as JSON"):
        write_pairs(path, [*pairs, read(row(meta={"x": "\ud800"}))])
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["pairs.jsonl"]


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.none(), max_size=2),
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a row."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for key, child in children for path in places(child, (*here, key)))]


def damage(found: Row, path: tuple[Any, ...], junk: Any) -> Row:
    """The row with one value replaced, or removed where the junk is None."""
    found = copy.deepcopy(found)
    holder: Any = found
    for key in path[:-1]:
        holder = holder[key]
    if junk is not None:
        holder[path[-1]] = junk
    elif path[-1] in holder or isinstance(holder, list):
        del holder[path[-1]]
    return found


@st.composite
def damaged_lines(draw: st.DrawFn) -> bytes:
    found = copy.deepcopy(draw(st.sampled_from([item for name, item in GOOD.items() if name != "raw bytes"])))
    found["id"] = draw(st.uuids()).hex
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from([path for path in places(found) if path] or [("id",)]))
        found = damage(found, path, None if draw(st.booleans()) else draw(JUNK))
    line = json.dumps(found, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        at = draw(st.integers(0, len(line)))
        line = (
            line[:at]
            + draw(st.sampled_from([b"", b"\xff", b"\x00", b'"', b"{", b"NaN"]))
            + line[at + draw(st.integers(0, 3)) :]
        )
    return line.replace(b"\n", b" ").replace(b"\r", b" ")


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(damaged_lines(), min_size=1, max_size=8))
def test_every_damaged_row_is_a_pair_or_in_quarantine(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    try:
        pairs = load_pairs([path], allow_demonstrations=True, quarantine=quarantine, max_bad_fraction=1)
    except DataError:  # two rows with one id, or no good row
        pairs = []
    rows = sum(bool(line.removeprefix(b"\xef\xbb\xbf").strip()) for line in lines)
    assert quarantine.num_read == rows
    assert quarantine.num_used + len(quarantine) == rows
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == len(quarantine)
    for pair in pairs:
        assert pair.chosen.strip()
        assert sum(message.num_images for message in pair.prompt) == len(pair.images)
        assert pair_from_row(json.loads(json.dumps(pair_to_row(pair))), source="fuzz", line=1) == pair


def test_columns_that_json_has_no_form_for_are_written_all_the_same(tmp_path: Path) -> None:
    """A parquet file that pandas wrote: a time, bytes, and NaN where a column has no value."""
    meta = {
        "when": datetime.date(2024, 5, 1),
        "blob": b"ab",
        "none": math.nan,
        "most": math.inf,
        "cost": Decimal("1.5"),
    }
    pair = pair_from_row(row(meta=meta), source="s", line=1)
    write_pairs(tmp_path / "pairs.jsonl", [pair])
    (again,) = load_pairs([tmp_path / "pairs.jsonl"], allow_demonstrations=False, quarantine=Quarantine())
    assert again.meta == {"when": "2024-05-01", "blob": "YWI=", "none": None, "most": "inf", "cost": "1.5"}
