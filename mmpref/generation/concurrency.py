"""Work on many items in a few threads, which stops when everything fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from mmpref.errors import EvalIncompleteError
from mmpref.process.threads import each

T = TypeVar("T")
R = TypeVar("R")
_FAILURES_IN_A_ROW = 16  # with no reply in between: the server is gone, or refuses all there is


class ItemFailed(Exception):  # noqa: N818  # not an error of the program, but of one request
    """One request failed, and is not made again by this run; the text says why.

    Args:
        why: the reason in a word that can be counted.
        again: whether another run may have an answer. False where this request can have none, such as one that is too
            long; it says nothing about the server then.
    """

    def __init__(self, text: str, *, why: str = "failed", again: bool = True) -> None:
        super().__init__(text)
        self.why = why
        self.again = again


class NotAsked(ItemFailed):
    """The request was never made, for a reason of our own; that says nothing about the server."""

    def __init__(self, text: str, *, why: str = "not_asked") -> None:
        super().__init__(text, why=why)


def in_parallel(
    items: Iterable[T], work: Callable[[T], R], *, workers: int, stop: Callable[[], None]
) -> Generator[tuple[T, R | ItemFailed]]:
    """``(item, work(item))`` as they are done, ``workers`` at a time; an ``ItemFailed`` is a result like any other.

    Args:
        stop: called when the caller leaves or something raised, to wake threads that wait.

    Raises:
        EvalIncompleteError: many items in a row failed and none worked; those that can have no answer do not count.
        Exception: whatever else ``work`` raises.
    """
    failed_in_a_row = 0
    with contextlib.closing(each(items, work, workers=workers, stop=stop)) as results:
        for item, result in results:
            if isinstance(result, BaseException):
                if not isinstance(result, ItemFailed):
                    raise result
                failed_in_a_row += result.again and not isinstance(result, NotAsked)
            else:
                failed_in_a_row = 0
            yield item, result
            if failed_in_a_row >= _FAILURES_IN_A_ROW:
                raise EvalIncompleteError(
                    f"the last {failed_in_a_row} requests all failed, so no more are made: {result}; "
                    "what was answered is kept, run again to go on"
                )
