"""Columns that speak to the loss alone, in rows of other suites: read under clear names, written or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.data.formats import FORMATS, detect, to_canonical
from mmpref.data.pair_writing import pair_to_row
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef, PreferencePair, WeightSpan
from tests.unit.data.formats.more_rows import ANSWERS, BAD, GOOD, LABELLED, Row, gpt, human, said, talk
from tests.unit.data.formats.test_formats import ROWS, read
from tests.unit.data.formats.test_round_trip import letters, merged, user_turns, words

PAIRS = ("trl", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift", "spa_vl", "mdpo")


@pytest.mark.parametrize("name", PAIRS)
def test_other_images_and_weights_are_read_beside_every_format(name: str) -> None:
    more = {"other_images": ["b.png"], "weight": 0.5, "chosen_weight": [[0, 1, 3]], "rejected_weight": 2}
    pair = read({**ROWS[name], **more})
    assert pair.other_images == (ImageRef("b.png"),)
    assert (pair.weight, pair.chosen_weight, pair.rejected_weight) == (0.5, (WeightSpan(0, 1, 3.0),), 2.0)
    assert not more.keys() & pair.meta.keys()
    assert read({**ROWS[name], "other_image": "b.png"}).other_images == (ImageRef("b.png"),)
    assert read({**ROWS[name], **dict.fromkeys(more)}) == read(ROWS[name])


def test_our_own_rows_take_one_other_image_too() -> None:
    assert read({**ROWS["canonical"], "other_image": "b.png"}).other_images == (ImageRef("b.png"),)


def test_a_weight_that_is_no_number_is_of_something_else() -> None:
    pair = read({**ROWS["spa_vl"], "weight": "12 kg"})
    assert (pair.weight, pair.meta) == (1.0, {"weight": "12 kg"})
    assert read({**ROWS["spa_vl"], "weight": float("nan")}).weight == 1.0
    for key, value in (("weight", -1), ("chosen_weight", "much"), ("rejected_weight", [[0, 99, 1]])):
        with pytest.raises(RowError, match=key):
            read({**ROWS["spa_vl"], key: value})
    with pytest.raises(RowError, match="'other_images' has 2 images") as caught:
        read({**ROWS["spa_vl"], "other_images": ["b.png", "c.png"]})
    assert caught.value.reason == "image_count"


def test_spans_of_an_answer_that_loses_its_marks_are_refused() -> None:
    row = {"prompt": "What?", "chosen": f"{GOOD}</s>", "rejected": BAD}
    assert read(row).chosen == GOOD
    assert read({**row, "rejected_weight": [[0, 2, 1]]}).rejected_weight == (WeightSpan(0, 2, 1.0),)
    assert read({**row, "chosen_weight": 2}).chosen_weight == 2.0
    with pytest.raises(RowError, match="count anew") as caught:
        read({**row, "chosen_weight": [[0, 2, 1]]})
    assert caught.value.reason == "answer_weight"


def test_swift_rows_of_two_images_and_one_answer_stay_image_pairs() -> None:
    """ms-swift trains them as pairs that differ in their images: so do all losses of pairs here."""
    row = {"messages": talk("<image>What?", GOOD), "images": ["a.png"], "rejected_images": ["b.png"]}
    for more in ({}, {"rejected_messages": talk("<image>What?", GOOD)}, {"rejected_response": GOOD}):
        pair = read({**row, **more})
        assert (pair.chosen, pair.rejected, pair.other_images) == (GOOD, GOOD, None)
        assert pair.rejected_images == (ImageRef("b.png"),)


def test_symmpo_rows_are_three_weighted_pairs() -> None:
    row = {
        **ROWS["symmpo"], "idx": 6, "image_1": {"bytes": b"one", "path": None}, "image_2": {"bytes": b"two"},
        "resp_2_l": "A blue cup.", "origin_dataset": "x", "image_path_1": "1.jpg", "image_path_2": "2.jpg",
    }  # fmt: skip
    assert detect(row).name == "symmpo"
    pairs = [pair_from_row(found, source="s", line=1) for found in to_canonical(row)]
    one, two = ImageRef(data=b"one"), ImageRef(data=b"two")
    second = row["resp_2_w"]
    assert [(pair.id, pair.images, pair.chosen, pair.rejected, pair.weight) for pair in pairs] == [
        ("6:1", (one,), GOOD, BAD, 1.0),
        ("6:2", (one,), GOOD, second, 0.5),
        ("6:3", (two,), second, GOOD, 0.5),
    ]
    assert [part.kind for part in pairs[2].prompt[0].parts] == ["image", "text"]
    assert pairs[0].meta["resp_2_l"] == "A blue cup."
    assert [found["weight"] for found in to_canonical({**row, "weight": 4})] == [4, 2.0, 2.0]
    with pytest.raises(RowError, match="the row has no 'image_1'"):
        to_canonical({**row, "image_1": {"bytes": None, "path": None}}, "symmpo")


def test_hsa_dpo_rows_without_a_grade_have_no_weight_and_one_of_nothing_is_refused() -> None:
    row = {**ROWS["hsa_dpo"]}
    assert read({**row, "rejected_score": None}, "hsa_dpo").rejected_weight is None
    with pytest.raises(RowError, match="leaves no token that counts"):
        read({**row, "rejected_score": 0.0}, "hsa_dpo")


KTO: dict[str, tuple[str, Row]] = {
    "plain": ("trl_kto", {"prompt": "What?", "completion": BAD, "label": False}),
    "an image": ("trl_kto", {"image": "a.png", "prompt": "What?", "completion": BAD, "label": False}),
    "messages": ("trl_kto", {"prompt": [said("user", "What?")], "completion": [said("assistant", BAD)], "label": 0}),
    "shared talk": ("trl_kto", {"prompt": [human("What?")], "completion": [gpt(BAD)], "label": "false"}),
    "alpaca": ("llamafactory_kto", {"instruction": "What?", "input": "", "output": BAD, "kto_tag": False}),
    "alpaca with turns": (
        "llamafactory_kto",
        {"instruction": "What?", "output": BAD, "kto_tag": False, "history": [["Hi", "Yes?"]], "system": "Be brief."},
    ),
    "sharegpt": ("llamafactory_kto_sharegpt", {"conversations": [human("What?"), gpt(BAD)], "kto_tag": False}),
    "openai": ("llamafactory_kto_sharegpt", {"messages": talk("What?", BAD), "kto_tag": False}),
    "swift": ("ms_swift_kto", {"messages": talk("What?", BAD), "label": False}),
    "swift without a place": ("ms_swift_kto", {"messages": talk("What?", BAD), "label": False, "images": ["a.png"]}),
    "swift rounds": ("ms_swift_kto", {"conversation": [{"human": "What?", "assistant": BAD}], "label": False}),
    "swift query": ("ms_swift_kto", {"query": "What?", "response": BAD, "label": False, "history": [["Hi", "Yes?"]]}),
}


@pytest.mark.parametrize("case", KTO)
def test_rows_of_one_labelled_answer_are_told_and_read(case: str) -> None:
    name, row = KTO[case]
    assert detect(row).name == name
    pair = read(row)
    assert (pair.chosen, pair.rejected, pair.label, pair.prompt[-1].text) == (BAD, None, False, "What?")
    kinds = [part.kind for part in pair.prompt[-1].parts]
    assert kinds == ["image"] * len(pair.images) + ["text"]
    assert len(pair.images) == bool(row.get("image") or row.get("images"))
    turns = (1 + 2 * ("history" in row)) + ("system" in row)
    assert (len(pair.prompt), pair.meta) == (turns, {})


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What?", "completion": GOOD},
        {"prompt": "What?", "completion": GOOD, "label": "food"},
        {"messages": [said("user", "Is it good?")], "label": 1},  # a text and its class
        {"messages": talk("What?", GOOD), "label": [1, 2]},
        {"messages": talk("What?", GOOD), "label": 0.8},
        {"question": "What?", "answer": GOOD, "label": 1},
    ],
)
def test_other_labels_make_no_row_a_labelled_answer(row: Row) -> None:
    with pytest.raises(RowError, match="fits no known format"):
        detect(row)


def test_a_pair_with_a_column_called_label_stays_a_pair() -> None:
    for name in PAIRS:
        pair = read({**ROWS[name], "label": "food"})
        assert (pair.rejected, pair.label, pair.meta) == (BAD, None, {"label": "food"})


def test_images_of_a_rejected_answer_that_is_not_there_are_refused_by_their_column() -> None:
    with pytest.raises(RowError, match="column 'rejected_image' holds images of a rejected answer"):
        read({**ROWS["trl_kto"], "rejected_image": "b.png"})
    with pytest.raises(RowError, match="'rejected_weight' without 'rejected'"):
        read({**ROWS["trl_kto"], "rejected_weight": 2})
    assert read({**ROWS["trl_kto"], "chosen_weight": 2}).chosen_weight == 2.0


TARGETS = [name for name, found in FORMATS.items() if found.holds == "labels"]


@st.composite
def singles(draw: st.DrawFn) -> PreferencePair:
    prompt = [draw(user_turns())]
    num_images = sum(message.num_images for message in prompt)
    return PreferencePair(
        id=draw(words),
        images=tuple(ImageRef(path=f"dir/{place}.png") for place in range(num_images)),
        prompt=tuple(prompt),
        chosen=draw(words),
        rejected=None,
        label=draw(st.booleans()),
        source=draw(words),
        meta=draw(st.dictionaries(letters, letters, max_size=2)),
    )


@pytest.mark.parametrize("name", TARGETS)
@given(pair=singles())
@settings(max_examples=40, deadline=None)
def test_labelled_answers_are_written_for_other_suites_and_read_again(name: str, pair: PreferencePair) -> None:
    write = FORMATS[name].from_canonical
    assert write is not None
    written = json.loads(json.dumps(write(pair_to_row(pair))))
    assert detect(written).name == name
    assert merged(pair_from_row(to_canonical(written)[0], source="x", line=1)) == merged(pair)


def canonical(**more: Any) -> Row:
    return pair_to_row(pair_from_row({**ROWS["canonical"], **more}, source="x", line=1))


@pytest.mark.parametrize("name", [name for name, found in FORMATS.items() if found.from_canonical is not None])
def test_what_a_target_has_no_place_for_is_refused_and_never_dropped(name: str) -> None:
    found = FORMATS[name]
    assert found.from_canonical is not None
    is_single = found.holds == "labels"
    base = {"rejected": None, "label": True} if is_single else {}
    columns: Row = {"other_images": ["b.png"], "weight": 2.0, "chosen_weight": 2.0}
    for key, value in columns.items():
        row = canonical(**base, **{key: value})
        if found.holds == "both":
            assert found.from_canonical(row)[key] == value
            continue
        assert found.not_held(row) == [key]
        with pytest.raises(RowError) as caught:
            found.from_canonical(row)
        assert caught.value.reason == f"cannot_hold_{key}"
    if found.holds == "both":
        return
    other = canonical() if is_single else canonical(rejected=None, label=True)
    with pytest.raises(RowError, match="single answer") as caught:
        found.from_canonical(other)
    assert caught.value.reason == ("no_label" if is_single else "single_answer")


def test_every_target_is_told_by_what_it_holds() -> None:
    assert set(TARGETS) == LABELLED
    assert ANSWERS == {"chosen": GOOD, "rejected": BAD}
