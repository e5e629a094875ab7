"""What the tests of damaged files say of a command's memory is true."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests import forked_commands

_MIB = 2**20


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_memory_of_a_command_is_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    def main(argv: list[str]) -> int:
        taken = b"x" * (int(argv[0]) * _MIB)
        del taken
        if is_killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    monkeypatch.setattr("mmpref.cli.main.main", main)  # a fork has it too
    found = {}
    for mib in (1, 300):
        asked = {"argv": [str(mib).encode().hex()], "folder": str(tmp_path), "memory_mib": 1024, "seconds": 60}
        ended = forked_commands._run({**asked, "env": {}, "nobody": False})
        assert ended["code"] == (-signal.SIGKILL if is_killed else 0)
        found[mib] = ended["peak_mib"]
    assert found[1] < 50
    assert found[300] - found[1] == pytest.approx(299, abs=30)
