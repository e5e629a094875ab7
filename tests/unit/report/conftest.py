"""The run-folder builder as a fixture module: tests are imported one by one, so they cannot import each other."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def folders() -> ModuleType:
    """``folders.py`` of this directory."""
    path = Path(__file__).with_name("folders.py")
    spec = importlib.util.spec_from_file_location("report_test_folders", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
