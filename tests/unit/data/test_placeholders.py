"""Literal marks of media in a text: read in linear time, and kept where the text speaks about them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from mmpref.data.pairs import pair_from_row
from mmpref.data.placeholders import links_to_images, refuse_images, refuse_marks
from mmpref.data.quarantine import RowError
from tests.growth_of_time import assert_time_grows_less_than_squared
from tests.unit.data.formats.more_rows import ANSWERS, Row, said
from tests.unit.data.formats.test_formats import read

# --- long texts ------------------------------------------------------------------------------------------------------
LONG: dict[str, Callable[[int], str]] = {
    "images in a text about code": lambda n: "![a](b.png) text\n" * n + "`",
    "images in paragraphs": lambda n: '<p><img src="a.png"> text</p>' * n,
    "sources of one tag": lambda n: "<img " + "src=" * n,
    "sources of one closed tag": lambda n: "<img " + "src = " * n + ">",
    "sources of no picture": lambda n: "<img " + "src=a.pngx " * n + ">",
    "tags that do not end": lambda n: "<img " * n,
    "images that do not end": lambda n: "](" + "![" * n,
    "images without a path": lambda n: "![](" * n,
    "endings of one path": lambda n: "![a](b.png?" + ".png#" * n,
    "a blank path": lambda n: "![a](" + "\n" * n,
    "marks of a forum": lambda n: "[IMG]" * n + "[/IMG]" + "x" * 5 * n,
}


def ask_all(text: str) -> None:
    """All that is asked of a prompt."""
    for ask in (refuse_images, lambda text, _: links_to_images(text)):
        with suppress(RowError):
            ask(text, "the prompt")
    with suppress(RowError):
        refuse_marks(text, "the prompt", has_images=False)


@pytest.mark.parametrize("name", LONG)
def test_a_text_of_eight_times_the_length_does_not_take_sixty_four_times_the_time(name: str) -> None:
    assert_time_grows_less_than_squared(ask_all, LONG[name](1_000), LONG[name](8_000))


@pytest.mark.parametrize(
    "mark",
    [
        "![an ![inner](a.png)", "![wow!](a.png)", "[![](a.png)](page)", "<img alt='src=' src='a.png'>",
        "<img data-src=x src=a.png/>", "<img src = 'a.png?s=1'>", "![a](\n <a.png> 'b')", "<img src=DATA:IMAGE/png;x>",
    ],
)  # fmt: skip
def test_images_are_known_however_they_are_spelt(mark: str) -> None:
    with pytest.raises(RowError, match="shows the image"):
        refuse_images(f"What is it?\n{mark}", "the prompt")


@pytest.mark.parametrize(
    "text",
    [
        "![a](b.pngx)",
        "<img src=.png>",
        "![a](.png)",
        "<img alt=a.png>",
        "<img src='a.png'",
        "![a](b.png",
        "![a] (b.png)",
    ],
)
def test_what_shows_no_image_is_none(text: str) -> None:
    refuse_images(text, "the prompt")


def test_a_mark_of_a_forum_counts_where_it_is_not_closed() -> None:
    refuse_marks("[IMG]http://e.org/a.png[/IMG] and [/IMG]", "the prompt", has_images=False)
    with pytest.raises(RowError, match=r"\[IMG\]"):
        refuse_marks("[IMG]a[/IMG] [IMG]\nWhat is it?", "the prompt", has_images=False)


# --- texts about code ------------------------------------------------------------------------------------------------
ABOUT_CODE = [
    'I want to center an image in HTML. <img src="cat.jpg">',
    'How to style this with CSS.\n\n    <img src="cat.jpg">\n',
    'I use HTML/CSS.\n<img src="cat.jpg">',
    "Translate my README.md:\n# Title\n![logo](docs/logo.png)",
    "My README. ![logo](docs/logo.png)",
    'I have an img tag. <img src="a.png"> it does not show',
    '请用HTML写一个页面,里面有<img src="cat.jpg">',
    "下面是Markdown文本,请翻译:![猫](cat.png)",
    "In HTML5, CSS. <img src=a.png>",
    "How do I make this round?\n\n    <img src=a.png>\n\n    <img src=b.png>\n\nThanks!",
    "How do I make this round?\r\n\r\n\t<img src=a.png>\r\n",
]


@pytest.mark.parametrize("text", ABOUT_CODE)
def test_a_question_about_code_keeps_its_images(text: str) -> None:
    assert read({"prompt": text, **ANSWERS}).prompt[0].text == text
    assert read({"id": "1", "prompt": [said("user", text)], **ANSWERS}).prompt[0].text == text


LOST = [
    "<img src='a.jpg'>\nWhat is this?",
    "See folder html/x. <img src='a.jpg'> What is this?",
    "<img class=css/x.y src=a.jpg> and <p class=css/x.y> What is this?",
    "<img src=a.jpg> is page.html.png; what is it?",
    "<p html=1> <img src=a.jpg> What is this?",
    "<img alt='HTML' src=a.jpg>\nWhat is this?",
    "Write alt text for <img src='a.jpg'>",
    "Convert to LaTeX: ![A plot](plot.png)",
    "    <img src='a.jpg'>\n    What is this?",
    "\n    <img src='a.jpg'>\n\n    What is this?\n",
    "What is this?\n    <img src='a.jpg'>",
    "1. What is this?\n\n    <img src='a.jpg'>",
    "- What is this?\n\n    ![](a.jpg)",
    "How?\n\n    x = 1\n\nWhat is this?\n![](a.jpg)",
]


@pytest.mark.parametrize("text", LOST)
def test_a_lost_image_is_refused_and_the_advice_leads_out(text: str) -> None:
    with pytest.raises(RowError, match=r"mmpref's own format, with the text as a part \{type: text\}") as caught:
        read({"prompt": text, **ANSWERS})
    assert caught.value.reason == "literal_placeholder"
    with pytest.raises(RowError, match="shows the image"):
        pair_from_row({"id": "1", "prompt": [said("user", text)], **ANSWERS}, source="test", line=1)
    literal = {"id": "1", "prompt": [said("user", [{"type": "text", "text": text}])], **ANSWERS}
    assert read(literal).prompt[0].text == text


@pytest.mark.parametrize("text", ["请解释HTML里的<img>标签", "Explain the <video> tag.", "用HTML写<video>"])
def test_a_text_about_markup_keeps_its_marks_in_any_script(text: str) -> None:
    assert read({"prompt": text, **ANSWERS}).prompt[0].text == text


def test_a_mark_that_is_meant_letter_by_letter_has_a_way_out() -> None:
    with pytest.raises(RowError, match=r"mmpref's own format, with the text as a part \{type: text\}"):
        read({"prompt": "What does <image> mean?", **ANSWERS})
    literal = said("user", [{"type": "text", "text": "What does <image> mean?"}])
    assert read({"id": "1", "prompt": [literal], **ANSWERS}).prompt[0].text == "What does <image> mean?"


OTHER_TURNS: list[list[Row]] = [
    [said("system", "Format images as ![alt](path/file.png)."), said("user", "Hi")],
    [said("user", "Hi"), said("assistant", "Here: ![logo](logo.png)"), said("user", "Larger!")],
]


@pytest.mark.parametrize("turns", OTHER_TURNS)
def test_only_what_a_user_shows_is_a_lost_image(turns: list[Row]) -> None:
    ours, foreign = {"id": "1", **ANSWERS}, {side: [said("assistant", text)] for side, text in ANSWERS.items()}
    for row in (ours, foreign):
        wanted = [turn["content"] for turn in turns]
        assert [turn.text for turn in read({**row, "prompt": turns}).prompt] == wanted
        with pytest.raises(RowError, match="shows the image"):
            read({**row, "prompt": [*turns[:-1], said("user", "![](a.png) Larger!")]})
