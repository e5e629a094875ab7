"""What is installed on this machine and what its hardware offers.

Every fact is found by itself, so that one broken library is a line of the output and not the end of it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmpref.installation import MODEL_LIBRARIES, Requirement, advice, core, cpu_build_beside_gpu, of_extras
from mmpref.version import __version__

_GIB = 2**30
_OPTIONAL = {
    "bitsandbytes": "QLoRA and 8-bit optimizers",
    "deepspeed": "--launch zero2 and zero3",
    "matplotlib": "the figures of a report",
    "openpyxl": ".xlsx tables",
    "num2words": "the processor of SmolVLM",
    "av": "video files",
    "tensorboard": "train.report_to=tensorboard",
    "wandb": "train.report_to=wandb",
}
"""Libraries of the extras -> what needs them."""
_TRIAL_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of the output.

    Attributes:
        name: what was looked at.
        value: what was found.
        ok: whether that is good; None where it is neither good nor bad.
        hint: what to do, or what it means.
    """

    name: str
    value: str
    ok: bool | None = None
    hint: str = ""


def machine() -> Iterator[Fact]:
    """All facts, in the order of the output; nothing is downloaded."""
    yield Fact("mmpref", f"{__version__} on Python {sys.version.split()[0]}")
    for required in core():
        fact = _library(required)
        if required.name in (*MODEL_LIBRARIES, "pillow") or fact.ok is False:
            yield fact
    extras = of_extras()
    for name, purpose in _OPTIONAL.items():
        yield _library(extras.get(name) or Requirement(name=name), purpose)
    for look in (_torchvision, _device, _memory, _four_bit, _attention, disk, _hub):
        yield fact_or_error(look)


def fact_or_error(look: Callable[..., Fact], *given: Path) -> Fact:
    """The fact that a function finds; an error as a fact that is not ok, named like the function."""
    name = look.__name__.strip("_").replace("_", " ")
    try:
        return look(*given)
    except Exception as err:  # a broken install can raise anything; that is the news
        return Fact(name, f"{type(err).__name__}: {err}"[:300], False)


def _library(required: Requirement, purpose: str = "") -> Fact:
    """One library; ``purpose`` is what needs it, where that is not everything."""
    fault = required.fault()
    if fault is None:
        try:
            return Fact(required.name, importlib.metadata.version(required.name), True)
        except importlib.metadata.PackageNotFoundError:
            return Fact(required.name, "found, without the metadata that says its version", None)
    missing = bool(purpose) and fault == "is not installed"
    hint = f"needed for {purpose}: {advice([required])}" if purpose else advice([required])
    return Fact(required.name, fault.removeprefix("is "), None if missing else False, hint)


def _torchvision() -> Fact:
    if importlib.util.find_spec("torchvision") is None:
        return Fact("torchvision", "not installed, and not needed", True)
    trial = subprocess.run(
        [sys.executable, "-c", "import torchvision"],
        capture_output=True,
        text=True,
        timeout=_TRIAL_SECONDS,
        check=False,
    )
    if trial.returncode == 0:
        return Fact("torchvision", f"{importlib.metadata.version('torchvision')} (not needed)", True)
    reason = (trial.stderr.strip().splitlines() or ["it ended without a message"])[-1]
    return Fact(
        "torchvision", f"installed and broken: {reason}", False,
        "transformers cannot load models while it is there: pip uninstall torchvision, or install the build that "
        "belongs to this torch",
    )  # fmt: skip


def _device() -> Fact:
    import torch

    if (wrong := cpu_build_beside_gpu()) is not None:
        return Fact("device", "CPU", False, wrong.cpu_words)
    if not torch.cuda.is_available():
        build = "CUDA build without a usable GPU" if torch.version.cuda else "CPU build of torch"
        return Fact(
            "device", f"CPU, {torch.get_num_threads()} threads ({build})", None, "training real models needs a GPU"
        )
    found = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: use fp16"
        found.append(f"{card.name}, {card.total_memory / _GIB:.0f} GiB, compute {card.major}.{card.minor}, {bf16}")
    return Fact("device", "; ".join(found), True)


def _memory() -> Fact:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * size
    return Fact("memory", f"{pages * size / _GIB:.0f} GiB, {free / _GIB:.0f} GiB free")


def _four_bit() -> Fact:
    from mmpref.models.quantize import four_bit_trial

    if importlib.util.find_spec("bitsandbytes") is None:
        return Fact("4-bit layers", "bitsandbytes is not installed")
    return Fact("4-bit layers", four_bit_trial(), True)


def _attention() -> Fact:
    flash = importlib.util.find_spec("flash_attn") is not None
    return Fact("attention", "sdpa, eager" + (", flash_attention_2" if flash else " (flash-attn is not installed)"))


def disk(output: Path | None = None) -> Fact:
    """Free space in the working directory, or where a run folder would be created."""
    place = Path.cwd() if output is None else nearest_folder(output)
    free = shutil.disk_usage(place).free / _GIB
    where = "here" if output is None else f"in {place}, where the output would be"
    return Fact("disk", f"{free:.0f} GiB free {where}", free > 5, "" if free > 5 else "checkpoints need space")


def _hub() -> Fact:
    from huggingface_hub import constants

    where = f"cache in {constants.HF_HUB_CACHE}"
    return Fact("hub", f"offline, {where}" if constants.HF_HUB_OFFLINE else where)


def nearest_folder(path: Path) -> Path:
    """The nearest folder that exists: the path itself, or one of its parents."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
