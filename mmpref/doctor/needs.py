"""What a recipe needs beside the core installation, known from the recipe alone: nothing is imported for it.

``mmpref train`` refuses what is missing before torch is loaded, and ``mmpref doctor`` says it in the same words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.installation import cpu_build_beside_gpu, lacking
from mmpref.recipe.sections import Recipe

_OF_BITSANDBYTES = re.compile(r"(?!.*torch).*(8bit|paged|bnb)")
"""Names of optimizers in transformers; adamw_torch_8bit is torchao's."""
_FIRST_LINE = 2**20
"""Bytes of a data file that are looked at."""


def refuse_unmet(recipe: Recipe, launch: str | None = None) -> None:
    """Refuse a recipe that cannot run with what is installed.

    Args:
        recipe: as it resolves.
        launch: the strategy of ``--launch``.

    Raises:
        ConfigError: everything that is missing, with the commands that install it.
    """
    if faults := list(unmet(recipe, launch)):
        raise ConfigError("; ".join(faults))


def unmet(recipe: Recipe, launch: str | None = None) -> Iterator[str]:
    """What is missing for a recipe, each with the command that installs it or the key that does without it."""
    if not recipe.train.use_cpu and (build := cpu_build_beside_gpu()) is not None:
        yield f"{build.cpu_words}, or train.use_cpu=true to train on the CPU"
    for library, cases in _needed(recipe, launch).items():
        purposes, others = zip(*cases, strict=True)
        if (message := lacking(library, " with ".join(purposes))) is not None:
            yield f"{message}, or {' '.join(others)}"


def _needed(recipe: Recipe, launch: str | None) -> dict[str, list[tuple[str, str]]]:
    """Library of an extra -> what needs it, and what does without."""
    needed: dict[str, list[tuple[str, str]]] = {}
    if recipe.adapter.kind == "qlora":
        needed.setdefault("bitsandbytes", []).append(("adapter.kind=qlora", "adapter.kind=lora"))
    if _OF_BITSANDBYTES.fullmatch(recipe.train.optim):
        needed.setdefault("bitsandbytes", []).append((f"train.optim={recipe.train.optim}", "train.optim=adamw_torch"))
    for tracker in recipe.train.report_to:
        if tracker == "wandb" or (tracker == "tensorboard" and find_spec("tensorboardX") is None):
            needed[tracker] = [(f"train.report_to={tracker}", "train.report_to=[]")]
    if launch is not None and launch.startswith("zero"):
        needed["deepspeed"] = [(f"--launch {launch}", "--launch fsdp2, which needs nothing more")]
    if video := next(_video_files(recipe), None):
        needed["av"] = [(f"{video} names video files, and reading them", "give each video as a list of frames")]
    return needed


def _video_files(recipe: Recipe) -> Iterator[str]:
    """Files of rows whose first row names a video by its file; a list of frames needs no library."""
    for name in (*recipe.data.train_paths, *recipe.data.eval_paths):
        file = Path(name).expanduser()
        if file.suffix != ".jsonl" or not file.is_file():
            continue
        try:
            with file.open("rb") as stream:
                row: Any = json.loads(stream.readline(_FIRST_LINE))
        except (OSError, ValueError, RecursionError):
            continue  # its own reader says what is wrong with it
        videos = row.get("videos") if isinstance(row, dict) else None
        if isinstance(videos, list) and any(isinstance(video, str) for video in videos):
            yield name
