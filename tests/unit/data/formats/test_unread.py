"""What no reader took: a column that the prompt does not repeat, a picture that only ``id`` or ``meta`` names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mmpref.data.formats import FORMATS, to_canonical
from mmpref.data.formats.media_values import names_the_same
from mmpref.data.pair_writing import pair_to_row
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef
from tests.unit.data.formats.more_rows import ANSWERS, BAD, GOOD, LABELLED, Row, gpt, human, said, talk
from tests.unit.data.formats.test_formats import NAMED, ROWS, read

PLAIN: Row = {"prompt": "What?", **ANSWERS}


def refused(row: Row) -> RowError:
    with pytest.raises(RowError) as caught:
        read(row)
    return caught.value


# --- what the model would be asked -----------------------------------------------------------------------------------
IN_THE_ANSWERS: list[tuple[str, Row]] = [
    ("choices", {"image": "a.jpg", "question": "Which?", "choices": ["a cat", "a dog"], "chosen": "It is a cat.",
                 "rejected": "It is a dog."}),
    ("options", {"prompt": "Is it?", "options": ["Yes", "No"], "chosen": "Yes", "rejected": "No"}),
    ("context", {"prompt": "Who won?", "context": "Rome won.", "chosen": "Rome won.", "rejected": "Nobody."}),
    ("input", {"prompt": "Classify.", "input": "bad film", "chosen": "It is a bad film", "rejected": "A good one"}),
    ("history", {"prompt": "And now?", "history": [["yes", "no"]], "chosen": "yes", "rejected": "no"}),
    ("query", {"prompt": "Say it.", "query": "blue", "chosen": "blue", "rejected": "red"}),
    ("passage", {"instruction": "Sum up.", "passage": "It rains.", "chosen": "It rains.", "rejected": "Sun."}),
]  # fmt: skip


@pytest.mark.parametrize(("column", "row"), IN_THE_ANSWERS, ids=[column for column, _ in IN_THE_ANSWERS])
def test_what_only_the_answers_repeat_is_missing_from_the_prompt(column: str, row: Row) -> None:
    error = refused(row)
    assert (error.reason, repr(column) in error.detail) == ("unread_turns", True)
    asked = next(key for key in ("prompt", "question", "instruction") if key in row)
    items = row[column] if isinstance(row[column], list) else [row[column]]
    words = " ".join(piece for item in items for piece in (item if isinstance(item, list) else [item]))
    assert words in read({**row, asked: f"{row[asked]} {words}"}).prompt[0].text, "put it into the prompt"
    del row[column]
    assert read(row), "or drop it"


def test_a_part_of_a_word_repeats_nothing() -> None:
    row = {"prompt": "Is it Now or Yesterday?", "options": ["No", "Yes"], **ANSWERS}
    assert refused(row).reason == "unread_turns"
    assert read({**row, "prompt": "Is it? No/Yes"}).meta == {"options": ["No", "Yes"]}
    sizes = {"prompt": "Which? A. 5cm B. 6cm", "choices": ["5", "6"], **ANSWERS}
    assert read(sizes).meta == {"choices": ["5", "6"]}, "a number ends where its unit begins"
    for wrong in (["5", "7"], ["c", "m"]):
        assert refused({**sizes, "choices": wrong}).reason == "unread_turns"
    assert refused({**sizes, "prompt": "A. 15cm B. 65cm"}).reason == "unread_turns"
    chinese = {"prompt": "图中是猫还是狗", "choices": ["猫", "狗"], **ANSWERS}
    assert read(chinese).meta == {"choices": ["猫", "狗"]}


@pytest.mark.parametrize("column", ["messages", "conversation", "dialogue", "turns", "chat", "full_messages"])
def test_a_whole_conversation_may_repeat_the_answers_too(column: str) -> None:
    for answer in (GOOD, BAD):
        assert column in read({**PLAIN, column: talk("What?", answer)}).meta
    assert refused({**PLAIN, column: talk("What?", "Something else.")}).reason == "unread_turns"


@pytest.mark.parametrize("column", ["turns", "messages", "conversation"])
def test_a_number_of_turns_is_no_turn(column: str) -> None:
    for count in (1, 2.0, 0):
        assert read({**PLAIN, column: count}).meta == {column: count}
    assert refused({**PLAIN, column: "1"}).reason == "unread_turns"
    assert refused({**PLAIN, "input": 5}).reason == "unread_turns", "a number may be what is asked about"


@pytest.mark.parametrize("column", ["context_messages", "previous_turns", "chat", "thread", "Prior"])
def test_a_conversation_is_known_by_its_value(column: str) -> None:
    turns = talk("Hi", "Hello")
    for value in (turns, json.dumps(turns), [human("Hi"), gpt("Hello")], tuple(turns)):
        for row in (PLAIN, {**PLAIN, "image": "a.png"}, ROWS["trl"], ROWS["llamafactory_sharegpt"]):
            error = refused({**row, column: value})
            assert (error.reason, repr(column) in error.detail) == ("unread_turns", True)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("all_answers", [said("assistant", "One."), said("assistant", "Two.")]),
        ("judge_messages", talk("Which answer is better?", "The first.")),
        ("labelling_prompt", talk("Rate these answers.", "8 and 3")),
        ("generation_prompt", [said("system", "Be wrong."), said("user", "What?")]),
        ("gpt4_judgement", talk("Which answer is better?", "The first.")),
        ("steps", [{"role": "user"}]),
        ("people", [{"role": "user", "name": "me"}]),
        ("rows", [{"from": "Rome", "to": "Ostia"}]),
        ("list", "[a word, and no JSON]"),
        ("list", ["user", "assistant"]),
    ],
)
def test_answers_of_models_judges_and_other_lists_are_told(column: str, value: Any) -> None:
    assert read({**PLAIN, column: value}).meta == {column: value}


@pytest.mark.parametrize("column", ["system_prompts", "developer_message", "developerPrompt", "system_messages"])
def test_a_system_prompt_under_a_further_name_is_read_or_refused(column: str) -> None:
    assert read({**PLAIN, column: "Be brief."}).prompt[0].text == "Be brief."
    assert refused({**PLAIN, column: ["Be brief."]}).reason == "system"
    assert read({**PLAIN, "developer": "Some Studio"}).meta == {"developer": "Some Studio"}


# --- pictures that nothing reads -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["COCO_train2014_000000001.jpg", "coco/1.PNG", "https://e.org/a.webp?s=1"])
@pytest.mark.parametrize("column", ["id", "source"])
def test_an_image_that_only_names_the_row_refuses_a_row_without_images(column: str, name: str) -> None:
    for row in (PLAIN, {"question": "What?", **ANSWERS}, ROWS["ultrafeedback"], ROWS["stack_exchange_paired"]):
        error = refused({**row, column: name})
        assert (error.reason, repr(column) in error.detail) == ("unread_media", True)
    assert "prompt_id" in refused({**ROWS["ultrafeedback"], "prompt_id": name}).detail
    shown = read({**PLAIN, column: name, "images": ["a.png"]})
    assert shown.images == (ImageRef("a.png"),), "give the path under 'images'"
    assert read({**PLAIN, column: name.rpartition(".")[0]}).images == (), "or take the ending off"


@pytest.mark.parametrize(
    "name", ["row-1", "web", "v1.5", "https://e.org/page", "the file a.jpg was lost", "lecture.mp4"]
)
def test_other_ids_and_sources_are_names(name: str) -> None:
    assert read({**PLAIN, "id": name}).id == name
    assert read({**PLAIN, "source": name}).source == name


IN_META: dict[str, tuple[Row, str]] = {
    "meta.image": ({"image": "a.jpg"}, "unread_images"),
    "meta.image_path": ({"image_path": "a"}, "unread_images"),
    "meta.file": ({"file": "x/a.webp"}, "unread_media"),
    "meta.item.video": ({"item": {"video": "v"}}, "video"),
    "meta.system": ({"system": "Be brief."}, "unread_system"),
    "meta.systemPrompt": ({"systemPrompt": "Be brief."}, "unread_system"),
}


@pytest.mark.parametrize("place", IN_META)
def test_what_a_foreign_meta_hides_is_not_lost(place: str) -> None:
    meta, reason = IN_META[place]
    for value in (meta, json.dumps(meta)):
        for row in (PLAIN, ROWS["ultrafeedback"], ROWS["llamafactory_v1"]):
            error = refused({**row, "meta": value})
            assert (error.reason, repr(place) in error.detail) == (reason, True)


@pytest.mark.parametrize("system", ["gpt-4", "meta-llama/Llama-3.1-8B", "human"])
def test_a_meta_may_name_the_system_that_answered(system: str) -> None:
    assert read({**PLAIN, "meta": {"system": system}}).meta == {"system": system}
    assert refused({**PLAIN, "meta": {"system_prompt": system}}).reason == "unread_system"


@pytest.mark.parametrize("system", ["GPT-4 Turbo", "Be brief.", "你是一个有用的助手。", ["gpt-4"], {"text": "x"}])
def test_what_may_be_a_system_prompt_in_meta_is_refused_and_may_be_renamed(system: Any) -> None:
    error = refused({**PLAIN, "meta": {"system": system}})
    assert error.reason == "unread_system"
    assert "or rename it if it is none" in error.detail
    assert read({**PLAIN, "meta": {"generating_system": system}}).meta == {"generating_system": system}


NO_BOXES: list[Row] = [
    {"grounding": "good"}, {"grounding": {"Rating": "5", "Rationale": "All 3 facts, and 1 more."}},
    {"regions": ["EU", "US"]}, {"regions": ["Region 1", "Region 2", "Region 3", "Region 4"]}, {"bbox": "none"},
    {"objects": ["cat", "dog"]}, {"grounding": {"Rating": 5}}, {"masks": False}, {"regions": [1, 2]},
]  # fmt: skip
BOXES: list[Row] = [
    {"grounding": [[1, 2, 3, 4]]}, {"objects": [{"name": "cat", "x": 1, "y": 2, "w": 3.5, "h": 4}]},
    {"objects": {"bbox": [1, 2, 3, 4]}}, {"bbox": "12,30,45,60"}, {"regions": "[12, 30], [45, 60]"},
    {"masks": b"\x01"}, {"objects": b"\x01"}, {"polygon": [[1, 2]]}, {"keypoints": [1, 2]},
    {"grounding": "<box>(1,2),(3,4)</box>"}, {"crop_box": {"x": 1}},
]  # fmt: skip


@pytest.mark.parametrize("inside", NO_BOXES)
def test_words_and_grades_under_the_names_of_boxes_are_told(inside: Row) -> None:
    for column in ("meta", "scores", "metadata"):
        assert read({**PLAIN, column: inside}).meta == (inside if column == "meta" else {column: inside})


@pytest.mark.parametrize("inside", BOXES)
def test_boxes_inside_of_a_mapping_are_refused(inside: Row) -> None:
    for column in ("meta", "scores"):
        assert refused({**PLAIN, column: inside}).reason == "boxes"


def test_what_a_meta_hides_is_read_as_a_column() -> None:
    assert read({**PLAIN, "images": ["a.jpg"], "meta": {"image": "a.jpg"}}).images == (ImageRef("a.jpg"),)
    system = read({**PLAIN, "system": "Be brief.", "meta": {"system": "Be brief."}})
    assert [turn.text for turn in system.prompt] == ["Be brief.", "What?"]
    assert read({**PLAIN, "meta": {"system": "", "image": None, "note": "x"}}).meta["note"] == "x"


@pytest.mark.parametrize(
    ("name", "target"),
    [
        (name, target)
        for name in FORMATS
        for target, found in FORMATS.items()
        if found.from_canonical is not None
        and name not in NAMED
        and found.holds in ("both", "labels" if name in LABELLED else "pairs")
        and (name, target != "canonical") != ("re_align", True)  # whose other image no other suite holds
    ],
)
def test_meta_that_was_written_by_us_is_read_again(name: str, target: str) -> None:
    more = {"note": {"a": [1]}, "image_size": [3, 4], "origin": "web", "frames": 8}
    row = ROWS[name] if name == "canonical" else {**ROWS[name], **more}
    pair = read(row)
    written = FORMATS[target].from_canonical(pair_to_row(pair))  # type: ignore[misc]
    (found,) = to_canonical(json.loads(json.dumps(written)))
    assert (
        pair_from_row(found, source="test", line=1).meta == pair_from_row(pair_to_row(pair), source="test", line=1).meta
    )


@pytest.mark.parametrize(
    "column",
    ["image_file_name", "image_key", "image_location", "image_rel_path", "visual_path", "imageFileName", "image_place"],
)
def test_the_name_of_an_image_refuses_a_row_without_images(column: str) -> None:
    error = refused({**PLAIN, column: "train/000012"})
    assert (error.reason, repr(column) in error.detail) == ("unread_images", True)
    assert read({**PLAIN, column: "train/000012", "images": ["a.png"]}).images == (ImageRef("a.png"),)


@pytest.mark.parametrize("column", ["image_a", "image_b", "image_A", "image_path_b"])
def test_a_lettered_image_is_an_image(column: str) -> None:
    for more in ({}, {"image": "a.png"}):
        assert refused({**PLAIN, **more, column: "left"}).reason == "unread_images"


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_width", 640), ("image_size", "640x480"), ("image_caption", "a/b"), ("image_description", "A cat."),
        ("num_images", 1), ("image_type", "photo/indoor"), ("image_license", "CC/BY"), ("image_key", "none"),
        ("image_text", "STOP"), ("visual_quality", "good/bad"), ("image_required", True), ("image_hint", "no path"),
        ("image_source", "web/flickr"), ("img_format", "image/jpeg"),
    ],
)  # fmt: skip
def test_facts_about_an_image_are_no_image(column: str, value: Any) -> None:
    assert read({**PLAIN, column: value}).meta == {column: value}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_usage", "N/A"), ("visual_reasoning", "n/a"), ("image_text_alignment", "N/A"), ("image_aspect", "16/9"),
        ("image_present", "yes/no"), ("image_setting", "indoor/outdoor"), ("image_refs", 0), ("image_refs", [1, 2]),
        ("photo_location", "Paris"), ("image_location", "48.85"), ("photo_location", "St. Louis"), ("img_keys", 3),
        ("image_ref", "first"), ("image_locs", ["Rome", "n/a"]), ("image_name", ["none"]), ("image_date", "2024/05/01"),
    ],
)  # fmt: skip
def test_a_value_that_can_name_no_image_is_told(column: str, value: Any) -> None:
    assert read({**PLAIN, column: value}).meta == {column: value}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image_usage", "train/000012"), ("image_where", "/data/cat"), ("image_where", "./cat"),
        ("image_at", "s3://cats/tom"), ("image_at", "C:\\cats\\tom"), ("image_at", ["N/A", "a/b.dat"]),
        ("image_at", b"picture"), ("image_refs", "coco/cat"), ("image_ref", "cat.dat"), ("image_locs", [0, "x/cat"]),
        ("photo_location", "the cat.jpg"), ("image_id", 0), ("image_id", "0"), ("image_key", "cat"),
        ("image_name", "Paris"), ("image_uid", 7), ("image_refs", {"a": "b"}),
    ],
)  # fmt: skip
def test_a_value_that_may_name_an_image_refuses_a_row_without_images(column: str, value: Any) -> None:
    error = refused({**PLAIN, column: value})
    assert error.reason in ("unread_images", "unread_media")
    assert repr(column) in error.detail
    assert read({**PLAIN, column: value, "images": ["a.png"]}).meta


# --- two columns of one image ----------------------------------------------------------------------------------------
SAME = [
    ("1.jpg", "orig/1.jpg"), ("/data/orig/1.jpg", "orig/1.jpg"), ("./orig/1.jpg", "orig/1.jpg"),
    ("orig\\1.jpg", "orig/1.jpg"), ("https://e.org/x/1.jpg?s=2", "photos/1.jpg"), ("file:///data/1.jpg", "/data/1.jpg"),
]  # fmt: skip
OTHER = [
    ("edited/1.jpg", "orig/1.jpg"), ("/a/edited/1.jpg", "/a/orig/1.jpg"), ("1.jpg", "orig/2.jpg"),
    ("https://e.org/a/1.jpg", "https://e.org/b/1.jpg"), ("b1.jpg", "1.jpg"), ("", "1.jpg"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "two", "same"), [*((*pair, True) for pair in SAME), *((*pair, False) for pair in OTHER)]
)
def test_two_paths_are_one_file_where_one_is_the_end_of_the_other(one: str, two: str, same: bool) -> None:
    assert names_the_same(one, [two]) is names_the_same([two], [one]) is same


@pytest.mark.parametrize("columns", [("images", "image"), ("image", "image_path"), ("img", "picture")])
def test_images_of_one_name_in_two_folders_are_two(columns: tuple[str, str]) -> None:
    first, second = columns
    pictures: Row = {first: ["orig/1.jpg"] if first == "images" else "orig/1.jpg", second: "edited/1.jpg"}
    error = refused({**PLAIN, **pictures})
    assert error.reason in ("images", "unread_images")
    assert second in error.detail
    both = read({**PLAIN, "images": ["orig/1.jpg", "edited/1.jpg"]})
    assert both.images == (ImageRef("orig/1.jpg"), ImageRef("edited/1.jpg"))
