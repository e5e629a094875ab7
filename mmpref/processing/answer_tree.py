"""The answers of one prompt in a packed row: what they have in common from their beginning on stands there once.

Answers that begin alike share these tokens, and the predictions of these tokens, whichever of them they are. What an
answer has of its own lies in one branch (``batch.Branch``), behind the prompt or behind what it shares. An answer that
is the beginning of another has nothing of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmpref.processing.batch import Branch


@dataclass(slots=True)
class TreeAnswer:
    """One distinct answer."""

    tokens: Tensor  # [L]
    shares_with: int  # number of the answer that it begins like; its own where it shares nothing
    common: int  # how many tokens of it
    branch: int  # number of the branch of its own tokens, or, without any, of the last that it shares
    # both are known once the tree has its place
    places: Tensor = field(init=False)  # [1 + L] in the row: of the last token of the prompt, and of its own
    predictions: Tensor = field(init=False)  # [L] numbers among the predictions of the row

    @property
    def num_own(self) -> int:
        """Tokens that no answer before it has."""
        return len(self.tokens) - self.common


class AnswerTree:
    """Distinct answers of a prompt of so many tokens, in the order in which they come."""

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt
        self.answers: list[TreeAnswer] = []
        self._branches: list[Branch] = []
        self._numbers: dict[tuple[int, ...], int] = {}
        self.start = 0

    def add(self, tokens: Tensor) -> int:
        """The number of this answer; one that is there already is not added again."""
        key = tuple(tokens.tolist())
        if (found := self._numbers.get(key)) is not None:
            return found
        number = self._numbers[key] = len(self.answers)
        common, other = self._most_in_common(tokens)
        # of all that share so much the first: its own branch holds the last of these tokens
        parent = self.answers[other].branch if common else 0
        own = len(tokens) - common
        if not self._branches:
            branch = Branch(-1, 0, self.prompt + own)
        else:
            branch = Branch(parent, self.prompt + common, own)
        if own:
            parent = len(self._branches)
            self._branches.append(branch)
        self.answers.append(TreeAnswer(tokens, other if common else number, common, parent))
        return number

    def _most_in_common(self, tokens: Tensor) -> tuple[int, int]:
        """(how many tokens, with which answer): the first of those that have most."""
        most, which = 0, 0
        for number, answer in enumerate(self.answers):
            common = common_beginning(tokens, answer.tokens)
            if common > most:
                most, which = common, number
        return most, which

    @property
    def branches(self) -> tuple[Branch, ...]:
        """As ``Segment`` has them."""
        return tuple(self._branches)

    @property
    def _with_own(self) -> list[TreeAnswer]:
        return [answer for answer in self.answers if answer.num_own]

    @property
    def own_tokens(self) -> list[Tensor]:
        """Of each branch, the prompt left out."""
        return [answer.tokens[answer.common :] for answer in self._with_own]

    @property
    def skips(self) -> list[int]:
        """How many tokens of its answer stand before each branch, the prompt left out."""
        return [answer.common for answer in self._with_own]

    @property
    def predicts(self) -> Tensor:
        """Places in the row that predict the tokens of ``own_tokens``, one behind the other."""
        return torch.cat([answer.places[answer.common : -1] for answer in self._with_own])

    def place(self, start: int, num_predictions: int) -> None:
        """Lay the tree into a row.

        Args:
            start: place of the first token of the prompt.
            num_predictions: of the trees before it.
        """
        self.start = start
        last = torch.tensor([start + self.prompt - 1])
        at, number = start + self.prompt, num_predictions
        for answer in self.answers:
            own, new = torch.arange(at, at + answer.num_own), torch.arange(number, number + answer.num_own)
            if answer.common:
                other = self.answers[answer.shares_with]
                answer.places = torch.cat([other.places[: answer.common + 1], own])
                answer.predictions = torch.cat([other.predictions[: answer.common], new])
            else:
                answer.places, answer.predictions = torch.cat([last, own]), new
            at, number = at + answer.num_own, number + answer.num_own

    def tokens_of(self, *numbers: int) -> Tensor:
        """Places of the prompt and of one answer or two, each token once."""
        first, *others = (self.answers[number].places[1:] for number in numbers)
        found = [torch.arange(self.start, self.start + self.prompt), first]
        for other in others:
            most = min(len(first), len(other))
            found.append(other[int((first[:most] == other[:most]).sum()) :])  # only what both share has the same places
        return torch.cat(found)


def common_beginning(one: Tensor, other: Tensor) -> int:
    """How many tokens two answers begin with alike."""
    most = min(len(one), len(other))
    different = (one[:most] != other[:most]).nonzero()
    return int(different[0]) if len(different) else most
