"""SIGINT and SIGTERM: a checkpoint at the next step boundary while training, an orderly end everywhere else."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SIGNAL = 5.0
"""Seconds within which a second signal is the first once more: the terminal sends it, and the launcher passes it on."""
Handler = Callable[[int, FrameType | None], None]


class Terminated(BaseException):
    """SIGTERM outside the steps; like KeyboardInterrupt no Exception, so that nothing on the way swallows it."""


@contextmanager
def terminating() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` in the main thread, as Ctrl-C raises KeyboardInterrupt."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    with _handled({signal.SIGTERM: stop}):
        yield


@contextmanager
def held(*, and_dropped: bool = False) -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block is left, so that it happens whole or not at all.

    Args:
        and_dropped: the process ends after the block anyway; what came in it is forgotten.
    """
    received: list[int] = []
    with _handled(dict.fromkeys(SIGNALS, lambda number, _frame: received.append(number))):
        yield
    for number in [] if and_dropped else received[:1]:
        signal.raise_signal(number)


class StopAtStepEnd(TrainerCallback):
    """Turns SIGINT and SIGTERM into a checkpoint and a stop at the next step boundary; a second one stops at once.

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
        self.received = None
        with _handled(dict.fromkeys(SIGNALS, self._note)):
            yield

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif not self._together or time.monotonic() - self._since > _SAME_SIGNAL:
            raise KeyboardInterrupt

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.agreed if self._together else self.received:
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def _handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    except ValueError:  # not in the main thread: signals stay with whoever has them
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
