"""What the Trainer logs, line by line: one callback reads it for all, and one makes a sentence of it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpref.files.hashes import Say


class LogLines(TrainerCallback, ABC):
    """A callback that reads every line that the Trainer logs; a subclass says what it does with one."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs:
            self.read(logs, state)

    @abstractmethod
    def read(self, logs: Mapping[str, float], state: TrainerState) -> None:
        """One line, at the step of ``state``."""


class LossLines(LogLines):
    """One line per ``logging_steps``: how far the run is, its loss, its speed and what is left.

    Args:
        say: called with each line.
        pairs_done: how many pairs have been trained on so far, over all ranks.
    """

    def __init__(self, say: Say, pairs_done: Callable[[], int]) -> None:
        self._say = say
        self._pairs_done = pairs_done
        self._begun = self._since = 0.0
        self._first_step = self._pairs = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._begun = self._since = time.monotonic()
        self._first_step, self._pairs = state.global_step, self._pairs_done()

    def read(self, logs: Mapping[str, float], state: TrainerState) -> None:
        """Say a line with a loss, of training or of an evaluation; of several ranks the first does."""
        if not state.is_world_process_zero:
            return
        place = f"step {state.global_step}/{state.max_steps}" if state.max_steps > 0 else "before step 1"
        if "eval_loss" in logs:
            self._say(f"{place}  held-out pairs: {_numbers(logs, 'eval_')}")
        elif "loss" in logs:
            self._say("  ".join([place, _numbers(logs, ""), *self._speed(state)]))

    def _speed(self, state: TrainerState) -> list[str]:
        now, pairs = time.monotonic(), self._pairs_done()
        rate = (pairs - self._pairs) / max(now - self._since, 1e-9)
        self._since, self._pairs = now, pairs
        each = (now - self._begun) / max(state.global_step - self._first_step, 1)
        left = timedelta(seconds=round(each * (state.max_steps - state.global_step)))
        return [f"{rate:.3g} pairs/s", f"{left} left"]


def _numbers(logs: Mapping[str, float], prefix: str) -> str:
    shown = [
        f"{name} {logs[key]:{form}}"
        for name, key, form in (
            ("loss", f"{prefix}loss", ".4f"),
            ("accuracy", f"{prefix}rewards/accuracies", ".3f"),
            ("margin", f"{prefix}rewards/margins", ".4f"),
            ("lr", "learning_rate", ".3g"),
        )
        if key in logs
    ]
    return "  ".join(shown)
