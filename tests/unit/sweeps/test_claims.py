"""Shares, devices and locks of a sweep's cells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.sweeps.claims import BusyError, Share, claimed, devices_of, holder_of, share_of


def _array(task: int, count: int, first: int = 0, step: int = 1) -> dict[str, str]:
    names = {"ID": task, "COUNT": count, "MIN": first, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_every_cell_is_in_exactly_one_share(total: int) -> None:
    shares = [share_of(f"{number}/{total}") for number in range(1, total + 1)]
    assert all(sum(share.has(place) for share in shares) == 1 for place in range(20))


@pytest.mark.parametrize(("first", "step"), [(0, 1), (1, 1), (5, 2)])
def test_tasks_of_a_slurm_array_are_shares_in_a_row(first: int, step: int) -> None:
    found = [share_of(None, _array(first + step * number, 3, first, step)) for number in range(3)]
    assert [(share.number, share.total) for share in found] == [(1, 3), (2, 3), (3, 3)]


def test_an_option_counts_more_than_the_array_and_nothing_is_everything() -> None:
    assert share_of("1/1", _array(1, 4)) == Share(1, 1)
    assert share_of(None, {}) == Share(1, 1)


@pytest.mark.parametrize("environment", [_array(7, 3, 1), {"SLURM_ARRAY_TASK_ID": "1"}, _array(2, 3, 1, 2)])
def test_an_array_whose_numbers_say_no_share_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="--shard I/N"):
        share_of(None, environment)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", ""])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="I/N"):
        share_of(text, {})


def test_workers_get_the_visible_devices_in_turn() -> None:
    assert devices_of(5, "2,5", lambda: 9) == ["2", "5", "2", "5", "2"]
    assert devices_of(3, None, lambda: 2) == ["0", "1", "0"]
    assert devices_of(2, None, lambda: 1) == [None, None]
    assert devices_of(1, None, lambda: 8) == [None]
    assert devices_of(2, "MIG-a, MIG-b", lambda: 0) == ["MIG-a", "MIG-b"]


def test_a_cell_belongs_to_one_process_until_that_ends(tmp_path: Path) -> None:
    cell = tmp_path / "cells" / "dpo"
    code = (
        "import sys; from pathlib import Path; from mmpref.sweeps.claims import claimed\n"
        "with claimed(Path(sys.argv[1])):\n    print('has it', flush=True)\n    sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, cell], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"has it\n"
    assert f"process {other.pid} on " in str(holder_of(cell))
    with pytest.raises(BusyError, match=f"process {other.pid} on "), claimed(cell):
        pass
    other.kill()
    other.wait()
    with claimed(cell):
        pass
    assert holder_of(cell) is None
    assert list(cell.parent.iterdir()) == []
