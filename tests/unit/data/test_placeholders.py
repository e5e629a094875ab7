"""Literal marks of media in a text: read in linear time, and kept where the text speaks about them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mmpref.data.placeholders import links_to_pictures, refuse_marks, refuse_pictures
from mmpref.data.quarantine import RowError

# --- long texts ------------------------------------------------------------------------------------------------------
LONG: dict[str, Callable[[int], str]] = {
    "pictures in a text about code": lambda n: "![a](b.png) text\n" * n + "`",
    "pictures in paragraphs": lambda n: '<p><img src="a.png"> text</p>' * n,
    "sources of one tag": lambda n: "<img " + "src=" * n,
    "sources of one closed tag": lambda n: "<img " + "src = " * n + ">",
    "sources of no picture": lambda n: "<img " + "src=a.pngx " * n + ">",
    "tags that do not end": lambda n: "<img " * n,
    "pictures that do not end": lambda n: "](" + "![" * n,
    "pictures without a path": lambda n: "![](" * n,
    "endings of one path": lambda n: "![a](b.png?" + ".png#" * n,
    "a blank path": lambda n: "![a](" + "\n" * n,
    "marks of a forum": lambda n: "[IMG]" * n + "[/IMG]" + "x" * 5 * n,
}


def seconds_of(text: str) -> float:
    """Processor time of all that is asked of a prompt; the least of three."""
    spent = []
    for _ in range(3):
        start = time.process_time()
        for ask in (refuse_pictures, lambda text, _: links_to_pictures(text)):
            try:
                ask(text, "the prompt")
            except RowError:
                pass
        try:
            refuse_marks(text, "the prompt", has_images=False)
        except RowError:
            pass
        spent.append(time.process_time() - start)
    return min(spent)


@pytest.mark.parametrize("name", LONG)
def test_a_text_of_twice_the_length_takes_about_twice_the_time(name: str) -> None:
    once, twice = (seconds_of(LONG[name](count)) for count in (4_000, 8_000))
    assert twice < 3.2 * once + 0.01, (once, twice)  # what is below a hundredth of a second says nothing


@pytest.mark.parametrize(
    "mark",
    [
        "![an ![inner](a.png)", "![wow!](a.png)", "[![](a.png)](page)", "<img alt='src=' src='a.png'>",
        "<img data-src=x src=a.png/>", "<img src = 'a.png?s=1'>", "![a](\n <a.png> 'b')", "<img src=DATA:IMAGE/png;x>",
    ],
)  # fmt: skip
def test_pictures_are_known_however_they_are_spelt(mark: str) -> None:
    with pytest.raises(RowError, match="shows the picture"):
        refuse_pictures(f"What is it?\n{mark}", "the prompt")


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
def test_what_shows_no_picture_is_none(text: str) -> None:
    refuse_pictures(text, "the prompt")


def test_a_mark_of_a_forum_counts_where_it_is_not_closed() -> None:
    refuse_marks("[IMG]http://e.org/a.png[/IMG] and [/IMG]", "the prompt", has_images=False)
    with pytest.raises(RowError, match=r"\[IMG\]"):
        refuse_marks("[IMG]a[/IMG] [IMG]\nWhat is it?", "the prompt", has_images=False)
