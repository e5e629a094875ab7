"""A GPU's step is as slow as the number of kernels it starts: how many there are, and with what they may grow.

Nothing is timed. Calls of aten that do more than look at a tensor are counted; each is about one kernel on a GPU.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, load, pair_logps, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.packed_masks import PackedMask, PackedRow, Rule
from mmpref.models.logps.shared_prefix_attention import _by_segment, _sdpa
from mmpref.models.tower_windows import BY_LENGTH, Windows, attend_by_length
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.batch import Segment
from mmpref.training.trainer.metrics import Meter
from tests.plain_forward import build_deep
from tests.tiny_vlms import build, draw, pair

ATTENTION = "scaled_dot_product"


class Calls(TorchDispatchMode):
    """Counts calls by name while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.sizes: dict[str, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.names[name] += 1
        if isinstance(found, torch.Tensor):
            self.sizes.setdefault(name, []).append(found.numel())
        return found

    def attentions(self) -> int:
        return sum(count for name, count in self.names.items() if ATTENTION in name and "backward" not in name)


@contextlib.contextmanager
def counted() -> Iterator[Calls]:
    with Calls() as calls:
        yield calls


# ---- the packed row -----------------------------------------------------------------------------------------------


def packed(pairs: int) -> tuple[PackedRow, list[torch.Tensor]]:
    segments = [Segment.of(30 * at, 12, 10, 8) for at in range(pairs)]
    torch.manual_seed(0)
    return PackedRow(segments, 30 * pairs), [torch.randn(1, 4, 30 * pairs, 8, requires_grad=True) for _ in range(3)]


def test_the_gradient_of_a_packed_row_writes_nothing_as_long_as_the_row_for_a_pair() -> None:
    """A slice's gradient is a row of zeros: three for each answer would make a batch of pairs quadratic."""
    row, (query, key, value) = packed(6)
    with counted() as calls:
        _by_segment(PackedMask(row, Rule(), "cpu"), query, key, value, _sdpa(row, 0.0, None)).sum().backward()
    whole = query.numel()
    assert max(calls.sizes["slice_backward"]) <= whole // 6
    assert sum(size >= whole for size in calls.sizes.get("add", [])) == 0


def test_masks_of_a_packed_row_are_made_once_for_all_layers() -> None:
    row, (query, key, value) = packed(3)
    with counted() as calls:
        for _ in range(5):
            _by_segment(PackedMask(row, Rule(), "cpu"), query, key, value, _sdpa(row, 0.0, None))
    assert calls.names["tril"] == 1  # pairs of one shape share it


# ---- the vision tower ---------------------------------------------------------------------------------------------


def windowed(images: tuple[str, ...]) -> tuple[LoadedModel, dict[str, torch.Tensor]]:
    loaded = build_deep("qwen2_5_vl")
    encoded = PairEncoder(loaded.processor, loaded.family).encode(pair("a", images=images), draw)
    return loaded, dict(encoded.prompt.vision)


def features(loaded: LoadedModel, vision: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Calls]:
    model: Any = loaded.model
    with torch.no_grad(), counted() as calls:
        found = model.model.visual(vision["pixel_values"], grid_thw=vision["image_grid_thw"])
    return found.pooler_output, calls


@pytest.mark.parametrize("images", [("112x112-1",), ("120x90-2", "28x140-3"), ("60x60-1", "60x60-2", "90x150-3")])
def test_windows_of_one_length_are_one_call_and_the_features_stay_the_same(images: tuple[str, ...]) -> None:
    loaded, vision = windowed(images)
    want, one_by_one = features(loaded, vision)
    attend_by_length(loaded.model, loaded.family)
    assert loaded.model.config.vision_config._attn_implementation == BY_LENGTH
    assert loaded.model.config.get_text_config()._attn_implementation == "sdpa"
    found, together = features(loaded, vision)
    assert torch.allclose(found, want, rtol=0, atol=1e-5 * float(want.abs().max()))
    assert together.attentions() < one_by_one.attentions()
    # what a GPU would wait for: the grid's own sizes, and no longer lengths in every layer
    waits = "_local_scalar_dense"
    assert together.names[waits] <= one_by_one.names[waits]


def test_attention_calls_do_not_grow_with_images_of_one_size() -> None:
    counts = []
    for images in (("112x112-1",), ("112x112-1", "112x112-2", "112x112-3")):
        loaded, vision = windowed(images)
        attend_by_length(loaded.model, loaded.family)
        counts.append(features(loaded, vision)[1].attentions())
    assert counts[0] == counts[1]


def test_gradients_through_windows_are_those_of_one_call_each() -> None:
    gradients = []
    for by_length in (False, True):
        loaded, vision = windowed(("120x90-2", "28x140-3"))
        model: Any = loaded.model
        if by_length:
            attend_by_length(model, loaded.family)
        model.model.visual.requires_grad_(True)
        model.model.visual(
            vision["pixel_values"], grid_thw=vision["image_grid_thw"]
        ).pooler_output.square().sum().backward()
        gradients.append(torch.cat([one.grad.flatten() for one in model.model.visual.parameters()]))
    one, other = gradients
    assert float((one - other).norm() / one.norm()) < 1e-5


def test_the_order_of_windows_comes_back() -> None:
    windows = Windows([4, 2, 4, 1, 2], torch.device("cpu"))
    tokens = torch.arange(13.0).reshape(1, 1, 13, 1)
    batches = [one for (one,) in windows.batches(tokens)]
    assert [tuple(one.shape) for one in batches] == [(2, 1, 4, 1), (2, 1, 2, 1), (1, 1, 1, 1)]
    assert batches[0].flatten().tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert torch.equal(windows.joined([one.transpose(1, 2) for one in batches]).flatten(), tokens.flatten())


def test_a_tower_that_loses_its_windows_is_refused() -> None:
    loaded, vision = windowed(("112x112-1",))
    attend_by_length(loaded.model, loaded.family)
    model: Any = loaded.model
    layer = model.model.visual.blocks[0].attn
    forward = layer.forward
    layer.forward = lambda *args, windows=None, **kwargs: forward(*args, **kwargs)
    with pytest.raises(ConfigError, match="windows would be lost"):
        features(loaded, vision)


@pytest.mark.parametrize("name", ["llava", "text"])
def test_towers_without_windows_keep_their_attention(name: str) -> None:
    loaded = build_deep(name)
    before = loaded.model.config._attn_implementation
    attend_by_length(loaded.model, loaded.family)
    assert loaded.model.config._attn_implementation == before


def test_loading_and_preparing_attend_by_length(tmp_path: Path) -> None:
    loaded = load(build("qwen2_5_vl", tmp_path / "m"))
    assert loaded.model.config.vision_config._attn_implementation == BY_LENGTH
    bare = build_deep("qwen2_5_vl")
    prepare(bare, Tuning(language="full"))
    assert bare.model.config.vision_config._attn_implementation == BY_LENGTH


# ---- adapters -----------------------------------------------------------------------------------------------------


def gradients_of(*, stock_casts: bool, dropout: float = 0.0) -> tuple[Calls, torch.Tensor, torch.Tensor]:
    loaded = build_deep("llava")
    loaded.model.to(torch.bfloat16)
    settings = AdapterSettings(rank=4, alpha=8, dropout=dropout)
    torch.manual_seed(1)
    loaded = prepare(loaded, Tuning(language="lora"), settings, autocast=torch.bfloat16)
    model: Any = loaded.model
    for module in model.modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.normal_(module.lora_B["default"].weight, std=0.2)
        if stock_casts:
            module.__dict__.pop("_cast_input_dtype", None)
    batch = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)([pair("a"), pair("b", chosen="yes")])
    reference = choose_reference(model)
    with counted() as calls:
        with torch.autocast("cpu", torch.bfloat16):
            logps = pair_logps(model, batch, reference=reference)
        assert logps.rejected is not None
        (logps.chosen - logps.rejected).sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return calls, logps.chosen.detach(), torch.cat([parameter.grad.flatten() for parameter in trained])


def test_the_input_of_a_lora_layer_is_not_cast_there_and_back() -> None:
    stock, want, want_gradient = gradients_of(stock_casts=True)
    ours, found, gradient = gradients_of(stock_casts=False)
    layers = 3 * 7  # decoder layers, and linear layers in each
    # to float32 and back, and the same for the gradient
    assert stock.names["_to_copy"] - ours.names["_to_copy"] >= 3 * layers
    assert torch.equal(found, want)
    assert torch.equal(gradient, want_gradient)


def test_lora_layers_with_dropout_keep_the_stock_cast() -> None:
    loaded = build_deep("llava")
    prepared = prepare(loaded, Tuning(language="lora"), AdapterSettings(rank=4, alpha=8, dropout=0.1))
    assert not any("_cast_input_dtype" in vars(module) for module in prepared.model.modules())


def test_a_prepared_model_can_be_copied_and_pickled() -> None:
    tuning = Tuning(vision="lora", projector="full", language="lora")
    loaded = prepare(build_deep("qwen2_5_vl"), tuning, AdapterSettings(rank=4, alpha=8))
    batch = PairCollator(PairEncoder(loaded.processor, loaded.family), draw)([pair("a"), pair("b", chosen="yes")])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want = answer_logps(loaded.model, batch)
        others = [copy.deepcopy(loaded.model), pickle.loads(pickle.dumps(loaded.model))]
        for parameter in loaded.model.parameters():
            parameter.zero_()  # which no copy may look at
        assert all(torch.equal(answer_logps(other, batch), want) for other in others)


# ---- bookkeeping --------------------------------------------------------------------------------------------------


def test_a_batch_of_statistics_costs_the_meter_as_much_as_one() -> None:
    counts = []
    for names in (2, 30):
        meter = Meter()
        stats = {f"s{number}": torch.ones(4) for number in range(names)}
        meter.add(stats)
        with counted() as calls:
            meter.add(stats)
        counts.append(sum(calls.names.values()) - calls.names["unsqueeze"])
    assert counts[0] == counts[1]
