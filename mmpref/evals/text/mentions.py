"""What a text routine finds in a caption: the objects that it counts, and the words that it does not, with why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmpref.evals.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Mention:
    """One mention of an object: the word as matched, the object's name, its place.

    ``position`` counts tokens from 0; ``span`` is the start and end character in the caption, None when the tokens came
    from the caller.
    """

    word: str
    object: str
    position: int
    span: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class NotCounted:
    """Words that name an object which the caption does not say is in the picture.

    ``why`` is "negated", "possible", "depicted", "written", "compound" or "other meaning" (docs/reading_captions.md).
    """

    word: str
    object: str
    span: tuple[int, int] | None
    why: str


@dataclass(frozen=True, slots=True)
class Reading:
    """All that a caption names: ``mentions`` count, ``not_counted`` do not; both in the order of the text."""

    mentions: list[Mention]
    not_counted: list[NotCounted]


@dataclass(frozen=True, slots=True)
class Extractor:
    """Finds objects in captions: called, it gives the mentions that count, ``read`` gives the others too."""

    read: Callable[[str], Reading]

    def __call__(self, caption: str) -> list[Mention]:
        """The objects that the caption mentions, in its order, repeats included."""
        return self.read(caption).mentions


Tokenize: TypeAlias = Callable[[str], Sequence[str]]
"""Caption -> its words in the singular, in order."""
MakeExtractor: TypeAlias = Callable[[Vocabulary, Tokenize | None], Extractor]
