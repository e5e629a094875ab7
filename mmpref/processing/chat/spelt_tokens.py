"""Special tokens that answers write as text: counted, because the model learns their letters and not the tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

_SHOWN = 6


@dataclass(slots=True)
class SpeltOut:
    """How many answers spell special tokens out, which ones, and the first row."""

    answers: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def add(self, row_id: str, answers: Iterable[Iterable[str]]) -> None:
        """Count the answers of one row that hold such text, each given as the tokens that it spells."""
        for tokens in answers:
            self.first = self.first or row_id
            self.answers += 1
            self.tokens.update(set(tokens))

    def merge(self, later: SpeltOut) -> None:
        """Count what another process found in later rows."""
        self.first = self.first or later.first
        self.answers += later.answers
        self.tokens.update(later.tokens)

    def describe(self) -> str:
        """One line; empty where there were none."""
        if not self.answers:
            return ""
        names = sorted(self.tokens, key=lambda token: (-self.tokens[token], token))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        who = "1 answer writes" if self.answers == 1 else f"{self.answers} answers write"
        return (
            f"{who} special tokens as text, {', '.join(names[:_SHOWN])}{more} (first seen in '{self.first}'): what "
            "stands in data stays text, so that they are learnt letter by letter, and not as the tokens that the model "
            "writes"
        )
