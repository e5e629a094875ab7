"""Images decoded in parallel: several processes, a bounded number of pictures on their way, one verdict for each."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import NamedTuple, Self

from mmpref.data.images import ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.errors import DataError
from mmpref.records import ImageRef

_ALONE = 64  # so few pictures are decoded sooner than processes are started

_loaders: Sequence[ImageLoader | None] = ()


class Task(NamedTuple):
    """One picture to decode, with the number of the loader that opens it."""

    loader: int
    ref: ImageRef


class Verdict(NamedTuple):
    """What came of one picture: a reason and a detail when it cannot be used, its facts when it can."""

    reason: str | None
    detail: str
    num_bytes: int = 0
    sha256: str = ""
    longer_side: int = 0


def decode(loader: ImageLoader | None, ref: ImageRef) -> Verdict:
    """Decode one picture whole, by the same way as training, and hash its encoded bytes."""
    if loader is None:
        return Verdict(None, "")
    try:
        longer_side = max(loader.open(ref).size)
        if ref.path is None:
            data = ref.data or b""
            return Verdict(None, "", len(data), hashlib.sha256(data).hexdigest(), longer_side)
        with loader.resolve(ref.path).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            return Verdict(None, "", os.fstat(handle.fileno()).st_size, digest, longer_side)
    except RowError as fault:
        return Verdict(fault.reason, fault.detail)
    except OSError as error:
        return Verdict("image_unreadable", f"{ref.describe()[:300]}: {error.strerror or error}")


class Decoder:
    """A context that decodes pictures in ``workers`` processes; the first few, and with one worker all, in this one.

    Args:
        loaders: a task names one of them by its number; None accepts every picture unseen.
        workers: default: one per core.
    """

    def __init__(self, loaders: Sequence[ImageLoader | None], *, workers: int | None = None) -> None:
        self.workers = workers if workers is not None else len(os.sched_getaffinity(0))
        self._loaders = list(loaders)
        self._pool: ProcessPoolExecutor | None = None
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def submit(self, tasks: Sequence[Task]) -> Future[list[Verdict]]:
        """Start some pictures; :meth:`result` of what is returned waits for them."""
        self._seen += len(tasks)
        if self._pool is None and self.workers > 1 and self._seen > _ALONE:
            # spawned and not forked: a progress bar's thread may hold a lock at the moment of the fork
            self._pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), initializer=_set_up, initargs=(self._loaders,)
            )
        if self._pool is not None:
            return self._pool.submit(_decode_all, list(tasks))
        done: Future[list[Verdict]] = Future()
        done.set_result([decode(self._loaders[task.loader], task.ref) for task in tasks])
        return done

    def result(self, tasks: Sequence[Task], future: Future[list[Verdict]]) -> list[Verdict]:
        """The verdicts, in the order of the tasks.

        Raises:
            DataError: a process died on them (out of memory, or a crash in a decoder).
        """
        try:
            return future.result()
        except BrokenProcessPool as error:
            names = ", ".join(task.ref.describe() for task in tasks[:20])
            raise DataError(
                f"a decoding process died, near these images: {names}; try again with one worker"
            ) from error


def _set_up(loaders: Sequence[ImageLoader | None]) -> None:
    global _loaders
    _loaders = loaders


def _decode_all(tasks: Sequence[Task]) -> list[Verdict]:
    return [decode(_loaders[task.loader], task.ref) for task in tasks]
