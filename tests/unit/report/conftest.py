"""The run-folder builder as a fixture module: tests are imported one by one, so they cannot import each other."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.loaded_scripts import module_of


@pytest.fixture(scope="session")
def folders() -> ModuleType:
    """``folders.py`` of this directory."""
    return module_of(Path(__file__).with_name("folders.py"), "report_test_folders")


@pytest.fixture(scope="session")
def demo_runs(folders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five finished runs; not to be changed."""
    runs: list[Path] = folders.demo_like(tmp_path_factory.mktemp("demo"), 60)
    return runs


@pytest.fixture(scope="session")
def world(folders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of :func:`demo_runs`."""
    root: Path = folders.write_images(tmp_path_factory.mktemp("world"), 60)
    return root
