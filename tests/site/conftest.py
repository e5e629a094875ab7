"""What tests of the site share: the site, built once, a browser, and mmpref installed from its wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.installed_wheel import installed
from tests.pages_in_browser import opened

__all__ = ["browser", "installed", "site"]

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs" / "_ext"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Building the site, a browser and whole pages of commands take their time on a slow day."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning of the build fails every test that asks for it.

    ``MMPREF_SITE`` names one that ``scripts/site.sh`` built, for work on the tests themselves.
    """
    if ready := os.environ.get("MMPREF_SITE"):
        return Path(ready).resolve()
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own
    folder, log = shared / "site", shared / "site.log"
    with FileLock(shared / "site.lock"):
        if not log.exists():
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
            command += ["-d", str(shared / "site-doctrees"), str(ROOT / "docs"), str(folder)]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
            built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
            log.write_text(f"{built.returncode}\n{built.stderr}", encoding="utf-8")
    code, _, said = log.read_text(encoding="utf-8").partition("\n")
    assert code == "0", said
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the tests of a file."""
    with opened() as found:
        yield found
