"""Layers that see a window or a chunk, caps and sinks: a packed row is each answer alone behind its prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from mmpref.models import choose_layout
from mmpref.models.load import family_of_config
from mmpref.models.logps import packed_masks
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.shared_prefix_attention import implementation
from mmpref.processing import PairBatch
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.layout import plain_batch, shared_prefix_batch
from mmpref.processing.positions import in_sequence
from tests.plain_forward import answers_of, gradient, relative, worst
from tests.recomputing import recompute
from tests.tiers import checkerboard

SIZE = 8
"""Of every window and chunk: prompts of the pairs below fill several."""
SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 300, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": SIZE}
# name -> (class, config, attention that it may have)
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "mistral, a window in every layer": ("Mistral", {"sliding_window": SIZE}, ("sdpa", "eager", "flex_attention")),
    "qwen2, a window in some layers": (
        "Qwen2", {"use_sliding_window": True, "sliding_window": SIZE, "max_window_layers": 2}, ("sdpa", "eager"),
    ),
    "gemma2, windows and caps": ("Gemma2", {**MIXED, "attn_logit_softcapping": 2.0}, ("eager",)),
    "gemma3, windows": ("Gemma3Text", MIXED, ("sdpa", "eager", "flex_attention")),
    "cohere2, windows": ("Cohere2", MIXED, ("sdpa", "eager")),
    "olmo3, windows": ("Olmo3", MIXED, ("sdpa", "eager")),
    "gpt-oss, windows and sinks": ("GptOss", {**MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}, ("eager",)),
    "llama4, chunks": (
        "Llama4Text",
        {"attention_chunk_size": SIZE, "attn_temperature_tuning": False, "intermediate_size_mlp": 128,
         "num_local_experts": 2, "no_rope_layers": [1, 1, 0, 1]},
        ("sdpa", "eager"),
    ),
    "llama4, temperature": (
        "Llama4Text",
        {"attention_chunk_size": SIZE, "attn_temperature_tuning": True, "floor_scale": 4, "attn_scale": 0.5,
         "intermediate_size_mlp": 128, "num_local_experts": 2, "no_rope_layers": [1, 0, 1, 0]},
        ("sdpa",),
    ),
}  # fmt: skip
CASES = [(name, attention) for name, (_, _, kinds) in MODELS.items() for attention in kinds if "flex" not in attention]
FLEX = [name for name, (_, _, kinds) in MODELS.items() if "flex_attention" in kinds]


def model_of(name: str, attention: str = "eager") -> Any:
    kind, settings, _ = MODELS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        config = getattr(tf, f"{kind}Config")(**{**SMALL, **settings})
        config._attn_implementation = attention
        model = getattr(tf, f"{kind.removesuffix('Text')}ForCausalLM")(config)
        for key, parameter in model.named_parameters():
            if parameter.dim() > 1 or "sinks" in key:
                parameter.normal_(std=0.25)
    return model.eval()


def pairs_of() -> list[EncodedPair]:
    """Longer than several windows and shorter than one; answers that begin alike, for less and for more than one."""
    made = torch.Generator().manual_seed(1)
    found = []
    for name, prompt, common, chosen, rejected in (
        ("long", 29, 0, 11, 19),
        ("short", 3, 0, 2, 3),
        ("alike", 13, 5, 4, 9),
        ("much alike", 7, 21, 12, 3),
        ("one of it", 40, 0, 1, 30),
    ):
        ids = torch.randint(5, 299, (prompt + common + chosen + rejected,), generator=made)
        parts = ids.split([prompt, common, chosen, rejected])
        encoded = EncodedPrompt(sample_id=name, input_ids=parts[0], position_ids=in_sequence(prompt))
        sides = [torch.cat([parts[1], own]) for own in parts[2:]]
        found.append(EncodedPair(prompt=encoded, chosen_ids=sides[0], rejected_ids=sides[1]))
    return found


def by_logits(model: Any, pairs: list[EncodedPair]) -> list[Tensor]:
    """Each sequence alone, from all its logits."""
    found = []
    for side in (0, 1):
        for pair in pairs:
            prompt, answer = pair.sides()[side] or (pair.prompt, pair.chosen_ids)
            ids = torch.cat([prompt.input_ids, answer])[None]
            every = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
            found.append(every[len(prompt) - 1 : -1].gather(1, answer[:, None])[:, 0])
    return found


def ours(model: Any, batch: PairBatch) -> list[Tensor]:
    return answers_of(batch, answer_logps(model, batch))


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_every_token_equals_the_stock_model_over_each_sequence_alone(name: str, attention: str) -> None:
    model, pairs = model_of(name, attention), pairs_of()
    with torch.no_grad():
        want = by_logits(model, pairs)
        assert choose_layout(model, family_of_config(model.config)).name == "shared_prefix"
        assert worst(ours(model, shared_prefix_batch(pairs)), want) < 2e-5
        assert worst(ours(model, plain_batch(pairs, 0)), want) < 2e-5
        singles = [ours(model, shared_prefix_batch([pair])) for pair in pairs]
    assert worst([one[side] for side in (0, 1) for one in singles], want) < 2e-5
    assert implementation(model) == attention


@pytest.mark.parametrize("name", MODELS)
def test_this_would_see_a_window_that_is_one_token_off(name: str) -> None:
    _, settings, _ = MODELS[name]
    key = "attention_chunk_size" if "attention_chunk_size" in settings else "sliding_window"
    model, other = model_of(name), model_of(name)
    setattr(other.config, key, SIZE + 1)
    other = type(other)(other.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        moved = worst(ours(model, shared_prefix_batch(pairs_of())), ours(other, shared_prefix_batch(pairs_of())))
    assert moved > 1e-2


@pytest.mark.parametrize(("name", "attention", "checkpointing"), checkerboard(CASES, [False, True]))
def test_gradients_equal_those_of_separate_rows(name: str, attention: str, checkpointing: bool) -> None:
    pairs, found = pairs_of(), []
    for batch in (shared_prefix_batch(pairs), plain_batch(pairs, 0)):
        model = model_of(name, attention).train()
        if checkpointing:
            recompute(model)
        torch.stack([one.square().mean() for one in ours(model, batch)]).sum().backward()
        found.append(gradient(model))
    assert float(found[1].norm()) > 0
    assert relative(*found) < 2e-5


@pytest.mark.parametrize("name", FLEX)
def test_flex_attention_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import flex_attention as library
    from transformers.integrations import flex_attention as bridge

    def plainly(query: Any, key: Any, value: Any, training: bool = False, **options: Any) -> Any:
        options.pop("kernel_options", None)
        return library.flex_attention(query, key, value, **options)

    monkeypatch.setattr(bridge, "compile_friendly_flex_attention", plainly)  # uncompiled: the same mathematics
    pairs = pairs_of()
    with torch.no_grad():
        want = by_logits(model_of(name, "sdpa"), pairs)
        assert worst(ours(model_of(name, "flex_attention"), shared_prefix_batch(pairs)), want) < 2e-5


def test_masks_of_sdpa_are_as_large_as_the_pairs_and_not_as_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    stock: Callable[..., Tensor] = packed_masks.Rule.__call__

    def watched(self: Any, query: Tensor, key: Tensor) -> Tensor:
        found = stock(self, query, key)
        made.append(found.numel())
        return found

    monkeypatch.setattr(packed_masks.Rule, "__call__", watched)
    model, pairs = model_of("gemma3, windows", "sdpa"), pairs_of()
    others = [dataclasses.replace(one, prompt=dataclasses.replace(one.prompt)) for _ in range(3) for one in pairs]
    batch = shared_prefix_batch([*pairs, *others])  # the same prompts four times
    with torch.no_grad():
        ours(model, batch)
    longest = max(part.longest for part in batch.segments)
    assert made
    assert max(made) <= longest**2 < batch.num_tokens**2 / 100
    assert len(made) <= 2 * len(pairs)  # pairs of one shape, and all layers of a kind, share theirs


def test_a_model_that_counts_places_of_the_row_needs_an_attention_that_sets_them_right() -> None:
    model = model_of("llama4, temperature", "eager")
    layout = choose_layout(model, family_of_config(model.config))
    assert layout.name == "plain"
    assert "scale queries by their place in the row, which 'eager' attention cannot set right" in layout.explanation
    config = model_of("llama4, temperature", "sdpa").config
    config.floor_scale = 10**6  # as if there were none
    other = tf.Llama4ForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        batch = shared_prefix_batch(pairs_of())
        assert worst(ours(model_of("llama4, temperature", "sdpa"), batch), ours(other, batch)) > 1e-3
