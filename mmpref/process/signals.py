"""Signals in every command: SIGINT, SIGTERM and SIGHUP end it in order, a second one at once, and no child is left.

SIGHUP (the terminal is gone) is treated as SIGTERM, unless it was ignored when the process began, as ``nohup`` does it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import NoReturn

from mmpref.errors import Terminated
from mmpref.process.streams import flush

Handler = Callable[[int, FrameType | None], None]
SAME_SIGNAL = 1.0
"""Seconds within which a second signal is the first once more: whoever ends a session sends several at once."""
GRACE = 15.0
"""Seconds that an orderly end may take, where nothing long has to be saved."""
TO_CLOSE = 60.0
"""Seconds that libraries have for closing what they opened (a tracker that sends its last lines), once all is said."""

_begun: list[float] = []
"""When the signal came that ends this process; empty before."""
_limits: list[float | None] = [GRACE]
_timers: list[threading.Timer] = []


def numbers() -> tuple[signal.Signals, ...]:
    """The signals that end a command, without SIGHUP where it is ignored or does not exist."""
    hang_up = getattr(signal, "SIGHUP", None)
    heard = hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *((hang_up,) if heard and hang_up is not None else ()))


@contextlib.contextmanager
def handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """While the block runs, signals go to these handlers; outside the main thread they stay with whoever has them."""
    own = os.getpid()

    def only_here(handler: Handler) -> Handler:
        def handle(number: int, frame: FrameType | None) -> None:
            if os.getpid() == own:
                handler(number, frame)
            elif number == signal.SIGTERM:  # a child made by fork has the handlers of its parent
                os._exit(128 + number)

        return handle

    before = {}
    try:
        for number, handler in handlers.items():
            before[number] = signal.signal(number, only_here(handler))
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler_before in before.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # a rank that ends together with others stays deaf
                signal.signal(number, handler_before)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """SIGTERM and SIGHUP raise :class:`Terminated` in the main thread, SIGINT KeyboardInterrupt: the first of them.

    Another one within a second is the same once more; a later one ends the process and its children at once.
    """
    _begun.clear()
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a job in the background of a script
    try:
        with handled({number: stop for number in numbers() if not (ignored and number == signal.SIGINT)}):
            yield
    finally:
        while _timers:
            _timers.pop().cancel()


def at_once(ended: list[int]) -> None:
    """Before and after a command a signal just ends the process, with its code where that is known already."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    for number in numbers():
        if not (ignored and number == signal.SIGINT):
            signal.signal(number, lambda number, _frame: os._exit(ended[0] if ended and ended[0] else 128 + number))


def stop(number: int, _frame: FrameType | None = None) -> None:
    """What a signal does: begin the end of this process."""
    now = time.monotonic()
    if _begun:
        if now - _begun[0] > SAME_SIGNAL:
            end_now(number)
        return
    _begun.append(now)
    _end_after(_limits[-1], number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Terminated(number)


def forget() -> None:
    """What was raised for a signal got lost on its way: the next one is the first again."""
    _begun.clear()


@contextlib.contextmanager
def without_limit() -> Iterator[None]:
    """While the block runs, an orderly end may take as long as it needs: a checkpoint is written."""
    _limits.append(None)
    try:
        yield
    finally:
        _limits.pop()


def end_now(number: int) -> NoReturn:
    """End this process and all its children, whatever they do."""
    end_children()
    name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    with contextlib.suppress(OSError):  # not by a stream: this may be a handler inside one of its writes
        os.write(2, f"mmpref: stopped by {name}\n".encode())
    os._exit(128 + number)


def end_children() -> None:
    """Kill every process that this one started, and those that they started."""
    with contextlib.suppress(ImportError):
        import psutil

        with contextlib.suppress(psutil.Error):
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()


def _end_after(seconds: float | None, number: int) -> None:
    if seconds is not None:
        timer = threading.Timer(seconds, end_now, (number,))
        timer.daemon = True
        timer.start()
        _timers.append(timer)


def leave_with(code: int) -> NoReturn:
    """End the process in Python's way; one that a signal stopped does not wait for ever for threads or children."""
    if code - 128 in {int(number) for number in signal.Signals}:
        _end_after(TO_CLOSE, code - 128)
    flush()
    sys.exit(code)
