"""How one pair fits the limits of a run, and what of it pairs of the same prompt have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class PromptLength(NamedTuple):
    """Tokens of a prompt, those of its images and videos counted, and how many of them these are."""

    tokens: int
    image_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How one pair fits."""

    pair_id: str
    prompts: tuple[PromptLength, ...]  # of both answers; chosen and rejected where the rejected one has own images
    answers: tuple[int, ...]  # tokens of each answer, uncut
    space: int | None  # tokens that an answer may have; None without a limit
    max_pixels: int | None = None  # smaller pixel budget of one image or frame, if the pair or its prompt needs it
    other: bool = False  # the chosen answer is run once more, behind the prompt with another image in as many tokens

    @property
    def prompt(self) -> int:
        """Tokens of the prompt, images and videos counted; of the longer side where they have images of their own."""
        return max(self.prompts).tokens

    @property
    def image_tokens(self) -> int:
        """Tokens of images and videos in that prompt."""
        return max(self.prompts).image_tokens

    @property
    def run(self) -> tuple[int, ...]:
        """Tokens of each answer, as they will be run."""
        return self.answers if self.space is None else tuple(min(length, self.space) for length in self.answers)

    @property
    def num_cut(self) -> int:
        """Answer tokens that do not fit, both sides together."""
        return sum(self.answers) - sum(self.run)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer, as they will be run."""
        return self.prompt + max(self.run)

    @property
    def tokens(self) -> int:
        """Tokens that the model runs over for this pair alone: each prompt once, and its answers."""
        again = self.prompts[0].tokens + self.run[0] if self.other else 0
        return sum(prompt.tokens for prompt in self.prompts) + sum(self.run) + again

    @property
    def rows(self) -> int:
        """Answers that are run, each of which has a row of its own in the plain layout."""
        return len(self.answers) + self.other

    @property
    def work(self) -> int:
        """What running this pair alone costs, in tokens: :attr:`tokens`, and image tokens again for the tower."""
        again = self.prompts[0].image_tokens if self.other else 0
        return self.tokens + sum(prompt.image_tokens for prompt in self.prompts) + again
