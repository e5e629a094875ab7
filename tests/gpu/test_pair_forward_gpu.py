"""What the CPU cannot show of the pair forward: the GPU's attention kernels, half precision, 4-bit layers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import LoadedModel, load
from mmpref.models.policy import answer_logps
from mmpref.processing import PairCollator, PairEncoder
from tests.tiny_vlms import build, draw, pair

pytestmark = pytest.mark.gpu

ROWS = (
    pair("one"),
    pair("two", images=("60x60-2",), chosen="a red square .", rejected="a red dog . there is no cat ."),
    pair("none", images=(), chosen="yes", rejected="there is no dog ."),
)


def off(loaded: LoadedModel) -> float:
    """Mean |difference| of a token's log-prob between the shared prefix and separate rows through logits."""
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)
    rows = [row for row in ROWS if loaded.family.has_vision or not row.images]
    shared, plain = (collate.changed(layout=layout)(rows).to("cuda") for layout in ("shared_prefix", "plain"))
    with torch.no_grad():
        one = shared.by_answer(answer_logps(loaded.model, shared))
        other = plain.by_answer(answer_logps(loaded.model, plain, through_logits=True))
    return float((one - other).abs().sum() / shared.answer_lens.sum())


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "text"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_the_shared_prefix_equals_separate_rows(name: str, dtype: str, bound: float, tmp_path: Path) -> None:
    assert off(load(build(name, tmp_path / name), dtype=dtype, device="cuda")) < bound


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
def test_flash_attention_equals_separate_rows(tmp_path: Path) -> None:
    loaded = load(
        build("qwen2_5_vl", tmp_path / "m"), dtype="bfloat16", device="cuda", attn_implementation="flash_attention_2"
    )
    assert off(loaded) < 0.1


@pytest.mark.parametrize("name", ["qwen2_5_vl", "text"])
def test_flex_attention_equals_separate_rows(name: str, tmp_path: Path) -> None:
    try:
        loaded = load(build(name, tmp_path / "m"), device="cuda", attn_implementation="flex_attention")
    except ConfigError as err:
        if "does not support" not in str(err):
            raise
        pytest.skip(f"{name} has no flex_attention in this release of transformers")
    assert off(loaded) < 1e-3


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "text"])
def test_float32_weights_under_autocast_equal_separate_rows(name: str, tmp_path: Path) -> None:
    """What whole fine-tuning runs in: rotated queries are float32 beside half-precision values."""
    loaded = load(build(name, tmp_path / "m"), dtype="float32", device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert off(loaded) < 0.1


def test_four_bit_layers_give_the_same_in_both_layouts(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    settings: dict[str, Any] = {"quantization": "nf4", "dtype": "bfloat16", "device": "cuda"}
    assert off(load(build("llava", tmp_path / "m"), **settings)) < 0.1
