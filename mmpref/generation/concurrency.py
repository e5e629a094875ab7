"""Work on many items in a few threads, which stops when everything fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from mmpref.errors import EvalIncompleteError
from mmpref.process.threads import each

T = TypeVar("T")
R = TypeVar("R")
_FAILURES_IN_A_ROW = 16  # with no reply in between: the server is gone, or refuses all there is


class ItemFailed(Exception):  # noqa: N818  # not an error of the program, but of one request
    """One request failed permanently; the text says why."""


class NotAsked(ItemFailed):
    """The request was never made, for a reason of our own; that says nothing about the server."""


def in_parallel(
    items: Iterable[T], work: Callable[[T], R], *, workers: int, stop: Callable[[], None]
) -> Iterator[tuple[T, R | ItemFailed]]:
    """``(item, work(item))`` as they are done, ``workers`` at a time; an ``ItemFailed`` is a result like any other.

    Args:
        stop: called when the caller leaves or something raised, to wake threads that wait.

    Raises:
        EvalIncompleteError: many items in a row failed and none worked.
        Exception: whatever else ``work`` raises.
    """
    failed_in_a_row = 0
    with contextlib.closing(each(items, work, workers=workers, stop=stop)) as results:
        for item, result in results:
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
