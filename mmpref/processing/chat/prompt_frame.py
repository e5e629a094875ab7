"""Where a chat template puts the messages of a prompt: plain functions of rendered text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptFrame:
    """What a template writes around the texts of a conversation, found with words that stand nowhere else."""

    order: tuple[int, ...]
    """The places of the texts in the conversation, as they come in the prompt; empty where that is not known."""
    pieces: tuple[str, ...] = ()
    """What stands before each of them, and after the last."""
    lost: int | None = None
    """The place of a text that the template leaves out."""

    @classmethod
    def around(cls, probes: Sequence[str], asked: str) -> PromptFrame:
        """Found from a rendering in which each text is one probe."""
        folded = asked.casefold()
        for place, probe in enumerate(probes):
            if probe.casefold() not in folded:
                return cls((), lost=place)
        if any(asked.count(probe) != 1 for probe in probes):  # written in capitals, or twice: each row is looked at
            return cls(())
        order = sorted(range(len(probes)), key=lambda place: asked.index(probes[place]))
        pieces, rest = [], asked
        for place in order:
            piece, _, rest = rest.partition(probes[place])
            pieces.append(piece)
        return cls(tuple(order), (*pieces, rest))

    def opening(self, texts: Sequence[str], asked: str) -> str | None:
        """What stands after the last text, where ``asked`` is exactly these pieces around these texts."""
        if not self.order or not asked.startswith(self.pieces[0]):
            return None
        at = len(self.pieces[0])
        for number, place in enumerate(self.order):
            text, piece = texts[place], self.pieces[number + 1]
            for written in (text, text.strip(), text.lstrip(), text.rstrip()):
                if asked.startswith(written, at) and asked.startswith(piece, at + len(written)):
                    at += len(written) + len(piece)
                    break
            else:
                return None
        return self.pieces[-1] if at == len(asked) else None


def lost_text(texts: Sequence[str], asked: str) -> tuple[int | None, int]:
    """The place of the first text that does not stand in ``asked`` by itself, and where the last one ends.

    Each text needs letters of its own: a question that is asked twice stands there twice.
    """
    taken: list[tuple[int, int]] = []
    last = 0
    for place, given in enumerate(texts):
        text = given.strip()
        if not text:
            continue
        found = asked.find(text, last)
        if found < 0:  # some templates put a system prompt behind what was said first
            found = asked.find(text)
            while found >= 0 and any(found < end and start < found + len(text) for start, end in taken):
                found = asked.find(text, found + 1)
        if found < 0:
            return place, last
        taken.append((found, found + len(text)))
        last = max(last, found + len(text))
    return None, last
