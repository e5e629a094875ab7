"""A prompt and a preference pair as tensors, one row each, before they are batched.

Shapes: T prompt tokens (image tokens counted), C and R answer tokens."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mmpref.processing.image_rows import ImageRow
from mmpref.processing.rope_lengths import AS_SHORT, Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """Everything the model reads before it answers. Pairs that have the very same object share it."""

    sample_id: str  # of the row that it was encoded for
    input_ids: Tensor  # [T], image places expanded
    vision: Mapping[str, Tensor] = field(default_factory=dict)  # the processor's outputs for this row's images
    image_tokens: tuple[int, ...] = ()  # tokens that stand for each image; () where only the processor knows
    video_tokens: tuple[int, ...] = ()  # tokens that stand for each video, what is written between them left out
    video_frames: tuple[int, ...] = ()  # frames of each video that the model is given
    token_types: Mapping[str, Tensor] = field(default_factory=dict)  # [T] each: mm_token_type_ids and the like
    answer_type: int = 0  # what these say of every token of an answer
    position_ids: Tensor | None = None  # [T] or [3, T], for families that can share a prefix
    image_row: ImageRow | None = None  # its images by what they became; only where the encoder names them
    _digest: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    def types_or_zeros(self, name: str) -> Tensor:
        """One plane of ``token_types``; zeros for a row that has none (a text row beside image rows)."""
        found = self.token_types.get(name)
        return torch.zeros_like(self.input_ids) if found is None else found

    def digest(self) -> bytes:
        """A hash of all that the model is given here: token ids and types, and images and videos as processed.

        It is made once for a prompt, whatever number of answers continues it: pixels are most of the work.
        """
        if not self._digest:
            digest = hashlib.blake2b(digest_size=20)
            given = {"ids": self.input_ids, **self.token_types, **self.vision}
            for name in sorted(given):
                _add(digest, name, given[name])
            self._digest.append(digest.digest())
        return self._digest[0]

    def with_own_pixels(self) -> EncodedPrompt:
        """With vision tensors that nobody else has."""
        return replace(self, vision={name: tensor.clone() for name, tensor in self.vision.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPair:
    """One prompt, encoded once, and the answers that continue it. Answers end with end-of-turn unless they were cut."""

    prompt: EncodedPrompt
    chosen_ids: Tensor  # [C]
    rejected_ids: Tensor | None  # [R]; None for a demonstration
    rejected_prompt: EncodedPrompt | None = None  # only where the rejected side has images of its own
    readings: tuple[Reading, Reading] = (AS_SHORT, AS_SHORT)  # how the prompt is read before each answer
    score_chosen: float | None = None
    score_rejected: float | None = None
    num_cut: int = 0  # answer tokens that did not fit, both sides together
    row_id: str | None = None  # None: that of the prompt, which no other pair has then
    other_prompt: EncodedPrompt | None = None  # the prompt with another image, for a second look at the chosen answer
    other_reading: Reading = AS_SHORT
    chosen_weights: Tensor | None = None  # [C] what each token counts; None: every one 1
    rejected_weights: Tensor | None = None  # [R]
    weight: float = 1.0  # of the pair's whole loss
    desirable: bool | None = None  # of a single answer, for losses of single answers
    mismatched_ids: Tensor | None = None  # [L] the answer of another row, that such a loss shows under this prompt
    mismatched_reading: Reading = AS_SHORT
    lift_prompt: EncodedPrompt | None = None  # the prompt with the image that both answers are compared under

    @property
    def pair_id(self) -> str:
        """The id of the row."""
        return self.prompt.sample_id if self.row_id is None else self.row_id

    @property
    def prompt_ids(self) -> Tensor:
        """Tokens of the prompt of the chosen side: [T]."""
        return self.prompt.input_ids

    @property
    def vision(self) -> Mapping[str, Tensor]:
        """The processor's outputs for the images of the chosen side."""
        return self.prompt.vision

    @property
    def rejected_vision(self) -> Mapping[str, Tensor] | None:
        """The same for images that only the rejected side has; None where both sides have the same."""
        return None if self.rejected_prompt is None else self.rejected_prompt.vision

    def answers_alone(
        self, *, rejected: bool, other: bool = False, mismatched: bool = False
    ) -> tuple[EncodedPair, ...]:
        """Each answer as a demonstration of its own, the chosen one first; of the rejected side, of the chosen answer
        under the other image, and of the mismatched answer only if asked for. Nothing is weighted.
        """
        first, second = self.sides()
        sides = [(first, self.readings[0])]
        if second is not None and rejected:
            sides.append((second, self.readings[1]))
        if self.other_prompt is not None and other:
            sides.append(((self.other_prompt, self.chosen_ids), self.other_reading))
        if self.mismatched_ids is not None and mismatched:
            sides.append(((self.prompt, self.mismatched_ids), self.mismatched_reading))
        alone = replace(
            self,
            rejected_ids=None,
            rejected_prompt=None,
            other_prompt=None,
            score_chosen=None,
            score_rejected=None,
            chosen_weights=None,
            rejected_weights=None,
            weight=1.0,
            mismatched_ids=None,
            lift_prompt=None,
        )
        return tuple(
            replace(alone, prompt=prompt, chosen_ids=answer, readings=(reading, reading))
            for (prompt, answer), reading in sides
        )

    @property
    def lifts_rejected(self) -> bool:
        """Whether the rejected answer stands under another image in :meth:`lifted`: not where it has its own."""
        return self.lift_prompt is not None and self.rejected_ids is not None and self.rejected_prompt is None

    def lifted(self) -> EncodedPair:
        """The same answers behind ``lift_prompt``; the pair as it is where there is none."""
        shown = self.prompt if self.lift_prompt is None else self.lift_prompt
        return replace(self, prompt=shown, other_prompt=None, mismatched_ids=None, lift_prompt=None)

    def with_mismatched(self) -> EncodedPair:
        """The mismatched answer as a demonstration.

        Raises:
            ValueError: there is none.
        """
        if self.mismatched_ids is None:
            raise ValueError(f"'{self.pair_id}' has no mismatched answer: data.single_answers gives it one")
        return self.answers_alone(rejected=False, mismatched=True)[-1]

    def sides(self) -> tuple[tuple[EncodedPrompt, Tensor], tuple[EncodedPrompt, Tensor] | None]:
        """(prompt, answer) of the chosen side and, if there is one, of the rejected side."""
        chosen = (self.prompt, self.chosen_ids)
        if self.rejected_ids is None:
            return chosen, None
        return chosen, (self.rejected_prompt or self.prompt, self.rejected_ids)


def answer_key(prompt: EncodedPrompt, answer: Tensor) -> str:
    """A hash of all that the model is given for one answer: the prompt, and the answer's token ids [L]."""
    digest = hashlib.blake2b(prompt.digest(), digest_size=20)
    _add(digest, "answer", answer)
    return digest.hexdigest()


NO_ANSWER = ""
"""The key of an answer under another image that its pair does not have."""


def answer_keys(pairs: Sequence[EncodedPair], *, rejected: bool, other: bool = False) -> tuple[str, ...]:
    """:func:`answer_key` of every answer: of all chosen ones, then with ``rejected`` of all rejected ones, then with
    ``other`` of all chosen ones under the other image (``NO_ANSWER`` where a pair has none).
    """
    chosen, others = zip(*(pair.sides() for pair in pairs), strict=True)
    sides = [*chosen, *(side for side in others if side is not None)] if rejected else chosen
    keys = tuple(answer_key(prompt, answer) for prompt, answer in sides)
    if not other:
        return keys
    shown = ((pair.other_prompt, pair.chosen_ids) for pair in pairs)
    return (*keys, *(NO_ANSWER if prompt is None else answer_key(prompt, answer) for prompt, answer in shown))


def _add(digest: hashlib.blake2b, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)


def score_or_nan(score: float | None) -> float:
    """Scores in tensors: NaN stands for none."""
    return math.nan if score is None else score
