"""The pairs of one prompt in tokens, as the model runs over them, and how many prompts it runs at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One prompt with its answers as the model sees it, in tokens: by default those of one pair.

    ``patches`` are what the vision tower runs over for image and video. Several pairs of a prompt are ``answers``
    distinct answers, all but the first as long as ``rejected``, in ``pairs`` pairs. With ``other`` the chosen answer of
    every pair is run once more, behind a prompt of its own with another image.
    """

    prompt: int = 100
    image: int = 0
    video: int = 0
    patches: int = 0
    chosen: int = 250
    rejected: int = 250
    answers: int = 2
    pairs: int = 1
    other: bool = False

    @property
    def before(self) -> int:
        """Tokens of the prompt, those of its image and video counted."""
        return self.prompt + self.image + self.video

    @property
    def prompt_in_words(self) -> str:
        """``391 image + 100 prompt``: what is there, for the terminal and for recipes."""
        parts = {"image": self.image, "video": self.video, "prompt": self.prompt}
        return " + ".join(f"{tokens} {name}" for name, tokens in parts.items() if tokens)

    @property
    def in_words(self) -> str:
        """The prompt and its answers: ``391 image + 100 prompt + 250 + 250 answer tokens``."""
        again = f", and {self._again_in_words} with another image" if self.other else ""
        if self.pairs == 1:
            return f"{self.prompt_in_words} + {self.chosen} + {self.rejected} answer tokens{again}"
        return f"{self.prompt_in_words} + {self.answers} x {self.chosen} answer tokens in {self.pairs} pairs{again}"

    @property
    def _again_in_words(self) -> str:
        once = f"{self.before + self.chosen} tokens once more"
        return once if self.pairs == 1 else f"{self.pairs} x {once}"

    @property
    def rows(self) -> int:
        """Answers that are run behind the prompt."""
        return self.answers if self.rejected else 1

    @property
    def others(self) -> int:
        """Chosen answers that are run behind a prompt with another image: each pair's own."""
        return self.pairs if self.other else 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of all answers, those behind another image counted once more."""
        return self.chosen + (self.rows - 1) * self.rejected + self.others * self.chosen

    def tokens(self, layout: LayoutName) -> int:
        """Tokens that the decoder runs over for one prompt."""
        if layout == "shared_prefix":
            return (1 + self.others) * self.before + self.answer_tokens
        return (self.rows + self.others) * (self.before + max(self.chosen, self.rejected))

    def images(self, layout: LayoutName) -> int:
        """How often the vision tower runs over the prompt's image and video, or over other ones of the same size."""
        return self.others + (1 if layout == "shared_prefix" else self.rows)

    def read_twice(self, layout: LayoutName) -> int:
        """Tokens whose keys and values the attention of all answers but the first of a prompt copies."""
        return (self.rows - 1) * (self.before + self.rejected) if layout == "shared_prefix" else 0

    def seen(self, layout: LayoutName) -> float:
        """Places that are looked at, summed over the tokens of one prompt with its answers: triangles."""
        before, further = self.before, self.rows - 1
        if layout == "shared_prefix":
            firsts = (1 + self.others) * (before + self.chosen) ** 2 / 2
            return firsts + further * self.rejected * (before + self.rejected / 2)
        return (self.rows + self.others) * float((before + max(self.chosen, self.rejected)) ** 2) / 2

    def some_pairs(self, pairs: int) -> Shape:
        """The first so many pairs of the prompt and their answers; pairs come as (a, b), (a, c), ... (b, c), ..."""
        return replace(self, pairs=pairs, answers=min(self.answers, pairs + 1)) if pairs < self.pairs else self

    def within(self, tokens: int | None, layout: LayoutName) -> Shape:
        """As many of the prompt's pairs as so many tokens hold, one at least; all where None."""
        part = self
        while tokens is not None and part.pairs > 1 and part.tokens(layout) > tokens:
            part = part.some_pairs(min(part.pairs, part.answers) - 1)
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Prompts that are run together: ``parts`` are shapes, and how many prompts have each."""

    parts: tuple[tuple[Shape, int], ...]
    layout: LayoutName

    @property
    def pairs(self) -> int:
        """Pairs of all prompts."""
        return sum(count * shape.pairs for shape, count in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens that the decoder runs over."""
        return sum(count * shape.tokens(self.layout) for shape, count in self.parts)

    @property
    def answer_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(count * shape.answer_tokens for shape, count in self.parts)

    @property
    def patches(self) -> int:
        """What the vision tower runs over."""
        return sum(count * shape.patches * shape.images(self.layout) for shape, count in self.parts)

    @property
    def read_twice(self) -> int:
        """As :meth:`Shape.read_twice`."""
        return sum(count * shape.read_twice(self.layout) for shape, count in self.parts)

    @property
    def seen(self) -> float:
        """As :meth:`Shape.seen`."""
        return sum(count * shape.seen(self.layout) for shape, count in self.parts)


def update_of(recipe: Recipe, shape: Shape, layout: LayoutName) -> Together:
    """What one GPU runs in an update, of prompts that are all alike: whole ones, and what is left of another.

    Where ``processing.row_tokens`` divides a prompt, each part runs it again.
    """
    train = recipe.train
    pairs = train.per_device_train_batch_size * train.gradient_accumulation_steps
    part = shape.within(recipe.processing.row_tokens, layout)
    whole, rest = divmod(pairs, part.pairs)
    parts = [(part, whole), (part.some_pairs(rest), 1 if rest else 0)]
    return Together(parts=tuple((one, count) for one, count in parts if count), layout=layout)


def at_once(recipe: Recipe, shape: Shape, layout: LayoutName) -> Together:
    """The largest batch of :func:`update_of`, as ``processing.row_tokens`` divides it.

    The pairs of a prompt come in one batch, also where a micro-batch has fewer on average: an update is divided
    between two prompts.
    """
    train, most = recipe.train, recipe.processing.row_tokens
    batches = train.gradient_accumulation_steps
    whole, rest = divmod(train.per_device_train_batch_size * batches, shape.pairs)
    parts = [(shape, -(-whole // batches))]
    if rest and whole % batches == 0:  # what is left of a prompt goes where the least is: on top where all have as much
        parts.append((shape.some_pairs(rest), 1))
    found = Together(parts=tuple((one, count) for one, count in parts if count), layout=layout)
    if most is None or found.tokens <= most:
        return found
    part = found.parts[0][0].within(most, layout)
    count = min(found.parts[0][1], max(1, most // part.tokens(layout)))
    return Together(parts=((part, count),), layout=layout)
