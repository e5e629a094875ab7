"""Where a word of a caption stands: the words around it, its sentence, and what else the caption speaks of."""

from __future__ import annotations

from dataclasses import dataclass

from mmpref.evals.text import context_words as table
from mmpref.evals.text.caption_words import STOP, CaptionWords


@dataclass(frozen=True, slots=True)
class Place:
    """Where a word stands: the words just before and after it, "" across a pause, and all words of the caption.

    Args:
        one: the words of the caption in the singular.
    """

    words: CaptionWords
    first: int
    last: int
    one: frozenset[str]

    def before(self, steps: int = 1) -> str:
        """The word so many steps before, "" if the sentence pauses between."""
        at = self.first - steps
        if at < 0 or any(self.words.breaks[at + 1 : self.first + 1]):
            return ""
        return self.words.raw[at]

    def after(self, steps: int = 1) -> str:
        """The word so many steps after, "" if the sentence pauses between."""
        at = self.last + steps
        if at >= len(self.words.raw) or any(self.words.breaks[self.last + 1 : at + 1]):
            return ""
        return self.words.raw[at]

    @property
    def written(self) -> str:
        """The word as the caption writes it, in lower case."""
        return self.words.raw[self.first]

    @property
    def ends_its_noun(self) -> bool:
        """Whether no noun follows that it could describe."""
        after = self.after()
        return not after or after in table.NOUN_PHRASE_ENDS or after.endswith("ing") or after == "s"

    def sentence(self) -> list[str]:
        """The words of its sentence in the singular, at most forty to each side."""
        start, end = self.first, self.last + 1
        while start > max(0, self.first - 40) and self.words.breaks[start] != STOP:
            start -= 1
        while end < min(len(self.words.raw), self.last + 40) and self.words.breaks[end] != STOP:
            end += 1
        return self.words.one[start:end]
