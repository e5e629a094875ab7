"""Encoded pairs as a ``PairBatch``, in the shared-prefix layout or in the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from mmpref.errors import DataError
from mmpref.processing.batch import PairBatch, Segment, join_vision, pad_rows
from mmpref.processing.cross_attention import num_images, row_by_row, side_by_side
from mmpref.processing.encoded import EncodedPair, EncodedPrompt, score_or_nan
from mmpref.processing.errors import fault
from mmpref.processing.positions import continued

LayoutName = Literal["shared_prefix", "plain"]


def shared_prefix_batch(pairs: Sequence[EncodedPair], *, need_rejected: bool = True) -> PairBatch:
    """All pairs in one row, each prompt and each image once.

    Where both answers begin alike, the common beginning is read once as well, and counted for both. A pair whose sides
    have different images, or are so different in length that the model reads the prompt in two ways (``rope_lengths``),
    has nothing to share: its answers follow a prompt each.

    Raises:
        DataError: a demonstration where both answers are needed.
        EncodeError: an answer without tokens.
    """
    row = _PackedRow()
    for number, pair in enumerate(pairs):
        row.owner = number
        first, second = _sides(pair, need_rejected)
        if second is None:
            row.add_alone(*first, rejected=False)
        elif not pair.shares_prompt:
            row.add_alone(*first, rejected=False)
            row.add_alone(*second, rejected=True)
        else:
            row.add_pair(pair.prompt, first[1], second[1])
    count = row.num_predictions
    answers = row.chosen + row.rejected
    return PairBatch(
        input_ids=torch.cat(row.ids)[None],
        predicts=torch.cat(row.predicts),
        targets=torch.cat(row.targets),
        answers=pad_rows(answers, count),
        answer_lens=torch.tensor([len(answer) for answer in answers]),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        position_ids=torch.cat(row.positions, dim=-1).unsqueeze(-2),
        token_pairs=torch.repeat_interleave(
            torch.tensor(row.owners), torch.tensor([part.end - part.start for part in row.segments])
        )[None],
        segments=tuple(row.segments),
        **_images(row.prompts, [segment.end - segment.start for segment in row.segments]),
        token_types=row.token_types(),
        score_chosen=_scores(pairs, "score_chosen"),
        score_rejected=_scores(pairs, "score_rejected"),
    )


def plain_batch(pairs: Sequence[EncodedPair], pad_token_id: int, *, need_rejected: bool = True) -> PairBatch:
    """One padded row for each answer: for models that cannot share a prefix. Raises as :func:`shared_prefix_batch`."""
    sides = [_sides(pair, need_rejected) for pair in pairs]
    rows = [first for first, _ in sides] + [second for _, second in sides if second is not None]
    ids = [torch.cat([prompt.input_ids, answer]) for prompt, answer in rows]
    width = max(map(len, ids))
    starts = [index * width + len(prompt) for index, (prompt, _) in enumerate(rows)]
    lengths = [len(answer) for _, answer in rows]
    before = [sum(lengths[:index]) for index in range(len(rows) + 1)]
    return PairBatch(
        input_ids=pad_rows(ids, pad_token_id),
        # the token at t is predicted at t - 1, and a prompt is never empty
        predicts=torch.cat([torch.arange(s - 1, s - 1 + n) for s, n in zip(starts, lengths, strict=True)]),
        targets=torch.cat([answer for _, answer in rows]),
        answers=pad_rows([torch.arange(at, at + n) for at, n in zip(before, lengths, strict=False)], before[-1]),
        answer_lens=torch.tensor(lengths),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        attention_mask=pad_rows([torch.ones_like(row) for row in ids], 0),
        position_ids=_planes(rows, width),
        **_images([prompt for prompt, _ in rows], [len(row) for row in ids], width),
        token_types=_token_types(rows),
        token_pairs=_token_pairs(pairs, sides, width),
        score_chosen=_scores(pairs, "score_chosen"),
        score_rejected=_scores(pairs, "score_rejected"),
    )


@dataclass(slots=True)
class _PackedRow:
    """The row as it grows."""

    ids: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    predicts: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    chosen: list[Tensor] = field(default_factory=list)
    rejected: list[Tensor] = field(default_factory=list)
    owner: int = 0
    """Number of the pair that is added."""
    owners: list[int] = field(default_factory=list)
    """Of each segment."""
    prompts: list[EncodedPrompt] = field(default_factory=list)
    num_tokens: int = 0
    num_predictions: int = 0

    def add_pair(self, prompt: EncodedPrompt, chosen: Tensor, rejected: Tensor) -> None:
        common = common_beginning(chosen, rejected)
        shared, first, second = chosen[:common], chosen[common:], rejected[common:]
        segment = self._add(prompt, shared, first, second)
        last = segment.start + segment.prefix - 1  # predicts the first token of both answers' own parts
        own = last + segment.first
        both = self._predict(torch.arange(last - common, last), shared)
        of_first = self._predict(torch.arange(last, last + len(first)), first)
        of_second = self._predict(torch.cat([torch.tensor([last]), torch.arange(own + 1, own + len(second))]), second)
        self.chosen.append(torch.cat([both, of_first]))
        self.rejected.append(torch.cat([both, of_second]))

    def add_alone(self, prompt: EncodedPrompt, answer: Tensor, *, rejected: bool) -> None:
        segment = self._add(prompt, answer[:0], answer, answer[:0])
        last = segment.start + segment.prefix - 1
        found = self._predict(torch.arange(last, last + len(answer)), answer)
        (self.rejected if rejected else self.chosen).append(found)

    def _add(self, prompt: EncodedPrompt, shared: Tensor, first: Tensor, second: Tensor) -> Segment:
        if prompt.position_ids is None:
            raise ValueError("the shared-prefix layout needs positions: the family of this encoder cannot share one")
        segment = Segment(self.num_tokens, len(prompt) + len(shared), len(first), len(second))
        self.ids += [prompt.input_ids, shared, first, second]
        places = prompt.position_ids
        self.positions += [
            places,
            continued(places, len(shared) + len(first)),
            continued(places, len(second), skip=len(shared)),
        ]
        self.prompts.append(prompt)
        self.segments.append(segment)
        self.owners.append(self.owner)
        self.num_tokens = segment.end
        return segment

    def token_types(self) -> dict[str, Tensor]:
        """[1, T] each."""
        names = sorted({name for prompt in self.prompts for name in prompt.token_types})
        rows = list(zip(self.prompts, self.segments, strict=True))
        return {
            name: torch.cat([_types(prompt, name, segment.end - segment.start) for prompt, segment in rows])[None]
            for name in names
        }

    def _predict(self, places: Tensor, targets: Tensor) -> Tensor:
        """Note predictions; returns their numbers among the K."""
        numbers = torch.arange(self.num_predictions, self.num_predictions + len(targets))
        self.predicts.append(places)
        self.targets.append(targets)
        self.num_predictions += len(targets)
        return numbers


def common_beginning(chosen: Tensor, rejected: Tensor) -> int:
    """How many tokens both answers begin with alike; each keeps at least one of its own."""
    most = min(len(chosen), len(rejected)) - 1
    different = (chosen[:most] != rejected[:most]).nonzero()
    return int(different[0]) if len(different) else most


_Sides = tuple[tuple[EncodedPrompt, Tensor], tuple[EncodedPrompt, Tensor] | None]


def _sides(pair: EncodedPair, need_rejected: bool) -> _Sides:
    first, second = pair.sides()
    if not need_rejected:
        second = None
    elif second is None:
        raise DataError(
            f"pair '{pair.pair_id}' has no rejected answer, and the loss compares two; train it with loss.name: sft, "
            "or leave it out"
        )
    for _, answer in (side for side in (first, second) if side is not None):
        if len(answer) == 0:
            raise fault(pair.pair_id, "empty_response", "has an answer without a token to learn")
    return first, second


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
    }


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


def _token_pairs(pairs: Sequence[EncodedPair], sides: Sequence[_Sides], width: int) -> Tensor:
    """The pair of each token of padded rows, as ``PairBatch.token_pairs`` has it: what two rows have in common from
    their beginning on counts for the first."""
    nobody = len(pairs)
    firsts, seconds = [], []
    for number, (pair, (first, second)) in enumerate(zip(pairs, sides, strict=True)):
        prompt, answer = first
        firsts.append(torch.full((len(prompt) + len(answer),), number))
        if second is None:
            continue
        other, rejected = second
        own = torch.full((len(other) + len(rejected),), number)
        if pair.shares_prompt:
            own[: len(other) + common_beginning(answer, rejected)] = nobody
        seconds.append(own)
    rows = [torch.nn.functional.pad(row, (0, width - len(row)), value=nobody) for row in [*firsts, *seconds]]
    return torch.stack(rows)


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


def _scores(pairs: Sequence[EncodedPair], name: Literal["score_chosen", "score_rejected"]) -> Tensor | None:
    scores = [getattr(pair, name) for pair in pairs]
    if all(score is None for score in scores):
        return None
    return torch.tensor([score_or_nan(score) for score in scores], dtype=torch.float32)
