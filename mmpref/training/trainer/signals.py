"""Signals while training: a checkpoint at the next step boundary; an orderly end outside the steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpref.errors import Terminated
from mmpref.process.signals import SAME_SIGNAL, handled, heard, numbers, without_limit

_SENT_AND_PASSED_ON = 5.0
"""Seconds within which a second signal is the first once more, for one of several processes: the terminal sends it, and
the launcher passes it on."""


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM and SIGHUP raise :class:`Terminated` in the main thread, as Ctrl-C raises KeyboardInterrupt; a command
    has seen to that already."""
    by_a_command = callable(signal.getsignal(signal.SIGTERM))
    with nullcontext() if by_a_command else heard(), without_limit():  # a checkpoint takes the time that it takes
        yield


@contextmanager
def defer_signals(*, discard: bool = False) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP wait until the block is left, so that all of it happens.

    Args:
        discard: the process ends after the block anyway; what came in it is forgotten.
    """
    received: list[int] = []
    with handled(dict.fromkeys(numbers(), lambda number, _frame: received.append(number))):
        yield
    for number in [] if discard else received[:1]:
        signal.raise_signal(number)


class StopAtStepEnd(TrainerCallback):
    """Turns SIGINT, SIGTERM and SIGHUP into a checkpoint and a stop at the next step boundary; a second stops at once.

    Args:
        together: one of several processes: the boundary is where all know of it.
    """

    def __init__(self, *, together: bool = False) -> None:
        self.received: int | None = None
        self.agreed = 0.0
        """What any process had received when all last asked each other; 0 for nothing."""
        self._together = together
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the block signals are noted, and the step that runs is finished."""
        self.received = None
        with handled(dict.fromkeys(numbers(), self._note)):
            yield

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > (_SENT_AND_PASSED_ON if self._together else SAME_SIGNAL):
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise Terminated(number)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.agreed if self._together else self.received:
            control.should_save = True
            control.should_training_stop = True
