"""The reference is the policy as it started, however it is had, and asking for it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, LoadSettings, Tuning, choose_reference, load, pair_logps, prepare, save_model
from mmpref.models.logps.reference import eval_mode
from mmpref.processing import PairCollator, PairEncoder
from tests.tiny_vlms import build, draw, pair

LORA = Tuning(language="lora")
SETTINGS = AdapterSettings(rank=4, alpha=8, dropout=0.2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("qwen2_vl", tmp_path_factory.mktemp("base") / "qwen2_vl")


def batch_for(loaded: Any, **settings: Any) -> Any:
    collate = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, **settings)
    return collate([pair("a"), pair("b", images=("60x40-2",), chosen="yes", rejected="no")])


def disturb(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02)


def test_adapter_off_equals_a_frozen_copy_before_and_after_training(base: Path) -> None:
    loaded = prepare(load(base, trainable=True), LORA, SETTINGS)
    batch = batch_for(loaded)
    off = choose_reference(loaded.model)
    twin = choose_reference(loaded.model, kind="frozen_copy")
    assert off is not None
    assert twin is not None
    assert (off.kind, twin.kind) == ("adapter_off", "frozen_copy")
    assert "switched off" in off.explanation
    assert "asked for" in twin.explanation
    with eval_mode(loaded.model):
        policy = pair_logps(loaded.model, batch)
    for _ in range(2):
        for reference in (off, twin):
            chosen, rejected, _ = reference.logps(batch)
            torch.testing.assert_close(chosen, policy.chosen.detach(), atol=1e-6, rtol=1e-6)
            assert rejected is not None
            assert policy.rejected is not None
            torch.testing.assert_close(rejected, policy.rejected.detach(), atol=1e-6, rtol=1e-6)
            assert not chosen.requires_grad
        disturb(loaded.model)
    with eval_mode(loaded.model):
        assert (pair_logps(loaded.model, batch).chosen - policy.chosen).abs().max() > 1e-3


def test_asking_restores_modes_gradients_and_adapter(base: Path) -> None:
    loaded = prepare(load(base, trainable=True), LORA, SETTINGS)
    model, batch = loaded.model, batch_for(loaded)
    model.get_base_model().model.visual.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    disturb(model)
    with eval_mode(model):
        before = pair_logps(model, batch).chosen
    reference = choose_reference(model, kind="adapter_off")
    assert reference is not None
    reference.logps(batch)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wants
    with eval_mode(model):
        torch.testing.assert_close(pair_logps(model, batch).chosen, before)


def test_asking_switches_no_module_by_a_walk_of_its_own(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapted 7B model has 3,000 modules, and torch's own switch takes 3 microseconds for each, in every step."""
    loaded = prepare(load(base, trainable=True), LORA, SETTINGS)
    reference, batch = choose_reference(loaded.model), batch_for(loaded)
    asked: list[nn.Module] = []
    stock = nn.Module.train

    def counting(module: nn.Module, mode: bool = True) -> nn.Module:
        asked.append(module)
        return stock(module, mode)

    monkeypatch.setattr(nn.Module, "train", counting)
    assert reference is not None
    reference.logps(batch)
    assert asked == []


def test_a_module_that_does_more_than_write_flags_is_asked() -> None:
    class Own(nn.Module):
        switched = 0

        def train(self, mode: bool = True) -> Own:
            self.switched += 1
            super().train(mode)
            return self

    model = nn.Sequential(nn.Linear(1, 1), Own(), nn.Dropout())
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
        assert model[1].switched == 1
    assert all(module.training for module in model.modules())


def test_pair_logps_carries_the_reference_without_gradient(base: Path) -> None:
    loaded = prepare(load(base, trainable=True), LORA, SETTINGS)
    reference = choose_reference(loaded.model)
    got = pair_logps(loaded.model, batch_for(loaded), reference=reference)
    assert got.ref_chosen is not None
    assert got.ref_rejected is not None
    assert not got.ref_chosen.requires_grad
    assert got.chosen.requires_grad
    single = pair_logps(loaded.model, batch_for(loaded, need_rejected=False), reference=reference)
    assert single.ref_chosen is not None
    assert single.ref_rejected is None


def test_full_tuning_needs_a_copy(base: Path) -> None:
    loaded = prepare(load(base, trainable=True), Tuning(language="full"))
    with pytest.raises(ConfigError, match="adapter_off is not possible: the weights themselves are trained"):
        choose_reference(loaded.model, kind="adapter_off")
    reference = choose_reference(loaded.model)
    assert reference is not None
    assert reference.kind == "frozen_copy"
    batch = batch_for(loaded)
    before = reference.logps(batch)[0]
    disturb(loaded.model)
    torch.testing.assert_close(reference.logps(batch)[0], before, atol=0, rtol=0)
    assert (pair_logps(loaded.model, batch).chosen - before).abs().max() > 1e-3


def test_other_trained_weights_forbid_adapter_off(base: Path) -> None:
    loaded = prepare(load(base, trainable=True), LORA, SETTINGS)
    loaded.model.get_base_model().lm_head.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="weights outside the adapter are trained"):
        choose_reference(loaded.model, kind="adapter_off")
    reference = choose_reference(loaded.model)
    assert reference is not None
    assert reference.kind == "frozen_copy"


def test_a_continued_adapter_is_compared_with_where_it_starts(base: Path, tmp_path: Path) -> None:
    loaded = prepare(load(base, trainable=True), LORA, SETTINGS)
    disturb(loaded.model)
    save_model(loaded.model, base, tmp_path / "adapter")
    going_on = load(base, adapter=tmp_path / "adapter", trainable=True)
    drawn = torch.random.get_rng_state()
    reference = choose_reference(going_on.model)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert reference is not None
    assert reference.kind == "copied_adapter"
    assert "trained before" in reference.explanation
    twin = choose_reference(going_on.model, kind="frozen_copy")
    bare = choose_reference(going_on.model, kind="adapter_off")
    assert twin is not None
    assert bare is not None
    assert (reference.is_start, twin.is_start, bare.is_start) == (True, True, False)
    assert "the bare base model" in bare.explanation
    batch = batch_for(going_on)
    with eval_mode(going_on.model):
        start = pair_logps(going_on.model, batch).chosen.detach()
    plain = load(base)
    of_base = pair_logps(plain.model, batch_for(plain)).chosen.detach()
    assert (of_base - start).abs().max() > 1e-3
    for _ in range(2):
        assert torch.equal(reference.logps(batch)[0], start)
        torch.testing.assert_close(twin.logps(batch)[0], start, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(bare.logps(batch)[0], of_base, atol=1e-6, rtol=1e-6)
        disturb(going_on.model)
    save_model(going_on.model, base, tmp_path / "trained")
    assert {path.name for path in (tmp_path / "trained").iterdir() if path.is_dir()} == set()


def test_a_pissa_start_is_copied_and_its_base_is_no_reference(base: Path) -> None:
    loaded = prepare(
        load(base, LoadSettings(dtype="float32"), trainable=True), LORA, AdapterSettings(rank=4, init="pissa")
    )
    with pytest.raises(ConfigError, match="taking its weights out of the base"):
        choose_reference(loaded.model, kind="adapter_off")
    reference = choose_reference(loaded.model)
    assert reference is not None
    assert reference.kind == "copied_adapter"
    assert "PiSSA does not start at zero" in reference.explanation
    batch = batch_for(loaded)
    with eval_mode(loaded.model):
        start = pair_logps(loaded.model, batch).chosen.detach()
    disturb(loaded.model)
    assert torch.equal(reference.logps(batch)[0], start)


@pytest.mark.parametrize("projector", ["full", "freeze"])
def test_copying_the_adapter_changes_nothing_of_what_trains(base: Path, projector: Any, tmp_path: Path) -> None:
    settings, whole = AdapterSettings(rank=4), Tuning(language="lora", projector="full")
    save_model(prepare(load(base, trainable=True), whole, settings).model, base, tmp_path / "start")
    tuning = Tuning(language="lora", projector=projector)  # freeze: the adapter has a projector that must not train
    model = prepare(load(base, trainable=True), tuning, settings, start=tmp_path / "start").model
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(".modules_to_save." in name for name in before) == (projector == "full")
    reference = choose_reference(model, kind="copied_adapter")
    assert reference is not None
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == before
    batch = batch_for(load(base))
    pair_logps(model, batch, reference=reference).chosen.sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} <= before


def test_what_trains_stays_so_where_peft_switches_it_for_a_second_adapter(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some releases of peft turn gradients on and off when an adapter is added, others leave them as they are."""
    model = prepare(load(base, trainable=True), LORA, SETTINGS).model
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    add: Any = model.add_adapter

    def and_switch_gradients(*args: Any, **kwargs: Any) -> None:
        add(*args, **kwargs)
        for parameter in model.parameters():
            parameter.requires_grad_(not parameter.requires_grad)

    monkeypatch.setattr(model, "add_adapter", and_switch_gradients)
    assert choose_reference(model, kind="copied_adapter") is not None
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == before


@pytest.mark.parametrize("kind", ["adapter_off", "copied_adapter", "frozen_copy"])
@pytest.mark.parametrize("projector", ["full", "freeze"])
def test_a_frozen_tower_runs_once_for_policy_and_reference(base: Path, projector: Any, kind: Any) -> None:
    loaded = prepare(load(base, trainable=True), Tuning(language="lora", projector=projector), AdapterSettings(rank=4))
    reference = choose_reference(loaded.model, kind=kind)
    assert reference is not None
    runs: list[str] = []
    for model in {id(loaded.model): loaded.model, id(reference._model): reference._model}.values():
        for name, module in model.named_modules():
            if name.endswith("visual.blocks.0.attn"):
                module.register_forward_hook(lambda *_: runs.append("ran"))
    batch = batch_for(loaded)
    policy = pair_logps(loaded.model, batch, reference=reference)
    assert runs == ["ran"]
    assert policy.ref_chosen is not None
    torch.testing.assert_close(policy.chosen.detach(), policy.ref_chosen, atol=1e-5, rtol=1e-5)
    pair_logps(loaded.model, batch)
    assert runs == ["ran", "ran"], "the next batch is not that of the last one"


def test_a_wrapped_policy_gives_the_same(base: Path, tmp_path: Path) -> None:
    """DistributedDataParallel around the policy: its own forward is called, and the reference looks inside."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        loaded = prepare(load(base, trainable=True), LORA, AdapterSettings(rank=4))
        wrapped = nn.parallel.DistributedDataParallel(loaded.model)
        reference = choose_reference(wrapped)
        assert reference is not None
        assert reference.kind == "adapter_off"
        batch = batch_for(loaded)
        got = pair_logps(wrapped, batch, reference=reference)
        torch.testing.assert_close(got.chosen, got.ref_chosen, atol=1e-5, rtol=1e-5, check_stride=False)
        got.chosen.sum().backward()
        assert all(p.grad is not None for p in loaded.model.parameters() if p.requires_grad)
        save_model(wrapped, base, tmp_path / "adapter")
        assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    finally:
        torch.distributed.destroy_process_group()


def test_no_reference_where_none_is_needed(base: Path) -> None:
    assert choose_reference(load(base).model, needs_reference=False) is None
