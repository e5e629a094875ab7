"""What a row says to the loss: other images, weights, labels; each read strictly, and given back as it was written."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.data import Quarantine, RowError, load_pairs, pair_from_row, pair_to_row
from mmpref.data.accepted import accepted_by, check_option
from mmpref.data.pair_source import all_files, all_images, with_paths
from mmpref.data.prompt_groups import PromptTally
from mmpref.errors import ConfigError, DataError
from mmpref.records import ImageRef, PreferencePair, WeightSpan
from tests.unit.data.test_pairs import Row, jsonl, read, row

SINGLE = row(rejected=..., score_chosen=..., score_rejected=..., label=True)

GOOD: dict[str, tuple[Row, Row]] = {
    "another image": (row(other_images=["b.png"]), {"other_images": (ImageRef("b.png"),)}),
    "an embedded one": (
        row(other_images=[{"bytes": base64.b64encode(b"abc").decode()}]),
        {"other_images": (ImageRef(data=b"abc"),)},
    ),
    "both of two others": (
        row(images=["a", "b"], other_images=["b", "a"], prompt=[{"role": "user", "content": [{"type": "image"}] * 2}]),
        {"other_images": (ImageRef("b"), ImageRef("a"))},
    ),
    "none, as parquet fills it": (row(other_images=[None]), {"other_images": None}),
    "a weight": (row(weight=0.25), {"weight": 0.25}),
    "a weight of nothing": (row(weight=0), {"weight": 0.0}),
    "no minus": (row(weight=-0.0), {"weight": 0.0}),
    "one number for an answer": (
        row(chosen_weight=2, rejected_weight=0.5),
        {"chosen_weight": 2.0, "rejected_weight": 0.5},
    ),
    "spans": (
        row(chosen_weight=[[6, 9, 4], {"start": 0, "end": 1, "weight": 0}]),
        {"chosen_weight": (WeightSpan(0, 1, 0.0), WeightSpan(6, 9, 4.0))},
    ),
    "spans with places as tables have them": (
        row(rejected_weight=[[0.0, 5.0, 1.5]]),
        {"rejected_weight": (WeightSpan(0, 5, 1.5),)},
    ),
    "spans that touch": (
        row(chosen_weight=[[0, 2, 3], [2, 3, 4]]),
        {"chosen_weight": (WeightSpan(0, 2, 3.0), WeightSpan(2, 3, 4.0))},
    ),
    "no span": (row(chosen_weight=[]), {"chosen_weight": None}),
    "zero but for a word": (row(chosen_weight=[[0, 9, 0]]), {"chosen_weight": (WeightSpan(0, 9, 0.0),)}),
    "desirable": (SINGLE, {"label": True, "rejected": None}),
    **{
        f"a label as {value!r}": ({**SINGLE, "label": value}, {"label": wanted})
        for value, wanted in ((False, False), (1, True), (0, False), (1.0, True), ("true", True), (" False ", False))
    },
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_said_is_read_and_written_as_it_is(name: str) -> None:
    given_row, wanted = GOOD[name]
    pair = read(given_row)
    assert {key: getattr(pair, key) for key in wanted} == wanted
    assert math.copysign(1, pair.weight) == 1
    assert read(json.loads(json.dumps(pair_to_row(pair)))) == pair


def test_what_is_not_said_is_not_written() -> None:
    assert not {"other_images", "weight", "chosen_weight", "rejected_weight", "label"} & pair_to_row(read(row())).keys()


BAD: list[tuple[str, Row, str]] = [
    ("other_images", row(other_images=["a.png"]), "are the row's own 'images'"),
    ("other_images", row(images=[b"abc"], other_images=[{"bytes": "YWJj"}]), "are the row's own 'images'"),
    ("image_count", row(other_images=["b.png", "c.png"]), "1 image parts and 'other_images' has 2 images"),
    (
        "image_count",
        row(images=[], prompt=[{"role": "user", "content": "Hi"}], other_images=["b.png"]),
        "0 image parts and 'other_images' has 1",
    ),
    ("images", row(other_images="b.png"), "'other_images' must be a list"),
    *[
        ("weight", row(weight=value), "'weight' must be a finite number, at least 0")
        for value in (-1, math.nan, math.inf, 10**400, True, "2", [1])
    ],
    *[
        ("answer_weight", row(chosen_weight=value), "'chosen_weight'")
        for value in (0, -0.0, -1, math.nan, True, "2", {"start": 0, "end": 1, "weight": 1})
    ],
    *[
        ("answer_weight", row(rejected="A red cup and a dog", rejected_weight=value), said)
        for value, said in (
            ([[0, 21, 1]], r"goes from character 0 to 21, and the answer has 19"),
            ([[-1, 2, 1]], "goes from character -1"),
            ([[2, 2, 1]], "goes from character 2 to 2"),
            ([[0, 3, 1], [2, 4, 1]], "overlap: 0 to 3 and 2 to 4"),
            ([[0, 1]], "must be"),
            ([[0, 1, 1, 1]], "must be"),
            (["abc"], "must be"),
            ([3], "must be"),
            ([{"start": 0, "end": 1}], "must be"),
            ([{"start": 0, "end": 1, "weight": 1, "why": ""}], "must be"),
            ([[0.5, 1, 1]], "whole number"),
            ([[0, math.inf, 1]], "whole number"),
            ([[True, 2, 1]], "whole number"),
            ([["0", 2, 1]], "whole number"),
            ([[0, 1, -1]], "at least 0"),
            ([[0, 1, None]], "at least 0"),
            ([[0, 19, 0]], "leaves no token"),
            ([[0, 9, 0], [10, 19, 0.0]], "leaves no token"),
        )
    ],
    ("answer_weight", {**SINGLE, "rejected_weight": 1}, "'rejected_weight' without 'rejected'"),
    ("label", row(label=True), "drop the label, or 'rejected'"),
    *[
        ("label", {**SINGLE, "label": value}, "'label' must be true")
        for value in (2, 0.5, "good", "", math.nan, [True])
    ],
]


@pytest.mark.parametrize(("reason", "bad", "said"), BAD, ids=[f"{bad[0]}-{place}" for place, bad in enumerate(BAD)])
def test_what_means_nothing_is_refused_with_the_key(reason: str, bad: Row, said: str) -> None:
    with pytest.raises(RowError, match=said) as caught:
        read(bad)
    assert caught.value.reason == reason


WEIGHTS = st.floats(0, 1e6) | st.integers(0, 10)
TEXTS = st.text("ab .é犬", min_size=1, max_size=12).map(lambda text: f"x{text}")


@st.composite
def spans(draw: st.DrawFn, text: str) -> Any:
    """Spans of a text that do not overlap, in any order and either form; the first letter counts something."""
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=6)))
    found: list[Any] = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=False):
        weight = draw(WEIGHTS.filter(bool) if start == 0 else WEIGHTS)
        as_list = draw(st.booleans())
        found.append([start, end, weight] if as_list else {"start": start, "end": end, "weight": weight})
    return draw(st.permutations(found))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row with any of the columns."""
    chosen, rejected = draw(TEXTS), draw(TEXTS)
    found = row(chosen=f"{chosen}1", rejected=f"{rejected}2", score_chosen=..., score_rejected=...)
    optional = {
        "other_images": st.sampled_from([["b.png"], [{"bytes": "YWJj"}], [None], None]),
        "weight": WEIGHTS,
        "chosen_weight": WEIGHTS.filter(bool) | spans(found["chosen"]),
    }
    if draw(st.booleans()):
        del found["rejected"]
        optional["label"] = st.sampled_from([True, False, 0, 1, "true", "FALSE", None])
    else:
        optional["rejected_weight"] = WEIGHTS.filter(bool) | spans(found["rejected"])
    for key, values in optional.items():
        if draw(st.booleans()):
            found[key] = draw(values)
    return found


@given(rows())
@settings(max_examples=150, deadline=None)
def test_a_row_read_written_and_read_again_is_the_same_pair(given_row: Row) -> None:
    pair = read(given_row)
    written = pair_to_row(pair)
    assert read(json.loads(json.dumps(written))) == pair
    assert pair_to_row(read(written)) == written
    for key in ("chosen_weight", "rejected_weight"):
        said = given_row.get(key)
        if isinstance(said, list) and said:
            want = sorted(tuple(item.values()) if isinstance(item, dict) else tuple(item) for item in said)
            assert [tuple(span) for span in getattr(pair, key)] == want


def test_other_images_are_files_of_the_pair_and_no_part_of_its_prompt() -> None:
    plain, other = read(row(rejected_images=["r.png"])), read(row(rejected_images=["r.png"], other_images=["b.png"]))
    assert [image.path for image in all_images(other)] == ["a.png", "r.png", "b.png"]
    assert all_files(other) == all_images(other)
    moved = with_paths(other, lambda path: f"/x/{path}")
    assert moved.other_images == (ImageRef("/x/b.png"),)
    assert other.prompt_key == plain.prompt_key
    found = []
    for second in (plain, other):
        tally = PromptTally()
        for number, pair in enumerate((plain, second)):
            numbered = pair_from_row({**pair_to_row(pair), "id": number}, source="s", line=1)
            tally.add(numbered, [str(image.path) for image in all_images(numbered)])
        found.append(tally.finish())
    assert found[0] == found[1]
    assert found[0].prompts == 1


LABELS: dict[Any, tuple[set[str], set[str]]] = {
    False: ({"pair"}, {"no_rejected", "single_answer"}),
    True: ({"pair", "demo", "good"}, {"undesirable"}),
    "labelled": ({"pair", "good", "bad"}, {"no_label"}),
    "all": ({"pair", "demo", "good", "bad"}, set()),
}


@pytest.mark.parametrize("accepted", LABELS, ids=map(str, LABELS))
def test_rows_with_one_answer_are_used_by_the_losses_that_are_made_for_them(tmp_path: Path, accepted: Any) -> None:
    demo = {key: value for key, value in SINGLE.items() if key != "label"}
    path = jsonl(
        tmp_path / "rows.jsonl",
        [row(id="pair"), {**demo, "id": "demo"}, {**SINGLE, "id": "good"}, {**SINGLE, "id": "bad", "label": 0}],
    )
    used, reasons = LABELS[accepted]
    quarantine = Quarantine()
    pairs = load_pairs([path], allow_demonstrations=accepted, quarantine=quarantine, max_bad_fraction=1)
    assert {pair.id for pair in pairs} == used
    assert set(quarantine.counts) == reasons
    if reasons:
        with pytest.raises(DataError, match=r"loss\.name=(kto|sft)|sft loss"):
            load_pairs([path], allow_demonstrations=accepted, quarantine=Quarantine())


def test_the_two_options_of_a_check_say_what_is_accepted() -> None:
    for demonstrations, labelled, wanted in ((False, False, False), (True, False, True), (False, True, "labelled")):
        found = accepted_by(demonstrations=demonstrations, labelled=labelled)
        assert found == wanted
        assert check_option(found) == ["--demonstrations"] * demonstrations + ["--labelled"] * labelled
    with pytest.raises(ConfigError, match="give one of them"):
        accepted_by(demonstrations=True, labelled=True)


def test_a_pair_of_ours_is_told_without_its_format_with_the_new_columns_too() -> None:
    from mmpref.data.formats import FormatOptions
    from mmpref.data.pair_source import canonical_rows

    for found in (row(other_images=["b.png"], weight=2, chosen_weight=3), SINGLE):
        assert canonical_rows(found, "auto", FormatOptions(), place="x:1") == [found]
    assert isinstance(read(SINGLE), PreferencePair)
