"""Mismatched answers: under the prompt and the images of the row, in a batch of their own beside the row's batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mmpref.processing import LayoutName, PairBatch, PairCollator, PairEncoder, family_of
from mmpref.records import PreferencePair
from tests.tiny_vlms import TINY, draw, pair

ROWS = [
    pair("a", rejected=None, label=True, mismatched="a dog ."),
    pair("b", images=("60x60-2",), rejected=None, label=False, chosen="a dog .", mismatched="a red square ."),
    pair("c", images=(), question="what is red ?", rejected=None, label=True, mismatched="two yellow boxes ."),
]


def collator_for(name: str = "qwen2_vl", *, max_length: int | None = None, **options: object) -> PairCollator:
    encoder = PairEncoder(TINY[name].processor(), family_of(name, has_vision=True), max_length=max_length)
    return PairCollator(encoder, draw, need_rejected=False, need_mismatched=True, **options)  # type: ignore[arg-type]


def beside(batch: PairBatch) -> PairBatch:
    assert batch.mismatched is not None
    return batch.mismatched


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
def test_they_are_what_a_row_with_that_answer_would_be(name: str, layout: LayoutName) -> None:
    batch = collator_for(name, layout=layout, keyed=True)(ROWS)
    rows = [dataclasses.replace(row, chosen=row.mismatched or "") for row in ROWS]
    want = collator_for(name, layout=layout, keyed=True)(rows)
    found = beside(batch)
    assert found.pair_ids == batch.pair_ids
    assert found.keys == want.keys
    for field in ("input_ids", "targets", "answers", "answer_lens", "position_ids"):
        mine, wanted = getattr(found, field), getattr(want, field)
        assert (mine is None and wanted is None) or torch.equal(mine, wanted), field
    assert found.vision.keys() == want.vision.keys()
    assert all(torch.equal(found.vision[key], want.vision[key]) for key in found.vision)
    assert not found.has_rejected
    assert found.mismatched is None
    assert batch.desirable is not None
    assert batch.desirable.tolist() == [1.0, 0.0, 1.0]


def test_each_part_has_those_of_its_rows() -> None:
    parts = collator_for(row_tokens=60).rows(ROWS)
    assert len(parts) > 1
    assert all(beside(part).pair_ids == part.pair_ids for part in parts)


def test_they_go_where_their_batch_goes() -> None:
    moved = collator_for()(ROWS).map(lambda tensor: tensor + 1 if tensor.dtype == torch.long else tensor)
    assert torch.equal(beside(moved).answer_lens, beside(collator_for()(ROWS)).answer_lens + 1)


def test_they_are_cut_by_the_rule_of_the_answers() -> None:
    long = dataclasses.replace(ROWS[2], mismatched="a red square . " * 30)
    whole = beside(collator_for()([long]))
    limit = whole.num_tokens - 40
    found = beside(collator_for(max_length=limit)([long]))
    assert found.num_tokens == limit
    assert int(found.answer_lens) == int(whole.answer_lens) - 40


def test_rows_without_one_are_refused_where_they_are_needed_and_nowhere_else() -> None:
    row: PreferencePair = dataclasses.replace(ROWS[0], mismatched=None)
    with pytest.raises(ValueError, match="'a' has no mismatched answer"):
        collator_for()([row])
    assert collator_for().changed(need_mismatched=False)([row]).mismatched is None
    assert collator_for().of_chosen()(ROWS).mismatched is None
