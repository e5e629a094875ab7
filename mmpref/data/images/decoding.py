"""Images and videos decoded in parallel: several processes, a bounded number on their way, one result for each.

Decoders are C code that is given strangers' files, so nothing is decoded in the process that counts: what kills its
decoder is named and quarantined, and the others go on.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from mmpref.data.media_files import Measured
from mmpref.data.quarantine import RowError
from mmpref.errors import DataError
from mmpref.process.children import begin_child, start_helpers, starting_workers
from mmpref.records import ImageRef, VideoRef

CRASH = "crash"
"""What the reason of an image or a video ends with whose decoding ends the process."""


class MediaLoader(Protocol):
    """Opens images, or videos."""

    def resolve(self, path: str) -> Path:
        """The real path of a file named in a row."""

    def measure(self, ref: Any) -> Measured:
        """Decode one, in the same way as training."""


_loaders: Sequence[MediaLoader | None] = ()


class Task(NamedTuple):
    """One image or video to decode, with the number of the loader that opens it."""

    loader: int
    ref: ImageRef | VideoRef


class DecodeResult(NamedTuple):
    """What came of one image or video: a reason and a detail when it cannot be used, its facts when it can."""

    reason: str | None
    detail: str
    num_bytes: int = 0
    sha256: str = ""
    longer_side: int = 0
    mtime_ns: int = 0
    num_frames: int = 0


def decode(loader: MediaLoader | None, ref: ImageRef | VideoRef) -> DecodeResult:
    """Decode one image whole, or the frames of a video file, in the same way as training, and hash its bytes."""
    if loader is None:
        return DecodeResult(None, "")
    try:
        before = None if ref.path is None else _stat(loader.resolve(ref.path))
        width, height, num_frames = loader.measure(ref)
        longer_side = max(width, height)
        if ref.path is None:
            data = (ref.data or b"") if isinstance(ref, ImageRef) else b""
            return DecodeResult(None, "", len(data), hashlib.sha256(data).hexdigest(), longer_side)
        with loader.resolve(ref.path).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            found = os.fstat(handle.fileno())
            if before is None or _stamp(before) != _stamp(found):
                detail = f"{_medium(ref)} {ref.path[:300]!r} was changed while it was read"
                return DecodeResult(f"{_medium(ref)}_unreadable", detail)
            return DecodeResult(None, "", found.st_size, digest, longer_side, found.st_mtime_ns, num_frames)
    except RowError as fault:
        return DecodeResult(fault.reason, fault.detail)
    except OSError as error:
        return DecodeResult(f"{_medium(ref)}_unreadable", f"{ref.describe()[:300]}: {error.strerror or error}")


def _medium(ref: ImageRef | VideoRef) -> str:
    return "image" if isinstance(ref, ImageRef) else "video"


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # opening it says what is wrong
        return None


def _stamp(facts: os.stat_result) -> tuple[int, int, int]:
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


class Decoder:
    """A context that decodes images and videos in ``workers`` processes.

    Args:
        loaders: a task names one of them by its number; None accepts everything unseen.
        workers: default: one per core.
    """

    def __init__(self, loaders: Sequence[MediaLoader | None], *, workers: int | None = None) -> None:
        self.workers = workers if workers is not None else len(os.sched_getaffinity(0))
        self._loaders = list(loaders)
        self._pool: ProcessPoolExecutor | None = None
        self._alone: _Alone | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            if kind is not None:
                _end(self._pool)  # nobody waits for what they are at
            self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if self._alone is not None:
            self._alone.close()

    def submit(self, tasks: Sequence[Task]) -> Future[list[DecodeResult]]:
        """Start some images; :meth:`result` of what is returned waits for them."""
        if not tasks:
            done: Future[list[DecodeResult]] = Future()
            done.set_result([])
            return done
        for _ in range(2):
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.workers, _processes(), initializer=_set_up, initargs=(self._loaders,)
                )
            try:
                with starting_workers():
                    return self._pool.submit(_decode_all, list(tasks))
            except BrokenProcessPool:  # one of its processes died on earlier images
                self._end_pool()
        raise BrokenProcessPool("processes die before they are given an image")

    def result(self, tasks: Sequence[Task], future: Future[list[DecodeResult]]) -> list[DecodeResult]:
        """The results, in the order of the tasks.

        Where a process died, the images that were on their way are decoded again, one by one in a process that only
        does this, so that the one which killed it gets a result of its own.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            self._end_pool()
            return [self._decode_alone(task) for task in tasks]

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _decode_alone(self, task: Task) -> DecodeResult:
        if self._alone is None:
            self._alone = _Alone(self._loaders)
        found = self._alone.decode(task)
        if found.reason is not None and found.reason.endswith(CRASH):
            self._alone = None
        return found


class _Alone:
    """One process that is asked for one image at a time, and whose end is a result too."""

    def __init__(self, loaders: Sequence[MediaLoader | None]) -> None:
        context = _processes()
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs, loaders), daemon=True)
        with starting_workers():
            self._process.start()
        theirs.close()
        try:
            self._ours.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise DataError(f"no process that decodes images can be started: {self._end()}") from error

    def decode(self, task: Task) -> DecodeResult:
        """The result of one image; an end of the process is one too."""
        try:
            self._ours.send(task)
            answer = self._ours.recv()
        except (EOFError, OSError):
            self.close()
            medium = _medium(task.ref)
            detail = f"{medium} {task.ref.describe()[:300]!r} ends the process that decodes it: {self._end()}"
            return DecodeResult(f"{medium}_{CRASH}", detail)
        assert isinstance(answer, DecodeResult)
        return answer

    def close(self) -> None:
        """Close the pipe, which ends the process, and wait for its end."""
        self._ours.close()
        self._process.join()

    def _end(self) -> str:
        code = self._process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"


def _processes() -> multiprocessing.context.ForkServerContext | multiprocessing.context.SpawnContext:
    """Never a fork of this process: the thread of a progress bar may hold a lock at that moment."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # so that a process starts in milliseconds
    start_helpers("forkserver")
    return context


def _end(pool: ProcessPoolExecutor) -> None:
    """Kill the processes of a pool; Python 3.14 has a method for it."""
    for process in list((pool._processes or {}).values()):
        process.kill()


def _set_up(loaders: Sequence[MediaLoader | None]) -> None:
    global _loaders
    begin_child()
    _loaders = loaders


def _decode_all(tasks: Sequence[Task]) -> list[DecodeResult]:
    return [decode(_loaders[task.loader], task.ref) for task in tasks]


def _answer(pipe: Connection, loaders: Sequence[MediaLoader | None]) -> None:
    _set_up(loaders)
    pipe.send("ready")
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(_decode_all([task])[0])
