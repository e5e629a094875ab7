"""Model folders of the real size with random weights, written shard by shard: any card and little memory will do.

``RandomModel.save`` needs the whole model on the device first, which a card of 12 GB has no room for.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import psutil
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from gpu_parts.case import GIB
from gpu_parts.random_models import RandomModel
from mmpref.models.load import empty_model

RAM_DISK = Path("/dev/shm")
PREFIX = "gpu_check_models_"
DEVIATION = 0.02
"""Of weights, as the models' own configs have it."""
SHARD = GIB
WRITERS = 4
RAM_LEFT = 16 * GIB
"""Memory of the machine that a folder on the RAM disk must leave to the run."""


class NoRoomError(Exception):
    """No place has room for a model folder; says how much is needed."""


class ModelFolders:
    """One model folder at a time, written when it is first asked for and removed when another one is.

    Args:
        work: where folders go when the RAM disk has no room.
        device: that weights are made on.
    """

    def __init__(self, work: Path, device: str) -> None:
        self._work, self._device = work, device
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._hub = ""

    def of(self, model: RandomModel, *, beside: int = 0) -> Path:
        """The folder of a model.

        Args:
            beside: bytes that a run will write into the same place.

        Raises:
            NoRoomError: neither RAM disk nor work folder has room.
        """
        if self._place is None or self._hub != model.hub:
            self.remove()
            remove_left_over()
            need = weight_bytes(model) + beside + GIB // 4
            parent = choose_place(need, [(RAM_DISK, _on_ram_disk()), (self._work, shutil.disk_usage(self._work).free)])
            if parent == RAM_DISK:
                _end_in_order()
            # removed at the end of the process, too
            self._place = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}_", dir=parent)
            self._hub = model.hub
            write_model_folder(model, self.place / "model", self._device)
        return self.place / "model"

    @property
    def place(self) -> Path:
        """The folder that the model's folder is in; a run may write beside it."""
        assert self._place is not None
        return Path(self._place.name)

    def remove(self) -> None:
        if self._place is not None:
            self._place.cleanup()
            self._place = None


def weight_bytes(model: RandomModel, dtype: torch.dtype = torch.bfloat16) -> int:
    """Bytes of a model's weights on the disk."""
    empty = empty_model(model.config, dtype=dtype, attn_implementation="eager")
    return int(sum(weight.numel() for weight in empty.parameters()) * dtype.itemsize)


def choose_place(need: int, places: Sequence[tuple[Path, int]]) -> Path:
    """The first place with room.

    Args:
        places: folders and their free bytes, the best first.

    Raises:
        NoRoomError: none has it.
    """
    for place, free in places:
        if free >= need:
            return place
    looked = ", ".join(f"{place} ({max(free, 0) / GIB:.0f} GiB free)" for place, free in places)
    raise NoRoomError(f"a model folder of {need / GIB:.0f} GiB has room in none of {looked}; TMPDIR names another disk")


def _on_ram_disk() -> int:
    """Bytes that may be put there: free on it, and of the machine's memory what a run does not need."""
    if not RAM_DISK.is_dir() or not os.access(RAM_DISK, os.W_OK):
        return 0
    memory = min(int(psutil.virtual_memory().available), container_left())
    return min(shutil.disk_usage(RAM_DISK).free, memory - RAM_LEFT)


def container_left(groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this container's own limit leaves, which the RAM disk counts against and the machine's figures do not
    show; what the kernel keeps of files that were read is free. Without a limit more than any machine has.
    """
    for limit, used, facts, idle in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, taken = int((groups / limit).read_text()), int((groups / used).read_text())
            lines = (groups / facts).read_text().splitlines()
        except (OSError, ValueError):  # no such file; "max"
            continue
        return int(most - taken) + next((int(line.split()[1]) for line in lines if line.startswith(f"{idle} ")), 0)
    return sys.maxsize


def remove_left_over(parent: Path = RAM_DISK) -> None:
    """Remove what a killed process left on the RAM disk: it would take the machine's memory until it is restarted."""
    for folder in parent.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("_")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _end_in_order() -> None:
    """A part whose time is up is sent SIGTERM: it must end as a program does, so that its folders are removed."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, leave)


def write_model_folder(
    model: RandomModel, folder: Path, device: str, *, dtype: torch.dtype = torch.bfloat16, shard: int = SHARD
) -> Path:
    """Write config, processor and random weights: matrices from a normal distribution, norms one, biases zero.

    Args:
        device: that weights are drawn on, one at a time.
        shard: bytes of a file at most.
    """
    folder.mkdir(parents=True)
    empty = empty_model(model.config, dtype=dtype, attn_implementation="eager")
    # named_parameters has a shared weight once
    weights = dict(empty.named_parameters())
    weights |= {name: value for name, value in empty.state_dict().items() if name in dict(empty.named_buffers())}
    plan = split_torch_state_dict_into_shards(weights, max_shard_size=shard)

    def write(numbered: tuple[int, str]) -> None:
        number, file = numbered
        draw = torch.Generator(device).manual_seed(number)
        tensors = {name: _drawn(name, weights[name], draw).cpu() for name in plan.filename_to_tensors[file]}
        save_file(tensors, folder / file, metadata={"format": "pt"})

    with ThreadPoolExecutor(WRITERS if device == "cuda" else 1) as pool:
        list(pool.map(write, enumerate(plan.filename_to_tensors)))
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    empty.config.architectures = [type(empty).__name__]
    empty.config.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder


def _drawn(name: str, like: Tensor, draw: torch.Generator) -> Tensor:
    made = torch.empty(like.shape, dtype=like.dtype, device=draw.device)
    if like.ndim < 2 and name.endswith("bias"):
        return made.zero_()
    if like.ndim < 2 and name.endswith("weight"):
        return made.fill_(1.0)
    return made.normal_(0.0, DEVIATION, generator=draw)
