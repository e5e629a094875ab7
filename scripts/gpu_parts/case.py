"""One measurement of a part, and how a part's measurements are run one after another.

A part is a module with ``TITLE``, ``cases(context)`` and, where its rows are more than names and numbers,
``line_of(row)``: a row with figures as one line for the terminal. Every case runs by itself: what it needs and is not
there (a library, room on the card, time) is said in one line, and the next case runs.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 2**30
Row = dict[str, Any]
"""What a case found: names to numbers, texts or lists of them; ``case`` names it."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a part is run with.

    Attributes:
        dry_run: toy sizes, on the CPU where there is no card.
        device: ``cuda`` or ``cpu``.
        deadline: of the part, on ``time.monotonic``'s clock.
        work: a folder for files that are thrown away afterwards.
        results: what earlier parts found: part -> rows.
        environment: card and versions, as ``gpu_parts.environment`` found them.
    """

    dry_run: bool
    device: str
    deadline: float
    work: Path
    results: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds that the part still has."""
        return self.deadline - time.monotonic()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measurement.

    Attributes:
        name: shown and stored.
        run: returns the rows found, or yields them one by one; a row without ``case`` gets the case's name.
        seconds: it takes about so long on a fast card; it is not begun with less time left.
        needs_gib: memory of the card that it needs, in GiB; None where any card will do.
        libraries: that it cannot do without.
        only_cuda: it means nothing on a CPU.
    """

    name: str
    run: Callable[[], Iterable[Row]]
    seconds: float = 5.0
    needs_gib: float | None = None
    libraries: tuple[str, ...] = ()
    only_cuda: bool = False


def run_cases(cases: Iterable[Case], context: Context) -> Iterator[Row]:
    """The rows of all cases. A case that is not run gives a row with ``skipped``, one that breaks one with ``failed``:
    why, in one line.
    """
    for case in cases:
        if why := _why_not(case, context):
            yield {"case": case.name, "skipped": why}
            continue
        started = time.monotonic()
        try:
            for found in case.run():
                row = {"case": case.name, **found}
                if wrong := _unwritable(row):
                    row = {"case": row["case"], "failed": wrong}
                yield {**row, "seconds": round(time.monotonic() - started, 1)}
                started = time.monotonic()
        except Exception as err:
            if ran_out_of_memory(err):
                yield {"case": case.name, "skipped": f"the card is too small for it: {first_line(err)}"}
            else:
                traceback.print_exc()
                yield {"case": case.name, "failed": f"{type(err).__name__}: {first_line(err)}"}
        finally:
            free_memory(context.device)


def _why_not(case: Case, context: Context) -> str:
    """Why a case cannot be run; empty where it can."""
    if missing := [name for name in case.libraries if importlib.util.find_spec(name) is None]:
        return f"{' and '.join(missing)} is not installed"
    if case.only_cuda and context.device != "cuda":
        return "it needs a CUDA device"
    if not context.dry_run and case.needs_gib is not None and context.device == "cuda":
        import torch

        free = torch.cuda.mem_get_info()[0] / GIB
        if free < case.needs_gib:
            return f"it needs {case.needs_gib:.0f} GiB of the card, and {free:.1f} GiB are free"
    if not context.dry_run and context.left < case.seconds:
        return f"the time of this part is up: {max(context.left, 0):.0f} s left, it takes about {case.seconds:.0f} s"
    return ""


def _unwritable(value: Any, name: str = "") -> str:
    """Which figure of a row is none, or is nothing that JSON has; empty for a sound row."""
    if isinstance(value, Mapping):
        return next((wrong for key, one in value.items() if (wrong := _unwritable(one, f"{name} {key}".strip()))), "")
    if isinstance(value, list | tuple):
        return next((wrong for one in value if (wrong := _unwritable(one, name))), "")
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} is {value}"
    return "" if value is None or isinstance(value, str | int | float) else f"{name} is a {type(value).__name__}"


def ran_out_of_memory(err: BaseException) -> bool:
    """Whether an error, or what it came from, is a lack of memory."""
    import torch

    from mmpref.errors import OutOfMemoryError

    seen: BaseException | None = err
    while seen is not None:
        if isinstance(seen, torch.OutOfMemoryError | OutOfMemoryError | MemoryError):
            return True
        seen = seen.__cause__
    return False


def first_line(err: BaseException) -> str:
    """The first line of an error's text, at most 300 characters of it."""
    return (str(err).strip().splitlines() or [""])[0][:300]


def free_memory(device: str) -> None:
    """Give what nobody holds any more back to the card."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
