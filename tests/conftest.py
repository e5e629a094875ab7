"""For every test: no network but loopback, offline libraries, one thread per process, and tiers by marker."""

from __future__ import annotations

import os

# before torch, transformers or matplotlib are imported by any test; child processes inherit it
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import atexit
import contextlib
import gc
import ipaddress
import logging
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.command_tree import build_commands_once
from tests.tiers import spread

build_commands_once()

# what a terminal, a CI service or a launcher around the tests says is not meant for the commands that are tested
for _name in (
    "FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "TTY_COMPATIBLE", "GITHUB_ACTIONS", "COLUMNS", "LINES",
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
):  # fmt: skip
    os.environ.pop(_name, None)

if "MMPREF_CACHE" not in os.environ:  # what one session of tests remembers is not for the next, nor for the user's runs
    os.environ["MMPREF_CACHE"] = tempfile.mkdtemp(prefix="mmpref_tests_")
    atexit.register(shutil.rmtree, os.environ["MMPREF_CACHE"], ignore_errors=True)

with contextlib.suppress(ImportError):  # the GPU tests do without
    from hypothesis import HealthCheck, settings

    # an example that takes long says how busy the machine is; also what a test sets by itself begins from these
    settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")

# where the tests run under nohup or in the background, commands that they start would inherit that a signal is ignored
for _number, _usual in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


class NetworkReachedError(AssertionError):
    """A test tried to leave this machine."""


def _is_local(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guard(function: Callable[..., Any], host_of: Callable[..., object]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        host = host_of(*args, **kwargs)
        if not _is_local(host):
            where = os.environ.get("PYTEST_CURRENT_TEST", "test collection")
            raise NetworkReachedError(f"{where} reached for {host!r}; tests use what they make themselves")
        return function(*args, **kwargs)

    return guarded


def _peer(sock: socket.socket, address: Any) -> object:
    return address[0] if sock.family in (socket.AF_INET, socket.AF_INET6) else None


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the hub fails here, by name, instead of hanging."""
    if request.node.get_closest_marker("network"):
        return
    monkeypatch.setattr(socket.socket, "connect", _guard(socket.socket.connect, _peer))
    monkeypatch.setattr(socket.socket, "connect_ex", _guard(socket.socket.connect_ex, _peer))
    monkeypatch.setattr(socket, "getaddrinfo", _guard(socket.getaddrinfo, lambda host, *_, **__: host))


_LIBRARIES = {"torch", "transformers", "peft", "accelerate", "datasets", "huggingface_hub"}
_DEPRECATED = re.compile(r"deprecat|will be removed|will no longer", re.IGNORECASE)
_ALLOWED_TO_LOG = {
    "PaddleOCRVLProcessor` defines `image_processor_class": "transformers' own class says so of itself",
    "`self.pad_token_id` is deprecated": "transformers asks the configurations of Idefics3 and SmolVLM for it itself",
    "generation-related arguments=({'guidance_scale'})": "Janus' own `generate` hands both on, whatever it is given",
    "returning `pixel_values_images` is deprecated": "Video-LLaVA's image processor says so whatever it is asked",
}
"""Part of a logged deprecation -> why it is no use of ours."""


@pytest.fixture(autouse=True)
def no_logged_deprecation(pytestconfig: pytest.Config) -> Iterator[None]:
    """A test during which a library logs that something it was asked to do is deprecated fails, with the text.

    Warnings proper are made errors in pyproject.toml; transformers writes most of its own to its log, each text once
    in a process, so what it has said is forgotten before every test. Processes that a test starts are not seen.
    Where warnings proper pass (`-W default`, for old releases that call each other in deprecated ways), these do too.
    """
    if "default" in (pytestconfig.getoption("pythonwarnings") or []):
        yield
        return
    logs = sys.modules.get("transformers.utils.logging")
    if logs is not None:
        logs.warning_once.cache_clear()
    make, found = logging.getLogRecordFactory(), []

    def made(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.levelno >= logging.WARNING and record.name.partition(".")[0] in _LIBRARIES:
            text = record.getMessage()
            if _DEPRECATED.search(text) and not any(part in text for part in _ALLOWED_TO_LOG):
                found.append(f"{record.name}: {text}")
        return record

    logging.setLogRecordFactory(made)
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
    assert not found, f"deprecated, and used by mmpref or by this test: {found}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many cases of each parametrized test run."""
    parser.addoption("--cases", type=int, metavar="N", help="of each test at most N cases, spread over all of them")


@pytest.hookimpl(trylast=True)  # among those that -m leaves
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without -m, slow and network tests are skipped; gpu tests always are where there is no device, unless they are
    asked for at toy size on the CPU (MMPREF_GPU_TESTS_ON=cpu). With --cases, few of each sweep run."""
    chosen = config.option.markexpr
    gpu_reason = _why_no_gpu() if any(item.get_closest_marker("gpu") for item in items) else None
    for item in items:
        if gpu_reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=gpu_reason))
        if not chosen and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; python scripts/check.py --tier slow runs it"))
        if not chosen and item.get_closest_marker("network"):
            item.add_marker(pytest.mark.skip(reason="needs the internet; pytest -m network runs it"))
    if (most := config.getoption("cases", None)) is not None:
        items[:], left_out = spread(items, most)
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Libraries and tests are here to stay: later collections need not look at them.

    accelerate collects at the start of every training, which took half a second over all that was imported, and more in
    children made by fork, where looking at an object copies its page.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def what_a_file_leaves_is_here_to_stay() -> Iterator[None]:
    """Later collections need not look at what outlives a file: modules it loaded, caches it filled.

    ``mmpref sample score`` collects after every scorer: behind a few other files, its tests took 22 s, and now 5.
    """
    yield
    gc.collect()
    gc.freeze()


def _why_no_gpu() -> str | None:
    if os.environ.get("MMPREF_GPU_TESTS_ON") == "cpu":
        return None
    import torch

    return None if torch.cuda.is_available() else "no CUDA device on this machine"
