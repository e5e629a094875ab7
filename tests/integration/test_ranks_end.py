"""How a process ends: one of several ends with what it did, whatever would go wrong while the interpreter goes away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.version import __version__

# what a thread of gloo does to a process now and then, every time: abort it while the interpreter is taken down
ABORTS = """
import atexit, os
from mmpref.cli.main import entry_point, main

class Late:
    def __del__(self, abort=os.abort):
        abort()

def command():
    atexit.register(print, "closed")  # as a library does that has something to close
    return main()

late = Late()
entry_point(command)
"""


def ended(folder: Path, argument: str, **env: str) -> subprocess.CompletedProcess[str]:
    script = folder / "ends.py"
    script.write_text(ABORTS, encoding="utf-8")
    own = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"}
    return subprocess.run([sys.executable, str(script), argument], env=own | env, capture_output=True, text=True)


def test_a_rank_whose_work_is_done_ends_well(tmp_path: Path) -> None:
    done = ended(tmp_path, "--version", WORLD_SIZE="2", RANK="1")
    assert (done.returncode, done.stdout) == (0, f"mmpref {__version__}\nclosed\n"), done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_rank_without_somewhere_to_write_ends_well_too(tmp_path: Path, closed: str) -> None:
    script = tmp_path / "ends.py"
    script.write_text(ABORTS, encoding="utf-8")
    line = f"exec {sys.executable} {script} recipes {closed}"
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_is_lost_at_the_end_is_no_good_end(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    script = tmp_path / "ends.py"
    script.write_text("import sys\nfrom mmpref.cli.main import entry_point\nentry_point(lambda: print('lost') or 0)\n")
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "PYTHONUNBUFFERED": ""}
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        assert subprocess.run([sys.executable, str(script)], env=env, stdout=full).returncode == 6


def test_a_rank_that_failed_ends_with_its_own_code(tmp_path: Path) -> None:
    done = ended(tmp_path, "trian", WORLD_SIZE="2", RANK="0")
    assert (done.returncode, done.stdout) == (ConfigError.exit_code, "closed\n")
    assert "trian" in done.stderr


@pytest.mark.parametrize("env", [{}, {"WORLD_SIZE": "1"}], ids=["alone", "one of one"])
def test_a_process_alone_ends_as_any_other(tmp_path: Path, env: dict[str, str]) -> None:
    assert ended(tmp_path, "--version", **env).returncode == -signal.SIGABRT
