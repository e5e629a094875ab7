"""What a page shows is held against what its commands said: a test of that comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.site.pages import blocks, not_said

SAID = "┃ part ┃  GiB ┃\n│ peak      │ 4.46 │\nread 32, used 31\ndone: runs/x (model in runs/x/model)\n"


@pytest.mark.parametrize(
    "shown",
    [
        ["part GiB", "peak 9.99"],
        ["peak ...", "read 5, used 6"],
        ["...", "done: ..."],
        ["read ... used ...", "...", "... (model in ...)"],
    ],
)
def test_what_was_said_is_found(shown: list[str]) -> None:
    assert not_said(shown, SAID) is None


@pytest.mark.parametrize(
    ("shown", "lacking"),
    [
        (["peek ..."], "peek ..."),
        (["done: ...", "peak ..."], "peak ..."),  # the other way round
        (["read 32, left 31"], "read 32, left 31"),
        (["... trains"], "... trains"),
    ],
)
def test_what_was_not_said_is_named(shown: list[str], lacking: str) -> None:
    assert not_said(shown, SAID) == lacking


def test_numbers_count_where_they_are_exact() -> None:
    assert not_said(["peak 4.46"], SAID, exact=True) is None
    assert not_said(["peak 4.47"], SAID, exact=True) == "peak 4.47"


def test_blocks_are_in_order_with_what_is_shown_of_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n\n```bash\na\n```\n\nsee\n\n```text\none\n```\n\n- x\n  ```python\n  b\n  ```\n\n```json\n{}\n```\n",
        encoding="utf-8",
    )
    found = blocks(page)
    assert [(block.kind, block.text, block.line, block.shown) for block in found] == [
        ("bash", "a\n", 3, ["one"]),
        ("python", "b\n", 14, []),
    ]
