"""The processes of a torchrun that answer together, on one machine or several with a common folder; or this one alone.

torch is loaded only when there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from mmpref.errors import ConfigError, MMPrefError
from mmpref.generation.contract import deal
from mmpref.records import EvalSample

T = TypeVar("T")
_LONGEST_WAIT = timedelta(days=7)  # one share can take hours longer than another


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is number ``rank`` of ``total``, the ``local``-th on its machine. ``Ranks()`` is a process alone."""

    rank: int = 0
    total: int = 1
    local: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.total == 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports what all have in common."""
        return self.rank == 0

    @property
    def device(self) -> str | None:
        """The CUDA device of this process among several; None without one, and for a process alone, which chooses."""
        if self.is_alone:
            return None
        import torch

        found = torch.cuda.device_count()
        return f"cuda:{self.local % found}" if found else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """A process group for waiting; it moves no tensors. Nothing for a process alone."""
        if self.is_alone:
            yield
            return
        import torch.distributed

        torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
        try:
            yield
        finally:
            torch.distributed.destroy_process_group()

    def share(self, value: T) -> T:
        """The value of the first process, in all of them."""
        if self.is_alone:
            return value
        import torch.distributed

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.is_alone:
            return
        import torch.distributed

        torch.distributed.barrier()

    def share_of(self, samples: Sequence[EvalSample]) -> Sequence[EvalSample]:
        """The questions of this process: all, or a share with all questions about its images."""
        return samples if self.is_alone else deal(samples, self.total)[self.rank]

    def first_does(self, work: Callable[[], T]) -> T:
        """The result of work that the first process does, in all of them.

        Raises:
            MMPrefError: the work raised it; in all of them, and only the first reports it.
        """
        found: T | None = None
        error: MMPrefError | None = None
        if self.is_first:
            try:
                found = work()
            except MMPrefError as err:
                if self.is_alone:
                    raise
                error = err
        found, error = self.share((found, error))
        if error is not None:
            error.reported_by_other_rank = not self.is_first
            raise error
        return found  # type: ignore[return-value]  # None only where the work returns it


def ranks() -> Ranks:
    """The processes that torchrun started.

    Raises:
        ConfigError: the environment variables of torchrun make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks()
    try:
        rank, total, local = (int(os.environ.get(name, "0")) for name in names)
    except ValueError as err:
        raise ConfigError(f"{', '.join(names)} must be whole numbers, as torchrun sets them: {err}") from err
    return Ranks(rank, total, local) if total > 1 else Ranks()
