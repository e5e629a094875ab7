"""The processes that train and evaluate the cells: each takes one after another, and a cell ends none but its own.

The first process trains nothing, so that a worker that the system kills, or whose memory is spent, is noticed and
replaced.
"""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from mmpref.errors import MMPrefError, OutOfMemoryError, StoppedError, Terminated
from mmpref.process.children import begin_child, start_helpers, starting_workers
from mmpref.process.signals import heard, without_limit
from mmpref.recipe.sections import Recipe
from mmpref.sweeps.cell import COMPLETE, FAILED, CellWork, Outcome, evaluate_all, failed, run_cell, start_model
from mmpref.sweeps.claims import BusyError, claimed
from mmpref.sweeps.folder import Sweep

BUSY = "busy"
_DEFECT = 1
"""Exit code of an error that nobody expected."""
_TO_LEAVE = 10.0
"""Seconds that a worker without work has to leave."""


@dataclass(frozen=True, slots=True)
class StartWork:
    """What a worker is given: evaluations of a start model."""

    recipe: Recipe
    folder: Path


Work = CellWork | StartWork


def name_of(work: Work) -> str:
    """For messages."""
    return work.cell.name if isinstance(work, CellWork) else f"start model {work.recipe.model.path}"


def folder_of(sweep: Sweep, work: Work) -> Path:
    """What it writes."""
    return sweep.folder(work.cell) if isinstance(work, CellWork) else work.folder


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    device: str | None
    work: Work | None = None
    since: float = 0.0


@dataclass(slots=True)
class Workers:
    """A pool of processes; a context, which ends them.

    Args:
        devices: ``CUDA_VISIBLE_DEVICES`` of each; None leaves it as it is.
    """

    sweep: Sweep
    devices: Sequence[str | None]
    _workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Workers:
        start_helpers("spawn")
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, _: object) -> None:
        number = err.number if isinstance(err, Terminated) else signal.SIGTERM
        with without_limit():  # of what is trained a checkpoint is written
            for worker in self._workers:
                worker.pipe.close()
                if worker.work is not None and worker.process.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(worker.process.pid, signal.SIGTERM if number == signal.SIGHUP else number)
            for worker in self._workers:
                worker.process.join(None if worker.work is not None else _TO_LEAVE)
                if worker.process.is_alive():
                    worker.process.kill()
                    worker.process.join()
        self._workers.clear()

    @property
    def is_free(self) -> bool:
        """Whether a worker has nothing to do, or can be started."""
        return len(self._workers) < len(self.devices) or any(worker.work is None for worker in self._workers)

    @property
    def is_idle(self) -> bool:
        """Whether no worker has anything to do."""
        return all(worker.work is None for worker in self._workers)

    def give(self, work: Work) -> None:
        """Give work to a worker that has none."""
        worker = next((worker for worker in self._workers if worker.work is None), None) or self._start()
        worker.work, worker.since = work, time.monotonic()
        with suppress(BrokenPipeError):  # it died while it waited, which the next wait notices
            worker.pipe.send(work)

    def wait(self, seconds: float | None = None) -> Iterator[tuple[Work, Outcome]]:
        """What has ended, with what became of it: as soon as something has, or after some seconds."""
        busy = {worker.pipe: worker for worker in self._workers if worker.work is not None}
        for ready in connection.wait(list(busy), seconds):
            assert isinstance(ready, Connection)
            worker = busy[ready]
            work = worker.work
            assert work is not None
            try:
                outcome = ready.recv()
            except (EOFError, ConnectionError):
                outcome = self._of_dead(worker, work)
            worker.work = None
            if outcome.get("exit_code") in (OutOfMemoryError.exit_code, _DEFECT):
                self._replace(worker)  # what it holds of the device's memory is free again
            yield work, outcome

    def _start(self) -> _Worker:
        taken = [worker.device for worker in self._workers]
        device = min(self.devices, key=taken.count)  # one that fewest have
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(
            target=_work, args=(there, self.sweep, device), name=f"sweep worker {len(self._workers)}"
        )
        with starting_workers():
            process.start()
        there.close()  # else the end of the process would not be the end of the pipe
        worker = _Worker(process, here, device)
        self._workers.append(worker)
        return worker

    def _replace(self, worker: _Worker) -> None:
        """Let a worker go; the next work starts another."""
        self._workers.remove(worker)
        worker.pipe.close()
        worker.process.join(_TO_LEAVE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()

    def _of_dead(self, worker: _Worker, work: Work) -> Outcome:
        worker.process.join()
        code = worker.process.exitcode or 0
        reason = _reason(code)
        seconds = time.monotonic() - worker.since
        if not isinstance(work, CellWork):
            return {"state": FAILED, "error": reason, "exit_code": _DEFECT, "seconds": round(seconds, 1)}
        try:
            with claimed(self.sweep.folder(work.cell)):
                return {**failed(self.sweep, work, reason, _DEFECT, seconds)}
        except BusyError as err:  # another command has taken it up already
            return {"state": BUSY, "error": err.holder}


def _reason(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}, and said nothing"
    why = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"its process was killed ({signal.Signals(-code).name}{why})"


def _work(pipe: Connection, sweep: Sweep, device: str | None) -> None:
    """What a worker does, to its end: work that comes, and what became of it."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    begin_child()
    try:
        with heard():
            disable_progress_bar()  # of transformers, for each model that is loaded or written
            while True:
                work = pipe.recv()
                outcome = _outcome(sweep, work)
                pipe.send(outcome)
                _free_memory()
    except (EOFError, BrokenPipeError, ConnectionError):
        return  # the first process wants no more
    except (KeyboardInterrupt, Terminated, StoppedError):
        os._exit(128 + signal.SIGTERM)


def _outcome(sweep: Sweep, work: Work) -> Mapping[str, Any]:
    try:
        with claimed(folder_of(sweep, work)):
            if isinstance(work, CellWork):
                return run_cell(sweep, work)
            begun = time.monotonic()
            evaluate_all(work.recipe, start_model(work.recipe), work.folder)
            return {"state": COMPLETE, "seconds": round(time.monotonic() - begun, 1)}
    except BusyError as err:
        return {"state": BUSY, "error": err.holder}
    except StoppedError:
        raise
    except MMPrefError as err:
        return {"state": FAILED, "error": str(err), "exit_code": err.exit_code, "seconds": 0.0}
    except Exception as err:  # a defect of ours, or of a library: it ends this cell, and is shown whole
        reason = f"{type(err).__name__}: {err}"
        found = {"state": FAILED, "error": reason, "exit_code": _DEFECT, "seconds": 0.0}
        if isinstance(work, CellWork):
            found = dict(failed(sweep, work, reason, _DEFECT, 0.0))
        return {**found, "traceback": traceback.format_exc()}


def _free_memory() -> None:
    """What a cell leaves behind, so that the next one has the device's memory."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
