"""Batches in both layouts: answers in order, padding masked, images in order, every prompt checked against its own."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from mmpref.errors import DataError
from mmpref.processing import (
    EncodeError,
    LayoutName,
    PairBatch,
    PairCollator,
    PairEncoder,
    collate_pairs,
    collate_prompts,
    family_of,
)
from mmpref.processing.batch import join_vision
from mmpref.processing.pixels import ImageSettings
from tests.tiny_vlms import TINY, draw, pair, refs


def encoder_for(name: str) -> PairEncoder:
    return PairEncoder(TINY[name].processor(), family_of(name, has_vision=True))


def answers_of(batch: PairBatch, encoder: PairEncoder) -> list[str]:
    """What the loss counts, by answer."""
    targets = torch.cat([batch.targets, batch.targets.new_zeros(1)])
    rows = zip(targets[batch.answers], batch.answer_lens.tolist(), strict=True)
    return [encoder.chat.tokenizer.decode(row[:length]) for row, length in rows]


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
def test_the_images_of_one_pair_are_not_copied_into_its_batch(layout: LayoutName) -> None:
    """They are as large as all the rest: 18 MiB for 896 x 896 in Qwen-VL."""
    encoded = encoder_for("qwen2_vl").encode(pair("a"), draw)
    batch = collate_pairs([dataclasses.replace(encoded, rejected_ids=None)], 0, layout=layout, need_rejected=False)
    assert batch.vision["pixel_values"].data_ptr() == encoded.vision["pixel_values"].data_ptr()


def test_a_batch_never_holds_the_tensors_of_the_pixel_cache() -> None:
    """A loader's worker moves what it sends into shared memory, in place."""
    encoder = PairEncoder(
        TINY["llava"].processor(), family_of("llava", has_vision=True), images=ImageSettings(cache_bytes=2**20)
    )
    found = [PairCollator(encoder, draw)([pair("a")]).vision["pixel_values"] for _ in range(3)]
    assert len({one.data_ptr() for one in found}) == 3
    found[0].zero_()
    assert torch.equal(found[1], found[2])
    assert bool(PairCollator(encoder, draw)([pair("a")]).vision["pixel_values"].any())


def test_every_tensor_of_a_batch_is_pinned_by_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy to a GPU from other memory waits; torch pins what says how, also inside a tuple."""
    pinned: set[int] = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.add(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    for layout in ("shared_prefix", "plain"):
        parts = PairCollator(encoder_for("qwen2_vl"), draw, layout=layout).rows([pair("a"), pair("b")])
        [batch] = pin_memory(parts)
        tensors: list[torch.Tensor] = []
        batch.map(lambda tensor, into=tensors: into.append(tensor) or tensor)
        assert len(tensors) > 6
        assert {tensor.data_ptr() for tensor in tensors} <= pinned


def test_plain_rows_masks_and_padding() -> None:
    encoder = encoder_for("llava")
    batch = PairCollator(encoder, draw, layout="plain")([pair("a", chosen="yes"), pair("b", images=())])
    assert len(batch) == 2
    assert batch.pair_ids == ("a", "b")
    rejected = "two yellow boxes and a dog .<|im_end|>"
    assert answers_of(batch, encoder) == ["yes<|im_end|>", "a red square .<|im_end|>", rejected, rejected]
    chosen_half, rejected_half, _ = batch.by_side(torch.arange(4))
    assert chosen_half.tolist() == [0, 1]
    assert rejected_half is not None
    assert rejected_half.tolist() == [2, 3]
    assert batch.attention_mask is not None
    assert bool((batch.input_ids[batch.attention_mask == 0] == encoder.chat.pad_token_id).all())
    # every target is the real token after the place that predicts it
    assert bool((batch.input_ids.flatten()[batch.predicts + 1] == batch.targets).all())
    assert bool((batch.attention_mask.flatten()[batch.predicts + 1] == 1).all())
    assert bool((batch.attention_mask.diff(dim=1) <= 0).all()), "padding is on the right"


def test_a_packed_row_has_each_prompt_once_and_no_padding() -> None:
    encoder = encoder_for("qwen2_vl")
    rows = [
        pair("a", chosen="yes"),
        pair("edited", images=(), chosen="a red square .", rejected="a red dog ."),
        pair("other image", images=("60x60-4",), rejected_images=refs("60x60-5")),
    ]
    batch = PairCollator(encoder, draw)(rows)
    assert batch.shares_prefix
    assert batch.attention_mask is None
    assert batch.input_ids.shape[0] == 1
    end = "<|im_end|>"
    assert answers_of(batch, encoder) == [
        f"yes{end}",
        f"a red square .{end}",
        f"a red square .{end}",
        f"two yellow boxes and a dog .{end}",
        f"a red dog .{end}",
        f"two yellow boxes and a dog .{end}",
    ]
    encoded = [encoder.encode(row, draw) for row in rows]
    common = len(encoder.chat.tokenizer("a red")["input_ids"])
    first, edited, seen, unseen = batch.segments
    assert encoded[0].rejected_ids is not None
    prompt, chosen, rejected = len(encoded[0].prompt), len(encoded[0].chosen_ids), len(encoded[0].rejected_ids)
    assert first.branches == ((-1, 0, prompt + chosen), (0, prompt, rejected))
    assert edited.branches[1].at == len(encoded[1].prompt) + common, "the common beginning is read once"
    assert len(seen.branches) == len(unseen.branches) == 1, "sides with images of their own share nothing"
    assert batch.segments[-1].end == batch.num_tokens
    assert batch.vision["image_grid_thw"].shape[0] == 3


def test_both_answers_start_at_the_same_position() -> None:
    encoder = encoder_for("qwen2_vl")
    batch = PairCollator(encoder, draw)([pair(images=("90x60-1",)), pair("t", images=())])
    assert batch.position_ids is not None
    for segment in batch.segments:
        start, (whole, second) = segment.start, segment.branches
        middle = start + second.at
        of_first = batch.position_ids[:, 0, middle : start + whole.length]
        of_second = batch.position_ids[:, 0, start + whole.length : segment.end]
        assert of_first[:, 0].tolist() == of_second[:, 0].tolist()
        assert of_first[0, 0].item() == batch.position_ids[:, 0, start:middle].max().item() + 1
        assert (of_second.diff(dim=1) == 1).all()


def test_images_are_in_row_order_once_for_each_prompt() -> None:
    encoder = encoder_for("llava")
    rows = [pair("a"), pair("b", images=("28x28-5", "28x28-6")), pair("c", images=())]
    single = [
        encoder.encode(pair(images=(name,)), draw).vision["pixel_values"] for name in ("28x28-1", "28x28-5", "28x28-6")
    ]
    plain = PairCollator(encoder, draw, layout="plain")(rows)
    torch.testing.assert_close(plain.vision["pixel_values"], torch.cat(single + single))
    packed = PairCollator(encoder, draw, layout="shared_prefix")(rows)
    torch.testing.assert_close(packed.vision["pixel_values"], torch.cat(single))


def test_the_model_sees_tokens_and_images_only() -> None:
    scored = [pair(score_chosen=1.0, score_rejected=0.0)]
    plain = PairCollator(encoder_for("qwen2_vl"), draw, layout="plain")(scored)
    images = {"pixel_values", "image_grid_thw"}
    assert set(plain.model_inputs()) == {"input_ids", "attention_mask", "position_ids", "mm_token_type_ids"} | images
    packed = PairCollator(encoder_for("qwen2_vl"), draw)(scored)
    assert set(packed.model_inputs()) == set(plain.model_inputs())


@pytest.mark.parametrize("layout", ["plain", "shared_prefix"])
def test_a_token_budget_splits_a_batch_in_order(layout: LayoutName) -> None:
    encoder = encoder_for("llava")
    rows = [pair(str(i), images=(), question=f"what is {i} ?", chosen="yes " * (i + 1)) for i in range(6)]
    whole = PairCollator(encoder, draw, layout=layout)(rows)
    budget = whole.num_tokens // 2
    parts = PairCollator(encoder, draw, layout=layout, row_tokens=budget).rows(rows)
    assert [name for part in parts for name in part.pair_ids] == [row.id for row in rows]
    assert 1 < len(parts) < 6
    assert all(part.num_tokens <= budget for part in parts)
    alone = PairCollator(encoder, draw, layout=layout, row_tokens=1).rows(rows)
    assert [len(part) for part in alone] == [1] * 6
    assert len(PairCollator(encoder, draw, layout=layout).rows(rows)) == 1


@pytest.mark.parametrize("layout", ["plain", "shared_prefix"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_token_budget_holds_exactly_what_the_model_runs_over(name: str, layout: LayoutName) -> None:
    """A budget of just the batch's tokens keeps it whole, and one token less splits it: a prompt counts once where it
    is run once."""
    encoder = encoder_for(name)
    rows = [pair(str(i), chosen="yes " * (i + 1)) for i in range(3)]
    tokens = PairCollator(encoder, draw, layout=layout)(rows).num_tokens
    assert [len(part) for part in PairCollator(encoder, draw, layout=layout, row_tokens=tokens).rows(rows)] == [3]
    assert len(PairCollator(encoder, draw, layout=layout, row_tokens=tokens - 1).rows(rows)) == 2


def test_a_swap_that_totals_would_hide_is_caught() -> None:
    encoder = encoder_for("qwen2_vl")
    one, two = (
        encoder.encode(pair(name, images=(f"{size}-1",)), draw) for name, size in (("a", "28x28"), ("b", "90x90"))
    )
    swapped = [
        dataclasses.replace(
            one, prompt=dataclasses.replace(one.prompt, vision=two.vision, image_tokens=two.prompt.image_tokens)
        ),
        dataclasses.replace(
            two, prompt=dataclasses.replace(two.prompt, vision=one.vision, image_tokens=one.prompt.image_tokens)
        ),
    ]
    token = encoder.chat.image_token_id
    for layout in ("plain", "shared_prefix"):
        collate_pairs([one, two], 0, layout=layout, image_token_id=token)
        with pytest.raises(EncodeError, match="'a' has 1 image tokens, and its own images have 4 features"):
            collate_pairs(swapped, 0, layout=layout, image_token_id=token)


def test_demonstrations_where_two_answers_are_needed() -> None:
    encoder = encoder_for("llava")
    with pytest.raises(DataError, match=r"'solo' has no rejected answer.*sft"):
        PairCollator(encoder, draw)([pair("solo", rejected=None)])
    batch = PairCollator(encoder, draw, need_rejected=False)([pair("solo", rejected=None), pair("both")])
    assert not batch.has_rejected
    assert batch.by_side(torch.arange(2)).rejected is None


def test_an_answer_without_tokens_cannot_be_built() -> None:
    encoded = encoder_for("llava").encode(pair("gone"), draw)
    empty = dataclasses.replace(encoded, chosen_ids=encoded.chosen_ids[:0])
    for layout in ("plain", "shared_prefix"):
        with pytest.raises(EncodeError, match="'gone' has an answer without a token"):
            collate_pairs([empty], 0, layout=layout)


def test_scores_are_nan_where_missing_and_none_where_all_are() -> None:
    collate = PairCollator(encoder_for("llava"), draw)
    batch = collate([pair(score_chosen=4.0, score_rejected=1.0), pair()])
    assert batch.scores is not None
    assert batch.scores[0][0].item() == 4.0
    assert bool(batch.scores[1].isnan().tolist() == [False, True])
    assert collate([pair()]).scores is None


def test_tiles_of_different_numbers_are_padded_and_sizes_refused() -> None:
    rows = [{"pixel_values": torch.ones(1, n, 3, 4, 4), "image_sizes": torch.ones(1, 2)} for n in (2, 5)]
    joined = join_vision([{}, *rows])
    assert joined["pixel_values"].shape == (2, 5, 3, 4, 4)
    assert joined["pixel_values"][0, 2:].abs().sum().item() == 0
    with pytest.raises(DataError, match="different sizes"):
        join_vision([{"pixel_values": torch.ones(1, 3, 4, 4)}, {"pixel_values": torch.ones(1, 3, 8, 4)}])
    with pytest.raises(DataError, match="different vision inputs"):
        join_vision([{"pixel_values": torch.ones(1, 3)}, {"patches": torch.ones(1, 3)}])


def test_a_strip_of_patches_grows_in_its_length() -> None:
    grids = [torch.tensor([[4, 4]]), torch.tensor([[4, 8], [4, 4]])]
    rows = [{"pixel_values": torch.rand(1, 3, 14, int(g.prod(-1).sum()) * 14), "target_sizes": g} for g in grids]
    joined = join_vision([rows[0], {}, rows[1]])
    assert torch.equal(joined["pixel_values"], torch.cat([row["pixel_values"] for row in rows], dim=-1))
    assert joined["target_sizes"].tolist() == [[4, 4], [4, 8], [4, 4]]
    alike = join_vision([rows[0], rows[0]])  # of one length, so that they could be laid one on the other
    assert alike["pixel_values"].shape == (1, 3, 14, 2 * 16 * 14)


def test_prompts_are_padded_on_the_left() -> None:
    encoder = encoder_for("qwen2_vl")
    rows = [pair("a", images=("90x90-1",)), pair("b", images=(), question="what ?")]
    prompts = [encoder.encode_prompt(row.id, row.prompt, row.images, draw) for row in rows]
    inputs = collate_prompts(prompts, encoder.chat.pad_token_id, image_token_id=encoder.chat.image_token_id)
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    width = inputs["input_ids"].shape[1]
    for i, prompt in enumerate(prompts):
        assert inputs["input_ids"][i, width - len(prompt) :].tolist() == prompt.input_ids.tolist()
        assert inputs["attention_mask"][i].sum().item() == len(prompt)
    assert inputs["mm_token_type_ids"].sum().item() == 4


def test_loader_workers_make_the_same_batches() -> None:
    collate = PairCollator(encoder_for("qwen2_vl"), draw)
    rows = [pair(str(i), images=(f"60x30-{i}",)) for i in range(4)]
    here = [collate(rows[:2]), collate(rows[2:])]
    there = list(DataLoader(rows, batch_size=2, collate_fn=pickle.loads(pickle.dumps(collate)), num_workers=1))  # type: ignore[arg-type]
    for a, b in zip(here, there, strict=True):
        assert a.pair_ids == b.pair_ids
        torch.testing.assert_close(a.model_inputs(), b.model_inputs())


def test_to_moves_every_tensor() -> None:
    for layout in ("plain", "shared_prefix"):
        collate = PairCollator(encoder_for("qwen2_vl"), draw, layout=layout)
        moved = collate([pair(score_chosen=1.0, score_rejected=0.0)]).to("meta")
        own = [moved.predicts, moved.targets, moved.answers, moved.answer_lens, moved.image_places]
        tensors = [*moved.model_inputs().values(), *own, *(moved.scores or ())]
        assert len(tensors) == 13
        assert all(tensor.device.type == "meta" for tensor in tensors)


def test_shapes_are_checked_without_reading_values() -> None:
    batch = PairCollator(encoder_for("llava"), draw)([pair(), pair("q")])
    with pytest.raises(ValueError, match="4 answers for 3 pairs"):
        dataclasses.replace(batch, pair_ids=("a", "b", "c"))
    with pytest.raises(ValueError, match="score_chosen is"):
        dataclasses.replace(batch, score_chosen=torch.zeros(3))
    with pytest.raises(ValueError, match="targets is"):
        dataclasses.replace(batch, targets=batch.targets[1:])
    with pytest.raises(ValueError, match="never both"):
        dataclasses.replace(batch, attention_mask=torch.ones_like(batch.input_ids))


def test_images_under_a_mask_may_differ_in_number_and_size() -> None:
    """Idefics 2 keeps proportions; what is padded is said by the mask, which is padded with zeros as well."""
    sizes = [(1, 1, 40, 60), (1, 2, 56, 28)]
    rows = [
        {"pixel_values": torch.rand(n, images, 3, h, w) + 1, "pixel_attention_mask": torch.ones(n, images, h, w).long()}
        for n, images, h, w in sizes
    ]
    joined = join_vision(rows)
    assert joined["pixel_values"].shape == (2, 2, 3, 56, 60)
    assert joined["pixel_attention_mask"].shape == (2, 2, 56, 60)
    assert torch.equal(joined["pixel_values"].ne(0).all(2), joined["pixel_attention_mask"].bool())
    for at, ((_, images, h, w), row) in enumerate(zip(sizes, rows, strict=True)):
        assert torch.equal(joined["pixel_values"][at, :images, :, :h, :w], row["pixel_values"][0])


def test_places_among_the_patches_of_all_images_count_on_from_row_to_row() -> None:
    """Molmo 2 pools patches by their places; -1 is none."""
    rows = [
        {"pixel_values": torch.rand(crops, 4, 12), "image_token_pooling": torch.tensor(places)}
        for crops, places in ((1, [[0, 1], [2, -1]]), (2, [[0, 7], [3, -1]]), (1, [[0, 3]]))
    ]
    joined = join_vision(rows)["image_token_pooling"]
    assert joined.tolist() == [[0, 1], [2, -1], [4, 11], [7, -1], [12, 15]]
    assert rows[1]["image_token_pooling"].tolist() == [[0, 7], [3, -1]]


def test_crops_are_missing_where_no_image_of_a_row_has_any() -> None:
    """DeepSeek-OCR 2 and others count the crops of every image, and give none where none was cut."""
    whole = {"pixel_values": torch.zeros(2, 3, 8, 8), "num_local_patches": torch.tensor([0, 0])}
    cut = {
        "pixel_values": torch.ones(1, 3, 8, 8), "num_local_patches": torch.tensor([2]),
        "pixel_values_local": torch.rand(2, 3, 4, 4),
    }  # fmt: skip
    for rows, counts in (([whole, cut], [0, 0, 2]), ([cut, whole], [2, 0, 0])):
        joined = join_vision(rows)
        assert joined["num_local_patches"].tolist() == counts
        assert torch.equal(joined["pixel_values_local"], cut["pixel_values_local"])
        assert joined["pixel_values"].shape[0] == 3
    with pytest.raises(DataError, match="different vision inputs"):
        join_vision([{**whole, "num_local_patches": torch.tensor([0, 2])}, cut])
