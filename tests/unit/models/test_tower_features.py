"""Features of a frozen tower, kept: the tower does not run, and every number has the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmpref.errors import CheckpointError
from mmpref.models import load
from mmpref.models.adapters.lora import prepare
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.logps.reference import choose_reference
from mmpref.models.tower_features import Form, TowerFeatures, attach, kept_modules
from mmpref.models.tuning import AdapterSettings, Tuning
from mmpref.models.unwrap import base_model
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.batch import PairBatch
from mmpref.processing.image_rows import ImageRow, image_row
from tests.recomputing import recompute
from tests.tiny_vlms import build, draw, film, pair, refs

PAIRS = [
    pair("a"),
    pair("b", images=("60x60-2",), chosen="a red square .", rejected="a red dog ."),
    pair("c", images=(), rejected="yes"),
    pair("d", rejected_images=refs("60x60-5")),
    pair("e", images=("90x30-1", "28x28-3")),
]
FAMILIES = ["llava", "llava_next", "llava_onevision", "internvl", "gemma3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
FAST = {("llava", "freeze"), ("qwen2_5_vl", "full")}
CASES = [
    pytest.param(name, projector, marks=() if (name, projector) in FAST else pytest.mark.slow)
    for name in FAMILIES
    for projector in ("freeze", "full")
]


class InMemory:
    """A store that keeps rows in a mapping."""

    def __init__(self) -> None:
        self.form: Form | None = None
        self.rows: dict[str, dict[str, torch.Tensor]] = {}
        self.said: list[str] = []

    def read_form(self) -> Form | None:
        return self.form

    def write_form(self, form: Form) -> None:
        self.form = form

    def write(self, key: str, tensors: Any) -> None:
        self.rows[key] = dict(tensors)

    def say(self, line: str) -> None:
        self.said.append(line)

    def __call__(self, rows: Any) -> dict[str, torch.Tensor]:
        if any(row.key not in self.rows for row in rows):
            return {}
        names = self.rows[rows[0].key]
        return {name: torch.cat([self.rows[row.key][name] for row in rows]) for name in names}


@dataclass
class Bench:
    """A tiny model with a frozen tower, and a store for its features."""

    loaded: LoadedModel
    store: InMemory
    features: TowerFeatures
    without: PairCollator
    kept: PairCollator
    ran: list[str]
    """Paths of modules that ran, among those whose outputs are kept."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def bench(name: str, models: Path, *, projector: Any = "freeze", language: Any = "lora") -> Bench:
    adapter = AdapterSettings(rank=4) if language == "lora" else None
    folder = models / name if (models / name).exists() else build(name, models / name)
    torch.manual_seed(1)
    loaded = prepare(load(folder, trainable=True), Tuning(language=language, projector=projector), adapter)
    for weight_name, weight in loaded.model.named_parameters():
        if "lora_B" in weight_name:
            nn.init.normal_(weight, std=0.05)
    store = InMemory()
    ran: list[str] = []
    base = base_model(loaded.model)
    for path in kept_modules(loaded.model):
        leaf = next(name for name, one in base.get_submodule(path).named_modules() if not [*one.children()])
        base.get_submodule(f"{path}.{leaf}" if leaf else path).register_forward_hook(lambda *_, at=path: ran.append(at))
    without = PairCollator(PairEncoder(loaded.processor, loaded.family), draw, film)
    return Bench(loaded, store, attach(loaded.model, store), without, without.with_features(store), ran)


def numbers(one: Bench, batch: PairBatch, reference: Any = None) -> Iterator[torch.Tensor]:
    """Log-probs of both sides, the reference's, and every gradient."""
    one.loaded.model.zero_grad(set_to_none=True)
    found = pair_logps(one.loaded.model, batch, reference=reference)
    assert found.rejected is not None
    (found.chosen.sum() - 0.7 * found.rejected.sum()).backward()
    yield from (found.chosen.detach(), found.rejected.detach())
    if reference is not None:
        assert found.ref_chosen is not None
        yield found.ref_chosen
    yield from (weight.grad for weight in one.loaded.model.parameters() if weight.grad is not None)


def assert_same(one: Iterator[torch.Tensor], other: Iterator[torch.Tensor], *, to_the_bit: bool = True) -> None:
    pairs = list(zip(one, other, strict=True))
    assert len(pairs) > 3
    for mine, theirs in pairs:
        if to_the_bit:
            assert torch.equal(mine, theirs)
        else:
            torch.testing.assert_close(mine, theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "projector"), CASES)
def test_features_that_are_kept_give_the_same_numbers_and_the_tower_does_not_run(
    name: str, projector: Any, models: Path
) -> None:
    one = bench(name, models, projector=projector)
    reference = choose_reference(one.loaded.model)
    first = one.kept(PAIRS)
    assert not first.features
    assert_same(numbers(one, first, reference), numbers(one, one.without(PAIRS), reference))  # computed, and kept
    assert one.features.computed == 4  # of a and d together one, and what the rejected side of d has
    for layout in ("shared_prefix", "plain"):
        without, kept = one.without.changed(layout=layout), one.kept.changed(layout=layout)
        for pairs in (PAIRS, PAIRS[::-1][:3], PAIRS[:1], PAIRS[1:3]):
            want = list(numbers(one, without(pairs), reference))
            assert one.ran
            one.ran.clear()
            batch = kept(pairs)
            # beside other images the tower itself may give other bits: a product of matrices rounds by their sizes
            alike = pairs is PAIRS and layout == "shared_prefix"
            assert_same(numbers(one, batch, reference), iter(want), to_the_bit=alike)
            with torch.no_grad():
                torch.testing.assert_close(pair_logps(one.loaded.model, batch).chosen, want[0], atol=2e-6, rtol=1e-5)
            assert not one.ran
    assert one.features.computed == 4
    assert not one.store.said


def test_only_what_the_model_reads_is_kept(models: Path) -> None:
    """LLaVA's tower puts out every layer's states, and one is read; Qwen's merger, where it trains, reads the last."""
    for name, projector, count in (("llava", "freeze", 1), ("qwen2_vl", "freeze", 1), ("qwen2_vl", "full", 1)):
        one = bench(name, models, projector=projector)
        list(numbers(one, one.kept(PAIRS)))
        assert {len(tensors) for tensors in one.store.rows.values()} == {count}
    widths = {tensor.shape[-1] for tensors in one.store.rows.values() for tensor in tensors.values()}
    assert widths == {one.loaded.model.config.vision_config.embed_dim}


@pytest.mark.parametrize("language", ["lora", "full"])
def test_gradients_under_checkpointing_are_those_of_a_tower_that_runs(language: Any, models: Path) -> None:
    one = bench("qwen2_vl", models, projector="full", language=language)
    recompute(one.loaded.model)
    one.loaded.model.enable_input_require_grads()
    reference = choose_reference(one.loaded.model)
    list(numbers(one, one.kept(PAIRS), reference))
    want = list(numbers(one, one.without(PAIRS), reference))
    one.ran.clear()
    assert_same(numbers(one, one.kept(PAIRS), reference), iter(want))
    assert not one.ran


def test_a_batch_with_one_new_image_runs_the_tower_and_keeps_it(models: Path) -> None:
    one = bench("qwen2_vl", models)
    list(numbers(one, one.kept(PAIRS[:2])))
    assert len(one.store.rows) == 2
    both = [*PAIRS[:1], pair("new", images=("28x28-9",))]
    assert_same(numbers(one, one.kept(both)), numbers(one, one.without(both)))
    assert len(one.store.rows) == 3
    one.ran.clear()
    assert one.kept(both).features
    assert_same(numbers(one, one.kept(both)), numbers(one, one.without(both)))
    assert len(one.ran) == 1  # without


def test_images_with_the_same_pixels_are_one_entry_and_another_budget_is_another(models: Path) -> None:
    one = bench("qwen2_vl", models)
    keys = [
        row.key
        for row in one.kept([pair("a"), pair("b", question="where ?"), pair("c", images=("28x28-2",))]).image_rows
    ]
    assert keys[0] == keys[1] != keys[2]
    large = pair("d", images=("112x112-1",))
    before = one.kept([large]).image_rows
    one.kept.encoder.budgets = {large.prompt_key: 28 * 28}
    after = one.kept([large]).image_rows
    assert before[0].key != after[0].key
    assert before[0].units == 4 * after[0].units


def test_batches_with_videos_run_the_tower(models: Path) -> None:
    one = bench("qwen2_vl", models)
    pairs = [pair("a"), pair("v", images=(), videos=("28x28x4-1",))]
    for _ in range(2):
        batch = one.kept(pairs)
        assert batch.has_videos
        assert not batch.image_rows
        assert_same(numbers(one, batch), numbers(one, one.without(pairs)))
    assert not one.store.rows


def test_what_nobody_read_stops_whoever_reads_it(models: Path) -> None:
    one = bench("llava", models)
    list(numbers(one, one.kept(PAIRS)))
    batch = one.kept(PAIRS)
    tower = base_model(one.loaded.model).get_submodule("model.vision_tower")
    tower.register_forward_hook(lambda _module, _given, output: output.last_hidden_state.sum() and None)
    with pytest.raises(CheckpointError, match=r"did not read when features were kept; delete .*feature_cache"):
        pair_logps(one.loaded.model, batch)
    with torch.no_grad():  # the tower runs, and its last states are kept from now on
        pair_logps(one.loaded.model, one.without(PAIRS))


def test_a_tensor_that_is_read_later_is_kept_from_then_on(models: Path) -> None:
    one = bench("llava", models)
    list(numbers(one, one.kept(PAIRS[:1])))
    assert one.store.form is not None
    before = one.store.form["kept"]
    tower = base_model(one.loaded.model).get_submodule("model.vision_tower")
    tower.register_forward_hook(lambda _module, _given, output: output.last_hidden_state.sum() and None)
    new = [pair("x", images=("28x28-7",))]
    for _ in range(2):
        list(numbers(one, one.kept(new)))
    assert set(one.store.form["kept"]) > set(before)
    list(numbers(one, one.kept(PAIRS[:1])))  # kept before with less than is needed now: the tower runs again
    one.ran.clear()
    list(numbers(one, one.kept(PAIRS[:1])))
    assert not one.ran


def test_an_error_in_a_forward_leaves_nothing_behind(models: Path) -> None:
    one = bench("qwen2_vl", models)
    language = base_model(one.loaded.model).get_submodule("model.language_model")

    def fails(*_: Any) -> None:
        raise RuntimeError("on purpose")

    hook = language.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        pair_logps(one.loaded.model, one.kept(PAIRS))
    assert not one.store.rows
    hook.remove()
    list(numbers(one, one.kept(PAIRS)))
    hook = language.register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="on purpose"):
        pair_logps(one.loaded.model, one.kept(PAIRS))
    hook.remove()
    other = [pair("z", images=("28x28-8",))]
    assert_same(numbers(one, one.kept(other)), numbers(one, one.without(other)))


def test_tiles_behind_those_of_an_image_do_not_count() -> None:
    tiles = torch.ones(2, 5, 3, 2, 2)
    tiles[1, 3:] = 0
    found = image_row({"pixel_values": tiles, "image_sizes": torch.tensor([[4, 4], [2, 4]])})
    assert found == ImageRow(found.key if found else "", 8)
    assert image_row({}) is None
    assert image_row({"pixel_values": torch.ones(1, 2, 2)}) is None
