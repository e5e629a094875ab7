"""Weights in 4 and 8 bits, on the CPU: what is quantised, how, and that an adapter on them learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, Tuning, choose_reference, pair_logps, prepare
from mmpref.models.quantize import QuantizationSettings
from tests.tiny_vlms import build
from tests.unit.models.adapters.test_lora import LORA, batch_for, fresh, step, trained

bnb = pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = build(name, tmp_path_factory.mktemp("base") / name)
        return folders[name]

    return get


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nf4_with_lora_learns_before_and_after_an_eval_pass(name: str, dtype: str, base: Any) -> None:
    """On some CPUs an eval pass repacks the 4-bit weights, and from then on the adapter gets no gradient."""
    loaded = fresh(base(name), quantization="nf4", dtype=dtype)
    four_bit = [n for n, m in loaded.model.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(four_bit) == 14
    assert all("language_model" in n for n in four_bit)
    assert not isinstance(loaded.model.get_output_embeddings(), bnb.nn.Linear4bit)
    loaded = prepare(loaded, LORA, AdapterSettings(rank=4, alpha=8))
    batch = batch_for(loaded)
    reference = choose_reference(loaded.model)
    assert reference is not None

    def gradients() -> dict[str, torch.Tensor]:
        loaded.model.zero_grad()
        pair_logps(loaded.model, batch).chosen.sum().backward()
        return {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}

    first = gradients()
    before = reference.logps(batch)[0]
    loaded.model.eval()
    with torch.no_grad():
        pair_logps(loaded.model, batch)
    loaded.model.train()
    again = gradients()
    assert any(grad.abs().max() > 0 for grad in first.values())
    assert first.keys() == again.keys() == trained(loaded.model)
    for n, grad in first.items():
        torch.testing.assert_close(again[n], grad)
    step(loaded, batch)
    torch.testing.assert_close(reference.logps(batch)[0], before)


def test_int8_loads_and_learns(base: Any) -> None:
    loaded = prepare(fresh(base("llava"), quantization="int8", dtype="float32"), LORA, AdapterSettings(rank=4))
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters() if p.requires_grad}
    step(loaded, batch_for(loaded))
    assert any(not torch.equal(before[n], p) for n, p in loaded.model.named_parameters() if n in before)


def test_quantised_weights_do_not_train_themselves(base: Any) -> None:
    with pytest.raises(ConfigError, match="quantised"):
        prepare(fresh(base("llava"), quantization="nf4", dtype="float32"), Tuning(language="full"))


@pytest.mark.parametrize(("settings", "compute", "nested"), [
    (QuantizationSettings(kind="nf4"), torch.float32, True),
    (QuantizationSettings(kind="nf4", double_quant=False, compute_dtype="bfloat16"), torch.bfloat16, False),
    (QuantizationSettings(kind="fp4", compute_dtype="float32"), torch.float32, True),
])  # fmt: skip
def test_four_bit_layers_are_stored_and_computed_as_asked(
    settings: QuantizationSettings, compute: torch.dtype, nested: bool, base: Any
) -> None:
    loaded = fresh(base("llava"), quantization=settings, dtype="float32")
    layers = [module for module in loaded.model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert layers
    assert {layer.compute_dtype for layer in layers} == {compute}
    assert {layer.weight.quant_type for layer in layers} == {settings.kind}
    assert {layer.weight.quant_state.nested for layer in layers} == {nested}
