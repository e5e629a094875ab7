"""The processes of a torchrun, on one machine or several with a common folder. torch is loaded only when there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from mmpref.errors import ConfigError

T = TypeVar("T")
_LONGEST_WAIT = timedelta(days=7)  # one share can take hours longer than another


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is number ``rank`` of ``total``, the ``local``-th on its machine."""

    rank: int
    total: int
    local: int

    @property
    def device(self) -> str | None:
        """The CUDA device of this process; None without one."""
        import torch

        found = torch.cuda.device_count()
        return f"cuda:{self.local % found}" if found else None

    def share(self, value: T | None) -> T | None:
        """What the first process has, in all of them."""
        import torch.distributed

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Until all processes are here."""
        import torch.distributed

        torch.distributed.barrier()


def ranks() -> Ranks | None:
    """The processes that torchrun started; None when this one is alone.

    Raises:
        ConfigError: the environment variables of torchrun make no sense.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    try:
        rank, total, local = (int(os.environ.get(name, "0")) for name in names)
    except ValueError as err:
        raise ConfigError(f"{', '.join(names)} must be whole numbers, as torchrun sets them: {err}") from err
    return Ranks(rank, total, local) if total > 1 else None


@contextmanager
def together(found: Ranks) -> Iterator[None]:
    """A process group for waiting; it moves no tensors."""
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
