"""Media that stand deep inside of columns, under further names, or as further marks in a prompt: never lost."""

from __future__ import annotations

from typing import Any

import pytest

from mmpref.data.formats import to_canonical
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.records import PreferencePair

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
        ("<speech>", "audio"), ("<VIDEO>", "literal_placeholder"),
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


@pytest.mark.parametrize("mark", ["(<image>./</image>)\n", "<image></image>", "<image>./</image>\n"])
def test_a_place_of_two_tags_is_one_place(mark: str) -> None:
    """MiniCPM's files write ``(<image>./</image>)`` where others write ``<image>``."""
    wanted = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    answers = {side: PLAIN[side] for side in ("chosen", "rejected")}
    for row in (
        {**PLAIN, "prompt": f"{mark}What is it?"},
        {**answers, "question": f"{mark}What is it?"},
        {**answers, "instruction": f"{mark}What is it?"},
        {"messages": [{"role": "user", "content": f"{mark}What is it?"}, {"role": "assistant", "content": "A cat."}],
         "rejected_response": "A dog."},
    ):  # fmt: skip
        (read,) = to_canonical({**row, "images": ["a.png"]})
        assert (read["images"], read["prompt"][0]["content"]) == (["a.png"], wanted)
        with pytest.raises(RowError) as caught:
            to_canonical(row)
        assert caught.value.reason in ("literal_placeholder", "image_count")
    two = {**PLAIN, "prompt": f"{mark}or {mark}?", "images": ["a.png", "b.png"]}
    (read,) = to_canonical(two)
    assert [part["type"] for part in read["prompt"][0]["content"]] == ["image", "text", "image", "text"]


@pytest.mark.parametrize("text", ["<image>a cat</image>\nWhat?", "</image>What <image>?", "<image>\n</image>What?"])
def test_the_end_of_a_place_is_no_text_and_no_excuse(text: str) -> None:
    for more in ({}, {"images": ["a.png"]}):
        with pytest.raises(RowError, match="image>") as caught:
            to_canonical({**PLAIN, **more, "prompt": text})
        assert caught.value.reason == "literal_placeholder"
    with pytest.raises(RowError, match="</image>"):
        to_canonical({**PLAIN, "images": ["a.png"], "prompt": "What?</image>"})
    feed = "Why is <channel><image><url>x</url></image></channel> refused?"
    for literal in (feed, "Do I need </image> here?", "What?</image>", "How do I close <image>x</image> in XML?"):
        (read,) = to_canonical({**PLAIN, "prompt": literal})
        assert read["prompt"][0]["content"][0]["text"] == literal


@pytest.mark.parametrize("mark", ["(<video>./</video>)", "<video></video>", "(<audio>./</audio>)", "<audio></audio>"])
def test_a_place_of_two_tags_for_another_medium_is_refused(mark: str) -> None:
    with pytest.raises(RowError) as caught:
        to_canonical({**PLAIN, "prompt": f"{mark}\nWhat is it?"})
    assert caught.value.reason == ("audio" if "audio" in mark else "literal_placeholder")


@pytest.mark.parametrize(
    "mark",
    [
        "<img src='a.jpg'>", '<img class="x" src="images/a.png" alt="a cat"/>', "<IMG SRC=a.gif>", "![](a.jpg)",
        "![a cat](images/a.PNG)", '![a](a.webp "a title")', '<img src="data:image/png;base64,aaaa">',
        "![](data:image/png;base64,aaaa)", "![x](<a.jpg>)",
    ],
)  # fmt: skip
def test_an_image_file_in_a_text_without_images_is_refused(mark: str) -> None:
    for prompt in (f"{mark}\nWhat is it?", f"What is it?\n{mark}"):
        for row in ({**PLAIN, "prompt": prompt}, {**PLAIN, "id": "1", "prompt": [{"role": "user", "content": prompt}]}):
            with pytest.raises(RowError, match="shows the image") as caught:
                pair_of(row)
            assert caught.value.reason == "literal_placeholder"
        placed = {**PLAIN, "prompt": prompt.replace(mark, "<image>"), "images": ["a.jpg"]}
        assert pair_of(placed).prompt[0].num_images == 1, "give the image and write <image> in its place"
        assert pair_of({**PLAIN, "prompt": "What is it?"}).images == (), "or take the mark out"
    literal = [{"type": "text", "text": f"{mark}\nWhat is it?"}]
    assert pair_of({**PLAIN, "id": "1", "prompt": [{"role": "user", "content": literal}]}).images == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "Why is <img src='a.jpg'> not centred in HTML?", "`![](a.jpg)` shows nothing", "<p><img src=a.png></p> bad",
        "How do I show ![a](b.png) in Markdown?", "<img src={logo} alt='x'> in my page", "See [the plan](plan.png).",
        "Is an <img> without source allowed?", "![formula](notes.txt)", "a ![b] (c.jpg)", "if (!x[1](a)) b.jpg",
    ],
)  # fmt: skip
def test_a_text_about_images_in_code_stays(prompt: str) -> None:
    about = prompt.replace("<img>", "<img >")
    assert (pair_of({**PLAIN, "prompt": about}).prompt[0].text, pair_of({**PLAIN, "prompt": about}).meta) == (about, {})


def test_links_to_images_of_other_sites_are_counted() -> None:
    """Questions copied from forums are full of them; the rows are used, and the count says what the model lacks."""
    prompt = "It looks so: ![enter image description here](https://i.e.org/a.png) and <img src='http://e.org/b.jpg'>"
    pair = pair_of({**PLAIN, "prompt": prompt})
    assert (pair.prompt[0].text, pair.meta) == (prompt, {"pictures_by_link": 2})
    shown = pair_of({**PLAIN, "prompt": prompt, "images": ["a.png"]})
    assert (len(shown.images), shown.meta) == (1, {})


def pair_of(row: Row) -> PreferencePair:
    if row.get("id") is not None and "images" not in row:
        return pair_from_row(row, source="test", line=1)
    (found,) = to_canonical(row, place="file:1")
    return pair_from_row(found, source="test", line=1)
