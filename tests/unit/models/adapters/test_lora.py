"""Which weights train: exactly those of the parts that are named, fully, by LoRA, or on quantised layers."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmpref.errors import ConfigError
from mmpref.models import (
    AdapterSettings,
    LoadedModel,
    LoadSettings,
    Tuning,
    choose_reference,
    count_parameters,
    load,
    load_model,
    pair_logps,
    prepare,
    save_model,
)
from mmpref.models.adapters.targets import exact_pattern
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.family import family_of
from tests.recomputing import recompute
from tests.tiny_vlms import build, draw, pair

LORA = Tuning(language="lora")
MODELS = ("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3", "text")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = build(name, tmp_path_factory.mktemp("base") / name)
        return folders[name]

    return get


def fresh(folder: Path, **settings: Any) -> LoadedModel:
    return load(folder, LoadSettings(**settings), trainable=True)


def batch_for(loaded: LoadedModel, *images: str) -> Any:
    names = images or (("40x60-2",) if loaded.family.has_vision else ())
    return PairCollator(PairEncoder(loaded.processor, loaded.family), draw)(
        [pair("a", images=names), pair("b", images=names)]
    )


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def step(loaded: LoadedModel, batch: Any) -> None:
    """One visible step of ascent on chosen minus rejected."""
    weights = [p for p in loaded.model.parameters() if p.requires_grad]
    loaded.model.zero_grad()
    got = pair_logps(loaded.model, batch)
    assert got.rejected is not None
    (got.rejected - got.chosen).sum().backward()
    with torch.no_grad():
        for weight in weights:
            if weight.grad is not None:
                weight -= 0.01 * weight.grad / weight.grad.norm().clamp(min=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_full_tuning_trains_exactly_the_named_parts(name: str, base: Any) -> None:
    loaded = fresh(base(name))
    family = loaded.family
    for tuning in (
        Tuning(language="full"),
        *(
            [Tuning(language="freeze", projector="full"), Tuning(vision="full", language="freeze")]
            if family.has_vision
            else []
        ),
    ):
        model = prepare(loaded, tuning).model
        assert model.training
        want = {n for n, _ in model.named_parameters() if tuning.of(family.part_of(n)) == "full"}
        assert trained(model) == want
        assert want


@pytest.mark.parametrize("name", MODELS)
def test_lora_is_put_on_the_linear_layers_of_the_language_model_only(name: str, base: Any) -> None:
    loaded = prepare(fresh(base(name)), LORA, AdapterSettings(rank=4, alpha=8))
    names = trained(loaded.model)
    assert all("lora_" in n for n in names)
    assert not [n for n in names if "visual" in n or "vision_tower" in n or "lm_head" in n]
    layers = {re.sub(r".*layers\.(\d+)\.\w+\.(\w+)\.lora.*", r"\1 \2", n) for n in names}
    seven = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert layers == {f"{i} {n}" for i in range(2) for n in seven}
    before = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    step(loaded, batch_for(loaded))
    step(loaded, batch_for(loaded))
    moved = {n for n, p in loaded.model.named_parameters() if not torch.equal(before[n], p)}
    assert moved == names


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "qwen3_vl"])
def test_lora_on_the_tower_and_a_full_projector(name: str, base: Any, tmp_path: Path) -> None:
    """The projector is a copy kept by the adapter: it trains, it is saved with the adapter, and it goes off with it."""
    loaded = fresh(base(name))
    batch = batch_for(loaded)
    start = pair_logps(loaded.model, batch).chosen.detach()
    loaded = prepare(loaded, Tuning(vision="lora", projector="full", language="lora"), AdapterSettings(rank=4))
    names = trained(loaded.model)
    assert any("lora_" in n and ("visual" in n or "vision_tower" in n) for n in names)
    assert any("modules_to_save" in n for n in names)
    assert all("lora_" in n or "modules_to_save" in n for n in names)
    reference = choose_reference(loaded.model)
    assert reference is not None
    assert reference.kind == "adapter_off"
    for _ in range(2):
        step(loaded, batch)
    torch.testing.assert_close(reference.logps(batch)[0], start, atol=1e-5, rtol=1e-5)
    loaded.model.eval()
    after = pair_logps(loaded.model, batch).chosen
    assert (after - start).abs().max() > 1e-2
    save_model(loaded.model, base(name), tmp_path / "adapter")
    again = load(base(name), adapter=tmp_path / "adapter")
    torch.testing.assert_close(pair_logps(again.model, batch).chosen, after, atol=1e-6, rtol=1e-6)
    assert (tmp_path / "adapter" / "tokenizer.json").is_file()


def test_a_full_tower_beside_lora_leaves_a_frozen_merger_alone(base: Any) -> None:
    loaded = prepare(fresh(base("qwen2_vl")), Tuning(vision="full", language="lora"), AdapterSettings(rank=4))
    names = trained(loaded.model)
    assert any("visual.modules_to_save.default.blocks" in n for n in names)
    assert not [n for n in names if "merger" in n]


@pytest.mark.parametrize(
    ("tuning", "adapter", "message"),
    [
        (LORA, None, "no LoRA settings"),
        (Tuning(language="full"), AdapterSettings(), "no part is tuned by it"),
        (Tuning(language="full", projector="lora"), AdapterSettings(), "beside LoRA"),
        (Tuning(language="freeze"), None, "nothing would train"),
        (Tuning(vision="full", projector="lora", language="freeze"), AdapterSettings(), "inside a vision tower"),
    ],
)
def test_contradictions_are_refused(tuning: Tuning, adapter: AdapterSettings | None, message: str, base: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(fresh(base("qwen2_vl")), tuning, adapter)


def test_a_text_model_has_no_vision_part(base: Any) -> None:
    with pytest.raises(ConfigError, match=r"tune\.vision is full.*no vision part"):
        prepare(fresh(base("text")), Tuning(vision="full"))


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("projector", ["freeze", "full"])
def test_a_frozen_tower_stays_out_of_the_graph_under_checkpointing(name: str, projector: Any, base: Any) -> None:
    """Same gradients as without checkpointing, and no gradient is computed inside the tower."""
    grads: list[dict[str, torch.Tensor]] = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        loaded = prepare(fresh(base(name)), Tuning(projector=projector, language="lora"), AdapterSettings(rank=4))
        for n, p in loaded.model.named_parameters():
            if "lora_B" in n:
                nn.init.normal_(p, std=0.05)
        if checkpointing:
            recompute(loaded.model)
            loaded.model.enable_input_require_grads()
        seen: list[bool] = []
        tower = loaded.model.get_base_model().get_submodule(loaded.family.vision[0])
        blocks = tower.blocks if name == "qwen2_vl" else tower.encoder.layers
        blocks[0].register_forward_hook(
            lambda _m, _a, out, seen=seen: seen.append((out[0] if isinstance(out, tuple) else out).requires_grad)
        )
        got = pair_logps(loaded.model, batch_for(loaded))
        got.chosen.sum().backward()
        assert torch.is_grad_enabled()
        assert seen == [False], "the tower ran once, without a graph"
        grads.append({n: p.grad for n, p in loaded.model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for n, grad in grads[0].items():
        torch.testing.assert_close(grads[1][n], grad, atol=1e-6, rtol=1e-5)


def test_the_tower_s_hooks_let_go_after_an_error(base: Any) -> None:
    loaded = prepare(fresh(base("llava")), Tuning())
    with pytest.raises(Exception, match=r".+"):
        loaded.model(input_ids=torch.zeros(1, 4, dtype=torch.long), pixel_values=torch.zeros(1, 3, 5, 5))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("library", "call"), [("peft", "lora"), ("bitsandbytes", "nf4")])
def test_a_missing_extra_says_what_to_install(
    library: str, call: str, base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = fresh(base("llava"))
    calls: dict[str, Callable[[], object]] = {
        "lora": lambda: prepare(loaded, LORA, AdapterSettings()),
        "nf4": lambda: load_model(base("llava"), LoadSettings(quantization="nf4")),
    }
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match="pip install"):
        calls[call]()


def test_an_adapter_folder_is_checked(base: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter_config\.json"):
        load(base("llava"), adapter=tmp_path)
    loaded = prepare(fresh(base("llava")), LORA, AdapterSettings(rank=4))
    save_model(loaded.model, base("llava"), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="does not fit"):
        load(base("text"), adapter=tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = load_file(weights)
    save_file(dict(list(whole.items())[1:]), weights)
    with pytest.raises(ConfigError, match="missing adapter keys"):
        load(base("llava"), adapter=tmp_path / "adapter")
    save_file(whole, weights)
    ready = load(base("llava"), adapter=tmp_path / "adapter")
    assert not trained(ready.model)
    going_on = load(base("llava"), adapter=tmp_path / "adapter", trainable=True)
    assert any("lora_" in n for n in trained(going_on.model))


def test_dora_and_rslora_are_passed_on(base: Any) -> None:
    settings = AdapterSettings(rank=4, alpha=8, use_dora=True, use_rslora=True, dropout=0.1)
    loaded = prepare(fresh(base("llava")), LORA, settings)
    config = loaded.model.peft_config["default"]
    assert (config.use_dora, config.use_rslora, config.lora_dropout) == (True, True, 0.1)
    assert any("magnitude" in n for n in trained(loaded.model))


@pytest.mark.parametrize("settings", [
    AdapterSettings(rank=4, alpha=8, init="pissa"),
    AdapterSettings(rank=4, alpha=6, init="pissa", use_rslora=True),
    AdapterSettings(rank=4, alpha=8, init="pissa_niter_4"),
])  # fmt: skip
def test_pissa_starts_as_the_model_and_is_saved_for_the_model_as_it_was(
    settings: AdapterSettings, base: Any, tmp_path: Path
) -> None:
    loaded = fresh(base("qwen2_vl"))
    batch = batch_for(loaded)
    start = pair_logps(loaded.model, batch).chosen.detach()
    loaded = prepare(loaded, Tuning(language="lora", projector="full"), settings)
    torch.testing.assert_close(pair_logps(loaded.model, batch).chosen.detach(), start, atol=1e-4, rtol=1e-4)
    reference = choose_reference(loaded.model)
    assert reference is not None
    for _ in range(2):
        step(loaded, batch)
    torch.testing.assert_close(reference.logps(batch)[0], start, atol=1e-4, rtol=1e-4)
    loaded.model.eval()
    after = pair_logps(loaded.model, batch).chosen.detach()
    assert (after - start).abs().max() > 1e-2
    save_model(loaded.model, base("qwen2_vl"), tmp_path / "adapter")
    again = load(base("qwen2_vl"), adapter=tmp_path / "adapter")
    torch.testing.assert_close(pair_logps(again.model, batch).chosen, after, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {}])
def test_pissa_is_refused_where_the_base_cannot_be_split(settings: dict[str, Any], base: Any) -> None:
    pytest.importorskip("bitsandbytes")
    loaded = fresh(base("llava"), **({} if settings else {"quantization": "nf4", "dtype": "float32"}))
    with pytest.raises(ConfigError, match="splits the base's own weights"):
        prepare(loaded, LORA, AdapterSettings(init="pissa", **settings))


def test_parameters_are_counted(base: Any) -> None:
    loaded = prepare(fresh(base("llava")), LORA, AdapterSettings(rank=4))
    some, every = count_parameters(loaded.model)
    assert some == sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    assert 0 < some < every


def test_a_pattern_names_exactly_the_layers() -> None:
    model = nn.ModuleDict(
        {"mlp": nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)), "layers": nn.ModuleList()}
    )
    model["layers"].extend(nn.Linear(2, 2) for _ in range(12))
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    pattern = exact_pattern(names, model)
    assert {n for n, _ in model.named_modules() if re.fullmatch(pattern, n)} == set(names)
    assert r"layers\.\d+" in pattern
    assert family_of("llama", has_vision=False).part_of("lm_head") == "language"
