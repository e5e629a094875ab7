"""The gradient of a loss through the pair forward is that of the plain two-sequence way, whatever is trained and how.

The plain way is ``tests.plain_forward``; the loss there is DPO written from its equation.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mmpref.losses import build_objective
from mmpref.models import (
    AdapterSettings,
    LoadedModel,
    LoadSettings,
    ReferencePolicy,
    Tuning,
    choose_reference,
    load,
    pair_logps,
    prepare,
)
from mmpref.models.adapters.weights import adapter_changes_nothing
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.unwrap import base_model
from mmpref.processing import PairBatch
from mmpref.records import PreferencePair
from tests.plain_forward import (
    SHARING,
    all_rows,
    answers_of,
    build_deep,
    by_hand,
    collator_for,
    gradient,
    relative,
    stir,
    stock_twin,
    worst,
)
from tests.recomputing import recompute
from tests.tiers import checkerboard

BETA = 0.3
TUNINGS = {
    "lora": (Tuning(language="lora"), AdapterSettings(rank=4, alpha=8)),
    "frozen tower": (Tuning(projector="full", language="full"), None),
    "trained tower": (Tuning(vision="full", projector="full", language="full"), None),
    "language": (Tuning(language="full"), None),
}
VISION = tuple(name for name in SHARING if name != "text")
EVERY = [
    *((name, tuning) for name in VISION for tuning in ("lora", "frozen tower", "trained tower")),
    ("text", "lora"),
    ("text", "language"),
]
# the gradient itself is compared for all by default, of every second way to train; the further looks at the other
# families are for the slow tier
QUICK = ("llava", "qwen3_vl", "internvl", "text")


def mostly_slow(cases: Sequence[Any]) -> list[Any]:
    """The same parameters, with those of most families left to the slow tier."""
    names = [case if isinstance(case, str) else case[0] for case in cases]
    marks = [[] if name in QUICK else [pytest.mark.slow] for name in names]
    return [
        pytest.param(*([case] if isinstance(case, str) else case), marks=mark)
        for case, mark in zip(cases, marks, strict=True)
    ]


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


@dataclasses.dataclass(frozen=True)
class Start:
    """A policy that has moved away from its reference, in training mode."""

    loaded: LoadedModel
    reference: ReferencePolicy

    @property
    def model(self) -> Any:
        return self.loaded.model

    def loss(self, batch: PairBatch) -> torch.Tensor:
        objective = build_objective({"base": "dpo", "beta": BETA})
        return objective(pair_logps(self.model, batch, reference=self.reference)).per_pair.mean()


def start(name: str, tuning: str, *, seed: int = 0) -> Start:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws LoRA's A
        loaded = prepare(build_deep(name), *TUNINGS[tuning])
    reference = choose_reference(loaded.model)  # before the policy moves, as at the start of a run
    assert reference is not None
    assert reference.kind == ("adapter_off" if tuning == "lora" else "frozen_copy")
    stir(loaded.model)
    assert tuning != "lora" or not adapter_changes_nothing(loaded.model)
    return Start(loaded, reference)


def rows_of(name: str) -> list[PreferencePair]:
    rows = {row.id: row for row in all_rows(name)}
    return [rows[key] for key in ("none", "edited", "two", "turns") if key in rows]


def loss_by_hand(policy: Any, base: Any, loaded: LoadedModel, rows: list[PreferencePair]) -> torch.Tensor:
    """DPO from its equation (arXiv 2305.18290, 7), mean over pairs."""
    with torch.no_grad():
        reference = torch.stack([x.sum() for x in by_hand(base, loaded, rows)])
    ratio = torch.stack([x.sum() for x in by_hand(policy, loaded, rows)]) - reference
    return -F.logsigmoid(BETA * (ratio[: len(rows)] - ratio[len(rows) :])).mean()


def part_gradient(at: Start, model: Any, part: str) -> torch.Tensor:
    """The gradients of one part of the model: vision, projector or language."""
    named = dict(model.named_parameters())
    inside = (name for name in named if at.loaded.family.part_of(name.removeprefix("base_model.model.")) == part)
    found = [named[name].grad for name in inside if named[name].grad is not None]
    return torch.cat([x.flatten() for x in found]) if found else torch.zeros(0)


@pytest.mark.parametrize(
    ("name", "tuning"),
    [*checkerboard(VISION, ("lora", "frozen tower", "trained tower")), ("text", "lora"), ("text", "language")],
)
def test_the_gradient_of_a_loss_equals_the_plain_way(name: str, tuning: str) -> None:
    at, rows = start(name, tuning), rows_of(name)
    twin = stock_twin(at.model)
    want = loss_by_hand(twin, stock_twin(deep(name).model), at.loaded, rows)
    want.backward()
    got = at.loss(collator_for(at.loaded, "shared_prefix")(rows))
    got.backward()
    assert abs(float(got) - float(want)) < 1e-5
    assert abs(float(want) - 0.693147) > 1e-4  # the policy is not its reference any more
    assert relative(gradient(at.model), gradient(twin)) < 1e-5
    trained = {"lora": ["language"], "frozen tower": ["projector", "language"], "language": ["language"]}
    for part in trained.get(tuning, ["vision", "projector", "language"]):  # a small part must not hide in the whole
        assert part_gradient(at, twin, part).norm() > 1e-4, part
        assert relative(part_gradient(at, at.model, part), part_gradient(at, twin, part)) < 2e-5, part


@pytest.mark.parametrize(("name", "tuning"), [("llava_next", "trained tower"), ("qwen3_vl", "lora")])
def test_the_plain_layout_has_the_same_gradient(name: str, tuning: str) -> None:
    at, rows = start(name, tuning), rows_of(name)
    found = []
    for layout in ("shared_prefix", "plain"):
        at.model.zero_grad()
        at.loss(collator_for(at.loaded, layout)(rows)).backward()
        found.append(gradient(at.model))
    assert relative(*found) < 1e-5


@pytest.mark.parametrize(("name", "tuning"), mostly_slow(EVERY))
def test_gradient_checkpointing_changes_no_gradient_and_leaves_a_frozen_tower_alone(name: str, tuning: str) -> None:
    at = start(name, tuning)
    batch = collator_for(at.loaded, "shared_prefix")(rows_of(name))
    base = base_model(at.model)
    want_loss = at.loss(batch)
    want_loss.backward()
    want = gradient(at.model)
    at.model.zero_grad()

    under_grad: list[str] = []
    for path in at.loaded.family.vision:
        tower = base.get_submodule(path)
        for inner, module in tower.named_modules():
            is_vision = at.loaded.family.part_of(f"{path}.{inner}") == "vision"
            # hooks stand outside of a module's own forward: look at leaves inside of what runs without a graph
            if is_vision and not list(module.children()) and "forward" not in module.__dict__:
                module.register_forward_hook(
                    lambda *_, inner=inner: under_grad.append(inner) if torch.is_grad_enabled() else None
                )
    recompute(base)
    base.enable_input_require_grads()  # as the trainer does for every model
    got = at.loss(batch)
    got.backward()
    assert torch.equal(got, want_loss)
    assert relative(gradient(at.model), want) < 1e-6
    if at.loaded.family.has_vision:
        assert bool(under_grad) == (tuning == "trained tower"), under_grad[:5]


@pytest.mark.parametrize("name", mostly_slow(SHARING))
def test_bfloat16_autocast_stays_close(name: str) -> None:
    at = start(name, "lora")
    batch = collator_for(at.loaded, "shared_prefix")(rows_of(name))
    want = at.loss(batch)
    want.backward()
    exact = gradient(at.model)
    at.model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        got = at.loss(batch)
        halved = answers_of(batch, answer_logps(at.model, batch).detach())
    assert got.dtype == torch.float32
    got.backward()
    plain = collator_for(at.loaded, "plain")(rows_of(name))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rows_apart = answers_of(plain, answer_logps(at.model, plain))
    exactly = answers_of(batch, answer_logps(at.model, batch).detach())
    # the shared row is as close to the exact value as separate rows are: rounding, and not another computation
    assert mean_difference(halved, exactly) < 2 * mean_difference(rows_apart, exactly) + 0.005
    assert mean_difference(halved, exactly) < 0.05
    assert torch.cosine_similarity(gradient(at.model), exact, dim=0) > 0.95


def mean_difference(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return float((torch.cat(one) - torch.cat(other)).abs().mean())


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "idefics3", "text"])
def test_four_bit_layers_with_lora_equal_their_plain_rows(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("bitsandbytes")
    folder = tmp_path_factory.mktemp("nf4")
    source = deep(name)
    source.model.save_pretrained(folder)
    source.processor.save_pretrained(folder)
    loaded = prepare(load(folder, LoadSettings(dtype="float32", quantization="nf4"), trainable=True), *TUNINGS["lora"])
    reference = choose_reference(loaded.model)
    assert reference is not None
    stir(loaded.model)
    at, rows = Start(loaded, reference), rows_of(name)
    found = []
    for layout in ("shared_prefix", "plain"):
        at.model.zero_grad()
        loss = at.loss(collator_for(loaded, layout)(rows))
        loss.backward()
        found.append((loss.detach(), gradient(at.model)))
    assert abs(float(found[0][0] - found[1][0])) < 1e-5
    assert relative(found[0][1], found[1][1]) < 1e-5
    batch = collator_for(loaded, "shared_prefix")(rows)
    with torch.no_grad():
        twin = at.model.eval()
        shared = answers_of(batch, answer_logps(twin, batch))
        base_model(twin).set_attn_implementation("sdpa")
        assert worst(shared, by_hand(twin, loaded, rows)) < 1e-5


@pytest.mark.parametrize("tuning", ["lora", "frozen tower"])
@pytest.mark.parametrize("name", mostly_slow(SHARING))
def test_a_live_reference_equals_the_reference_alone(name: str, tuning: str) -> None:
    """Beside the policy it hands over the frozen tower's output; both get what they would have computed themselves."""
    tuning = "language" if (name, tuning) == ("text", "frozen tower") else tuning
    at = start(name, tuning)
    batch = collator_for(at.loaded, "shared_prefix")(rows_of(name))
    with torch.no_grad():
        want = [x.sum() for x in by_hand(stock_twin(deep(name).model), at.loaded, rows_of(name))]
        both = pair_logps(at.model, batch, reference=at.reference)
        alone = pair_logps(at.model, batch)
    assert both.ref_chosen is not None
    assert both.ref_rejected is not None
    torch.testing.assert_close(torch.cat([both.ref_chosen, both.ref_rejected]), torch.stack(want), atol=5e-5, rtol=0)
    assert both.rejected is not None
    assert alone.rejected is not None
    assert torch.equal(torch.cat([both.chosen, both.rejected]), torch.cat([alone.chosen, alone.rejected]))


def test_a_frozen_copy_holds_what_is_frozen_once() -> None:
    at = start("llava", "frozen tower")
    copied = at.reference._model
    for (name, mine), (_, theirs) in zip(at.model.named_parameters(), copied.named_parameters(), strict=True):
        assert (mine is theirs) != mine.requires_grad, name
        assert not theirs.requires_grad
