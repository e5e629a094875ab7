"""Output to the terminal: progress with time left, tables, one line per event. The only module that imports rich."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table
from rich.text import Text

from mmpref.records import TaskResult
from mmpref.rundir.folder import RunDir
from mmpref.version import __version__

SHOWN_WHILE_TRAINING = ("loss", "rewards/accuracies", "rewards/margins")


def is_live() -> bool:
    """Whether a bar can move on standard output: a terminal that knows how to go back in a line."""
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def console() -> Console:
    """The console of this process: colours only where a person is watching, and none with NO_COLOR."""
    wide_enough = Console().width if Console().is_terminal else 140  # a log file has no width of its own
    return Console(highlight=False, width=wide_enough)


class _Display:
    """A context with one progress bar that moves."""

    def __init__(self, title: str) -> None:
        self.console = console()
        self._title = title
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            TextColumn("{task.fields[numbers]}"),
            console=self.console,
            transient=True,
            disable=not is_live(),
        )
        self._task: TaskID = self._bar.add_task(title, total=None, numbers="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)


class TrainingDisplay(_Display):
    """``mmpref train``: steps, time left, and the few numbers worth watching."""

    def __init__(self) -> None:
        super().__init__("loading")
        self.console.quiet = int(os.environ.get("RANK", "0")) > 0  # of several processes only the first prints
        self._numbers = ""

    def update(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Move the bar to a step, and show the numbers logged last."""
        shown = "  ".join(
            f"{name.split('/')[-1]} {numbers[name]:.3f}" for name in SHOWN_WHILE_TRAINING if name in numbers
        )
        self._numbers = shown or self._numbers
        self._bar.update(self._task, description="training", completed=done, total=total, numbers=self._numbers)

    def losses(self, line: str) -> None:
        """A line per ``logging_steps``, where no bar shows the numbers."""
        if not is_live():
            self.say(line)

    def finish(self, run: RunDir) -> None:
        """Print where the result is."""
        self._bar.stop()
        self.say(f"done: {run.path} (model in {run.model})")


class EvalDisplay(_Display):
    """``mmpref eval``: answers given, time left, then the result."""

    def update(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total)

    def finish(self, result: TaskResult, out: Path, beside: Mapping[str, Mapping[str, float | None]]) -> None:
        """Print the result (see :func:`print_result`) and where it was written."""
        self._bar.stop()
        print_result(result, beside)
        self.console.print(f"written to {out}", markup=False)


class CountDisplay(_Display):
    """``mmpref data``: how many are done, of how many where that is known."""

    def update(self, done: int, total: int | None = None) -> None:
        """Move the bar; without a total it only counts."""
        self._bar.update(self._task, completed=done, total=total)


class DemoDisplay:
    """``mmpref demo``: one bar over all stages, weighted by how long each takes, with the time left."""

    def __init__(self, stages: Sequence[tuple[str, float]]) -> None:
        self.console = console()
        self._weights = dict(stages)
        self._done = 0.0
        self._begun = time.monotonic()
        self._stage = ""
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeft(),
            console=self.console,
            transient=True,
            disable=not is_live(),
        )
        self._task = self._bar.add_task("starting", total=sum(self._weights.values()))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the bar from the screen; lines can still be printed."""
        self._bar.stop()

    def begin(self, stage: str) -> None:
        """Enter a stage; the one before counts as done. A log file gets a line where a person sees the bar move."""
        self._done += self._weights.pop(self._stage, 0.0)
        self._stage = stage
        self._bar.update(self._task, description=stage, completed=self._done)
        if not is_live():
            elapsed = time.monotonic() - self._begun
            left = sum(self._weights.values()) * (elapsed / self._done if self._done else 1.0)
            self.say(f"[{elapsed:4.0f} s, about {left:.0f} s left] {stage}")

    def within(self, done: int, total: int, numbers: Mapping[str, float] | None = None) -> None:
        """Progress inside the current stage."""
        share = done / total if total else 0.0
        self._bar.update(self._task, completed=self._done + self._weights.get(self._stage, 0.0) * min(share, 1.0))

    def say(self, text: str) -> None:
        """One line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    """A table of texts, the first column left-aligned, with notes below."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    screen = console()
    screen.print(table)
    for note in notes:
        screen.print(note, markup=False)


def print_facts(title: str, facts: Sequence[tuple[str, str]], notes: Sequence[str] = ()) -> None:
    """A table of labels and texts, long lines wrapped; with notes below."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts:
        table.add_row(Text(label), Text(text))
    screen = console()
    screen.print(table)
    for note in notes:
        screen.print(note, markup=False)


def print_result(result: TaskResult, beside: Mapping[str, Mapping[str, float | None]] | None = None) -> None:
    """One benchmark result: every metric with its interval, and what could not be read.

    ``beside`` are the metrics of the same answers under other protocols, by protocol; each gets a column.
    """
    others = beside or {}
    rows = []
    for name, value in result.metrics.items():
        if name.startswith("overall/"):
            continue  # the bare names are the same numbers
        interval = result.intervals.get(name)
        shown = f"{value:.4f}" if value is not None else f"undefined: {result.undefined.get(name, '')}"
        values = [other.get(name) for other in others.values()]
        rows.append(
            [
                name,
                shown,
                f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "",
                *("" if value is None else f"{value:.4f}" for value in values),
            ]
        )
    title = f"{result.benchmark} · protocol {result.protocol} · n {result.n} · unparsed {result.n_unparsed}"
    if result.n_missing:
        title += f" · missing {result.n_missing}"
    title += f" · mmpref {__version__}"
    read_as = [f"answers read as {result.read_as}"] if result.read_as else []
    print_table(title, ["metric", "value", "95 % interval", *others], rows, [*read_as, *result.notes])
    screen = console()
    for warning in result.warnings:  # last, where the eye is when the command ends
        screen.print(f"WARNING ({warning.code}): {warning.sentence}", style="bold red", markup=False)


class Finding(Protocol):
    """What ``print_findings`` shows: a name, what was found, whether that is good, and what to do if not."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def ok(self) -> bool | None: ...
    @property
    def hint(self) -> str: ...


def print_findings(title: str, facts: Iterable[Finding]) -> int:
    """One line per fact as it is found; returns how many are bad."""
    out = console()
    out.print(title, style="bold", markup=False)
    broken = 0
    for fact in facts:
        mark, style = {True: ("ok", "green"), False: ("FAILED", "red"), None: ("-", "dim")}[fact.ok]
        broken += fact.ok is False
        line = Text.assemble((f"  {mark:<7}", style), f"{fact.name}: {fact.value}")
        out.print(line, soft_wrap=True)
        if fact.hint:
            out.print(Text(f"          {fact.hint}", style="dim"))
    return broken
