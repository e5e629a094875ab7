"""Small cards and the plan against measured peaks: both parts run at toy size, and what only a card does is right."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mmpref.errors import OutOfMemoryError
from mmpref.models.load import load_model
from mmpref.planning.gpus import GPUS, UTILISATION
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import build_recipe, load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.trainer.trainer import PreferenceTrainer
from tests.dry_runs import dry_run, rows_here

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.append(str(SCRIPTS))

from gpu_parts import fitted, plan, small_cards  # noqa: E402
from gpu_parts.caps import Cap, CapError, cap_of  # noqa: E402
from gpu_parts.case import GIB, Context  # noqa: E402
from gpu_parts.largest import Largest, Updates, find_largest  # noqa: E402
from gpu_parts.model_folder import (  # noqa: E402
    PREFIX,
    RAM_DISK,
    NoRoomError,
    choose_place,
    container_left,
    remove_left_over,
    weight_bytes,
    write_model_folder,
)
from gpu_parts.random_models import LLAVA_7B, QWEN_7B, random_model  # noqa: E402
from gpu_parts.whole_run import WholeRun, whole_run  # noqa: E402

MEMORY = {"peak_gib", "reserved_gib", "context_gib", "usable_gib", "trains", "largest_answers", "planned_largest",
          "measured_gib", "planned_gib", "error", "slack"}  # fmt: skip


def test_shipped_recipes_train_at_toy_size_and_longer_answers_are_tried(tmp_path: Path) -> None:
    assert_trained_and_tried(rows_here(tmp_path, "small_cards"))


def assert_trained_and_tried(rows: list[dict[str, Any]]) -> None:
    assert [row["recipe"] for row in rows] == ["qwen2_5_vl_7b_uni_dpo_qlora", "llava_1_5_7b_uni_dpo_qlora"]
    for row in rows:
        assert row["checks"] == 6  # all start-up checks
        assert row["steps"] == small_cards.TOY.steps
        assert row["pairs_per_hour"] > 0
        assert [fits for _, fits in row["tries"]] == [True, True]
        assert row["tries"][0][0] < row["tries"][1][0]
        assert not MEMORY & row.keys()  # nothing was measured
        recipe = build_recipe(row["planned"]["recipe"], where="the row")
        shipped = load_recipe(row["recipe"], row["settings"])
        assert recipe.adapter == shipped.adapter
        assert recipe.model == shipped.model  # the hub id, which is still there when the folder is not
        assert (recipe.data, recipe.output) == (shipped.data, shipped.output)  # no folder of this machine
        assert recipe.train.optim == shipped.train.optim
        assert "peak_bytes" not in row["planned"]
    assert [row["micro_batch"] for row in rows] == [2, 2]
    mine = [folder.name.removeprefix(PREFIX).partition("_")[0] for folder in RAM_DISK.glob(f"{PREFIX}*")]
    assert all(Path(f"/proc/{number}").exists() for number in mine)


@pytest.mark.slow
def test_the_plan_part_trains_its_own_runs_and_claims_nothing_on_a_cpu(tmp_path: Path) -> None:
    found = dry_run(tmp_path, "small_cards", "plan")
    assert_trained_and_tried(found["small_cards"])
    lora, full, last = found["plan"]
    assert [lora["case"], full["case"]] == list(plan.DRY)
    assert lora["checks"] == full["checks"] == 6
    assert full["changed"] > 0.9
    assert not MEMORY & (lora.keys() | full.keys())
    assert last["case"] == "constants"
    assert last["utilisation"] == {"assumed": UTILISATION}
    assert "measured" not in last["context_gib"]
    assert "paste" not in last


# ---- caps ---------------------------------------------------------------------------------------------------------


def test_the_allocator_and_the_context_together_are_the_small_cards_memory() -> None:
    total, context = 80 * GIB, GIB // 2
    cap = cap_of(24, total=total, free=79 * GIB, context=context)
    assert not cap.is_own
    assert cap.share(total, context) * total + context == pytest.approx(23.6 * GIB)
    assert cap.share(total, 2 * context) < cap.share(total, context)


@pytest.mark.parametrize("gib", [23.65, 22.0, 24.0])
def test_a_card_of_that_size_runs_without_a_limit_but_its_own(gib: float) -> None:
    cap = cap_of(24, total=int(gib * GIB), free=int((gib - 0.5) * GIB), context=GIB // 2)
    assert cap.is_own
    assert cap.usable == int(gib * GIB)
    assert cap.share(int(gib * GIB), GIB // 2) == 1.0


@pytest.mark.parametrize(
    ("total", "free", "context", "says"),
    [(15.7, 15, 0.5, "no 24 GB"), (80, 60, 19, "others are on it"), (80, 20, 1, "20.0 GiB are free")],
)
def test_a_card_that_cannot_stand_for_it_is_said_in_one_line(total: float, free: float, context: float, says: str):
    with pytest.raises(CapError, match=says) as err:
        cap_of(24, total=int(total * GIB), free=int(free * GIB), context=int(context * GIB))
    assert "\n" not in str(err.value)


def test_what_trained_counts_only_when_it_stayed_within_its_card() -> None:
    cap = Cap(size=12, usable=int(11.6 * GIB), is_own=False)
    within = WholeRun(recipe=Recipe.model_construct(), peak=9 * GIB, reserved=10 * GIB, context=GIB)  # type: ignore[call-arg]  # not looked at
    assert small_cards.under_cap(within, cap) == {"trains": True}
    over = WholeRun(recipe=Recipe.model_construct(), peak=9 * GIB, reserved=11 * GIB, context=GIB)  # type: ignore[call-arg]  # not looked at
    found = small_cards.under_cap(over, cap)
    assert found["trains"] is False
    assert "410 MiB more" in found["why"]


def test_memory_that_runs_out_under_a_cap_is_a_result_and_without_one_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def runs_out(*_: Any, **__: Any) -> WholeRun:
        raise OutOfMemoryError("out of memory while loading it")

    monkeypatch.setattr(small_cards, "whole_run", runs_out)  # no CPU runs out of a card's memory
    model, known = random_model(QWEN_7B), load_recipe("qwen2_5_vl_7b_uni_dpo_qlora")
    cap = Cap(size=12, usable=int(11.6 * GIB), is_own=False)
    row, broken = small_cards.trained(known, known, model, small_cards.REAL, cap, 1.0)
    assert broken is None
    assert row["trains"] is False
    assert row["why"] == "out of memory while loading it"
    assert 1000 < row["planned_largest"] < 4000
    with pytest.raises(OutOfMemoryError):
        small_cards.trained(known, known, model, small_cards.REAL, None, 1.0)


# ---- the largest pair ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 700, 1000, 1150, 6099, 20_000])
def test_the_search_ends_at_the_largest_size_that_works(limit: int) -> None:
    found = find_largest(lambda size: size <= limit, 1000, limit=32_768, tries=40)
    assert found.fits <= limit < (found.fails or 0)
    assert found.fails is not None
    assert found.fails - found.fits <= max(1, 0.02 * found.fits)
    assert found.resolution == pytest.approx(found.fails / found.fits - 1)
    assert len(found.tries) < 20


def test_the_search_keeps_to_its_tries_its_time_and_its_limit() -> None:
    assert find_largest(lambda _: False, 100, limit=1000, tries=40).fits == 0
    everything = find_largest(lambda _: True, 100, limit=1000, tries=40)
    assert (everything.fits, everything.fails, everything.resolution) == (1000, None, None)
    assert len(find_largest(lambda size: size <= 300, 100, limit=1000, tries=3).tries) == 3
    assert len(find_largest(lambda size: size <= 300, 100, limit=1000, tries=9, seconds=0.0).tries) == 1


@pytest.mark.slow
def test_updates_of_a_real_trainer_find_where_memory_runs_out_and_leave_nothing(tmp_path: Path) -> None:
    """Memory that runs out is the model's own raising of torch's error; all else is the run."""
    most, seen, kept = 150, [], []
    model = random_model(QWEN_7B, tiny=True)
    folder = write_model_folder(model, tmp_path / "model", "cpu")
    name = "qwen2_5_vl_7b_uni_dpo_qlora"
    two = load_recipe(name, ["train.per_device_train_batch_size=2"])
    recipe = small_cards.shipped(two, model, small_cards.TOY, folder, tmp_path, dry_run=True)
    found: list[Largest] = []

    def search(_run: WholeRun, trainer: PreferenceTrainer) -> None:
        kept.append(weakref.ref(trainer))

        def full(_module: Any, args: Any, given: dict[str, Any]) -> None:
            hidden = given["hidden_states"] if "hidden_states" in given else args[0]
            seen.append(hidden.shape[1])
            if hidden.shape[1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        layers = next(m for n, m in trainer.model.named_modules() if n.endswith("language_model.layers"))
        hook = layers[-1].register_forward_pre_hook(full, with_kwargs=True)
        updates = Updates(trainer, "0.jpg", prompt_words=8)
        found.append(find_largest(updates.fits, 20, limit=500, tries=30))
        hook.remove()
        assert all(weight.grad is None for weight in trainer.model.parameters())

    run = whole_run(recipe, at_end=search)
    # a row holds two pairs: 16 image tokens, 8 words and the two ends of the image, and both answers
    tokens = {size: 2 * (26 + 2 * size) for size, _ in found[0].tries}
    assert found[0].tries
    assert all(fits == (tokens[size] <= most) for size, fits in found[0].tries)
    assert found[0].fits == (most - 52) // 4
    assert {2 * (26 + 2 * 2), tokens[found[0].fits]} <= set(seen)  # a small micro-batch was there before
    assert run.checks == 6
    assert len(run.step_ends) == small_cards.TOY.steps
    del run
    gc.collect()
    assert kept[0]() is None  # the next run has the memory to itself


def test_a_search_takes_what_later_runs_leave_and_no_less_than_a_few_tries() -> None:
    assert small_cards.seconds_to_search(57.0, later=2) == small_cards.SEARCHING
    alone, before_two = small_cards.seconds_to_search(60.0, later=0), small_cards.seconds_to_search(110.0, later=2)
    assert alone == 60.0 - small_cards.RUNNING
    assert small_cards.SEARCHING <= before_two < alone


# ---- model folders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hub", [QWEN_7B, LLAVA_7B, plan.TWO, plan.FOUR])
def test_a_folder_written_in_shards_loads_as_it_was_written(hub: str, tmp_path: Path) -> None:
    model = random_model(hub, tiny=True)
    folder = write_model_folder(model, tmp_path / "model", "cpu", shard=300_000)
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 1
    written = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            written |= {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (no mapping)
    loaded = load_model(folder).state_dict()
    missing = loaded.keys() - written.keys()
    assert missing <= {"lm_head.weight"}
    assert ("lm_head.weight" in missing) == bool(model.config.get_text_config().tie_word_embeddings)
    assert all(torch.equal(loaded[name], value) for name, value in written.items())
    assert sum(value.numel() * 2 for value in written.values()) == weight_bytes(model)


def test_a_container_s_own_limit_counts(tmp_path: Path) -> None:
    assert container_left(tmp_path) == sys.maxsize
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    (tmp_path / "memory.stat").write_text("anon 3000\ninactive_file 1500\nfile 2000\n")
    assert container_left(tmp_path) == sys.maxsize
    (tmp_path / "memory.max").write_text("8000\n")
    assert container_left(tmp_path) == 8000 - 5000 + 1500


def test_little_shared_memory_means_no_loader_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's usual 64 MiB hold three pairs of Qwen's pixels, and a worker that finds no more room dies."""
    name, model = "qwen2_5_vl_7b_uni_dpo_qlora", random_model(QWEN_7B, tiny=True)

    def workers(free: int) -> int:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
        recipe = small_cards.shipped(load_recipe(name), model, small_cards.TOY, tmp_path / "m", tmp_path, dry_run=False)
        return recipe.train.dataloader_num_workers

    assert workers(64 * 2**20) == 0
    assert workers(8 * 2**30) == load_recipe(name).train.dataloader_num_workers > 0


def test_a_folder_goes_where_there_is_room_and_none_is_said_in_one_line(tmp_path: Path) -> None:
    ram, disk = tmp_path / "ram", tmp_path / "disk"
    assert choose_place(10, [(ram, 20), (disk, 20)]) == ram
    assert choose_place(10, [(ram, 5), (disk, 20)]) == disk
    with pytest.raises(NoRoomError, match=r"15 GiB .* ram \(1 GiB free\)|15 GiB"):
        choose_place(15 * GIB, [(ram, GIB), (disk, -5)])


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, living, other = (tmp_path / f"{PREFIX}{name}" for name in (f"{dead.pid}_ab", f"{os.getpid()}_cd", "x_1"))
    for folder in (left, living, other):
        folder.mkdir()
    remove_left_over(tmp_path)
    assert not left.exists()
    assert living.exists()
    assert other.exists()


# ---- the plan and its constants -----------------------------------------------------------------------------------


def qlora_row(**changes: Any) -> dict[str, Any]:
    recipe = load_recipe("qwen2_5_vl_7b_uni_dpo_qlora").model_dump(mode="json")
    planned = {"recipe": recipe, "prompt_tokens": 100, "answer_tokens": 250, "image": [896, 896]}
    return {"case": "7b", "planned": {**planned, "peak_bytes": 8 * GIB, "reserved_bytes": 9 * GIB}, **changes}


def test_a_measured_peak_stands_beside_its_plan() -> None:
    recipe = load_recipe("qwen2_5_vl_7b_uni_dpo_qlora")
    says = make_plan(recipe, PlanInput(gpu="H100", image_size=(896, 896), prompt_tokens=100, answer_tokens=250))
    assert says.speed is not None
    measured = fitted.measured_in("small_cards", qlora_row(pairs_per_hour=7200.0))
    assert measured is not None
    row = fitted.beside(measured, "H100").row()
    assert row["error"] == pytest.approx(says.memory.peak / (8 * GIB) - 1, abs=1e-4)
    assert row["slack"] == pytest.approx(9 / 8 - 1, abs=1e-4)
    assert row["planned_pairs_per_hour"] == pytest.approx(says.speed.pairs_per_hour[0], rel=1e-3)
    assert row["speed_error"] == pytest.approx(says.speed.pairs_per_hour[0] / 7200 - 1, abs=1e-3)
    assert "speed_error" not in fitted.beside(measured, None).row()
    off = {"case": "7b", **row, "error": -0.2, "planned_gib": 6.4}
    assert "more than 15% off" in plan.line_of(off)
    assert "off" not in plan.line_of({**off, "error": 0.1})


def test_rows_without_a_measured_peak_are_not_compared() -> None:
    row = qlora_row()
    del row["planned"]["peak_bytes"]
    assert fitted.measured_in("pair_step", row) is None
    assert fitted.measured_in("pair_step", {"case": "other", "skipped": "no time"}) is None


def test_a_step_is_timed_by_its_micro_batch_and_shares_of_the_card_are_of_its_data_sheet() -> None:
    row = qlora_row()
    row["planned"]["recipe"]["train"]["per_device_train_batch_size"] = 2
    row["planned"] |= {"flop": 200e12, "ms": 1000.0}  # of two pairs
    measured = fitted.measured_in("pair_step", row)
    assert measured is not None
    assert measured.pairs_per_second == 2.0
    assert measured.counted == 100e12
    by_plan, by_count = fitted.utilisation(fitted.beside(measured, "H100"), "H100")
    assert by_count == pytest.approx(200e12 / (GPUS["H100"][1] * 1e12))
    assert by_plan == pytest.approx(2.0 * fitted.beside(measured, None).plan.flops_per_pair / 989e12)


def test_constants_are_fitted_to_what_was_measured_and_can_be_pasted() -> None:
    rows = [qlora_row(pairs_per_hour=3600.0), qlora_row(pairs_per_hour=7200.0), qlora_row(pairs_per_hour=7200.0)]
    rows[1]["planned"]["reserved_bytes"] = int(8.32 * GIB)
    rows[2]["planned"]["recipe"]["train"]["gradient_checkpointing"] = False
    rows[2]["planned"]["reserved_bytes"] = 10 * GIB
    measured = [fitted.measured_in("small_cards", row) for row in rows]
    found = [fitted.beside(one, "H100") for one in measured if one is not None]
    row = fitted.constants(found, [0.52, 0.48], "H100")
    assert row["context_gib"] == {"assumed": 1.0, "measured": 0.52}
    assert row["slack"] == {
        "assumed": 0.05, "median": 0.125, "worst": 0.25, "worst_checkpointing": 0.125, "worst_without": 0.25
    }  # fmt: skip
    shares = [fitted.utilisation(one, "H100")[0] for one in found]
    assert row["utilisation"]["measured"] == pytest.approx(sorted(filter(None, shares))[1], abs=1e-4)
    assert row["paste"].startswith("FIXED = int(0.6 * GIB); SLACK = 0.13; UTILISATION = 0.")
    assert plan.line_of(row) == f"constants: {row['paste']}"


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA H100 80GB HBM3", 79.2, "H100"), ("NVIDIA H200", 139.8, "H200"), ("NVIDIA H100 PCIe", 79.2, None),
        ("NVIDIA H100 NVL", 93.1, None), ("NVIDIA A100-SXM4-80GB", 79.3, "A100 80GB"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "A100 40GB"), ("NVIDIA A100 80GB PCIe", 79.3, "A100 80GB"),
        ("NVIDIA GeForce RTX 4090", 23.6, "RTX 4090"), ("NVIDIA GeForce RTX 4090 Laptop GPU", 15.7, None),
        ("NVIDIA GeForce RTX 4080 SUPER", 15.7, None), ("NVIDIA GeForce RTX 3060", 11.8, "RTX 3060"),
        ("NVIDIA GeForce RTX 3060", 7.8, None), ("Tesla T4", 14.6, "T4"), ("NVIDIA L4", 22.0, "L4"),
        ("NVIDIA GeForce RTX 4060 Ti", 15.6, "RTX 4060 Ti 16GB"), ("NVIDIA GeForce RTX 4060 Ti", 7.6, None),
        ("NVIDIA A10", 22.1, "A10"), ("NVIDIA A10G", 22.1, None), ("NVIDIA RTX A6000", 47.5, "A6000"),
        ("CPU", None, None),
    ],
)  # fmt: skip
def test_a_cards_name_is_found_in_the_plans_table(name: str, gib: float | None, known: str | None) -> None:
    assert fitted.table_card(name, gib) == known


def test_cases_say_what_they_need_and_rows_of_earlier_parts_come_first(tmp_path: Path) -> None:
    rows = {"small_cards": [qlora_row(context_gib=0.5), {"case": "12", "skipped": "too small"}]}
    card = {"card": "NVIDIA H100 80GB HBM3", "memory_gib": 79.2}
    context = Context(dry_run=False, device="cuda", deadline=0.0, work=tmp_path, results=rows, environment=card)
    first, *own, last = plan.cases(context)
    assert first.name == "small_cards: 7b"
    [row] = first.run()
    assert row["measured_gib"] == 8.0
    assert [case.name for case in own] == list(plan.KINDS)
    assert all(case.needs_gib for case in own)
    [constants] = last.run()
    assert constants["context_gib"]["measured"] == 0.5
    assert constants["slack"]["worst"] == 0.125
    names = [case.name for case in small_cards.cases(context)]
    assert names[:3] == ["qwen2_5_vl_7b, 24 GB", "qwen2_5_vl_7b, 16 GB", "qwen2_5_vl_7b, 12 GB"]
