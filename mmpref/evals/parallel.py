"""Work on many items in a few threads, with an end to it when nothing works any more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mmpref.errors import EvalIncompleteError

T = TypeVar("T")
R = TypeVar("R")
_FAILURES_IN_A_ROW = 16  # with no reply in between: the server is gone, or refuses all there is


class ItemFailed(Exception):  # noqa: N818  # not an error of the program: one request that came to nothing
    """One request came to nothing; the text says why."""


class NotAsked(ItemFailed):
    """It was never made, for a reason of our own; that says nothing about the server."""


def in_parallel(
    items: Iterable[T], work: Callable[[T], R], *, workers: int, stop: Callable[[], None]
) -> Iterator[tuple[T, R | ItemFailed]]:
    """``(item, work(item))`` as they are done, ``workers`` at a time; an ``ItemFailed`` is a result like any other.

    The threads are daemons: an interrupted program does not wait for a silent server.

    Args:
        stop: called when the caller leaves or something raised, to wake threads that wait.

    Raises:
        EvalIncompleteError: many items in a row failed and none worked.
        Exception: whatever else ``work`` raises.
    """
    todo: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        while (item := todo.get()) is not None:
            try:
                done.put((item, work(item)))
            except BaseException as err:  # handed to the caller, whatever it is
                done.put((item, err))

    waiting = iter(items)
    under_way = failed_in_a_row = 0
    for _ in range(workers):
        threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            while under_way < workers and (item := next(waiting, None)) is not None:
                todo.put(item)
                under_way += 1
            if not under_way:
                return
            item, result = done.get()
            under_way -= 1
            if isinstance(result, BaseException):
                if not isinstance(result, ItemFailed):
                    raise result
                failed_in_a_row += not isinstance(result, NotAsked)
            else:
                failed_in_a_row = 0
            yield item, result
            if failed_in_a_row >= _FAILURES_IN_A_ROW:
                raise EvalIncompleteError(
                    f"the last {failed_in_a_row} requests all failed, so no more are made: {result}; "
                    "what was answered is kept, run again to go on"
                )
    finally:
        stop()
        for _ in range(workers):
            todo.put(None)
