"""Command lines run in forks of one process that has loaded what they need: each under a limit of memory and time.

A fork costs some milliseconds where a process of its own costs a second, so that hundreds of damaged files can go
through the real commands; what one of them allocates or breaks is gone with it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.command_tree import build_commands_once

ROOT = Path(__file__).resolve().parent.parent
TOO_LONG = "too long"
USUAL = (0, 2, 3, 6, 7, 8)
"""Exit codes of a command that worked, or that said in one line why it did not."""


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    argv: list[str]
    code: int | str
    """The exit code, negative for a signal; or that it was still running."""
    out: str
    err: str
    seconds: float
    """Of processor time."""
    peak_mib: float
    """Memory at most beyond what the process had when the command began: its own pages, and those of libraries that it
    touches first. What processes that it starts have is not in it."""

    def fault(self, *codes: int) -> str | None:
        """What is wrong with the end; None where it is one line and one of the exit codes (0 says nothing)."""
        if self.code not in codes:
            return f"exit {self.code}, wanted {' or '.join(map(str, codes))}: {self.err[-2000:] or self.out[-500:]}"
        if "Traceback" in self.err + self.out:
            return self.err[-2000:]
        if self.code == 0 or (self.code == 2 and self.err.startswith("Usage:")):  # typer's own, of what it reads
            return None
        lines = [line for line in self.err.splitlines() if not line.startswith(("note: ", "warning: "))]
        if not lines or not lines[0].startswith("mmpref: "):
            return f"no line of ours: {self.err[:1000]!r}"
        told_by_row = self.argv[:2] == ["data", "check"]  # and what to do next, over several lines
        if not told_by_row and (more := [line for line in lines[1:] if not line.startswith("  ")]):
            return f"{len(more)} lines more: {self.err[:1000]!r}"
        if (longest := max(map(len, lines))) > 1600:
            return f"a line of {longest} characters: {lines[0][:300]!r}"
        return None


class ForkedCommands:
    """``with ForkedCommands() as run: run(["config", "recipe.yaml"])``."""

    def __init__(self, *modules: str) -> None:
        self._modules = modules

    def __enter__(self) -> ForkedCommands:
        code = "from tests.forked_commands import serve; serve()"
        self._server = subprocess.Popen(
            [sys.executable, "-c", code, *self._modules],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "1000", "TQDM_DISABLE": "1"},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.communicate()

    def __call__(
        self,
        argv: Sequence[str],
        *,
        folder: Path | str = ".",
        memory_mib: int = 1024,
        seconds: int = 60,
        env: dict[str, str] | None = None,
        nobody: bool = False,
    ) -> Ended:
        """Run one command line.

        Args:
            argv: without the name of the program.
            folder: the working directory.
            memory_mib: address space beyond what the process has at the start.
            seconds: of processor time and of waiting; whoever takes longer is stopped.
            env: set for the command.
            nobody: as a user without rights, where we have them all.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = {
            "argv": [os.fsencode(word).hex() for word in argv],
            "folder": str(folder),
            "memory_mib": memory_mib,
            "seconds": seconds,
            "env": env or {},
            "nobody": nobody,
        }
        self._server.stdin.write(json.dumps(asked).encode() + b"\n")
        self._server.stdin.flush()
        try:
            told: dict[str, Any] = json.loads(self._server.stdout.readline())
        except BaseException:  # the next command must not be told of this one
            self._server.kill()
            raise
        return Ended(argv=list(argv), **told)


def serve() -> None:
    """The process that forks: one request and one reply in JSON on each line."""
    import importlib

    from mmpref.process import notices

    notices.install()  # as the installed command does
    build_commands_once()
    for name in ("mmpref.cli.main", "mmpref.recipe.sections", "encodings.utf_8_sig", *sys.argv[1:]):
        importlib.import_module(name)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    _load_what_is_shown()
    for line in sys.stdin:
        replies.write(json.dumps(_run(json.loads(line))) + "\n")
        replies.flush()


def _load_what_is_shown() -> None:
    """Help and refusals load modules late, which a user without rights may not be allowed to read."""
    from mmpref.cli.main import main

    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        for argv in (["--help"], ["recipes"], ["config", "no such recipe"], ["data", "show", "no such card"]):
            main(argv)
        main(["score", "--out"])


def _run(asked: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as memory:
        child = os.fork()
        if child == 0:
            _in_child(asked, out.fileno(), err.fileno(), memory.fileno())
        before, ended, status, used = time.monotonic(), 0, 0, None
        while not ended and time.monotonic() - before < asked["seconds"]:
            ended, status, used = os.wait4(child, os.WNOHANG)
            if not ended:
                time.sleep(0.002)
        code: int | str = TOO_LONG
        if ended:
            code = os.waitstatus_to_exitcode(status)
        else:
            os.kill(child, signal.SIGKILL)
            _, _, used = os.wait4(child, 0)
        assert used is not None
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read(200_000).decode("utf-8", "backslashreplace"))
        memory.seek(0)
        # a process that was killed could not say its peak, which the system knows then, with that of its children
        begun, peak, *_ = [*map(int, memory.read().split()), used.ru_maxrss, used.ru_maxrss]
    return {
        "code": code,
        "out": texts[0],
        "err": texts[1],
        "seconds": used.ru_utime + used.ru_stime,
        "peak_mib": max(0.0, (peak - begun) / 1024),
    }


def _kib(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process. A fork begins without the pages of files that its parent had, so that the
    memory of the parent is no measure for it."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])


def _in_child(asked: dict[str, Any], out: int, err: int, memory: int) -> None:
    code = 1
    try:
        os.write(memory, b"%d\n" % _kib("VmRSS"))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(asked["folder"])
        os.environ.update(asked["env"])
        if asked["nobody"]:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + asked["memory_mib"] * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"]))
        from mmpref.cli.main import main

        code = main([os.fsdecode(bytes.fromhex(word)) for word in asked["argv"]])
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(memory, b"%d\n" % _kib("VmHWM"))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
