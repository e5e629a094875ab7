"""The guard of the test suite itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


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


def test_gpu_tests_are_skipped_without_a_device() -> None:
    """That they run on a CPU where that is asked for is seen by the dry run of ``gpu_check.py``."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/gpu/test_head_gpu.py",
        "-q",
        "-n",
        "0",
        "-k",
        "32000-float32-frozen",
    ]
    env = {**os.environ, "MMPREF_GPU_TESTS_ON": "", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=Path(__file__).parents[2])
    assert "1 skipped" in done.stdout, done.stdout[-2000:]
