"""What a run costs, for its manifest: seconds by part, pairs per second, peak memory and the machine.

Nothing is read from the device before the run ends.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpref.errors import CheckpointError
from mmpref.training.trainer.signals import defer_signals

PLANNED_STEPS = "planned_steps"
"""Key of the manifest: the steps of the whole training, known from its first on."""


class Cost(TrainerCallback):
    """Takes the time of the parts of a run.

    Args:
        begun: ``time.monotonic()`` when the run began.
        record: writes facts into the manifest of a run that is running; of several ranks the first does.
        pairs_done: how many pairs have been trained on so far, over all ranks.
        held_out_seconds: seconds that evaluations on held-out pairs took so far.
    """

    def __init__(
        self,
        begun: float,
        record: Callable[..., None],
        *,
        pairs_done: Callable[[], int],
        held_out_seconds: Callable[[], float],
    ) -> None:
        self._begun, self._record = begun, record
        self._pairs_done, self._held_out_seconds = pairs_done, held_out_seconds
        self._first = self._last = begun
        self._held_out = [0.0, 0.0]
        self._pairs = [0, 0]
        self._from_step = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write how many steps there will be, for who looks at the run meanwhile."""
        self._first = self._last = time.monotonic()
        self._pairs = [self._pairs_done()] * 2
        self._held_out = [self._held_out_seconds()] * 2
        self._from_step = state.global_step
        if state.is_world_process_zero:
            with defer_signals(), suppress(CheckpointError):  # a full disk ends no run for the sake of this
                self._record(**{PLANNED_STEPS: state.max_steps})

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._last = time.monotonic()
        self._pairs[1] = self._pairs_done()
        self._held_out[1] = self._held_out_seconds()

    def facts(self, *, device: torch.device, processes: int) -> dict[str, Any]:
        """The cost so far.

        Args:
            device: that this process trains on.
            processes: that train together; memory is of this one.
        """
        held_out = self._held_out_seconds()
        training = self._last - self._first - (self._held_out[1] - self._held_out[0])
        before = self._first - self._begun - self._held_out[0]
        after = time.monotonic() - self._last - (held_out - self._held_out[1])
        pairs = self._pairs[1] - self._pairs[0]
        found: dict[str, Any] = {
            "seconds": {"before": before, "training": training, "held_out": held_out, "after": after},
            "from_step": self._from_step,
            "pairs_per_second": pairs / training if pairs and training > 0 else None,
            "peak_host_bytes": _peak_host_bytes(),
            "machine": _machine(device, processes),
        }
        if device.type == "cuda":
            found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(device)
        return found


def _peak_host_bytes() -> int | None:
    """The most memory that this process had; None where the system does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _machine(device: torch.device, processes: int) -> str:
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type.upper()} ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"
    return name if processes == 1 else f"{processes} processes, the first on {name}"
