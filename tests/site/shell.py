"""Blocks of a page as a stranger's shell runs them: only the installed wheel, an empty home, no hub."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.installed_wheel import Installed

SMALLER = ("train.bf16=null", "train.dataloader_num_workers=0")
"""What is added to every command that trains, and to ``doctor``: recipes for GPUs ask for bfloat16, which is refused
without one, and for processes that read images."""
PROCESSES = ("--processes", "2", "train.use_cpu=true")
"""What is added to ``--launch``, which without GPUs does not know how many there are to be."""
SHIM = """#!{python} -IS
import json, os, socket, sys
argv = sys.argv[1:]
if argv[:1] in (["train"], ["doctor"], ["sweep"]) and len(argv) > 1 or argv[:2] == ["sample", "round"]:
    argv += {smaller!r}
if "--launch" in argv:
    argv += {processes!r}
asked = {{"argv": argv, "folder": os.getcwd(), "env": dict(os.environ)}}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 70))
"""
LOADED = (
    "torch", "transformers", "transformers:AutoModelForImageTextToText", "peft", "accelerate", "datasets",
    "bitsandbytes", "matplotlib.pyplot", "transformers:Trainer", "transformers:Qwen2_5_VLForConditionalGeneration",
    "transformers:Qwen2VLForConditionalGeneration", "transformers:LlavaForConditionalGeneration",
    "transformers:Qwen2ForCausalLM", "transformers:LlamaForCausalLM", "transformers:Qwen2_5_VLProcessor",
    "transformers:LlavaProcessor", "mmpref.cli.main", "mmpref.training", "mmpref.evals", "mmpref.planning.plan",
    "mmpref.recipe.sections",
)  # fmt: skip
"""``module`` or ``module:name``: what commands load, loaded once."""


@dataclass(frozen=True)
class Shell:
    """A shell in the environment that has the wheel.

    Attributes:
        python: the environment's interpreter.
        env: all variables of what is run.
    """

    python: Path
    env: dict[str, str]

    @classmethod
    def of(cls, installed: Installed) -> Shell:
        """One in which ``mmpref`` is the installed program."""
        return cls(installed.python, {**installed.environment, "COLUMNS": "400", "MPLBACKEND": "Agg"})

    def bash(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """One block, by a shell that ends at the first failure; both streams in the order of writing."""
        return self._run(["bash", "-euo", "pipefail", "-c", script], folder)

    def run_python(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """One block of Python."""
        return self._run([str(self.python), "-c", script], folder)

    def _run(self, argv: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, cwd=folder, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=600, check=False,
        )  # fmt: skip


@contextmanager
def forking(shell: Shell, folder: Path) -> Iterator[Shell]:
    """The same environment, in which ``mmpref`` is run in forks of a process that has loaded its libraries."""
    folder.mkdir()
    address = folder / "socket"
    shim = folder / "bin" / "mmpref"
    shim.parent.mkdir()
    shim.write_text(
        SHIM.format(python=shell.python, address=str(address), smaller=list(SMALLER), processes=list(PROCESSES)),
        encoding="utf-8",
    )
    shim.chmod(0o755)
    script = shutil.copy(Path(__file__).with_name("fork_server.py"), folder)
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [str(shell.python), "-I", script, str(address), *LOADED],
            cwd=folder, env=shell.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n", (folder / "server.log").read_text(encoding="utf-8")
            path = os.pathsep.join((str(shim.parent), shell.env["PATH"]))
            yield replace(shell, env={**shell.env, "PATH": path})
        finally:
            if server.poll() is None:
                with socket.socket(socket.AF_UNIX) as asker:
                    asker.connect(str(address))
                server.wait(30)
            server.stdout.close()
