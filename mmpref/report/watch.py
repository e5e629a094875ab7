"""A page that is written again whenever its runs changed, until all of them ended. The runs are only read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmpref.errors import ConfigError, MMPrefError, Terminated
from mmpref.files.writing import write_text
from mmpref.report.page import Live, PageOptions, Report, page, page_without_runs, read_report
from mmpref.report.runs import Run, files_of
from mmpref.rundir.content import MANIFEST
from mmpref.rundir.folder import RunDir

LOOKS_GONE = 3
"""So many looks in a row a folder must be missing before it counts as gone: one that is replaced is missing for one."""

REST = 4.0
"""A look is followed by a pause of at least so many times its own length."""

Say = Callable[[str], None]
_State = Literal["waiting", "running", "ended", "gone"]
_Signature = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class _Watched:
    """One run as the last look found it."""

    path: Path
    state: _State = "waiting"
    was_there: bool = False
    missing: int = 0

    def look(self) -> None:
        if not self.path.exists():
            self.missing += 1
            self.state = "gone" if self.was_there and self.missing >= LOOKS_GONE else "waiting"
            return
        self.missing = 0
        found = _state_of(self.path)
        self.was_there = self.was_there or found != "waiting"
        self.state = found

    @property
    def is_over(self) -> bool:
        return self.state in ("ended", "gone")

    @property
    def is_shown(self) -> bool:
        return self.state in ("running", "ended") and self.path.exists()

    @property
    def note(self) -> str | None:
        if self.is_shown:
            return None
        if self.state == "gone" or self.was_there:
            return f"{self.path} was here and is gone"
        return f"{self.path} holds no run yet: waiting for it"


class Watch:
    """Looks at runs and keeps a page of them.

    Args:
        runs: run folders, which need not exist yet; what else a report reads counts as ended.
        out: the page, written atomically.
        every: seconds between two looks.
        options: of the page.
        say: called with a line when something changes.
    """

    def __init__(self, runs: Sequence[Path], out: Path, *, every: float, options: PageOptions, say: Say) -> None:
        if not every > 0 or math.isinf(every):
            raise ConfigError(f"--every is the seconds between two looks, above 0, not {every:g}; try --every 10")
        self._runs = [_Watched(Path(run)) for run in runs]
        self._out, self._every, self._options, self._say = out, every, options, say
        self._seen: tuple[_Signature, tuple[str, ...]] | None = None
        self._text: str | None = None
        self._live: Live | None = None
        self._report: Report | None = None
        self._said: str | None = None

    def run(self) -> None:
        """Until all runs ended; then the page is written once more, and a browser does not read it again.

        Raises:
            MMPrefError: the page cannot be made of these runs, or not be written.
        """
        try:
            begun = time.monotonic()
            while not self.look():
                # the training may run on the same cores: of one of them the page takes a fifth at most
                time.sleep(max(self._every, REST * (time.monotonic() - begun)))
                begun = time.monotonic()
        except (KeyboardInterrupt, Terminated):
            self._leave("no longer live: watching was stopped. ")
            raise

    def look(self) -> bool:
        """Look once and write the page where something changed; returns whether all runs ended."""
        for run in self._runs:
            run.look()
        over = all(run.is_over for run in self._runs)
        seen = _signature(self._runs), tuple(run.state for run in self._runs)
        if seen != self._seen or over:
            self._seen = seen
            over = self._write(over) and over
        return over

    def _write(self, over: bool) -> bool:
        """Returns whether the page was written."""
        shown = [run.path for run in self._runs if run.is_shown]
        notes = tuple(note for run in self._runs if (note := run.note) is not None)
        try:
            if shown:
                self._report = read_report(shown, self._options)
        except MMPrefError as err:
            if over or self._said == str(err):  # what does not change is no half-written file
                raise
            self._said, self._seen = str(err), None
            self._say(f"the page was not written: {err}; looking again")
            return False
        if over and not shown:
            self._leave("no longer live: the runs are gone. ")
            self._say(f"the runs are gone; {self._out} shows them as they were last")
            return True
        line = _line(self._report.runs if self._report and shown else [], self._every)
        self._live = None if over else Live(max(1, math.ceil(self._every)), line)
        if self._report is not None and shown:
            self._text = page(self._report, self._out, self._live, notes)
        elif self._live is not None:
            self._text = page_without_runs(self._options.title, self._live, notes)
        if self._text is not None:
            write_text(self._out, self._text)
        self._say("all runs ended" if over else "; ".join([line, *notes]))
        return True

    def _leave(self, why: str) -> None:
        """Let browsers no longer read the page again; what it shows stays."""
        if self._text is None or self._live is None:
            return
        head, middle, rest = self._text.partition('<meta http-equiv="refresh"')
        _, _, rest = rest.partition("\n") if middle else ("", "", head)
        text = (head if middle else "") + rest
        write_text(self._out, text.replace(">live: ", f">{why}", 1))


def _state_of(path: Path) -> _State:
    """What is no run of ours (answers, results) has nothing to wait for, once there is something to read."""
    if path.is_file():
        return "ended"
    if not (path / MANIFEST).is_file():
        return "ended" if any(file.suffix == ".json" for file in files_of(path)) else "waiting"
    try:
        state = RunDir(path).manifest().get("state")
    except ConfigError:  # it vanished this moment, or is damaged: reading it says so
        return "running"
    return "running" if state == "running" else "ended"


def _signature(runs: Sequence[_Watched]) -> _Signature:
    """Path, time and size of everything that the page is made of."""
    return tuple(entry for run in runs for file in _files(run.path) for entry in _stat(file))


def _files(path: Path) -> list[Path]:
    found = sorted(files_of(path))
    return found if path.is_file() else found + sorted(path.glob("checkpoints/step-*/pairs*.parquet"))


def _stat(file: Path) -> Iterator[tuple[str, int, int]]:
    try:
        found = file.stat()
    except OSError:  # deleted meanwhile
        return
    yield str(file), found.st_mtime_ns, found.st_size


def _line(runs: Sequence[Run], every: float) -> str:
    """``live: step 40 of 65, updated 12:03:04``."""
    places = [_place(run, len(runs) > 1) for run in runs if run.manifest]
    said = ", ".join(places) or "waiting"
    return f"live: {said}, updated {time.strftime('%H:%M:%S')}; looks again every {every:g} s"


def _place(run: Run, several: bool) -> str:
    of = f" of {run.planned_steps}" if run.planned_steps else ""
    state = "" if run.state == "running" else f" ({run.state})"
    return f"{run.label + ' ' if several else ''}step {run.last_step}{of}{state}"
