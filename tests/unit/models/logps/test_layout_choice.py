"""Whether pairs share their prompt: only in models that were proved to allow it, and the user hears why not."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import transformers as tf

from mmpref.errors import ConfigError
from mmpref.models import choose_layout
from mmpref.models.load import family_of_config
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.shared_prefix_attention import implementation
from mmpref.processing import PairBatch
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.layout import plain_batch, shared_prefix_batch
from mmpref.processing.positions import in_sequence
from tests.tiny_vlms import TINY, build_model

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 300}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
OLD = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300}
WINDOW = 8  # shorter than a pair

# kind -> (config, whether pairs share their prompt, word of the reason)
TEXT_MODELS: dict[str, tuple[str, dict[str, Any], bool, str]] = {
    "llama": ("Llama", SMALL | HEADS, True, ""),
    "qwen2": ("Qwen2", SMALL | HEADS, True, ""),
    "qwen3": ("Qwen3", SMALL | HEADS | {"head_dim": 16}, True, ""),
    "phi3": ("Phi3", SMALL | HEADS | {"pad_token_id": 0}, True, ""),
    "olmo2": ("Olmo2", SMALL | HEADS, True, ""),
    "cohere, scaled logits": ("Cohere", SMALL | HEADS | {"logit_scale": 0.25}, True, ""),
    "granite, multipliers": ("Granite", SMALL | HEADS | {"logits_scaling": 4.0, "embedding_multiplier": 2.0}, True, ""),
    "gemma, scaled embeddings": ("Gemma", SMALL | HEADS | {"head_dim": 16}, True, ""),
    "gpt_neox": ("GPTNeoX", SMALL | {"num_attention_heads": 4}, True, ""),
    "gpt2, learnt positions": ("GPT2", OLD, True, ""),
    "mixtral, experts": ("Mixtral", SMALL | HEADS | {"num_local_experts": 4, "sliding_window": None}, True, ""),
    "mistral, window": ("Mistral", SMALL | HEADS | {"sliding_window": WINDOW}, True, ""),
    "gemma2, window and caps": (
        "Gemma2", SMALL | HEADS | {"head_dim": 16, "sliding_window": WINDOW}, True, "",
    ),
    "qwen2, window in some layers": (
        "Qwen2", SMALL | HEADS | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2},
        True, "",
    ),
    "qwen2, window in no layer": (
        "Qwen2", SMALL | HEADS | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 4},
        True, "",
    ),
    "bloom, ALiBi": ("Bloom", {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": 300}, False, ""),
    "falcon, ALiBi": (
        "Falcon", {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 300,
                   "alibi": True},
        False, "",
    ),
    "opt, positions of its own": (
        "OPT", {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 300,
                "word_embed_proj_dim": 64, "max_position_embeddings": 512},
        True, "",
    ),
    "mamba, no attention": (
        "Mamba", {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 300, "state_size": 8}, False, "",
    ),
}  # fmt: skip


def text_model(kind: str) -> Any:
    name, settings, _, _ = TEXT_MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(tf, f"{name}Config")(**settings)
        if name == "Gemma2":
            config._attn_implementation = "eager"  # which newer releases choose by themselves: sdpa knows no caps
        special = {"Bloom": "BloomForCausalLM", "GPT2": "GPT2LMHeadModel"}
        model = getattr(tf, special.get(name, f"{name}ForCausalLM"))(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4)
    return model.eval()


def trial_pair(prompt: int = 13, chosen: int = 8, rejected: int = 11) -> EncodedPair:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 299, (prompt + chosen + rejected,), generator=generator)
    parts = ids.split([prompt, chosen, rejected])
    first = EncodedPrompt(sample_id="p", input_ids=parts[0], position_ids=in_sequence(prompt))
    return EncodedPair(prompt=first, chosen_ids=parts[1], rejected_ids=parts[2])


def by_logits(model: Any, pair: EncodedPair) -> list[torch.Tensor]:
    """Each sequence alone, from all its logits."""
    found = []
    for prompt, answer in (side for side in pair.sides() if side is not None):
        ids = torch.cat([prompt.input_ids, answer])[None]
        with torch.no_grad():
            every = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
        found.append(every[len(prompt) - 1 : -1].gather(1, answer[:, None])[:, 0])
    return found


def by_batch(model: Any, batch: PairBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        rows = batch.by_answer(answer_logps(model, batch))
    return [row[:n] for row, n in zip(rows, batch.answer_lens.tolist(), strict=True)]


@pytest.mark.parametrize("kind", list(TEXT_MODELS))
def test_a_text_model_shares_its_prompt_where_that_is_exact_and_runs_plain_rows_elsewhere(kind: str) -> None:
    _, _, shares, reason = TEXT_MODELS[kind]
    model = text_model(kind)
    pair = trial_pair()
    want = by_logits(model, pair)
    layout = choose_layout(model, family_of_config(model.config))
    assert (layout.name == "shared_prefix") == shares, layout.explanation
    assert reason in layout.explanation
    batch = shared_prefix_batch([pair]) if shares else plain_batch([pair, pair], 0)
    got = by_batch(model, batch)
    got = got if shares else [got[0], got[2]]
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-5)
    if not shares:
        with pytest.raises(ConfigError, match=r"model\.attention: shared_prefix is not possible"):
            choose_layout(model, family_of_config(model.config), "shared_prefix")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_carry_a_state_are_known_by_the_config_where_a_trial_sees_gross_faults_only(
    dtype: torch.dtype,
) -> None:
    linear = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2}
    config = tf.Qwen3_5TextConfig(**SMALL, **HEADS, **linear, head_dim=16, linear_num_value_heads=4)
    model = tf.Qwen3_5ForCausalLM(config).to(dtype).eval()
    layout = choose_layout(model, family_of_config(config))
    assert layout.name == "plain"
    assert "'linear_attention' would carry a state from one answer into the other" in layout.explanation


def test_a_family_says_why_it_cannot_share() -> None:
    model = build_model("gemma3")
    family = dataclasses.replace(family_of_config(model.config), shared_prefix=False, note="it reads backwards")
    layout = choose_layout(model, family)
    assert layout.name == "plain"
    assert layout.explanation.endswith("because it reads backwards")
    unknown = dataclasses.replace(family, name="new", note="")
    assert "the family 'new' cannot share a prefix" in choose_layout(model, unknown).explanation


@pytest.mark.parametrize("name", TINY)
def test_every_family_with_a_proof_shares_and_says_how(name: str) -> None:
    model = build_model(name)
    family = family_of_config(model.config)
    layout = choose_layout(model, family)
    assert layout.name == "shared_prefix"
    assert "prompt and images once, all their answers" in layout.explanation
    assert "sdpa attention" in layout.explanation
    assert choose_layout(model, family, "plain").name == "plain"
    assert choose_layout(model, family, "shared_prefix").name == "shared_prefix"


def test_an_attention_without_a_way_to_share_is_named() -> None:
    model = build_model("llava")
    model.config.get_text_config()._attn_implementation = "paged|sdpa"
    assert implementation(model) == "paged|sdpa"
    layout = choose_layout(model, family_of_config(model.config))
    assert layout.name == "plain"
    assert "attention 'paged|sdpa' is not one of sdpa" in layout.explanation


def test_chunks_run_plain_rows_under_flash_attn_which_does_not_know_them() -> None:
    made = {"intermediate_size_mlp": 128, "num_local_experts": 2, "attention_chunk_size": 8}
    model = tf.Llama4ForCausalLM(tf.Llama4TextConfig(**SMALL, **HEADS, **made))
    family = family_of_config(model.config)
    assert choose_layout(model, family).name == "shared_prefix"
    model.config._attn_implementation = "flash_attention_2"
    layout = choose_layout(model, family)
    assert layout.name == "plain"
    assert "chunks, which flash-attn does not know" in layout.explanation


@pytest.mark.parametrize("choice", ["auto", "shared_prefix", "plain"])
def test_an_attention_that_would_lose_what_is_read_in_both_directions_is_refused(choice: Any) -> None:
    model = build_model("gemma3")
    family = family_of_config(model.config)
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"'gemma3' reads images.*model\.attn_implementation=sdpa"):
        choose_layout(model, family, choice)


def test_the_choice_leaves_the_model_as_it_was() -> None:
    model = text_model("llama").train()
    state = torch.random.get_rng_state()
    choose_layout(model, family_of_config(model.config))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
