"""A real TCP server that speaks HTTP as badly as a test wants: one function gets the socket of every connection."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class RawServer:
    """``speak`` gets the connection, and an event that is set when the test is over; it may do anything with both."""

    def __init__(self, speak: Callable[[socket.socket, threading.Event], None]) -> None:
        self.speak = speak
        self.closing = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[RawServer]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self.closing.set()
            self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:  # the client may leave at any moment
            self.speak(connection, self.closing)


def read_request(connection: socket.socket) -> bytes:
    """The head and the body of one request."""
    got = b""
    while b"\r\n\r\n" not in got and (piece := connection.recv(65536)):
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lines[0].split(b":")[1]) if lines else 0
    while len(body) < length and (piece := connection.recv(65536)):
        body += piece
    return head + b"\r\n\r\n" + body


def drip(connection: socket.socket, closing: threading.Event, content: bytes, *, every: float = 0.05) -> None:
    """Send a byte now and then, and after the last go on with the last for ever."""
    place = 0
    while not closing.wait(every):
        if content:
            connection.sendall(content[place : place + 1] or content[-1:])
        place += 1


GREETING = b"HTTP/1.1 200 OK\r\n"


def _silent(connection: socket.socket, closing: threading.Event) -> None:
    closing.wait()


def _no_answer(connection: socket.socket, closing: threading.Event) -> None:
    read_request(connection)
    closing.wait()


def _after(first: bytes, dripped: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def speak(connection: socket.socket, closing: threading.Event) -> None:
        read_request(connection)
        connection.sendall(first)
        drip(connection, closing, dripped)

    return speak


def _endless(first: bytes, again: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def speak(connection: socket.socket, closing: threading.Event) -> None:
        read_request(connection)
        connection.sendall(first)
        while not closing.wait(0.02):
            connection.sendall(again)

    return speak


SLOW: dict[str, Callable[[socket.socket, threading.Event], None]] = {
    "says nothing at all": _silent,
    "reads and says nothing": _no_answer,
    "drips the status line": _after(b"", b"HTTP/1.1 200 " + b"O" * 4000),
    "drips a header": _after(GREETING, b"X-Slow: " + b"x" * 4000),
    "sends headers for ever": _endless(GREETING, b"X-More: 1\r\n"),
    "says 100 Continue for ever": _endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "says 103 for ever": _endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
    "drips the body": _after(GREETING + b"Content-Length: 100000\r\n\r\n", b"{" + b" " * 4000),
    "drips a body without a length": _after(GREETING + b"\r\n", b"{" + b" " * 4000),
    "drips chunks": _endless(GREETING + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "drips the size of a chunk": _after(GREETING + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 4000),
    "drips trailers": _endless(GREETING + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-T: 1\r\n"),
    "stops in the body": _after(GREETING + b"Content-Length: 10\r\n\r\n{", b""),
}
"""Ways to be slow, none of which a limit between two reads ends; who has no limit at all waits for ever."""
