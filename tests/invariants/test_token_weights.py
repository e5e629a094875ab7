"""Weights of tokens reach policy and reference alike, per answer of each pair, in both layouts, live and cached."""

from __future__ import annotations

import dataclasses
import functools
from itertools import combinations
from pathlib import Path

import pytest
import torch

from mmpref.losses import PairLogps, build_objective
from mmpref.models import LoadedModel, Tuning, choose_reference, pair_logps, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName, PairCollator, PairEncoder, TokenWeightSettings
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.token_weights import token_weights
from mmpref.records import PreferencePair, WeightSpan
from mmpref.training.run.reference_cache import ReferenceCache
from tests.plain_forward import build_deep, stir
from tests.tiny_vlms import draw, pair, refs

LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
ANSWERS = (
    "there is a red square and a dog in the image .",
    "there is a green circle and a dog in the image .",
    "there is a red square and no cat in the image .",
    "yes , it is a red square",
)
DIFF = TokenWeightSettings(rule="diff", changed=4.0, same=0.5)


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


def six(name: str) -> list[PreferencePair]:
    """Four answers in six pairs of one prompt: each stands against three others."""
    rows = [pair(f"{a} {b}", chosen=ANSWERS[a], rejected=ANSWERS[b]) for a, b in combinations(range(4), 2)]
    if name == "text":
        return [dataclasses.replace(row, images=(), prompt=pair(images=()).prompt) for row in rows]
    return rows


def collator(
    loaded: LoadedModel, layout: LayoutName, rule: TokenWeightSettings | None, **options: bool
) -> PairCollator:
    return PairCollator(
        PairEncoder(loaded.processor, loaded.family, token_weights=rule), draw, layout=layout, **options
    )


def values(found: PairLogps) -> dict[str, torch.Tensor]:
    """All that the loss is given."""
    return {entry.name: value for entry in dataclasses.fields(found)
            if isinstance(value := getattr(found, entry.name), torch.Tensor)}  # fmt: skip


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "text"])
def test_an_answer_of_several_pairs_is_weighted_in_each_by_what_it_stands_against(name: str) -> None:
    loaded, rows = deep(name), six(name)
    for layout in LAYOUTS:
        batch = collator(loaded, layout, DIFF)(rows)
        assert batch.answer_weights is not None
        assert not torch.equal(batch.answer_weights[0], batch.answer_weights[2])  # the first answer, twice
        with torch.no_grad():
            found = pair_logps(loaded.model, batch)
            per_token = batch.by_answer(answer_logps(loaded.model, batch))
            for number, row in enumerate(rows):
                alone = values(pair_logps(loaded.model, collator(loaded, layout, DIFF)([row])))
                for key, value in values(found).items():
                    torch.testing.assert_close(value[number : number + 1], alone[key], atol=1e-4, rtol=1e-5)
                encoder = collator(loaded, layout, DIFF).encoder
                texts = encoder.encode_text(row).answers
                by_hand = token_weights(row, texts, DIFF, encoder.chat.decoded)
                for side, place, weights in zip(("chosen", "rejected"), (number, number + 6), by_hand, strict=True):
                    assert weights is not None
                    of_answer = per_token[place, : len(weights)]
                    torch.testing.assert_close(values(found)[side][number], (of_answer * weights).sum())
                    assert values(found)[f"{side}_len"][number] == weights.sum()
                    assert values(found)[f"{side}_tokens"][number] == len(weights)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_1_change_no_bit(layout: LayoutName) -> None:
    loaded, rows = deep("qwen2_vl"), six("qwen2_vl")
    ones = TokenWeightSettings(rule="diff", changed=1.0, same=1.0)
    objective = build_objective({"name": "dpo", "beta": 0.3})
    with torch.no_grad():
        plain, weighed = (pair_logps(loaded.model, collator(loaded, layout, rule)(rows)) for rule in (None, ones))
    for side in ("chosen", "rejected"):
        assert torch.equal(values(plain)[side], values(weighed)[side])
        assert torch.equal(values(plain)[f"{side}_len"].float(), values(weighed)[f"{side}_len"])
    zero = {"ref_chosen": plain.chosen - 1, "ref_rejected": plain.rejected}
    losses = [objective(dataclasses.replace(one, **zero)).per_pair for one in (plain, weighed)]
    assert torch.equal(*losses)


def test_the_policy_the_live_reference_and_the_cache_are_weighted_and_one_cache_serves_all(tmp_path: Path) -> None:
    loaded, rows = build_deep("llava"), six("llava")
    loaded = prepare(loaded, Tuning(language="full"))
    live = choose_reference(loaded.model, kind="frozen_copy")
    assert live is not None
    plain = collator(loaded, "shared_prefix", None, keyed=True)
    cache = ReferenceCache.open(tmp_path / "cache", {"model": "m"})
    told: list[str] = []
    cache.fill(loaded.model, plain, rows, device=torch.device("cpu"), say=told.append)
    stir(loaded.model)
    column = [dataclasses.replace(row, rejected_weight=2.0, chosen_weight=(WeightSpan(0, 5, 3.0),)) for row in rows]
    for rule, of in ((DIFF, rows), (TokenWeightSettings(rule="column"), column)):
        weighed = collator(loaded, "shared_prefix", rule, keyed=True)
        assert weighed(of).keys == plain(rows).keys
        cache.fill(loaded.model, weighed, of, device=torch.device("cpu"), say=told.append)
        for layout in LAYOUTS:
            batch = weighed.changed(layout=layout)(of)
            with torch.no_grad():
                one, other = (pair_logps(loaded.model, batch, reference=reference) for reference in (live, cache))
                unweighed = pair_logps(loaded.model, plain.changed(layout=layout)(of), reference=live)
            for key, value in values(one).items():
                torch.testing.assert_close(values(other)[key], value, atol=2e-4, rtol=1e-5)
            for side in ("chosen", "ref_chosen", "rejected", "ref_rejected"):
                assert not torch.allclose(values(one)[side], values(unweighed)[side])
    assert len(told) == 1 or "0 answers" in " ".join(told[1:])  # the entries are per token


def test_the_chosen_answer_under_another_image_has_its_weights() -> None:
    loaded = deep("llava")
    rows = [dataclasses.replace(row, other_images=refs("28x28-7")) for row in six("llava")[:2]]
    encoder = PairEncoder(
        loaded.processor, loaded.family, token_weights=DIFF, other_image=OtherImageSettings(source="column")
    )
    for layout in LAYOUTS:
        batch = PairCollator(encoder, draw, layout=layout, need_other=True)(rows)
        assert batch.answer_weights is not None
        of_side = batch.by_side(batch.answer_weights)
        assert of_side.other is not None
        assert torch.equal(of_side.other, of_side.chosen)
        with torch.no_grad():
            found = pair_logps(loaded.model, batch)
            other = batch.by_side(batch.by_answer(answer_logps(loaded.model, batch))).other
        assert found.other is not None
        torch.testing.assert_close(found.other, (other * of_side.chosen).sum(dim=1))


def test_the_gradient_of_a_token_is_that_of_its_log_prob_times_its_weight() -> None:
    loaded, row = build_deep("text"), six("text")[:1]
    loaded.model.requires_grad_(True)
    found = []
    for rule in (DIFF, None):
        loaded.model.zero_grad()
        batch = collator(loaded, "shared_prefix", rule)(row)
        if rule is not None:
            chosen = pair_logps(loaded.model, batch).chosen
            weights = batch.answer_weights
        else:
            chosen = (batch.by_answer(answer_logps(loaded.model, batch)) * weights).sum(dim=1)[:1]
        chosen.sum().backward()
        found.append({name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() != set()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], atol=1e-5, rtol=1e-4)


def test_row_weights_and_the_share_of_weighted_tokens_are_those_of_each_pair() -> None:
    loaded = deep("text")
    rows = [
        dataclasses.replace(row, weight=weight) for row, weight in zip(six("text"), (1, 2.5, 0, 1, 1, 1), strict=True)
    ]
    for layout in LAYOUTS:
        batch = collator(loaded, layout, DIFF)(rows)
        assert batch.weight is not None
        assert batch.weight.tolist() == [1.0, 2.5, 0.0, 1.0, 1.0, 1.0]
        share = batch.share_weighted(DIFF.plain)
        assert share is not None
        for number, row in enumerate(rows):
            encoded = collator(loaded, layout, DIFF).encoder.encode(row, draw)
            assert encoded.chosen_weights is not None
            assert encoded.rejected_weights is not None
            both = torch.cat([encoded.chosen_weights, encoded.rejected_weights])
            torch.testing.assert_close(share[number], (both == 4.0).float().mean())
        assert collator(loaded, layout, None)(rows).share_weighted(1.0) is None
