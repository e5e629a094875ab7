"""The guard of the test suite itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiers import spread

ROOT = Path(__file__).parents[2]


def test_leaving_the_machine_fails_by_the_name_of_the_test() -> None:
    with (
        socket.socket() as sock,
        pytest.raises(AssertionError, match=r"test_leaving_the_machine.*192\.0\.2\.1"),
    ):
        sock.connect(("192.0.2.1", 80))
    with pytest.raises(AssertionError, match=r"example\.org"):
        socket.getaddrinfo("example.org", 443)


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_the_hub_is_offline_for_child_processes_too() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize("name", ["FORCE_COLOR", "GITHUB_ACTIONS", "COLUMNS", "RANK"])
def test_what_the_surroundings_say_does_not_reach_what_is_tested(name: str) -> None:
    code = "import os, tests.conftest; print([name for name in os.environ if name == os.environ['NAME']])"
    env = {**os.environ, name: "1", "NAME": name, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_gpu_tests_are_skipped_without_a_device(tmp_path: Path) -> None:
    """That they run on a CPU where that is asked for is seen by the dry run of ``gpu_check.py``."""
    (tmp_path / "test_x.py").write_text("import pytest\n@pytest.mark.gpu\ndef test_x(): raise AssertionError\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path), "-q"]
    env = {**os.environ, "MMPREF_GPU_TESTS_ON": "", "CUDA_VISIBLE_DEVICES": ""}
    # what old releases deprecate ends no test of the tier oldest, and says nothing here
    command += ["-c", "pyproject.toml", "-n", "0", "-W", "default"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)
    assert "1 skipped" in done.stdout, done.stdout[-2000:]


def test_few_cases_are_the_ends_of_a_sweep_and_what_lies_evenly_between() -> None:
    class Case:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    items = [*(Case(f"a.py::test_a[{name}]") for name in "pqrst"), Case("a.py::test_b"), Case("b.py::test_a[x[1]]")]
    for most, names in ((1, "p"), (2, "pt"), (3, "prt"), (9, "pqrst")):
        taken, left_out = spread(items, most)
        assert [one.nodeid for one in taken] == [
            *(f"a.py::test_a[{name}]" for name in names), "a.py::test_b", "b.py::test_a[x[1]]",
        ]  # fmt: skip
        assert sorted(map(id, taken + left_out)) == sorted(map(id, items))
