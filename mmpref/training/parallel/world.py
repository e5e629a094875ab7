"""The processes of one run: which of them this one is, and how they communicate.

Every rank reads the recipe and the data; only the first writes, prints and decides. A failure on one rank ends all of
them with that rank's message.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainingArguments

from mmpref.errors import DistributedError, MMPrefError, StoppedError, Terminated
from mmpref.process.signals import numbers
from mmpref.training.parallel.strategy import Strategy, strategy_of

T = TypeVar("T")
_FAILED = "mmpref/failed"
_AT = "mmpref/at"
_OF_COMMUNICATION = (
    # what collectives say of a partner that is gone or silent; gloo's texts do not always name gloo, and a folder may
    "third_party/gloo/", "gloo connectfullmesh", "nccl error", "ncclsystemerror", "ncclremoteerror", "processgroupnccl",
    "collective operation timeout", "connection closed by peer", "connection reset by peer",
    "application timeout caused pair closure", "pair is not connected", "socket closed", "socket unexpectedly closed",
    "read error [", "read timeout [", "write timeout [", "timed out waiting",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """This process is number ``rank`` of ``size``; a single process does not communicate."""

    rank: int = 0
    size: int = 1
    strategy: Strategy = "single"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    _moves: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def moved_at(self) -> float:
        """When this rank last reported its progress, by ``time.monotonic``; 0 when it never did."""
        return self._moves.get("at", 0.0)

    @classmethod
    def of(cls, arguments: TrainingArguments) -> World:
        """The processes that ``arguments`` found; creating the arguments has connected them."""
        size = arguments.world_size
        return cls(arguments.process_index, size, strategy_of(arguments), arguments.device)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether the weights that train are divided among the processes."""
        return self.strategy in ("fsdp2", "zero3")

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed divides the optimizer states."""
        return self.strategy in ("zero2", "zero3")

    @property
    def model_is_wrapped_in_train(self) -> bool:
        """Whether the Trainer moves and wraps the model only when training starts."""
        return self.is_sharded or self.is_deepspeed

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in order of rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: T | None) -> T | None:
        """The value of the first rank, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """A barrier: return when every rank has called this."""
        if self.size > 1:
            self.gather(None)  # torch's own barrier wants a device

    def max_over_ranks(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks."""
        if self.size == 1:
            return list(values)
        found = torch.tensor(list(values), dtype=torch.float32, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return [float(value) for value in found.tolist()]

    def sum_over_ranks(self, counts: Sequence[int]) -> list[int]:
        """The sum of each count over all ranks."""
        if self.size == 1:
            return list(counts)
        found = torch.tensor(list(counts), dtype=torch.int64, device=self.device)
        dist.all_reduce(found)
        return [int(value) for value in found.tolist()]

    def sum_tensor(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks; nothing is read on the host."""
        if self.size == 1:
            return value
        found = value.detach().clone()
        dist.all_reduce(found)
        return found

    def on_first_rank(self, work: Callable[[], T]) -> T:
        """Run ``work`` on the first rank only; its result on every rank.

        Raises:
            MMPrefError: what it raised on the first rank, everywhere.
        """
        if self.size == 1:
            return work()
        result: T | None = None
        error: MMPrefError | None = None
        if self.is_first:
            try:
                result = work()
            except MMPrefError as err:
                error = err
        result, error = self.broadcast((result, error)) or (None, None)
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def require_same(self, what: str, value: object) -> None:
        """Refuse to continue where ranks have different values.

        Raises:
            DistributedError: names the ranks that differ from the first.
        """
        found = self.gather(value)
        others = [str(rank) for rank, other in enumerate(found) if other != found[0]]
        if others:
            raise DistributedError(
                f"rank {', '.join(others)} has {what} that are not those of rank 0; give every process the same files"
            )

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """A block that every rank goes through; when one fails, all raise what the first of them raised.

        Only for errors of our own, and for blocks in which no rank waits for another.
        """
        error: MMPrefError | None = None
        try:
            yield
        except MMPrefError as err:
            error = err
        if self.size == 1 and error is not None:
            raise error
        found = next((err for err in self.gather(error) if err is not None), None)
        if found is not None:
            raise found

    # ---- failures ---------------------------------------------------------------------------------------------

    def report_progress(self, step: int, place: str, pair_ids: Sequence[str]) -> None:
        """Publish what this rank is about to do, for the message of a rank that waits for it in vain."""
        self._moves["at"] = time.monotonic()
        if self.size > 1 and (store := _store()) is not None:
            with suppress(RuntimeError):  # the launcher is gone; the next collective fails
                store.set(f"{_AT}/{self.rank}", json.dumps([step, place, list(pair_ids[:8])]))

    def last_reported(self) -> list[str]:
        """What each rank reported last with :meth:`report_progress`."""
        store = _store()
        if store is None:
            return []
        found = []
        for rank in range(self.size):
            key = f"{_AT}/{rank}"
            with suppress(RuntimeError, ValueError):
                if store.check([key]):
                    step, place, names = json.loads(store.get(key))
                    rows = f" with rows {', '.join(names)}" if names else " without rows"
                    found.append(f"rank {rank}: step {step}, {place}{rows}")
        return found

    @contextmanager
    def propagate_failures(self) -> Iterator[None]:
        """When one rank fails, end all of them and print its message once.

        Raises:
            MMPrefError: the error of this rank; or of the one that failed first, where this one only lost a partner.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except BaseException as err:
            try:
                _ignore_signals()  # the launcher ends all when one ends; first say why
            except (KeyboardInterrupt, Terminated):  # it came this moment
                _ignore_signals()
            self._end_together(err)
            raise

    def _end_together(self, err: BaseException) -> None:
        if isinstance(err, MMPrefError):
            first = self._note_failure(err)
            # the launcher stops the others when one fails: that they were stopped is no news
            same = first is not None and (first[1] == str(err) or isinstance(err, StoppedError))
            err.reported_by_other_rank = first is not None and first[0] != self.rank and same
        elif (lost := partner_lost(err)) is not None:
            raise self._partner_lost(lost, self._first_failure()) from err
        elif isinstance(err, Exception):
            self._note_failure(err)

    def _partner_lost(self, err: RuntimeError, first: tuple[int, str, int] | None) -> DistributedError:
        if first is not None and first[0] != self.rank:
            error = DistributedError(f"rank {first[0]} failed: {first[1]}")
            error.exit_code, error.reported_by_other_rank = first[2], True
            return error
        reports = "; ".join(self.last_reported())
        said = " ".join(str(err).split())[:200]
        return DistributedError(
            f"rank {self.rank} of {self.size} waited in vain for another rank ({said}). Where each was last: "
            f"{reports or 'not known'}. One that is behind hangs or was killed: look at its rows and its machine's "
            "memory (train.extra.ddp_timeout sets how long is waited); go on with --resume"
        )

    def _note_failure(self, err: Exception) -> tuple[int, str, int] | None:
        """The failure that came first: this one, unless another rank failed before."""
        code = err.exit_code if isinstance(err, MMPrefError) else 1
        mine = pickle.dumps((self.rank, str(err), code)).hex()
        if (store := _store()) is None:
            return None
        with suppress(RuntimeError):
            found: tuple[int, str, int] = pickle.loads(bytes.fromhex(store.compare_set(_FAILED, "", mine).decode()))
            return found
        return None

    def _first_failure(self) -> tuple[int, str, int] | None:
        if (store := _store()) is None:
            return None
        with suppress(RuntimeError):
            if store.check([_FAILED]):
                found: tuple[int, str, int] = pickle.loads(bytes.fromhex(store.get(_FAILED).decode()))
                return found
        return None


SINGLE_PROCESS = World()
"""The world of a run in one process, on the CPU."""


def init_process_group_on_cpu(timeout: float) -> None:
    """Connect processes on the CPU with a timeout; TrainingArguments connects them without one.

    Args:
        timeout: seconds that one waits for another, as ``ddp_timeout``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(seconds=timeout))


def leave_process_group() -> None:
    """Destroy the process group, if there is one, before the process ends, as torch asks.

    Only after a run that succeeded: the other ranks of one that failed may never come here.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _ignore_signals() -> None:
    with suppress(ValueError):  # not the main thread
        for number in numbers():
            signal.signal(number, signal.SIG_IGN)


def _store() -> Any:
    """The key-value store of the ranks; it outlives a rank when torchrun runs it."""
    with suppress(ImportError, RuntimeError, ValueError):
        from torch.distributed.distributed_c10d import _get_default_store

        return _get_default_store()
    return None


def is_of_communication(err: BaseException) -> bool:
    """Whether a collective failed because of another rank; gloo has no class of its own for that."""
    if isinstance(err, dist.DistError):
        return True
    text = str(err).lower()
    return any(words in text for words in _OF_COMMUNICATION)


def partner_lost(err: BaseException) -> RuntimeError | None:
    """The error of a collective that failed because of another rank, if this one ends because of it.

    The launcher sends SIGTERM to all when one is gone. Where it comes while the collective's error is on its way up,
    :class:`Terminated` takes that error's place, and knows it only as its context.
    """
    seen: BaseException | None = err
    while seen is not None:
        if isinstance(seen, RuntimeError) and is_of_communication(seen):
            return seen
        seen = seen.__context__ if isinstance(err, Terminated) else None
    return None


def raise_if_partner_lost(err: BaseException) -> None:
    """Raise the error of a collective again if it is about another rank, before it is taken for one of this rank.

    Raises:
        RuntimeError: it is of that kind.
    """
    if is_of_communication(err):
        raise RuntimeError(str(err)) from err
