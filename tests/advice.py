"""The advice of an error, taken out of its text and carried out as it stands.

What is between backticks in one alternative is, all together, what to do: ``key=value`` texts (as a shell takes them)
are added to the command line, keys alone are left out of it. Alternatives are parted by "; or ".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence


def alternatives(message: str) -> list[list[str]]:
    """Every alternative's words; at least one must be there."""
    found = [
        [word for group in re.findall(r"`([^`]+)`", part) for word in shlex.split(group)]
        for part in message.split("; or ")
    ]
    found = [words for words in found if words]
    assert found, f"no advice in: {message}"
    return found


def followed(overrides: Sequence[str], words: Sequence[str]) -> list[str]:
    """The overrides with one alternative carried out."""
    kept = list(overrides)
    for key in (word for word in words if "=" not in word):
        section, _, last = key.rpartition(".")
        kept = [
            re.sub(rf"\b{last}: [^,}}]+(, )?", "", text) if text.startswith(f"{section}={{") else text for text in kept
        ]
        kept = [text for text in kept if text.partition("=")[0] != key]
    return [*kept, *(word for word in words if "=" in word)]
