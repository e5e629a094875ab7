"""Whether pairs share their prompt in a model, and why: decided once, reported once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PretrainedConfig

from mmpref.errors import ConfigError
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.reference import eval_mode
from mmpref.models.logps.shared_prefix_attention import (
    BY_SEGMENT,
    IMPLEMENTATIONS,
    implementation,
    scales_by_place,
    text_config,
    use_attention,
)
from mmpref.models.unwrap import base_model
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.family import Family
from mmpref.processing.layout import LayoutName, plain_batch, shared_prefix_batch
from mmpref.processing.positions import in_sequence, multimodal

logger = logging.getLogger(__name__)

LayoutChoice = Literal["auto", "shared_prefix", "plain"]
EXACT, _HALF = 1e-4, 0.1
"""Nats a token by which two exact ways of computing may differ, on average over tokens. Rounding in float32 is about
1e-6; a wrong mask or position changes log-probs by 0.1 to 1.3 nats a token. Half precision keeps 8 or 11 bits of every
layer's output, so only gross faults can be seen there."""


_KINDS_OF_LAYERS = ("layer_types", "layers_block_type")
_WITH_STATE = ("linear", "mamba", "conv", "recurrent")


@dataclass(frozen=True, slots=True)
class Layout:
    """How pairs are laid out for a model, and why, in one sentence for the user."""

    name: LayoutName
    explanation: str


def choose_layout(model: nn.Module, family: Family, choice: LayoutChoice = "auto") -> Layout:
    """Whether pairs share their prompt in this model.

    Args:
        model: the policy as loaded.
        choice: ``auto`` shares where it is possible; ``shared_prefix`` insists; ``plain`` does not.

    Raises:
        ConfigError: ``shared_prefix`` where it is not possible, or an attention that is wrong in any layout; says why.
    """
    name = implementation(model)
    if family.token_types and not family.mrope and name.startswith("flash"):
        raise ConfigError(
            f"'{family.name}' reads images or prompts in both directions, and '{name}' would read them forward only, "
            "without a word; write model.attn_implementation=sdpa"
        )
    if choice == "plain":
        return Layout("plain", "each answer with its own copy of the prompt, as asked for (model.attention: plain)")
    obstacle = _obstacle(model, family)
    if obstacle is None:
        how = f"{name} attention"
        return Layout("shared_prefix", f"prompt and images once, all their answers behind them in one row ({how})")
    if choice == "shared_prefix":
        raise ConfigError(f"model.attention: shared_prefix is not possible: {obstacle}; use auto or plain")
    return Layout("plain", f"each answer with its own copy of the prompt, because {obstacle}")


def tolerance(model: nn.Module, *, half: bool = False) -> float:
    """How far log-probs may move between two exact ways of computing them, in nats per token on average.

    Args:
        half: whether the model runs under half-precision autocast.
    """
    inner: Any = base_model(model)
    is_exact = inner.dtype in (torch.float32, torch.float64) and not getattr(inner, "is_quantized", False)
    return EXACT if is_exact and not half else _HALF


def config_obstacle(config: PretrainedConfig, family: Family, attention: str) -> str | None:
    """Why pairs cannot share their prompt, as far as that is known without weights; None where nothing speaks against.

    Args:
        config: of the language model.
        attention: the attention that the language model is loaded with, by transformers' name.
    """
    if not family.shared_prefix:
        return family.note or f"the family '{family.name}' cannot share a prefix"
    if attention not in IMPLEMENTATIONS:
        return f"attention '{attention}' is not one of {', '.join(IMPLEMENTATIONS)}"
    if "local" in (getattr(config, "attention_layers", None) or ()):
        return "some of its layers attend to a window that their own code makes"  # GPT-Neo
    # said by the config: in half precision a trial would see only gross faults
    kinds = {str(kind) for key in _KINDS_OF_LAYERS for kind in getattr(config, key, None) or ()}
    if with_state := sorted(kind for kind in kinds if any(word in kind for word in _WITH_STATE)):
        return f"its layers of the kind '{with_state[0]}' would carry a state from one answer into the other"
    if attention == "flash_attention_2" and getattr(config, "attention_chunk_size", None):
        return "its layers attend in chunks, which flash-attn does not know (model.attn_implementation: sdpa does)"
    if scales_by_place(config) and attention not in BY_SEGMENT:
        return (
            f"its layers scale queries by their place in the row, which '{attention}' attention cannot set right; sdpa "
            "can"
        )
    return None


def _obstacle(model: nn.Module, family: Family) -> str | None:
    config = text_config(model)
    if (known := config_obstacle(config, family, implementation(model))) is not None:
        return known
    if (failure := _failure_on_trial(model, family)) is not None:
        return f"{failure} (model type '{config.model_type}')"
    return None


def _failure_on_trial(model: nn.Module, family: Family) -> str | None:
    """Run a few tokens of text both ways: there are too many kinds of language models to know them all."""
    before = text_config(model)._attn_implementation
    try:
        holds = _holds_on_trial(model, family)
        failure = None if holds else "a trial on a few tokens gave other log-probs than separate rows"
    except Exception as err:  # a model without positions, masks or attention may raise anything
        failure = f"a trial on a few tokens failed: {' '.join(str(err).split())[:200]}"
    if failure is not None and text_config(model)._attn_implementation != before:
        use_attention(model, before)
    return failure


def _holds_on_trial(model: nn.Module, family: Family) -> bool:
    ids = torch.arange(2, 26) % text_config(model).vocab_size
    of_prompt, of_answer = family.prefix_lm or (0, 0)
    prompt = EncodedPrompt(
        sample_id="trial",
        input_ids=ids[:9],
        position_ids=multimodal(9, ()) if family.mrope else in_sequence(9),
        token_types={family.token_types: torch.full((9,), of_prompt)} if family.token_types else {},
        answer_type=of_answer,
    )
    one, other = ids[9:16], ids[16:24]
    begins_alike = torch.cat([other[:3], ids[2:6]])
    pairs = [
        EncodedPair(prompt=prompt, chosen_ids=chosen, rejected_ids=rejected)
        for chosen, rejected in ((one, other), (begins_alike, one))
    ]
    device = next(base_model(model).parameters()).device
    with torch.no_grad(), eval_mode(model):
        shared, plain = (
            batch.by_answer(answer_logps(model, batch, through_logits=not batch.shares_prefix))
            for batch in (shared_prefix_batch(pairs).to(device), plain_batch(pairs, 0).to(device))
        )
    off = float((shared - plain).abs().mean())
    logger.debug("sharing a prefix on trial moved log-probs by %.3g a token", off)
    return off <= tolerance(model)
