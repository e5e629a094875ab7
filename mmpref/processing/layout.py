"""Encoded pairs as a ``PairBatch``, in the shared-prefix layout or in the plain one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmpref.errors import DataError
from mmpref.processing.answer_tree import AnswerTree, common_beginning
from mmpref.processing.batch import PairBatch, Segment, join_vision, pad_rows
from mmpref.processing.cross_attention import num_images, row_by_row, side_by_side
from mmpref.processing.encoded import EncodedPair, EncodedPrompt, score_or_nan
from mmpref.processing.errors import fault
from mmpref.processing.image_rows import ImageRow
from mmpref.processing.positions import continued
from mmpref.processing.rope_lengths import Reading

LayoutName = Literal["shared_prefix", "plain"]
_NO_TOKENS = torch.zeros(0, dtype=torch.long)
"""The predictions of an answer that a pair does not have."""


def shared_prefix_batch(
    pairs: Sequence[EncodedPair], *, need_rejected: bool = True, need_other: bool = False
) -> PairBatch:
    """All pairs in one row, each prompt, each image and each answer once.

    Pairs share a prompt where they have the very same object (``PairEncoder.encode`` with ``prompts``). What answers of
    a prompt begin with alike is read once as well, and counted for each. A pair whose sides have different images, or
    are so different in length that the model reads the prompt in two ways (``rope_lengths``), has its answers behind
    two prompts. Another image (``need_other``) is a prompt of its own with the chosen answer behind it.

    Raises:
        DataError: a demonstration where both answers are needed.
        EncodeError: an answer without tokens.
    """
    row = _PackedRow()
    sides = [sides_of(pair, need_rejected, need_other) for pair in pairs]
    where = [[None if side is None else row.add(*side) for side in of_pair] for of_pair in sides]
    row.finish()
    found = [[None if at is None else row.trees[at[0]].answers[at[1]] for at in of_pair] for of_pair in where]
    answers = [
        _NO_TOKENS if answer is None else answer.predictions
        for side in range(len(found[0]))
        for answer in (of_pair[side] for of_pair in found)
    ]
    return PairBatch(
        input_ids=torch.cat(row.ids)[None],
        predicts=torch.cat(row.predicts),
        targets=torch.cat(row.targets),
        answers=pad_rows(answers, row.num_predictions),
        answer_lens=torch.tensor([len(answer) for answer in answers]),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        position_ids=torch.cat(row.positions, dim=-1).unsqueeze(-2),
        pair_tokens=_pair_tokens(_packed_tokens(row, [at for at in of_pair if at is not None]) for of_pair in where),
        segments=tuple(row.segments),
        **_images(row.prompts, [segment.num_tokens for segment in row.segments]),
        token_types=row.token_types(),
        **_said_of_pairs(pairs, sides, max(map(len, answers)), need_other=need_other),
    )


def plain_batch(
    pairs: Sequence[EncodedPair], pad_token_id: int, *, need_rejected: bool = True, need_other: bool = False
) -> PairBatch:
    """One padded row for each answer of each prompt: for models that cannot share a prefix.

    Raises as :func:`shared_prefix_batch`.
    """
    sides = [sides_of(pair, need_rejected, need_other) for pair in pairs]
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    rows: list[tuple[EncodedPrompt, Tensor]] = []
    wanted: list[int | None] = []  # the row of each of the A answers
    for number_of_side in range(len(sides[0])):
        for of_pair in sides:
            side = of_pair[number_of_side]
            if side is None:
                wanted.append(None)
                continue
            prompt, answer, _ = side  # a row of its own is read as it is alone
            number = numbers.setdefault((id(prompt), tuple(answer.tolist())), len(rows))
            if number == len(rows):
                rows.append((prompt, answer))
            wanted.append(number)
    ids = [torch.cat([prompt.input_ids, answer]) for prompt, answer in rows]
    width = max(map(len, ids))
    starts = [index * width + len(prompt) for index, (prompt, _) in enumerate(rows)]
    lengths = [len(answer) for _, answer in rows]
    before = [sum(lengths[:index]) for index in range(len(rows) + 1)]
    answers = [_NO_TOKENS if n is None else torch.arange(before[n], before[n] + lengths[n]) for n in wanted]
    return PairBatch(
        input_ids=pad_rows(ids, pad_token_id),
        # the token at t is predicted at t - 1, and a prompt is never empty
        predicts=torch.cat([torch.arange(s - 1, s - 1 + n) for s, n in zip(starts, lengths, strict=True)]),
        targets=torch.cat([answer for _, answer in rows]),
        answers=pad_rows(answers, before[-1]),
        answer_lens=torch.tensor([len(answer) for answer in answers]),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        attention_mask=pad_rows([torch.ones_like(row) for row in ids], 0),
        position_ids=_planes(rows, width),
        **_images([prompt for prompt, _ in rows], [len(row) for row in ids], width),
        token_types=_token_types(rows),
        pair_tokens=_pair_tokens(
            _padded_tokens(of_pair, wanted[n :: len(pairs)], width) for n, of_pair in enumerate(sides)
        ),
        **_said_of_pairs(pairs, sides, max(map(len, answers)), need_other=need_other),
    )


@dataclass(slots=True)
class _PackedRow:
    """The row as it grows: first the answers of each prompt, then all of them as tensors."""

    trees: list[AnswerTree] = field(default_factory=list)
    prompts: list[EncodedPrompt] = field(default_factory=list)
    """Of each tree."""
    ids: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    predicts: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    num_predictions: int = 0
    _numbers: dict[tuple[int, Reading], int] = field(default_factory=dict)

    def add(self, prompt: EncodedPrompt, answer: Tensor, reading: Reading) -> tuple[int, int]:
        """Number of the answer's tree, and of the answer in it."""
        if prompt.position_ids is None:
            raise ValueError("the shared-prefix layout needs positions: the family of this encoder cannot share one")
        number = self._numbers.setdefault((id(prompt), reading), len(self.trees))
        if number == len(self.trees):
            self.trees.append(AnswerTree(len(prompt)))
            self.prompts.append(prompt)
        return number, self.trees[number].add(answer)

    def finish(self) -> None:
        """Lay all trees one behind the other."""
        start = 0
        for prompt, tree in zip(self.prompts, self.trees, strict=True):
            tree.place(start, self.num_predictions)
            places = prompt.position_ids
            assert places is not None  # add() looked
            self.ids += [prompt.input_ids, *tree.own_tokens]
            self.positions.append(places)
            self.positions += [
                continued(places, len(own), skip=skip) for own, skip in zip(tree.own_tokens, tree.skips, strict=True)
            ]
            self.predicts.append(tree.predicts)
            self.targets.append(torch.cat(tree.own_tokens))
            self.segments.append(Segment(start, tree.branches))
            self.num_predictions += len(self.targets[-1])
            start = self.segments[-1].end

    def token_types(self) -> dict[str, Tensor]:
        """[1, T] each."""
        names = sorted({name for prompt in self.prompts for name in prompt.token_types})
        rows = list(zip(self.prompts, self.segments, strict=True))
        return {
            name: torch.cat([_types(prompt, name, segment.num_tokens) for prompt, segment in rows])[None]
            for name in names
        }


def _packed_tokens(row: _PackedRow, of_pair: Sequence[tuple[int, int]]) -> Tensor:
    """Places of all tokens of a pair in the packed row, each once."""
    trees = dict.fromkeys(tree for tree, _ in of_pair)
    return torch.cat([row.trees[tree].tokens_of(*(answer for of, answer in of_pair if of == tree)) for tree in trees])


def _padded_tokens(sides: Sequence[Side | None], rows: Sequence[int | None], width: int) -> Tensor:
    """The same in padded rows: what the second row repeats of the first one is left out."""
    found, before = [], None
    for side, row in zip(sides, rows, strict=True):
        if side is None or row is None:
            continue
        skip = 0
        if before is not None and before.prompt is side.prompt and before.reading == side.reading:
            skip = len(side.prompt) + common_beginning(before.answer, side.answer)
        found.append(torch.arange(row * width + skip, row * width + len(side.prompt) + len(side.answer)))
        before = side
    return torch.cat(found)


def _pair_tokens(of_pairs: Iterable[Tensor]) -> Tensor:
    """As ``PairBatch.pair_tokens`` has them: [2, M]."""
    found = list(of_pairs)
    pairs = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(places) for places in found]))
    return torch.stack([torch.cat(found), pairs])


class Side(NamedTuple):
    """One answer behind its prompt."""

    prompt: EncodedPrompt
    answer: Tensor  # [L]
    reading: Reading


def sides_of(pair: EncodedPair, need_rejected: bool, need_other: bool = False) -> list[Side | None]:
    """The chosen side, the rejected one where it is needed, and the chosen answer under the other image where that is
    needed: None for a pair without one.

    Raises:
        DataError: a demonstration where both answers are needed.
        EncodeError: an answer without tokens.
    """
    chosen, rejected = pair.sides()
    if need_rejected and rejected is None:
        raise DataError(
            f"pair '{pair.pair_id}' has no rejected answer, and the loss compares two; train it with loss.name: sft, "
            "or leave it out"
        )
    given = [chosen] if rejected is None or not need_rejected else [chosen, rejected]
    sides = [Side(prompt, answer, reading) for (prompt, answer), reading in zip(given, pair.readings, strict=False)]
    if any(len(side.answer) == 0 for side in sides):
        raise fault(pair.pair_id, "empty_response", "has an answer without a token to learn")
    if not need_other:
        return [*sides]
    other = None if pair.other_prompt is None else Side(pair.other_prompt, pair.chosen_ids, pair.other_reading)
    return [*sides, other]


def _images(prompts: Sequence[EncodedPrompt], lengths: Sequence[int], width: int | None = None) -> dict[str, Any]:
    """What a batch says of its images and videos; with a width, of padded rows."""
    rows = [prompt.vision for prompt in prompts]
    if any(map(num_images, rows)):
        joined = side_by_side(rows, lengths) if width is None else row_by_row(rows, lengths, width)
        return dict(zip(("vision", "cross_seen", "crossings"), joined, strict=True))
    vision = join_vision(rows)
    grids = {kind: vision.get(f"{kind}_grid_thw") for kind in ("image", "video")}
    return {
        "vision": vision,
        **{f"{kind}_grids": () if one is None else tuple(map(tuple, one.tolist())) for kind, one in grids.items()},
        "video_frames": tuple(count for prompt in prompts for count in prompt.video_frames),
        "image_rows": _image_rows(prompts),
    }


def _image_rows(prompts: Sequence[EncodedPrompt]) -> tuple[ImageRow, ...]:
    """Of the prompts that have images; () where those of one are not named."""
    found = [prompt.image_row for prompt in prompts if prompt.vision]
    return tuple(row for row in found if row is not None) if None not in found else ()


def _planes(rows: Sequence[tuple[EncodedPrompt, Tensor]], width: int) -> Tensor | None:
    """Positions in three planes of padded rows: [3, N, T]; None where the model counts by itself.

    A model that is not given them finds them from the grids of the images, row by row, and waits for the device.
    """
    found = []
    for prompt, answer in rows:
        places = prompt.position_ids
        if places is None or places.dim() == 1:
            return None
        whole = torch.cat([places, continued(places, len(answer))], dim=1)
        found.append(torch.nn.functional.pad(whole, (0, width - whole.shape[1]), value=1))
    return torch.stack(found, dim=1)


def _token_types(rows: Sequence[tuple[EncodedPrompt, Tensor]]) -> dict[str, Tensor]:
    names = sorted({name for prompt, _ in rows for name in prompt.token_types})
    return {
        name: pad_rows([_types(prompt, name, len(prompt) + len(answer)) for prompt, answer in rows], 0)
        for name in names
    }


def _types(prompt: EncodedPrompt, name: str, length: int) -> Tensor:
    """Of a prompt and the answers behind it: [length]."""
    types = prompt.types_or_zeros(name)
    return torch.cat([types, types.new_full((length - len(prompt),), prompt.answer_type)])


def _said_of_pairs(
    pairs: Sequence[EncodedPair], sides: Sequence[Sequence[Side | None]], width: int, *, need_other: bool
) -> dict[str, Any]:
    """Scores and weights of a batch whose longest answer has ``width`` tokens."""
    desirable = [pair.desirable for pair in pairs]
    return {
        "score_chosen": _scores(pairs, "score_chosen"),
        "score_rejected": _scores(pairs, "score_rejected"),
        "has_other": torch.tensor([pair.other_prompt is not None for pair in pairs]) if need_other else None,
        "answer_weights": _answer_weights(pairs, sides, width, need_other=need_other),
        "weight": torch.tensor([pair.weight for pair in pairs]) if any(pair.weight != 1.0 for pair in pairs) else None,
        "desirable": None if None in desirable else torch.tensor([float(bool(one)) for one in desirable]),
    }


def _answer_weights(
    pairs: Sequence[EncodedPair], sides: Sequence[Sequence[Side | None]], width: int, *, need_other: bool
) -> Tensor | None:
    """[A, width]; zeros behind an answer. None where no pair has weights."""
    if all(pair.chosen_weights is None and pair.rejected_weights is None for pair in pairs):
        return None
    count = len(sides[0])
    out = torch.zeros(count * len(pairs), width)
    for number, (pair, of_pair) in enumerate(zip(pairs, sides, strict=True)):
        for place, side in enumerate(of_pair):
            if side is None:
                continue
            is_rejected = place == 1 and not (need_other and count == 2)
            weights = pair.rejected_weights if is_rejected else pair.chosen_weights
            row = out[place * len(pairs) + number, : len(side.answer)]
            row.copy_(torch.ones_like(row) if weights is None else weights)
    return out


def _scores(pairs: Sequence[EncodedPair], name: Literal["score_chosen", "score_rejected"]) -> Tensor | None:
    scores = [getattr(pair, name) for pair in pairs]
    if all(score is None for score in scores):
        return None
    return torch.tensor([score_or_nan(score) for score in scores], dtype=torch.float32)
