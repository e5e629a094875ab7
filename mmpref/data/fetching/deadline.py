"""One time limit for a whole download, over a client whose own limits are between two reads.

A thread shuts the socket down when the time is over, or the call was stopped, and again until the client has noticed:
whatever it waits for then ends, be it the first byte of the greeting or the last line behind the image.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from types import TracebackType
from typing import Self

_LOOK = 0.05
"""Seconds between two looks at the clock."""


class Deadline:
    """``with Deadline(seconds, stopped)``: the connection that is watched ends with the time, or with ``stopped``."""

    def __init__(self, seconds: float, stopped: threading.Event) -> None:
        self._end = time.monotonic() + seconds
        self._stopped = stopped
        self._left = threading.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left, or everything was stopped."""
        return self.left == 0.0 or self._stopped.is_set()

    def connect(self, connection: http.client.HTTPConnection) -> None:
        """Open a connection, which is watched from here on."""
        self._connection, self._socket = connection, None
        connection.connect()
        self._socket = connection.sock  # the reply takes it over from the connection

    def __enter__(self) -> Self:
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self._left.set()

    def _watch(self) -> None:
        while not self._left.wait(min(_LOOK, self.left + 0.001)):
            if self.is_over:
                connection = self._connection
                for found in (self._socket, None if connection is None else connection.sock):
                    if found is not None:
                        with contextlib.suppress(OSError):  # it is closed already
                            socket.socket.shutdown(found, socket.SHUT_RDWR)  # of the socket below TLS, at once
                self._left.wait(_LOOK)
