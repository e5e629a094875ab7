"""SIGINT and SIGTERM: a checkpoint at the next step boundary while training, an orderly end everywhere else."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
def held() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block is left, so that it happens whole or not at all."""
    received: list[int] = []
    with _handled(dict.fromkeys(SIGNALS, lambda number, _frame: received.append(number))):
        yield
    for number in received[:1]:
        signal.raise_signal(number)


class StopAtStepEnd(TrainerCallback):
    """Turns SIGINT and SIGTERM into a checkpoint and a stop at the next step boundary; a second one stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.received = None
        with _handled(dict.fromkeys(SIGNALS, self._note)):
            yield

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.received is not None:
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
