"""One backward in the setting of training, judged part by part, with nothing left behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmpref.models import AdapterSettings, LoadedModel, Tuning, prepare
from mmpref.models.logps.answer_logps import answer_sums
from mmpref.training.trainer.learning import Learning, in_places, look
from tests.plain_forward import build_deep, collator_for
from tests.tiny_vlms import pair

SEES = (Tuning(vision="lora", projector="full", language="lora"), AdapterSettings(rank=4))


def settings(**checkpointing: Any) -> Any:
    """As ``TrainingArguments`` say it."""
    return SimpleNamespace(activation_checkpointing=True, activation_checkpointing_kwargs=checkpointing or None)


def ready(name: str = "qwen3_vl", tuning: Any = SEES) -> LoadedModel:
    return prepare(build_deep(name), *tuning)


def looked_at(loaded: LoadedModel, args: Any = None, **row: Any) -> Learning:
    batch = collator_for(loaded)([pair("seen", **row)])

    def loss() -> Tensor:
        chosen, rejected, _ = batch.by_side(answer_sums(loaded.model, batch))
        assert rejected is not None
        return (2 * chosen - rejected).sum()

    return look(loaded.model, loaded.family, loss, args)


def test_every_part_is_counted_by_what_can_have_a_gradient_in_the_first_step() -> None:
    found = looked_at(ready())
    assert found.counts() == "vision LoRA 12 of 12, projector 18 of 18, language LoRA 21 of 21"
    assert sum(one.waits for one in found.tensors) == 12 + 21  # A factors behind a B of zeros
    assert found.broken == found.idle == []
    assert found.lost == ()
    assert found.not_reached() == ""


def test_an_adapter_that_was_trained_before_waits_for_nothing() -> None:
    loaded = ready()
    with torch.no_grad():
        for name, value in loaded.model.named_parameters():
            if ".lora_B." in name:
                value.fill_(0.01)
    found = looked_at(loaded)
    assert not any(one.waits for one in found.tensors)
    assert "vision LoRA 24 of 24" in found.counts()


def test_embeddings_and_an_output_head_of_its_own_are_judged_for_themselves() -> None:
    found = looked_at(ready("llava", (Tuning(language="full"), None)))
    assert "language embeddings 1 of 1" in found.counts()
    assert "language output head 1 of 1" in found.counts()


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "gemma3"])
def test_plain_checkpointing_loses_nothing(name: str) -> None:
    without = looked_at(ready(name))
    with_it = looked_at(ready(name), settings())
    assert not with_it.lost
    assert with_it.counts() == without.counts()


def test_reentrant_checkpointing_is_found_to_cut_a_tower_off() -> None:
    found = looked_at(ready(), settings(use_reentrant=True))
    assert found.reentrant
    assert found.idle == ["vision"]
    assert len(found.lost) == 12
    assert all(".visual.blocks." in name and ".lora_B." in name for name in found.lost)


def test_layers_that_only_some_checkpointing_cuts_off_are_found_as_well() -> None:
    """Every second layer: the first is cut off, and the part as a whole still learns."""
    found = looked_at(ready(), settings(use_reentrant=True, every_n_layers=2))
    assert not found.idle
    assert {name.split(".blocks.")[1][0] for name in found.lost} == {"0"}


def test_what_the_loss_never_reads_is_told_and_not_held_against_the_part() -> None:
    full = (Tuning(vision="full", projector="full"), None)
    found = looked_at(ready("llava_next", full), settings(use_reentrant=True))
    assert found.idle == []
    assert found.lost == ()
    assert "model.vision_tower.encoder.layers.*.self_attn.k_proj (2)" in found.not_reached()
    assert found.unused > 0


def test_a_part_beside_what_runs_is_idle() -> None:
    loaded = ready("llava", (Tuning(projector="full", language="freeze"), None))
    projector: Any = loaded.model.model.multi_modal_projector
    projector.register_forward_hook(lambda _m, _i, out: out.detach())
    assert looked_at(loaded).idle == ["projector"]


@pytest.mark.parametrize("strength", [1e-4, 1e6])
def test_float16_is_judged_with_the_loss_scaled_as_in_training(strength: float) -> None:
    """Gradients too small or too large for float16 itself, which the scaler of training brings within its range."""
    loaded = ready("llava", (Tuning(vision="lora", projector="freeze", language="freeze"), AdapterSettings(rank=4)))
    projector: Any = loaded.model.get_base_model().model.multi_modal_projector
    if strength < 1:
        with torch.no_grad():
            projector.linear_1.weight.mul_(strength)
            projector.linear_2.weight.mul_(strength)
    batch = collator_for(loaded)([pair("seen")])

    def loss() -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            return max(strength, 1.0) * answer_sums(loaded.model, batch).sum()

    found = look(loaded.model, loaded.family, loss, SimpleNamespace(fp16=True))
    assert found.broken == found.idle == []
    assert all(one.reached or one.waits for one in found.tensors)


@pytest.mark.parametrize("checkpointing", [{}, {"use_reentrant": True}])
def test_nothing_is_left_behind(checkpointing: dict[str, Any]) -> None:
    loaded = ready("llava")
    model: Any = loaded.model
    norm = nn.BatchNorm1d(4).eval()

    def runs(*_: Any) -> None:
        norm(torch.randn(3, 4))

    model.get_base_model().model.vision_tower.register_forward_hook(runs)
    model.get_base_model().norm = norm
    with torch.no_grad():  # the first forward of all leaves hooks of transformers' own
        answer_sums(model.eval(), collator_for(loaded)([pair("first")]))
    model.train()
    norm.eval()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    looked_at(loaded, settings(**checkpointing))
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    assert all(value.grad is None for value in model.parameters())


def test_places_are_named_without_layer_numbers_and_counted() -> None:
    names = [f"base_model.model.a.layers.{i}.q.lora_B.default.weight" for i in range(3)] + ["a.norm.weight"]
    assert in_places(names) == "a.layers.*.q (3), a.norm (1)"
    assert in_places([f"{x}.weight" for x in "abcde"]).endswith("c (1) and 2 more")
