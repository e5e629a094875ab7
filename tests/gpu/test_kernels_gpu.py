"""Which attention kernel runs: flash for both calls of a shared prefix, never one with a mask in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import CausalBias, CausalVariant, causal_lower_right
from transformers.masking_utils import sliding_window_causal_mask_function
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import mmpref.models.logps.shared_prefix_attention as shared_prefix
from mmpref.models.load import family_of_config
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.packed_masks import PackedMask, PackedRow, Rule, sees
from mmpref.models.logps.shared_prefix_attention import register_pair_attention
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.batch import Segment
from tests.gpu.device import DEVICE, ON_CPU, needs_cuda
from tests.plain_forward import relative
from tests.tiny_vlms import TINY, build_model, draw, pair

pytestmark = pytest.mark.gpu

SIZE = 128
ROW = (Segment.of(0, 200, 100, 90), Segment.of(390, 64, 33, 128, 70))
GROUPS = pytest.mark.parametrize("heads", [(8, 8), (8, 2)], ids=["every head", "grouped heads"])


WINDOW = 48
CAUSAL = Rule()
SLIDING = Rule(sliding_window_causal_mask_function(WINDOW), True, WINDOW)
RULES = pytest.mark.parametrize("rule", [CAUSAL, SLIDING], ids=["causal", "window"])


def attended(heads: tuple[int, int], rule: Rule = CAUSAL, attention: str = "pair_sdpa") -> tuple[Tensor, list[Tensor]]:
    """Output [1, T, h, d] of the packed attention and its three inputs, in bfloat16."""
    tokens = ROW[-1].end
    made = torch.Generator(DEVICE).manual_seed(0)
    inputs = [
        torch.randn(1, count, tokens, SIZE, generator=made, device=DEVICE).bfloat16().requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    ]
    register_pair_attention()
    attend = ALL_ATTENTION_FUNCTIONS[attention]
    mask = PackedMask(PackedRow(ROW, tokens), rule, DEVICE)
    window = None if rule is CAUSAL else WINDOW
    out, _ = attend(SimpleNamespace(training=True), *inputs, mask, scaling=SIZE**-0.5, sliding_window=window)
    return out, inputs


def by_mask(inputs: list[Tensor], rule: Rule = CAUSAL) -> Tensor:
    """The same in float32, with a mask of all tokens by all tokens."""
    query, key, value = (x.detach().float().requires_grad_() for x in inputs)
    tokens, groups = query.shape[2], query.shape[1] // key.shape[1]
    where = torch.arange(tokens, device=DEVICE)
    seen = sees(PackedRow(ROW, tokens), rule, DEVICE)(where[:, None], where[None, :])
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    weights = (query @ keys.transpose(2, 3) * SIZE**-0.5).masked_fill(~seen, float("-inf")).softmax(-1)
    out = (weights @ values).transpose(1, 2)
    out.backward(upstream(out))
    inputs[:] = [query, key, value]
    return out


def upstream(out: Tensor) -> Tensor:
    """A gradient of [1, T, h, d] that grows along the row; exact in its dtype's rounding (a cumulative sum in half
    precision is not: on CUDA it stops growing at 256).
    """
    growing = torch.arange(1, out.shape[1] + 1, device=out.device) / out.shape[1]
    return growing[None, :, None, None].to(out.dtype).expand_as(out)


def assert_is_attention_under_its_mask(heads: tuple[int, int], rule: Rule, attention: str) -> None:
    out, inputs = attended(heads, rule, attention)
    out.backward(upstream(out))
    plain = list(inputs)
    want = by_mask(plain, rule)
    assert relative(out.float(), want) < 0.01
    for ours, theirs in zip(inputs, plain, strict=True):
        assert relative(ours.grad.float(), theirs.grad) < 0.02


@RULES
@GROUPS
def test_the_packed_row_is_attention_under_its_mask(heads: tuple[int, int], rule: Rule) -> None:
    assert_is_attention_under_its_mask(heads, rule, "pair_sdpa")


@needs_cuda
@RULES
@GROUPS
def test_the_same_through_flash_attn_whose_windows_count_back_from_the_last_key(
    heads: tuple[int, int], rule: Rule
) -> None:
    pytest.importorskip("flash_attn")
    assert_is_attention_under_its_mask(heads, rule, "pair_flash_attention_2")


@needs_cuda
@GROUPS
def test_flash_takes_both_calls(heads: tuple[int, int]) -> None:
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # raises where it cannot
        out, _ = attended(heads)
        out.sum().backward()


@needs_cuda
@GROUPS
def test_left_to_itself_torch_takes_no_kernel_with_a_mask(heads: tuple[int, int]) -> None:
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        out, _ = attended(heads)
        out.sum().backward()
        torch.cuda.synchronize()
    taken = {event.key for event in seen.key_averages() if "scaled_dot_product" in event.key}
    assert not any("math" in name or "efficient" in name for name in taken), taken
    assert any("flash" in name or "cudnn" in name for name in taken), taken


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "text"])
def test_attention_is_never_called_with_a_mask_in_memory(
    name: str, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the flash kernel refuses is a mask; the language model's calls have none or a marker, padded rows too."""
    if ON_CPU:  # where a marker would be made a mask inside of torch
        marker = causal_lower_right
        monkeypatch.setattr(PackedRow, "lower_right", lambda self, rows, columns, device: marker(rows, columns))
    model = build_model(name).to(DEVICE)
    looks = () if name == "text" else ("28x28-1",)
    rows = [pair("a", images=looks), pair("b", images=(), chosen="yes", rejected="there is no dog .")]
    batch = PairCollator(PairEncoder(TINY[name].processor(), family_of_config(model.config)), draw, layout=layout)(rows)
    calls: list[tuple[Any, bool]] = []
    stock = F.scaled_dot_product_attention

    def watched(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
                is_causal: bool = False, **rest: Any) -> Tensor:  # fmt: skip
        calls.append((attn_mask, is_causal))
        return stock(q, k, v, attn_mask, dropout_p, is_causal, **rest)

    if layout == "plain":
        monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    else:  # only where it is called: a marker knows torch's own function
        monkeypatch.setattr(shared_prefix, "F", SimpleNamespace(scaled_dot_product_attention=watched))
    with torch.no_grad():
        answer_logps(model, batch.to(DEVICE))
    of_language = [call for call in calls if call[1] or call[0] is not None]  # the tower sees in all directions
    layers = model.config.get_text_config().num_hidden_layers
    assert len(of_language) == layers * (2 * len(rows) if layout == "shared_prefix" else 1)
    for mask, is_causal in of_language:
        is_marker = isinstance(mask, CausalBias) and mask.variant == CausalVariant.LOWER_RIGHT
        assert is_marker or (mask is None and is_causal), (type(mask), is_causal)
