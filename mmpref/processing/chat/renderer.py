"""Chat templates rendered in a process of their own, which has limits in time and memory (``render_process``).

One such process serves all templates and threads of a process. It starts with the first request (less than a second),
and ends with the process that asks; children made by fork, such as loader workers, start their own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias

from mmpref.processing.chat.render_process import CPU_SECONDS, MEMORY_BYTES

MOST_SOURCE = 1_000_000
"""Characters of a template; the longest that people publish have some 30,000."""
_TEXT_ALLOWED = 20_000
"""Characters that a template may write by itself; the longest system prompts that people publish have some 5,000."""
_TIMES_INPUT = 4
_AN_ENTRY = 32
"""Characters that an entry of a conversation counts for beside its text: marks of a turn, of an image, of JSON."""
_WALL_SECONDS = 120
"""For a process that does not come to run at all; a template that only computes is ended by its processor time."""
_PROGRAM = Path(__file__).with_name("render_process.py")
_Request: TypeAlias = "tuple[str, str, list[Any], bool, dict[str, Any], int]"


class TemplateError(Exception):
    """A template that refuses a conversation; its message is one line."""


class LimitError(Exception):
    """A template that takes or writes what it may not; its message is one line without a subject: ``takes more``."""


def describe(source: str) -> dict[str, Any]:
    """What a template reads, sets and writes by itself; see :func:`mmpref.processing.chat.render_process._described`.

    Raises:
        TemplateError: it is no template.
        LimitError: it is too long, or reading it takes more than it may.
    """
    if len(source) > MOST_SOURCE:
        raise LimitError(f"has {len(source):,} characters, and {MOST_SOURCE:,} are the most that is read")
    found: dict[str, Any] = json.loads(_PROCESS.ask("describe", source, [], False, {}, 0))
    return found


def try_steps(parts: str) -> list[tuple[int, int, int]]:
    """What the steps of a tokenizer make of short texts; see :func:`mmpref.processing.chat.render_process._tried`.

    Raises:
        TemplateError: they fail.
        LimitError: they take more time or memory than they may.
    """
    found: list[tuple[int, int, int]] = json.loads(_PROCESS.ask("try", parts, [], False, {}, 0))
    return found


def render(source: str, conversation: Sequence[Mapping[str, Any]], given: Mapping[str, Any], *, ask: bool) -> str:
    """A conversation as its template writes it.

    Args:
        source: the template.
        conversation: messages, of plain data.
        given: everything else that the template reads.
        ask: up to where the model starts to write.

    Raises:
        TemplateError: the template refuses it.
        LimitError: it takes more time or memory than it may, or writes far more than it was given.
    """
    return _PROCESS.ask(*_request(source, conversation, given, ask))


def render_all(
    source: str, conversations: Sequence[tuple[Sequence[Mapping[str, Any]], bool]], given: Mapping[str, Any]
) -> list[str | TemplateError]:
    """Several conversations by one exchange with the process: a row needs three, and each exchange waits for it.

    Args:
        conversations: messages, and whether up to where the model starts to write.

    Returns:
        Of each its text, or why the template refuses it; in all else as :func:`render`, one after the other. Empty
        where one of them takes or writes what it may not: then :func:`render` says which.
    """
    return _PROCESS.ask_all([_request(source, conversation, given, ask) for conversation, ask in conversations])


def _request(source: str, conversation: Sequence[Mapping[str, Any]], given: Mapping[str, Any], ask: bool) -> _Request:
    messages, settings = _plain(list(conversation)), _plain(dict(given))
    most = _TEXT_ALLOWED + _TIMES_INPUT * (_size(messages) + _size(settings))
    return "render", source, messages, ask, settings, most


class _RenderProcess:
    """The process, and the one conversation with it at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._how_it_ended = ""

    def ask(self, *request: Any) -> str:
        _stop_and_forget_in_time()
        with self._lock:
            message = marshal.dumps(request)
            # where it ends without a reply, somebody else may have ended it: once more
            reply = self._exchange(message) or self._exchange(message)
        if reply is None:
            raise LimitError(f"cannot be run: the process for it {self._how_it_ended}")
        return self._read(reply, request)

    def ask_all(self, requests: Sequence[_Request]) -> list[str | TemplateError]:
        """The replies to several requests; [] where any of them is none of a template that keeps its limits."""
        _stop_and_forget_in_time()
        try:
            with self._lock:
                reply = self._exchange(marshal.dumps(list(requests)))
            if reply is None or reply[:1] != b"s":
                return []
            found: list[str | TemplateError] = []
            at = 1
            for request in requests:
                begin, at = at + 8, at + 8 + int.from_bytes(reply[at : at + 8], "big")
                try:
                    found.append(self._read(reply[begin:at], request))
                except TemplateError as err:
                    found.append(err)
            return found
        except LimitError:
            return []

    @staticmethod
    def _read(reply: bytes, request: Sequence[Any]) -> str:
        letter, text = reply[:1], reply[1:].decode()
        if letter == b"m":
            raise LimitError(f"takes more than {MEMORY_BYTES // 2**20} MiB of memory")
        if letter == b"l":
            raise LimitError(
                f"writes {int(text):,} characters where {request[-1]:,} are the most for so short a conversation"
            )
        if letter == b"w":
            raise LimitError(text)
        if letter == b"r":
            raise TemplateError(text)
        return text

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, self._stderr):
                with contextlib.suppress(OSError):
                    if stream is not None:
                        stream.close()

    def forget(self) -> None:
        """In a child made by fork: the process belongs to the parent, which must see it end with itself."""
        process, self._process = self._process, None
        self._lock = threading.Lock()  # another thread may have locked it
        if process is not None:
            process.returncode = 0  # not ours to wait for
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    os.close(stream.fileno())

    def _exchange(self, request: bytes) -> bytes | None:
        """The reply; None where the process ended without one.

        Raises:
            LimitError: it ran out of its time.
        """
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        until = time.monotonic() + _WALL_SECONDS
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(len(request).to_bytes(8, "big") + request)
                process.stdin.flush()
            reply = b"".join(_pieces(process.stdout.fileno(), until))
        except BaseException:  # a signal in the middle of it: the reply would be taken for that to the next request
            self.stop()
            raise
        if reply:
            if reply == b"m":
                self.stop()  # what it holds now is of no use
            return reply
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(1.0, until - time.monotonic()))
        code, self._how_it_ended = process.returncode, self._ending(process)
        self.stop()
        if code == -signal.SIGXCPU:
            raise LimitError(f"takes more than {CPU_SECONDS} seconds of processor time")
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        # as for any library of numbers: one thread is enough, and each takes memory for nothing
        env = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "RUST_BACKTRACE": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=env,
            start_new_session=True,  # signals from a terminal are for the process that asks
        )
        assert self._process.stdin is not None
        paths = marshal.dumps([str(path) for path in sys.path])
        self._process.stdin.write(len(paths).to_bytes(8, "big") + paths)
        return self._process

    def _ending(self, process: subprocess.Popen[bytes]) -> str:
        last = ""
        if self._stderr is not None:
            self._stderr.seek(0)
            lines = self._stderr.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
            lines = [line for line in lines if not line.startswith("note: ")]  # where Rust says how to learn more
            last = f": {lines[-1][:200]}" if lines else ""
        return f"ended with code {process.returncode}{last}"


def _pieces(descriptor: int, until: float) -> Iterator[bytes]:
    """The bytes of one reply as they come; fewer where the other side ends.

    Raises:
        LimitError: nothing comes.
    """
    waits = select.poll()
    waits.register(descriptor, select.POLLIN)
    begun, left = b"", -1
    while left:
        if not waits.poll(max(0.0, until - time.monotonic()) * 1000):
            raise LimitError(f"takes more than {_WALL_SECONDS} seconds")
        piece = os.read(descriptor, 1 << 20)
        if not piece:
            return
        if left < 0:
            begun += piece
            if len(begun) < 8:
                continue
            left, piece = int.from_bytes(begun[:8], "big"), begun[8:]
        left -= len(piece)
        yield piece


def _plain(value: Any) -> Any:
    """The same of exact built-in types, as marshal takes them; for what has no such form, the name of its kind."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"


def _size(value: Any) -> int:
    """About what plain data takes as text, with all that a template may put around it: bytes of its strings, as JSON
    may escape letters, and something for every entry."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, dict):
        return sum(_AN_ENTRY + _size(key) + _size(entry) for key, entry in value.items())
    if isinstance(value, list):
        return sum(_AN_ENTRY + _size(entry) for entry in value)
    return 0


_PROCESS = _RenderProcess()


@cache
def _stop_and_forget_in_time() -> None:
    """Once in a process, before it first has a process for templates: end that with it, and leave it to its parent
    in children made by fork.
    """
    atexit.register(_PROCESS.stop)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_PROCESS.forget)
