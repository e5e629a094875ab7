"""One pair in tokens, as the model runs over it."""

from __future__ import annotations

from dataclasses import dataclass

from mmpref.processing.layout import LayoutName


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One pair as the model sees it, in tokens; ``patches`` are what the vision tower runs over for image and video."""

    prompt: int = 100
    image: int = 0
    video: int = 0
    patches: int = 0
    chosen: int = 250
    rejected: int = 250

    @property
    def before(self) -> int:
        """Tokens of the prompt, those of its image and video counted."""
        return self.prompt + self.image + self.video

    @property
    def prompt_in_words(self) -> str:
        """``391 image + 100 prompt``: what is there, for the terminal and for recipes."""
        parts = {"image": self.image, "video": self.video, "prompt": self.prompt}
        return " + ".join(f"{tokens} {name}" for name, tokens in parts.items() if tokens)

    def tokens(self, layout: LayoutName) -> int:
        """Tokens that the decoder runs over for one pair."""
        if layout == "shared_prefix":
            return self.before + self.chosen + self.rejected
        return 2 * (self.before + max(self.chosen, self.rejected))

    def read_twice(self, layout: LayoutName) -> int:
        """Tokens whose keys and values the second answer's attention copies."""
        return self.before + self.rejected if layout == "shared_prefix" else 0

    def seen(self, layout: LayoutName) -> float:
        """Places that are looked at, summed over the tokens of one pair: triangles."""
        before = self.before
        if layout == "shared_prefix":
            return (before + self.chosen) ** 2 / 2 + self.rejected * (before + self.rejected / 2)
        return float((before + max(self.chosen, self.rejected)) ** 2)

    @property
    def answers(self) -> int:
        """Tokens of both answers."""
        return self.chosen + self.rejected
