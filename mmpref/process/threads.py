"""Work on many items in a few threads that nobody has to wait for at the end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def each(
    items: Iterable[T], work: Callable[[T], R], *, workers: int, stop: Callable[[], None]
) -> Generator[tuple[T, R | BaseException]]:
    """``(item, work(item))``, or what it raised, as they are done, ``workers`` at a time.

    The threads are daemons: an interrupted program does not wait for a silent server.

    Args:
        stop: called when the caller leaves or all is done, to wake threads that wait.
    """
    todo: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        while (item := todo.get()) is not None:
            try:
                done.put((item, work(item)))
            except BaseException as err:  # handed to the caller, whatever it is
                done.put((item, err))

    waiting, under_way = iter(items), 0
    for _ in range(workers):
        threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            while under_way < workers and (item := next(waiting, None)) is not None:
                todo.put(item)
                under_way += 1
            if not under_way:
                return
            found = done.get()
            under_way -= 1
            yield found
    finally:
        stop()
        for _ in range(workers):
            todo.put(None)


def within(seconds: float, work: Callable[[], R]) -> R:
    """``work()``, when it is done in time; otherwise it goes on in a thread of its own that nobody waits for.

    Raises:
        TimeoutError: it was not.
    """
    done: queue.SimpleQueue[tuple[bool, R | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((True, work()))
        except BaseException as err:  # handed to the caller, whatever it is
            done.put((False, err))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, found = done.get(timeout=max(seconds, 0.0))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(found, BaseException) and not good:
        raise found
    return found  # type: ignore[return-value]  # what work returned
