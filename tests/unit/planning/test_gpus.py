"""Sizes of memory as people write them."""

from __future__ import annotations

import pytest

from mmpref.errors import ConfigError
from mmpref.planning.gpus import GIB, parse_memory


@pytest.mark.parametrize(("text", "size"), [
    ("24GiB", 24 * GIB), ("24", 24 * GIB), ("11.5 gb", int(11.5 * GIB)), ("512MiB", 512 * 2**20),
])  # fmt: skip
def test_sizes_of_memory_are_read(text: str, size: int) -> None:
    assert parse_memory(text) == size
    with pytest.raises(ConfigError):
        parse_memory(text + "?")
