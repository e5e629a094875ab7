"""What ``mmpref plan`` says beside each measured peak: those of earlier parts, and of whole training runs.

Every run here is one of ``mmpref train``'s, start-up checks and all, of a model of the real size with random weights
and one image of 640x480 a pair; *peak* is what torch's allocator handed out at most, from loading to the written
model. *changed* is the share of the first layer's weights that differ from the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from gpu_parts.case import Case, Context, Row, first_line
from gpu_parts.fitted import Beside, Measured, beside, constants, measured_in, table_card
from gpu_parts.model_folder import ModelFolders, NoRoomError, weight_bytes
from gpu_parts.pairs_file import write_pairs
from gpu_parts.random_models import RandomModel, random_model
from gpu_parts.whole_run import WholeRun, whole_run
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.sections import Recipe

TITLE = "mmpref plan against measured peaks"
OFF = 0.15
"""A plan that is further off than this is said to be."""
TWO, FOUR = "Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen3-VL-4B-Instruct"
WRITING = {TWO: 5.0, FOUR: 9.0}
"""Seconds on a fast card for a model folder."""
FULL = {"projector": "full", "language": "full"}
LORA = {"projector": "freeze", "language": "lora"}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of training run.

    Attributes:
        hub: whose sizes the model has.
        sections: of the recipe, beside what all have.
        needs_gib: of the card; what one H200 held, with the context.
        seconds: on a fast card, without writing the model folder.
    """

    hub: str
    sections: dict[str, Any]
    needs_gib: float
    seconds: float


KINDS = {
    "QLoRA": Kind(hub=TWO, sections={"tune": LORA, "adapter": {"kind": "qlora"}}, needs_gib=4, seconds=12),
    "LoRA, tower too": Kind(
        hub=TWO, sections={"tune": {**LORA, "vision": "lora"}, "adapter": {"kind": "lora"}}, needs_gib=7, seconds=12),
    "full": Kind(hub=TWO, sections={"tune": FULL}, needs_gib=41, seconds=20),
    "full, cached reference": Kind(
        hub=TWO, sections={"tune": FULL, "reference": {"kind": "cache"}}, needs_gib=35, seconds=22),
    "full, 2 pairs, no checkpointing": Kind(
        hub=TWO, sections={
            "tune": FULL, "train": {"gradient_checkpointing": False, "per_device_train_batch_size": 2}},
        needs_gib=46, seconds=20),
    "full, tower too": Kind(hub=TWO, sections={"tune": {**FULL, "vision": "full"}}, needs_gib=54, seconds=22),
    "full, bfloat16 weights": Kind(
        hub=TWO, sections={"tune": FULL, "model": {"dtype": "bfloat16"}}, needs_gib=22, seconds=16),
    "tower full, LoRA": Kind(
        hub=TWO, sections={"tune": {**FULL, "vision": "full", "language": "lora"}, "adapter": {"kind": "lora"}},
        needs_gib=21, seconds=15),
    "QLoRA, projector full": Kind(
        hub=TWO, sections={"tune": {**LORA, "projector": "full"}, "adapter": {"kind": "qlora"}}, needs_gib=5,
        seconds=12),
    "4B LoRA, tower too": Kind(
        hub=FOUR, sections={
            "tune": {"vision": "lora", "projector": "lora", "language": "lora"}, "adapter": {"kind": "lora"}},
        needs_gib=12, seconds=15),
    "4B AdaDPO full, cached reference, adamw_8bit": Kind(
        hub=FOUR, sections={
            "tune": FULL, "loss": {"name": "adadpo"}, "reference": {"kind": "cache"}, "train": {"optim": "adamw_8bit"}},
        needs_gib=57, seconds=35),
}  # fmt: skip
DRY = ("LoRA, tower too", "full, cached reference")
"""Of a dry run: with and without an adapter, with a live and a cached reference."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long a run and its pairs are; ``image`` None is what the model is measured with."""

    prompt_words: int
    answer_tokens: int
    pairs: int
    steps: int
    image_size: tuple[int, int] | None


REAL = Size(prompt_words=40, answer_tokens=120, pairs=24, steps=10, image_size=(640, 480))
TOY = Size(prompt_words=6, answer_tokens=8, pairs=4, steps=2, image_size=None)


def cases(context: Context) -> list[Case]:
    """What earlier parts measured, runs of this part's own, the constants."""
    folders = ModelFolders(context.work, context.device)
    card = table_card(context.environment.get("card") or "", context.environment.get("memory_gib"))
    found: list[Beside] = []
    others = context.environment.get("taken_gib") or 0.0  # a screen's share is no part of our context
    contexts = [
        float(row["context_gib"]) - others
        for row in context.results.get("small_cards", ()) if row.get("context_gib")
    ]  # fmt: skip

    def earlier(part: str, row: Row) -> Callable[[], Iterator[Row]]:
        def run() -> Iterator[Row]:
            if (measured := measured_in(part, row)) is not None:
                found.append(beside(measured, card))
                yield found[-1].row()

        return run

    def of_kind(kind: Kind) -> Callable[[], Iterator[Row]]:
        return lambda: measure(context, folders, kind, card, found, contexts)

    made = [
        Case(name=f"{part}: {row['case']}", run=earlier(part, row), seconds=1.0)
        for part in ("pair_step", "small_cards")
        for row in context.results.get(part, ())
        if row.get("planned")
    ]
    written: set[str] = set()
    for name in DRY if context.dry_run else KINDS:
        kind = KINDS[name]
        stored = ("qlora" in str(kind.sections), "8bit" in str(kind.sections))
        made.append(Case(
            name=name, run=of_kind(kind), needs_gib=kind.needs_gib,
            seconds=kind.seconds + (0.0 if kind.hub in written else WRITING[kind.hub]),
            libraries=("bitsandbytes",) if any(stored) else (),
        ))  # fmt: skip
        written.add(kind.hub)
    made.append(Case(name="constants", run=lambda: iter([constants(found, contexts, card)]), seconds=0.0))
    return made


def measure(
    context: Context, folders: ModelFolders, kind: Kind, card: str | None, found: list[Beside], contexts: list[float]
) -> Iterator[Row]:
    """One run beside its plan."""
    model, size = random_model(kind.hub, tiny=context.dry_run), TOY if context.dry_run else REAL
    try:
        folder = folders.of(model, beside=3 * weight_bytes(model))  # what trains is written in float32
    except NoRoomError as err:
        yield {"skipped": first_line(err)}
        return
    recipe = recipe_of(kind, size, model, folder, folders.place, on_cpu=context.device == "cpu")
    run = whole_run(recipe)
    shape = {"prompt_tokens": size.prompt_words, "answer_tokens": size.answer_tokens,
             "image_size": size.image_size or model.image}  # fmt: skip
    pairs = None if run.pairs_per_hour is None else run.pairs_per_hour / 3600
    found.append(beside(
        Measured(name=kind.hub, recipe=recipe, shape=shape, peak=run.peak, reserved=run.reserved,
                 pairs_per_second=pairs), card,
    ))  # fmt: skip
    if run.context:
        contexts.append(run.context / 2**30 - (context.environment.get("taken_gib") or 0.0))
    yield {"checks": run.checks, **found[-1].row(), **learned(run, folder)}


def recipe_of(kind: Kind, size: Size, model: RandomModel, folder: Path, place: Path, *, on_cpu: bool) -> Recipe:
    """The recipe of a run, its data written where there are none yet."""
    data = place / "data"
    if not data.exists():
        write_pairs(
            data, size.pairs, size=size.image_size or model.image, prompt_words=size.prompt_words,
            answer_tokens=(size.answer_tokens,) * 2,
        )  # fmt: skip
    sections = kind.sections
    tree = {
        "output": str(place / "run"),
        "data": {"train": str(data / "pairs.jsonl"), "root": str(data)},
        "loss": {"name": "uni_dpo", "uni": {"tau_good": 2.5}},
        **sections,
        "model": {"path": str(folder), **sections.get("model", {})},
        "train": {
            "learning_rate": 6e-6, "lr_scheduler_type": "constant", "max_steps": size.steps, "logging_steps": 1,
            "gradient_checkpointing": True, "use_cpu": on_cpu, **sections.get("train", {}),
        },
    }  # fmt: skip
    return build_recipe(tree, where="this case")


def learned(run: WholeRun, start: Path) -> Row:
    """What the run says of updates lost to rounding, and the share of the first layer that it changed."""
    assert run.folder is not None
    lines = [json.loads(line) for line in run.folder.metrics_file.read_text(encoding="utf-8").splitlines()]
    found: Row = next(({"swallowed": one["updates_swallowed"]} for one in lines if "updates_swallowed" in one), {})
    if not (run.folder.model / "adapter_config.json").exists():
        found["changed"] = _changed(start, run.folder.model)
    return found


def _changed(before: Path, after: Path) -> float:
    start = dict(_first_layer(before))
    differ = total = 0
    for name, weight in _first_layer(after):
        differ += int((weight != start[name]).sum())
        total += weight.numel()
    return round(differ / total, 4)


def _first_layer(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (safe_open is no mapping)
                if ".layers.0." in name:
                    # names on the disk differ by release; what follows the layer is the same
                    yield name[name.index(".layers.0.") :], weights.get_tensor(name).float()


def line_of(row: Row) -> str:
    """One row for the terminal."""
    if "context_gib" in row:
        return "constants: " + str(row.get("paste", "nothing was measured"))
    parts = []
    if "error" in row:
        off = f", which is more than {OFF:.0%} off" if abs(row["error"]) > OFF else ""
        parts.append(
            f"measured {row['measured_gib']:.2f} GiB, planned {row['planned_gib']:.2f} ({row['error']:+.1%}){off}"
        )
    if "slack" in row:
        parts.append(f"held {row['reserved_gib']:.2f} ({row['slack']:+.1%})")
    if "speed_error" in row:
        parts.append(
            f"{row['measured_pairs_per_hour']:,.0f} pairs an hour, planned {row['planned_pairs_per_hour']:,.0f}"
        )
    if "changed" in row:
        parts.append(f"{row['changed']:.1%} of the first layer's weights changed")
    return f"{row['case']}: " + "; ".join(parts or [f"{row.get('checks', 0)} start-up checks passed"])
