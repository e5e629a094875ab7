"""Pairs to batches, in loader workers: images are decoded once per pair, values are checked here, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmpref.errors import DataError
from mmpref.processing.batch import PairBatch, join_vision, pad_rows
from mmpref.processing.encode import EncodedPair, EncodedPrompt, PairEncoder, score_or_nan
from mmpref.processing.faults import fault
from mmpref.processing.pixels import LoadImage
from mmpref.records import PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    prompt: EncodedPrompt
    answer: Tensor  # [C] or [R], at least one token

    @property
    def input_ids(self) -> Tensor:
        return torch.cat([self.prompt.input_ids, self.answer])


class PairCollator:
    """``collate_fn`` of a DataLoader over pairs. It can be pickled when ``load_image`` can.

    Args:
        encoder: encodes one pair.
        load_image: opens one image; called in the worker.
        pad_token_id: fills up shorter rows (its value is masked everywhere); None takes the tokenizer's own.
        need_rejected: False for losses that read the chosen side only: then no rejected row is built.
    """

    def __init__(
        self,
        encoder: PairEncoder,
        load_image: LoadImage,
        pad_token_id: int | None = None,
        need_rejected: bool = True,
    ) -> None:
        self.encoder = encoder
        self.load_image = load_image
        self.pad_token_id = encoder.chat.pad_token_id if pad_token_id is None else pad_token_id
        self.need_rejected = need_rejected

    def __call__(self, pairs: Sequence[PreferencePair]) -> PairBatch:
        encoded = [self.encoder.encode(pair, self.load_image) for pair in pairs]
        return collate_pairs(
            encoded,
            self.pad_token_id,
            need_rejected=self.need_rejected,
            image_token_id=self.encoder.chat.image_token_id,
        )


def collate_pairs(
    pairs: Sequence[EncodedPair], pad_token_id: int, *, need_rejected: bool = True, image_token_id: int | None = None
) -> PairBatch:
    """Encoded pairs as one batch, chosen rows first.

    Args:
        image_token_id: if given, the image tokens of every row are counted against that row's own images.

    Raises:
        DataError: a demonstration where both answers are needed.
        EncodeError: a row whose image tokens are not those of its images, or an answer without tokens.
    """
    chosen: list[_Row] = []
    rejected: list[_Row] = []
    for pair in pairs:
        first, second = pair.sides()
        chosen.append(_row(*first, image_token_id))
        if not need_rejected:
            continue
        if second is None:
            raise DataError(
                f"pair '{pair.pair_id}' has no rejected answer, and the loss compares two; train it with loss.name: "
                "sft, or leave it out"
            )
        rejected.append(_row(*second, image_token_id))
    rows = chosen + rejected
    ids = [row.input_ids for row in rows]
    has_scores = any(pair.score_chosen is not None for pair in pairs)
    return PairBatch(
        input_ids=pad_rows(ids, pad_token_id),
        attention_mask=pad_rows([torch.ones_like(row) for row in ids], 0),
        answer_mask=pad_rows([_answer_mask(row) for row in rows], 0),
        pair_ids=tuple(pair.pair_id for pair in pairs),
        vision=join_vision([row.prompt.vision for row in rows]),
        token_types=_token_types(rows),
        score_chosen=_scores([pair.score_chosen for pair in pairs]) if has_scores else None,
        score_rejected=_scores([pair.score_rejected for pair in pairs]) if has_scores else None,
    )


def collate_prompts(
    prompts: Sequence[EncodedPrompt], pad_token_id: int, *, image_token_id: int | None = None
) -> dict[str, Tensor]:
    """Keyword arguments of ``model.generate`` for several prompts, padded on the left."""
    for prompt in prompts:
        _check_image_tokens(prompt, image_token_id)
    names = {name for prompt in prompts for name in prompt.token_types}
    types = {name: [_types_or_zeros(prompt, name) for prompt in prompts] for name in sorted(names)}
    return {
        "input_ids": pad_rows([prompt.input_ids for prompt in prompts], pad_token_id, left=True),
        "attention_mask": pad_rows([torch.ones_like(prompt.input_ids) for prompt in prompts], 0, left=True),
        **{name: pad_rows(planes, 0, left=True) for name, planes in types.items()},
        **join_vision([prompt.vision for prompt in prompts]),
    }


def _row(prompt: EncodedPrompt, answer: Tensor, image_token_id: int | None) -> _Row:
    if answer.shape[0] == 0:
        raise fault(prompt.sample_id, "empty_response", "has an answer without a token to learn")
    _check_image_tokens(prompt, image_token_id)
    return _Row(prompt=prompt, answer=answer)


def _check_image_tokens(prompt: EncodedPrompt, image_token_id: int | None) -> None:
    """Models compare totals of a batch only, so two wrong rows can make up for each other and swap their pictures."""
    if image_token_id is None or (prompt.vision and not prompt.image_tokens):
        return
    found, want = int((prompt.input_ids == image_token_id).sum()), sum(prompt.image_tokens)
    if found != want:
        detail = f"has {found} image tokens, and its own images have {want} features"
        raise fault(prompt.sample_id, "placeholder_count", detail)


def _answer_mask(row: _Row) -> Tensor:
    mask = torch.zeros(len(row.prompt) + row.answer.shape[0], dtype=torch.bool)
    mask[len(row.prompt) :] = True
    return mask


def _token_types(rows: Sequence[_Row]) -> dict[str, Tensor]:
    names = sorted({name for row in rows for name in row.prompt.token_types})
    planes = {
        name: [torch.cat([_types_or_zeros(row.prompt, name), torch.zeros_like(row.answer)]) for row in rows]
        for name in names
    }
    return {name: pad_rows(values, 0) for name, values in planes.items()}


def _types_or_zeros(prompt: EncodedPrompt, name: str) -> Tensor:
    found = prompt.token_types.get(name)
    return torch.zeros_like(prompt.input_ids) if found is None else found


def _scores(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([score_or_nan(value) for value in values], dtype=torch.float32)
