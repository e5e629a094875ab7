"""The seeing stage: the tiny model's patches learn to mean the words of what stands in them.

A real model comes with a vision tower that was pretrained on captions (CLIP) and a projector aligned on more of them
(LLaVA's first stage). The tiny model has neither, and from captions alone it would stay blind for far longer than a
demo may take. So here each projected patch is pulled towards the language model's own word embeddings: kind plus
colour, or the word ``nothing`` for an empty cell. This uses the ground truth of every training cell, which no later
stage sees; the language model is not touched. How long it runs is decided by skill on validation scenes, not by a
number of steps.

Shapes: B images, C cells of an image (= image tokens), D width of the language model, P patches of an image where the
processor cuts it up (Qwen2-VL: four patches a cell, which its merger makes one token).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from mmpref.demo.scenes import COLOURS, GRID, KINDS, Scene, load_scenes
from mmpref.demo.world import WorldFiles, draw_scene
from mmpref.errors import DataError, EvalIncompleteError
from mmpref.models.load import LoadSettings, load
from mmpref.models.save import save_model

GATE = 0.97  # share of things, and of empty cells, that must be read rightly on validation scenes
MAX_STEPS = 800
CHECK_EVERY = 50
BATCH = 96
EMPTY = "nothing"
EMPTY_WEIGHT = 0.2  # two cells in three are empty; unweighted they would drown the things

Progress = Callable[[int, int, Mapping[str, float] | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeeingResult:
    """What the stage reached on validation scenes; shares are in [0, 1]."""

    steps: int
    things: float  # things whose kind and colour are both read rightly
    empty: float  # empty cells taken for empty


class Cells(Dataset[dict[str, Tensor]]):
    """Images with what stands in each cell: `kinds` and `colours` are [C] indices, EMPTY being the last of either.

    `pixels` is [N, 3, side, side], or [N, P, numbers of a patch] of a processor that cuts images up; `grids` is then
    [N, 3], the patches of an image in time, height and width, else None.
    """

    def __init__(self, scenes: Sequence[Scene], processor: Any) -> None:
        parts = [
            processor.image_processor(images=[draw_scene(scene) for scene in part], return_tensors="pt")
            for part in _parts(scenes, 64)
        ]
        pixels = torch.cat([part["pixel_values"] for part in parts])
        self.grids = torch.cat([part["image_grid_thw"] for part in parts]) if "image_grid_thw" in parts[0] else None
        self.pixels = pixels if self.grids is None else pixels.unflatten(0, (len(scenes), -1))
        self.kinds = torch.full((len(scenes), GRID * GRID), len(KINDS))
        self.colours = torch.full((len(scenes), GRID * GRID), len(COLOURS))
        colours = list(COLOURS)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                self.kinds[row, thing.cell] = KINDS.index(thing.kind)
                self.colours[row, thing.cell] = colours.index(thing.colour)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        grid = {} if self.grids is None else {"grids": self.grids[row]}
        return {"pixels": self.pixels[row], "kinds": self.kinds[row], "colours": self.colours[row], **grid}


class Words:
    """The language model's embeddings of the words that a cell can mean."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        table = model.get_input_embeddings().weight.detach()

        def rows(words: Sequence[str]) -> Tensor:
            found: Tensor = table[tokenizer.convert_tokens_to_ids(list(words))]
            return found.clone()

        self.kinds = rows([*KINDS, EMPTY])  # [kinds + 1, D]
        self.colours = torch.cat([rows(list(COLOURS)), torch.zeros(1, table.shape[1])])  # an empty cell has no colour

    def of(self, kinds: Tensor, colours: Tensor) -> Tensor:
        """What the cells mean, [B, C, D]."""
        meant: Tensor = self.kinds[kinds] + self.colours[colours]
        return meant


class SeeingTrainer(Trainer):
    """The stock Trainer with one loss: 1 - cosine between a projected patch and the words of its cell."""

    def __init__(self, model: nn.Module, args: TrainingArguments, *, words: Words, train_dataset: Cells) -> None:
        super().__init__(model=model, args=args, train_dataset=train_dataset)
        self.words = words

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        patches = project(model, inputs["pixels"], inputs.get("grids"))
        meant = self.words.of(inputs["kinds"], inputs["colours"])
        apart = 1 - F.cosine_similarity(patches, meant, dim=-1)  # [B, C]
        empty = inputs["kinds"] == len(KINDS)
        loss = apart[~empty].mean() + EMPTY_WEIGHT * apart[empty].mean()
        return (loss, {"patches": patches}) if return_outputs else loss


class SkillGate(TrainerCallback):
    """Looks at validation scenes every few steps and stops the training once the model reads them well enough."""

    def __init__(
        self, model: nn.Module, validation: Cells, words: Words, gate: float, progress: Progress | None
    ) -> None:
        self.model, self.validation, self.words = model, validation, words
        self.gate, self.progress = gate, progress
        self.reached: SeeingResult | None = None

    @property
    def passed(self) -> bool:
        """Whether the last look reached the gate, at things and at empty cells."""
        return self.reached is not None and min(self.reached.things, self.reached.empty) >= self.gate

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step % CHECK_EVERY == 0 or state.global_step == state.max_steps:
            self.reached = read_cells(self.model, self.validation, self.words, steps=state.global_step)
            control.should_training_stop = control.should_training_stop or self.passed
        if self.progress is not None:
            now = self.reached
            self.progress(
                state.global_step, state.max_steps, None if now is None else {"things": now.things, "empty": now.empty}
            )


def project(model: Any, pixels: Tensor, grids: Tensor | None = None) -> Tensor:
    """Images as the image tokens that the language model gets, [B, C, D].

    Args:
        pixels: [B, 3, side, side], or with `grids` [B, P, numbers of a patch].
        grids: [B, 3], see :class:`Cells`.
    """
    images = {"pixel_values": pixels} if grids is None else {"pixel_values": pixels.flatten(0, 1)}
    if grids is not None:
        images["image_grid_thw"] = grids
    tokens: Tensor = torch.stack(list(model.get_image_features(**images).pooler_output))
    return tokens


@torch.no_grad()
def read_cells(model: nn.Module, cells: Cells, words: Words, *, steps: int) -> SeeingResult:
    """Read every cell as its nearest words and compare with the truth."""
    grids = [None] * len(cells) if cells.grids is None else cells.grids.split(128)
    patches = torch.cat([project(model, *images) for images in zip(cells.pixels.split(128), grids, strict=False)])
    kinds = (F.normalize(patches, dim=-1) @ F.normalize(words.kinds, dim=-1).T).argmax(-1)  # [N, C]
    colours = (patches @ words.colours[:-1].T).argmax(-1)
    empty = cells.kinds == len(KINDS)
    right = (kinds == cells.kinds) & (colours == cells.colours)
    return SeeingResult(
        steps=steps,
        things=right[~empty].float().mean().item(),
        empty=(kinds[empty] == len(KINDS)).float().mean().item(),
    )


def learn_to_see(
    model_dir: Path,
    world_dir: Path,
    out_dir: Path,
    *,
    seed: int,
    progress: Progress | None = None,
    gate: float = GATE,
    max_steps: int = MAX_STEPS,
) -> SeeingResult:
    """Train tower and projector of the model in `model_dir` until they read validation scenes; write it to `out_dir`.

    Args:
        model_dir: a model as `build_tiny_llava` or `build_tiny_qwen2_vl` writes it.
        world_dir: a world as `make_world` writes it; training scenes are learned from, validation scenes decide.
        out_dir: must not exist, or be an empty folder.
        seed: order of the images.
        progress: called after every step with (steps done, most steps, last skills).
        gate: share of things and of empty cells that must be read rightly.
        max_steps: give up after so many optimizer steps of `BATCH` images.

    Raises:
        EvalIncompleteError: the gate was not reached within `max_steps`; nothing is written.
        DataError: the world has no training or no validation scenes.
    """
    set_seed(seed)
    loaded = load(model_dir, LoadSettings(dtype="float32"), trainable=True)
    model: Any = loaded.model
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(loaded.family.part_of(name) in ("vision", "projector"))
    scenes = list(load_scenes(WorldFiles.under(world_dir).scenes).values())
    train, validation = ([scene for scene in scenes if scene.split == split] for split in ("train", "validation"))
    if not train or not validation:
        raise DataError(
            f"{world_dir} has {len(train)} training and {len(validation)} validation scenes; both are needed"
        )
    words = Words(model, loaded.processor.tokenizer)
    watch = SkillGate(model, Cells(validation, loaded.processor), words, gate, progress)
    with tempfile.TemporaryDirectory(prefix="mmpref-seeing-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=max_steps,
            per_device_train_batch_size=BATCH,
            learning_rate=3e-3,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=20,
            adam_beta2=0.98,
            weight_decay=0.0,
            max_grad_norm=1.0,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = SeeingTrainer(model, arguments, words=words, train_dataset=Cells(train, loaded.processor))
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(watch)
        trainer.train()
    if watch.reached is None or not watch.passed:
        seen = watch.reached or SeeingResult(steps=0, things=0.0, empty=0.0)
        raise EvalIncompleteError(
            f"the model did not learn to see in {max_steps} steps: on validation scenes it reads {seen.things:.1%} "
            f"of things and {seen.empty:.1%} of empty cells rightly, and {gate:.0%} of both are needed; "
            "try another seed, or a larger world"
        )
    save_model(model, model_dir, out_dir)
    return watch.reached


def _parts(scenes: Sequence[Scene], size: int) -> list[Sequence[Scene]]:
    return [scenes[start : start + size] for start in range(0, len(scenes), size)]
