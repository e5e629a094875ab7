"""The load-balancing loss of routers is transformers' own, over each token of a pair once, in either layout."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings
from mmpref.models.experts import experts_used
from mmpref.models.logps.layout_choice import choose_layout
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.logps.reference import choose_reference
from mmpref.models.logps.router_balance import balance_of_pairs, find_routers
from mmpref.processing.answer_tree import common_beginning
from mmpref.processing.encoded import EncodedPair
from mmpref.processing.layout import plain_batch, shared_prefix_batch
from tests.tiny_experts import (
    BALANCED,
    UNRECORDED,
    build_experts,
    loaded_experts,
    pairs_of_tokens,
    write_experts,
)
from tests.tiny_vlms import build_model


def stock_balance(model: Any, pair: EncodedPair) -> Tensor:
    """What transformers' function says of the tokens of a pair, each answer run alone by the stock model."""
    prompt, chosen, rejected = pair.prompt.input_ids, pair.chosen_ids, pair.rejected_ids
    assert rejected is not None
    rows = [torch.cat([prompt, answer])[None] for answer in (chosen, rejected)]
    with torch.no_grad():
        first, second = (model(input_ids=row, output_router_logits=True, use_cache=False).router_logits for row in rows)
    own = len(prompt) + common_beginning(chosen, rejected)
    flat = [tuple(layer.reshape(-1, layer.shape[-1]) for layer in layers) for layers in (first, second)]
    once = tuple(torch.cat([one, other[own:]]) for one, other in zip(*flat, strict=True))
    stock = sys.modules[type(model).__module__].load_balancing_loss_func  # type: ignore[attr-defined]
    return stock(once, once[0].shape[1], experts_used(model.config))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", [name for name in BALANCED if name not in UNRECORDED])
def test_the_balance_of_a_pair_is_what_transformers_computes_over_its_tokens(name: str) -> None:
    model, pairs = build_experts(name), pairs_of_tokens()
    routers = find_routers(model)
    assert len(routers.modules) == 2
    wanted = torch.stack([stock_balance(model, pair) for pair in pairs])
    found = pair_logps(model, plain_batch(pairs, 0), routers=routers).router_balance
    assert found is not None
    assert torch.allclose(found, wanted, atol=1e-5)
    assert wanted.std() > 1e-3  # pairs differ


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_a_prompt_that_both_answers_share_counts_as_one_that_stands_in_two_rows(name: str, tmp_path: Any) -> None:
    loaded = loaded_experts(write_experts(name, tmp_path))
    assert choose_layout(loaded.model, loaded.family).name == "shared_prefix"
    pairs, routers = pairs_of_tokens(), find_routers(loaded.model)
    plain, shared = (
        pair_logps(loaded.model, batch, routers=routers).router_balance
        for batch in (plain_batch(pairs, 0), shared_prefix_batch(pairs))
    )
    assert plain is not None
    assert shared is not None
    assert torch.allclose(plain, shared, atol=1e-5)


def test_padding_and_neighbours_change_nothing() -> None:
    model, pairs = build_experts("qwen3_moe"), pairs_of_tokens()
    routers = find_routers(model)
    together = pair_logps(model, plain_batch(pairs, 0), routers=routers).router_balance
    alone = [pair_logps(model, plain_batch([pair], 0), routers=routers).router_balance for pair in pairs]
    assert together is not None
    assert torch.allclose(together, torch.cat([one for one in alone if one is not None]), atol=1e-5)


def test_each_token_counts_for_its_pair_once() -> None:
    pairs = pairs_of_tokens()
    for batch in (plain_batch(pairs, 0), shared_prefix_batch(pairs)):
        assert batch.pair_tokens is not None
        for number, pair in enumerate(pairs):
            assert pair.rejected_ids is not None
            answers = len(pair.chosen_ids) + len(pair.rejected_ids)
            answers -= common_beginning(pair.chosen_ids, pair.rejected_ids)
            places = batch.pair_tokens[0, batch.pair_tokens[1] == number]
            assert len(places.unique()) == len(places) == len(pair.prompt) + answers
    first = pairs[0]
    assert first.rejected_ids is not None
    assert common_beginning(first.chosen_ids, first.rejected_ids) == 2


def test_even_use_of_experts_is_the_least_and_one_expert_for_all_the_most() -> None:
    batch = plain_batch(pairs_of_tokens(1), 0)
    tokens = batch.num_tokens
    even = torch.eye(4).repeat(tokens, 1)[:tokens] * 8
    one = torch.tensor([8.0, 0, 0, 0]).expand(tokens, 4)
    mixed, always = (float(balance_of_pairs([logits], batch, used=1)) for logits in (even, one))
    assert 0.9 < mixed < 1.2
    assert always == pytest.approx(4 * float(torch.softmax(one[0], 0)[0]), rel=1e-5)


def test_the_balance_teaches_the_routers_and_the_reference_has_none(tmp_path: Any) -> None:
    loaded = loaded_experts(write_experts("qwen3_moe", tmp_path), AdapterSettings(rank=2))
    model, routers = loaded.model, find_routers(loaded.model)
    reference = choose_reference(model)
    ran: list[bool] = []
    handle = routers.modules[0].register_forward_hook(lambda *_: ran.append(torch.is_grad_enabled()))
    batch = plain_batch(pairs_of_tokens(), 0)
    found = pair_logps(model, batch, reference=reference, routers=routers)
    handle.remove()
    assert ran == [False, True]  # the reference first; its logits are not among those that are counted
    assert found.router_balance is not None
    assert found.ref_chosen is not None
    alone = pair_logps(model, batch, routers=routers).router_balance
    assert alone is not None
    assert torch.allclose(found.router_balance, alone)
    found.router_balance.sum().backward()
    learnt = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
    assert any("lora_B" in name for name in learnt)


@pytest.mark.parametrize("name", ["deepseek_v3", "gemma4_text", "llama4_text", *UNRECORDED])
def test_models_whose_routers_have_no_such_loss_are_refused(name: str) -> None:
    why = "no routers that this release" if name in UNRECORDED else "no (load-balancing loss|routers that this release)"
    with pytest.raises(ConfigError, match=rf"model.router_aux_loss_coef is .*'?{name}'? .*; write `") as found:
        find_routers(build_experts(name))
    assert re.search(why, str(found.value))


def test_a_model_without_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a 'llama' model has no routers .*write `model.router_aux_loss_coef=0`"):
        find_routers(build_model("text"))
