"""Files that are no part of a package, as modules: programs of ``scripts/``, and helpers that lie beside tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def script(name: str) -> ModuleType:
    """A program of ``scripts/``, for example ``bench`` or ``experiments/draw``."""
    return module_of(ROOT / "scripts" / f"{name}.py", name.replace("/", "_"))


def module_of(file: Path, name: str) -> ModuleType:
    """A file as the module ``name``; loaded once in a process."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
