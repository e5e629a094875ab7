"""The pair forward in the kernels and precisions of a GPU: a shared prefix gives what separate rows give."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, LoadSettings, Tuning, load, prepare
from mmpref.models.load import family_of_config
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.shared_prefix_attention import text_config
from mmpref.processing import PairBatch, PairCollator, PairEncoder
from mmpref.processing.batch import Segment
from tests.gpu.device import DEVICE, needs_cuda
from tests.plain_forward import gradient, relative, stir
from tests.recomputing import recompute
from tests.tiny_vlms import TINY, build, build_model, draw, pair

pytestmark = pytest.mark.gpu

ROWS = (
    pair("one"),
    pair("two", images=("60x60-2", "28x56-3"), chosen="a red square .", rejected="a red dog . there is no cat ."),
    pair("none", images=(), chosen="yes", rejected="there is no dog ."),
)
FULL = Tuning(projector="full", language="full")
LORA = Tuning(language="lora")
# mean |difference| of a token in nats, and of all gradients relative to their size; a wrong mask or position moves
# tokens by 0.07 and more and gradients by a quarter (test_the_bounds_are_far_below_what_a_fault_does)
BOUNDS = {torch.float32: (2e-5, 1e-4), torch.bfloat16: (0.02, 0.05)}


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 cuDNN takes TF32 unless it is told not to, and another kernel for another number of images."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def memory_only(name: str, dtype: torch.dtype) -> LoadedModel:
    model = build_model(name, scale=4.0).to(DEVICE, dtype)
    loaded = LoadedModel(
        model=model, processor=TINY[name].processor(), family=family_of_config(model.config), path=name
    )
    return prepare(loaded, FULL if loaded.family.has_vision else Tuning(language="full"))


def batches(loaded: LoadedModel) -> tuple[PairBatch, PairBatch]:
    """Several pairs, with two images, with one and without, in one packed row; and in rows of their own."""
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)
    rows = [row for row in ROWS if loaded.family.has_vision or not row.images]
    if not loaded.family.has_vision:
        rows += [
            pair(
                "more",
                images=(),
                question="is there a cat ?",
                chosen="a cat and a dog .",
                rejected="a cat . there is no dog .",
            )
        ]
    shared, plain = (collate.changed(layout=layout)(rows).to(DEVICE) for layout in ("shared_prefix", "plain"))
    assert len(shared.segments) == len(rows)
    return shared, plain


def both_ways(loaded: LoadedModel, *, through_logits: bool = True) -> tuple[float, float]:
    """How far log-probs (nats a token) and the whole gradient (relative) of the two layouts are from each other."""
    shared, plain = batches(loaded)
    one, of_one = run(loaded, shared, through_logits=False)
    other, of_other = run(loaded, plain, through_logits=through_logits)
    assert float(of_other.norm()) > 0
    return float((one - other).abs().sum() / shared.answer_lens.sum()), relative(of_one, of_other)


def run(loaded: LoadedModel, batch: PairBatch, *, through_logits: bool) -> tuple[Tensor, Tensor]:
    """Log-probs by answer [A, L], and the gradient of a loss that weighs every answer in its own way."""
    loaded.model.train()
    loaded.model.zero_grad(set_to_none=True)
    found = batch.by_answer(answer_logps(loaded.model, batch, through_logits=through_logits))
    weights = torch.linspace(0.5, -0.7, found.shape[0], device=found.device)
    (found.sum(dim=1) * weights).sum().backward()
    return found.detach(), gradient(loaded.model).float()


def hold(found: tuple[float, float], dtype: torch.dtype) -> None:
    nats, share = BOUNDS[dtype]
    assert found[0] < nats
    assert found[1] < share


@pytest.mark.parametrize("is_checkpointed", [False, True], ids=["", "checkpointed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "text"])
def test_sdpa_with_a_shared_prefix_equals_separate_rows(name: str, dtype: torch.dtype, is_checkpointed: bool) -> None:
    loaded = memory_only(name, dtype)
    if is_checkpointed:
        recompute(loaded.model)
    hold(both_ways(loaded), dtype)
    assert text_config(loaded.model)._attn_implementation == "pair_sdpa"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["llava", "qwen3_vl", "text"])
def test_the_bounds_are_far_below_what_a_fault_does(name: str, dtype: torch.dtype) -> None:
    """The second answer reads the first: what a mask in the wrong place does."""
    loaded = memory_only(name, dtype)
    shared, plain = batches(loaded)
    lost = [Segment.of(part.start, part.num_tokens) for part in shared.segments]
    shared = replace(shared, segments=tuple(lost))
    one, of_one = run(loaded, shared, through_logits=False)
    other, of_other = run(loaded, plain, through_logits=True)
    nats, share = BOUNDS[dtype]
    assert float((one - other).abs().sum() / shared.answer_lens.sum()) > 2 * nats
    assert relative(of_one, of_other) > 2 * share


@needs_cuda
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_flash_attention_equals_separate_rows(name: str, tmp_path: Path) -> None:
    settings = LoadSettings(attn_implementation="flash_attention_2", dtype="bfloat16", device=DEVICE)
    hold(both_ways(prepare(load(build(name, tmp_path / "m"), settings), FULL)), torch.bfloat16)


@needs_cuda  # torch compiles its kernels, which takes a minute on a CPU
@pytest.mark.parametrize("name", ["qwen2_5_vl", "text"])
def test_flex_attention_equals_separate_rows(name: str, tmp_path: Path) -> None:
    try:
        loaded = load(build(name, tmp_path / "m"), LoadSettings(device=DEVICE, attn_implementation="flex_attention"))
    except ConfigError as err:
        if "does not support" not in str(err):
            raise
        pytest.skip(f"{name} has no flex_attention in this release of transformers")
    nats, share = both_ways(prepare(loaded, FULL))
    assert nats < 1e-4
    assert share < 1e-3


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "text"])
def test_float32_weights_under_autocast_equal_separate_rows(name: str) -> None:
    """What whole fine-tuning runs in: rotated queries are float32 beside half-precision values."""
    loaded = memory_only(name, torch.float32)
    with torch.autocast(DEVICE, torch.bfloat16):
        hold(both_ways(loaded), torch.bfloat16)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_four_bit_layers_give_the_same_in_both_layouts(name: str, tmp_path: Path) -> None:
    """Log-probs, and the gradients of LoRA on top of them."""
    pytest.importorskip("bitsandbytes")
    settings = LoadSettings(quantization="nf4", dtype="bfloat16", device=DEVICE)
    loaded = prepare(load(build(name, tmp_path / "m"), settings), LORA, AdapterSettings(rank=4))
    stir(loaded.model)
    hold(both_ways(loaded), torch.bfloat16)
