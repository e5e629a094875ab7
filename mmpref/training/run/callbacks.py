"""Functions that a caller gives to ``train``: for progress, lines of text, and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from mmpref.files.hashes import Say
from mmpref.training.trainer.log_lines import LogLines
from mmpref.training.trainer.trainer import PreferenceTrainer

ProgressHook = Callable[[int, int, Mapping[str, float]], None]
TrainerHook = Callable[[PreferenceTrainer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCallbacks:
    """Functions that ``train`` calls; each may be left out.

    Args:
        progress: called after every step with (steps done, all steps, last logged numbers).
        say: called with one line per event. Each line is in ``train.log`` of the run folder too.
        losses: called with one line per ``logging_steps``, for a terminal that does not show ``progress``.
        on_trainer: called with the trainer before the start-up checks; it may add callbacks.
    """

    progress: ProgressHook | None = None
    say: Say | None = None
    losses: Say | None = None
    on_trainer: TrainerHook | None = None


class ProgressCallback(LogLines):
    """Calls a progress hook after every step."""

    def __init__(self, progress: ProgressHook | None) -> None:
        self._progress = progress
        self._numbers: dict[str, float] = {}

    def read(self, logs: Mapping[str, float], state: TrainerState) -> None:
        """Keep the numbers of a training step."""
        if "loss" in logs:
            self._numbers = dict(logs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._progress is not None:
            self._progress(state.global_step, state.max_steps, self._numbers)
