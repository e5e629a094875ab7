"""7B QLoRA with the shipped recipes, fitted to cards of 24, 16 and 12 GB: does it train, how fast, the largest pair.

Every size is a whole run of ``mmpref train`` on a model folder of the real size (bfloat16, quantised as it is loaded),
with the allocator held to what such a card has (``gpu_parts.caps``). When the run has trained, longer and longer
answers are tried in the same trainer. All runs share this process: a process each would cost ten seconds of imports,
and what a run leaves in memory is said (``left_gib``).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu_parts.caps import Cap, CapError, cap_here, held_to, hold_to
from gpu_parts.case import GIB, Case, Context, Row, first_line, free_memory, ran_out_of_memory
from gpu_parts.largest import Largest, Updates, find_largest
from gpu_parts.model_folder import RAM_DISK, ModelFolders, NoRoomError
from gpu_parts.pairs_file import write_pairs
from gpu_parts.random_models import LLAVA_7B, QWEN_7B, RandomModel, random_model
from gpu_parts.whole_run import WholeRun, whole_run
from mmpref.planning.fit import fit
from mmpref.planning.memory import with_changes
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.trainer.trainer import PreferenceTrainer

TITLE = "7B QLoRA on small cards"
SIZES = (24, 16, 12)
MODELS = {QWEN_7B: "qwen2_5_vl_7b", LLAVA_7B: "llava_1_5_7b"}
WRITING, RUNNING, SEARCHING = 18.0, 26.0, 12.0
"""Seconds on a fast card: a model folder; loading, checks and updates; the search for the largest pair, at least."""
LONGEST = 32_768
ROOM_FOR_BATCHES = GIB // 4
"""Bytes of shared memory that loader workers need for their batches (20 MB of pixels a pair, two batches a worker); a
container often has 64 MiB, and its workers die of it."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long everything is."""

    prompt_words: int
    answer_tokens: int
    steps: int
    accumulation: int
    longest: int
    """Of the answers in the search."""
    tries: int


REAL = Size(prompt_words=100, answer_tokens=250, steps=4, accumulation=2, longest=LONGEST, tries=12)
TOY = Size(prompt_words=8, answer_tokens=12, steps=2, accumulation=2, longest=32, tries=2)
DRY = ((QWEN_7B, 24), (LLAVA_7B, 12))
"""Of a dry run: each model once."""


def cases(context: Context) -> list[Case]:
    """Qwen2.5-VL-7B first, the largest card first; a model is written once for all its cards."""
    folders = ModelFolders(context.work, context.device)
    size = TOY if context.dry_run else REAL
    found = []
    for hub, name in MODELS.items():
        for cap in SIZES:
            if context.dry_run and (hub, cap) not in DRY:
                continue
            later = sum(smaller < cap for smaller in SIZES)
            made = Case(
                name=f"{name}, {cap} GB", run=partial(measure, context, folders, size, hub, cap, later),
                seconds=RUNNING + SEARCHING / 2 + (WRITING if cap == SIZES[0] else 0), libraries=("bitsandbytes",),
            )  # fmt: skip
            found.append(made)
    return found


def measure(context: Context, folders: ModelFolders, size: Size, hub: str, cap_size: int, later: int) -> Iterator[Row]:
    """One recipe on its card.

    Args:
        later: sizes of the same model that still come.
    """
    name = f"{MODELS[hub]}_uni_dpo_qlora"
    model, settings = random_model(hub, tiny=context.dry_run), settings_for(name, hub, size, cap_size)
    cap: Cap | None = None
    try:
        cap = cap_here(cap_size) if context.device == "cuda" else None
        began = time.monotonic()
        folder = folders.of(model, beside=GIB)
        free_memory(context.device)  # what its weights were drawn in is not the run's
    except (CapError, NoRoomError) as err:
        yield {"skipped": first_line(err)}
        return
    written = time.monotonic() - began
    row: Row = {"recipe": name, "settings": settings, "cap_gib": cap_size}
    if cap is not None:
        left = torch.cuda.memory_allocated() / GIB
        row |= {"usable_gib": round(cap.usable / GIB, 2), "own_card": cap.is_own, "left_gib": round(left, 3)}
    recipe = shipped(load_recipe(name, settings), model, size, folder, folders.place, dry_run=context.dry_run)
    known = load_recipe(name, settings).model_copy(update={"train": recipe.train})  # no folder of this machine
    allowed = seconds_to_search(context.left, later)
    with held_to(cap):
        figures, broken = trained(recipe, known, model, size, cap, allowed)
        yield row | {"write_seconds": round(written, 1)} | figures
        if broken is not None:  # the run is told all the same
            raise broken


def settings_for(name: str, hub: str, size: Size, cap_size: int) -> list[str]:
    """What ``mmpref plan --fit`` finds for a card of that size, for the images of the model at its real size."""
    asked = PlanInput(
        gpu_memory=cap_size * GIB, image_size=random_model(hub).image, prompt_tokens=REAL.prompt_words,
        answer_tokens=REAL.answer_tokens,
    )  # fmt: skip
    found = fit(load_recipe(name), asked)
    if size is TOY:  # micro-batches of toy pairs need no more than two
        pairs = min(2, found.plan.recipe.train.per_device_train_batch_size)
        return [f"train.per_device_train_batch_size={pairs}"]
    return list(found.overrides)


def seconds_to_search(left: float, later: int) -> float:
    """What a search may take, so that the runs that come later still have their time; a few tries in any case."""
    return max(SEARCHING, min(40.0, left - RUNNING - later * (RUNNING + SEARCHING)))


def shipped(recipe: Recipe, model: RandomModel, size: Size, folder: Path, place: Path, *, dry_run: bool) -> Recipe:
    """A shipped recipe, with its settings for a card, and what is here: model, data, few updates."""
    pairs = size.steps * size.accumulation * max(4, recipe.train.per_device_train_batch_size)
    data = place / "data"
    if not data.exists():
        write_pairs(
            data, pairs, size=model.image, prompt_words=size.prompt_words, answer_tokens=(size.answer_tokens,) * 2
        )
    train: dict[str, Any] = {"max_steps": size.steps, "gradient_accumulation_steps": size.accumulation}
    if not RAM_DISK.is_dir() or shutil.disk_usage(RAM_DISK).free < ROOM_FOR_BATCHES:
        train["dataloader_num_workers"] = 0
    if dry_run:
        train |= {"dataloader_num_workers": 0, "use_cpu": True}
    sections: dict[str, dict[str, Any]] = {
        "model": {"path": str(folder)},
        "data": {"train": [str(data / "pairs.jsonl")], "root": data},
    }
    changed = with_changes(recipe, **sections, train=train)
    return changed.model_copy(update={"output": place / "run"})


def trained(
    recipe: Recipe, known: Recipe, model: RandomModel, size: Size, cap: Cap | None, search_seconds: float
) -> tuple[Row, Exception | None]:
    """The figures of a run under a cap, or that it does not train there; and what broke the search, if anything did."""
    planned: Row = {
        "recipe": known.model_dump(mode="json"), "prompt_tokens": size.prompt_words,
        "answer_tokens": size.answer_tokens, "image": list(model.image),
    }  # fmt: skip
    longest: list[Largest] = []
    broken: list[Exception] = []
    plan_says = planned_largest(known, size, model, cap)

    def search(_found: WholeRun, trainer: PreferenceTrainer) -> None:
        if cap is not None:
            hold_to(cap)  # the kernels of training are in the context by now
        free_memory("cuda" if cap is not None else "cpu")
        text = trainer.collator.encoder.encode_text(trainer.train_dataset[0])
        planned["prompt_tokens"] = len(text.prompt) - 1  # one of them stands for the image
        updates = Updates(trainer, "0.jpg", prompt_words=size.prompt_words)
        start = plan_says or size.answer_tokens
        try:
            longest.append(
                find_largest(updates.fits, start, limit=size.longest, tries=size.tries, seconds=search_seconds)
            )
        except Exception as err:
            broken.append(err)

    try:
        run = whole_run(recipe, at_end=search)
    except Exception as err:
        if cap is None or not ran_out_of_memory(err):
            raise
        why = {"trains": False, "why": first_line(err)}
        return why | {"planned_largest": plan_says, "planned": planned}, None
    if run.peak:
        planned |= {"peak_bytes": run.peak, "reserved_bytes": run.reserved}
    row: Row = {
        "checks": run.checks, "load_seconds": round(run.load_seconds, 1), "start_seconds": round(run.start_seconds, 1),
        "steps": len(run.step_ends), "micro_batch": recipe.train.per_device_train_batch_size,
        "loader_workers": recipe.train.dataloader_num_workers, **run.memory(),
    }  # fmt: skip
    if run.pairs_per_hour is not None:
        row["pairs_per_hour"] = round(run.pairs_per_hour, 1)
    found = largest_of(longest[0], cap, plan_says) if longest else {}
    return row | under_cap(run, cap) | found | {"planned": planned}, broken[0] if broken else None


def planned_largest(recipe: Recipe, size: Size, model: RandomModel, cap: Cap | None) -> int | None:
    """Tokens of each answer that still fit, as ``mmpref plan`` says."""
    if cap is None:
        return None
    plan = make_plan(recipe, PlanInput(gpu_memory=cap.usable, image_size=model.image, prompt_tokens=size.prompt_words))
    assert plan.on_card is not None
    return plan.on_card.longest


def under_cap(run: WholeRun, cap: Cap | None) -> Row:
    """Whether a run that came to its end stayed within its card, context and all; nothing where nothing was measured.

    The context grows while kernels are loaded, and the allocator was held to what the first of them left.
    """
    if cap is None or not run.peak:
        return {}
    over = run.reserved + run.context - cap.usable
    if over <= 0:
        return {"trains": True}
    return {"trains": False, "why": f"allocator and context took {over / 2**20:.0f} MiB more than the card has"}


def largest_of(found: Largest, cap: Cap | None, plan_says: int | None) -> Row:
    """What the search found; its tries alone where no memory was measured."""
    tries: Sequence[Any] = [list(one) for one in found.tries]
    if cap is None:
        return {"tries": tries}
    row: Row = {"largest_answers": found.fits, "planned_largest": plan_says, "tries": tries}
    if found.resolution is not None:
        row["resolution"] = round(found.resolution, 4)
    return row


def line_of(row: Row) -> str:
    """One row for the terminal."""
    parts = [f"{row['recipe']}:"]
    if "trains" in row:
        parts.append("trains" if row["trains"] else f"does not train ({row['why']})")
    with suppress(KeyError):
        parts.append(f"peak {row['peak_gib']:.2f} GiB (held {row['reserved_gib']:.2f} + CUDA {row['context_gib']:.2f})")
    with suppress(KeyError):
        parts.append(f"{row['pairs_per_hour']:,.0f} pairs an hour, loaded in {row['load_seconds']:.0f} s")
    with suppress(KeyError):
        more = f" (at most {row['resolution']:.0%} more)" if "resolution" in row else " at least"
        parts.append(f"answers of {row['largest_answers']:,} tokens fit{more}, plan says {row['planned_largest']:,}")
    return parts[0] + " " + ", ".join(parts[1:])
