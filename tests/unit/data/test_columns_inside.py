"""Media that stand deep inside of columns, under further names, or as further marks in a prompt: never lost."""

from __future__ import annotations

from typing import Any

import pytest

from mmpref.data.formats import to_canonical
from mmpref.data.quarantine import RowError

Row = dict[str, Any]
PLAIN: Row = {"prompt": "What is it?", "chosen": "A cat.", "rejected": "A dog."}

INSIDE: dict[str, Any] = {
    "extra_info": {"source": {"image_path": "a"}},
    "attachments": [{"type": "image", "path": "a.png"}],
    "metadata": '{"image": "a.png"}',
    "record": '[{"data": {"video_path": "v"}}]',
    "item": {"src": "clip.mp4"},
    "sample": [[{"x": {"y": "somewhere/a.webp"}}]],
    "payload": {"content": b"\x89PNG picture"},
}


@pytest.mark.parametrize("column", INSIDE)
def test_media_deep_inside_of_a_column_refuse_the_row_by_the_place(column: str) -> None:
    with pytest.raises(RowError, match=rf"column '{column}[.\[].*(image|video|media)"):
        to_canonical({**PLAIN, column: INSIDE[column]})


@pytest.mark.parametrize(
    "value",
    [{"a": {"b": [1, "c"]}}, "{not json", '{"a": 1}', "[image] is a word", {"images": 0}, [[]], '{"image": ""}'],
)
def test_other_values_inside_stay(value: Any) -> None:
    (row,) = to_canonical({**PLAIN, "extra_info": value})
    assert row["meta"]["extra_info"] == value


@pytest.mark.parametrize(
    "column",
    ["visual_input", "pixel_values", "clip_path", "clips", "youtube_id", "speech_path", "voice_file", "yt_url"],
)
def test_further_names_of_media_are_refused(column: str) -> None:
    with pytest.raises(RowError, match=repr(column)):
        to_canonical({**PLAIN, column: ["one"]})


@pytest.mark.parametrize("column", ["figure", "figure_path", "Figures"])
def test_figures_are_images(column: str) -> None:
    (row,) = to_canonical({**PLAIN, column: "f.png"})
    assert row["images"] == ["f.png"]


@pytest.mark.parametrize("column", ["crop_box", "polygon", "polygons", "segmentation", "obj_boxes"])
def test_further_names_of_regions_are_refused(column: str) -> None:
    with pytest.raises(RowError, match="boxes") as caught:
        to_canonical({**PLAIN, "image": "a.png", column: [1, 2, 3, 4]})
    assert caught.value.reason == "boxes"


@pytest.mark.parametrize("column", ["sys", "system_text", "system_msg", "preamble", "systemInstructions"])
def test_further_names_of_a_system_prompt_are_read(column: str) -> None:
    (row,) = to_canonical({**PLAIN, column: "Be brief."})
    assert row["prompt"][0] == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}


def test_choices_that_the_question_does_not_name_are_refused() -> None:
    row = {**PLAIN, "choices": ["a tabby", "a poodle"]}
    with pytest.raises(RowError, match="'choices'"):
        to_canonical(row)
    (read,) = to_canonical({**row, "prompt": "What is it?\nA. a tabby\nB. a poodle"})
    assert read["meta"]["choices"] == row["choices"]


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ("<IMAGE>", "literal_placeholder"), ("<Image>", "literal_placeholder"), ("<image/>", "literal_placeholder"),
        ("<image 1>", "literal_placeholder"), ("<img>", "literal_placeholder"), ("<sound>", "audio"),
        ("<speech>", "audio"), ("<VIDEO>", "video"),
    ],
)  # fmt: skip
def test_further_marks_of_media_are_no_letters(mark: str, reason: str) -> None:
    for more in ({}, {"images": ["a.png"]}):
        with pytest.raises(RowError, match=mark) as caught:
            to_canonical({**PLAIN, **more, "prompt": f"{mark}\nWhat is it?"})
        assert caught.value.reason == reason
    (row,) = to_canonical({**PLAIN, "prompt": f"Which HTML tag shows it, {mark.replace(' 1', '')}?"})
    assert not row.get("images")


def test_one_image_in_both_usual_columns_is_one_image() -> None:
    (row,) = to_canonical({**PLAIN, "image": "x/a.png", "images": ["x/a.png"]})
    assert row["images"] == ["x/a.png"]
    with pytest.raises(RowError, match="both 'image' and 'images'"):
        to_canonical({**PLAIN, "image": "x/a.png", "images": ["x/b.png"]})
