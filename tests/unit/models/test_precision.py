"""Weights that an optimizer updates are float32 unless asked otherwise, and the reference still says the same."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpref.models import (
    AdapterSettings,
    LoadedModel,
    LoadSettings,
    Tuning,
    choose_reference,
    load,
    load_model,
    pair_logps,
    prepare,
)
from mmpref.models.precision import dtype_to_save, part_dtypes
from mmpref.models.save import save_model
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.family import FAMILIES
from tests.tiers import checkerboard
from tests.tiny_vlms import build, draw, pair

BF16 = torch.bfloat16
FULL = Tuning(projector="full", language="full")
WAYS: dict[str, tuple[Tuning, AdapterSettings | None]] = {
    "language and projector": (FULL, None),
    "everything": (Tuning(vision="full", projector="full", language="full"), None),
    "vision alone": (Tuning(vision="full", projector="freeze", language="freeze"), None),
    "lora": (Tuning(language="lora"), AdapterSettings(rank=4)),
    "dora": (Tuning(language="lora"), AdapterSettings(rank=4, use_dora=True)),
    "pissa": (Tuning(language="lora"), AdapterSettings(rank=4, init="pissa")),
    "vision full, lora": (Tuning(vision="full", language="lora"), AdapterSettings(rank=4)),
    "projector full, lora": (Tuning(projector="full", language="lora"), AdapterSettings(rank=4)),
}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folders of families whose weights are saved in half precision."""
    root = tmp_path_factory.mktemp("half")

    def folder(name: str, dtype: str = "bfloat16") -> Path:
        path = root / f"{name}-{dtype}"
        if not path.exists():
            load_model(build(name, root / name), LoadSettings(dtype=dtype)).save_pretrained(path)
            for file in (root / name).iterdir():
                if not (path / file.name).exists():
                    (path / file.name).write_bytes(file.read_bytes())
        return path

    return folder


def trained_dtypes(loaded: LoadedModel) -> set[torch.dtype]:
    return {parameter.dtype for parameter in loaded.model.parameters() if parameter.requires_grad}


def dtypes_of(loaded: LoadedModel, part: str) -> set[torch.dtype]:
    named = loaded.model.named_parameters()
    return {parameter.dtype for name, parameter in named if loaded.family.part_of(name) == part}


def margins(loaded: LoadedModel, autocast: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
    """How far policy and reference are apart before the first step, and the log-probs of the chosen answers."""
    images = ("56x56-1",) if loaded.family.has_vision else ()
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, layout="shared_prefix")
    reference = choose_reference(loaded.model)
    loaded.model.eval()
    with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        logps = pair_logps(loaded.model, collate([pair("a", images=images)]), reference=reference)
    assert logps.ref_chosen is not None
    return (logps.chosen - logps.ref_chosen).detach(), logps.chosen


@pytest.mark.parametrize(("way", "autocast"), checkerboard(WAYS, [None, BF16]))
def test_what_trains_is_float32_and_starts_where_its_reference_is(way: str, autocast: Any, half: Any) -> None:
    for name in ("llava", "qwen3_vl"):
        tuning, adapter = WAYS[way]
        loaded = prepare(load(half(name), trainable=True), tuning, adapter, autocast=autocast)
        assert trained_dtypes(loaded) == {torch.float32}
        apart, logps = margins(loaded, autocast)
        bound = 0.1 if way in ("pissa", "dora") else 0.0  # these take a half-precision base apart, and round
        assert apart.abs().max() <= bound
        assert logps.dtype == torch.float32
        logps.sum().backward()
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in loaded.model.parameters())


@pytest.mark.parametrize(
    ("name", "dtype"),
    checkerboard(
        ["llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl", "smolvlm"], ["bfloat16", "float16"]
    ),
)
def test_families_take_a_frozen_tower_in_half_precision_before_float32_weights(
    name: str, dtype: str, half: Any
) -> None:
    loaded = prepare(load(half(name, dtype), trainable=True), FULL, autocast=BF16)
    apart, _ = margins(loaded, BF16)
    assert apart.abs().max() == 0
    one_dtype = loaded.family.one_dtype
    assert one_dtype == (name == "smolvlm")  # it pastes features into text without a cast
    assert dtypes_of(loaded, "vision") == {torch.float32 if one_dtype else BF16}


def test_frozen_parts_stay_as_saved_and_all_is_float32_without_autocast(half: Any) -> None:
    mixed = prepare(load(half("llava"), trainable=True), FULL, autocast=BF16)
    assert dtypes_of(mixed, "vision") == {BF16}
    assert dtypes_of(mixed, "language") == dtypes_of(mixed, "projector") == {torch.float32}
    plain = prepare(load(half("llava"), trainable=True), FULL)
    assert dtypes_of(plain, "vision") == {torch.float32}
    lora = prepare(load(half("llava"), trainable=True), *WAYS["lora"], autocast=BF16)
    frozen = {parameter.dtype for parameter in lora.model.parameters() if not parameter.requires_grad}
    assert frozen == {BF16}
    wide = prepare(load(half("llava"), trainable=True), Tuning(vision="full", language="freeze"), autocast=BF16)
    assert dtypes_of(wide, "projector") == {torch.float32}  # what reads a tower that trains
    assert dtypes_of(wide, "language") == {BF16}


def test_a_dtype_that_was_asked_for_holds_for_all_weights(half: Any) -> None:
    asked = prepare(load(half("llava"), LoadSettings(dtype="bfloat16"), trainable=True), FULL, autocast=BF16)
    assert {parameter.dtype for parameter in asked.model.parameters()} == {BF16}


def test_tied_embeddings_stay_tied_and_buffers_follow(half: Any) -> None:
    loaded = load(half("qwen2_vl"), trainable=True)
    loaded.model.get_output_embeddings().weight = loaded.model.get_input_embeddings().weight
    loaded.model.model.language_model.register_buffer("scale", torch.ones(3, dtype=BF16))
    ready = prepare(loaded, FULL, autocast=BF16)
    assert ready.model.model.language_model.scale.dtype == torch.float32
    head, table = ready.model.get_output_embeddings(), ready.model.get_input_embeddings()
    assert head.weight is table.weight


def test_packed_weights_stay_packed_beside_a_float32_projector(half: Any) -> None:
    pytest.importorskip("bitsandbytes")
    for kind in ("nf4", "int8"):
        loaded = load(half("llava"), LoadSettings(quantization=kind), trainable=True)
        ready = prepare(loaded, Tuning(projector="full", language="lora"), AdapterSettings(rank=4), autocast=BF16)
        assert trained_dtypes(ready) == {torch.float32}
        assert {torch.uint8 if kind == "nf4" else torch.int8} <= dtypes_of(ready, "language")
        apart, _ = margins(ready, BF16)
        assert apart.abs().max() == 0


def test_the_dtypes_of_parts_are_what_the_table_says() -> None:
    llava = next(family for family in FAMILIES if family.name == "llava")
    assert part_dtypes(BF16, Tuning(language="lora"), llava, autocast=BF16) is None
    kept = part_dtypes(torch.float32, FULL, llava, autocast=BF16)
    assert kept is not None
    assert set(kept.values()) == {torch.float32}
    other = part_dtypes(torch.float16, FULL, llava, autocast=BF16)
    assert other is not None
    assert other["vision"] == BF16  # autocast would mix the two otherwise


def test_a_model_is_saved_in_one_dtype_that_loading_finds(half: Any, tmp_path: Path) -> None:
    """A folder has one dtype: with that of the frozen tower, what was learnt would be rounded on loading."""
    loaded = prepare(load(half("qwen2_vl"), trainable=True), FULL, autocast=BF16)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter += 1e-5  # less than bfloat16 can tell
    kept = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for asked, dtype in (("auto", torch.float32), ("bfloat16", BF16)):
        save_model(loaded.model, half("qwen2_vl"), tmp_path / asked, dtype=dtype_to_save(loaded.model, asked))
        again = load_model(tmp_path / asked)
        assert {parameter.dtype for parameter in again.parameters()} == {dtype}
        assert all(torch.equal(value, kept[name].to(dtype)) for name, value in again.state_dict().items())
        stored = load_file(tmp_path / asked / "model.safetensors")
        assert len(stored) == len(load_file(half("qwen2_vl") / "model.safetensors"))
    assert all(torch.equal(value, kept[name]) for name, value in loaded.model.state_dict().items())
