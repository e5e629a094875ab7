"""mmpref aligns vision-language models with image preference data.

Importing this package loads no torch; the public names below load on first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmpref.version import __version__


def _refuse_old_python() -> None:
    """One line for a command, an error for ``import mmpref``; where pip installed it, pip has said so before."""
    version = "{}.{}".format(*sys.version_info[:2])
    message = f"mmpref needs Python 3.11 or newer; this is {version} ({sys.executable})"
    if sys.argv[0].replace("\\", "/").split("/")[-1] in ("-m", "mmpref", "mmpref.exe"):
        sys.stderr.write(f"mmpref: {message}\n")
        sys.exit(2)
    raise ImportError(message)


if sys.version_info < (3, 11):  # noqa: UP036
    _refuse_old_python()

if TYPE_CHECKING:
    from mmpref.losses import LossOutput, PairLogps, build_objective
    from mmpref.records import EvalSample, PreferencePair, TaskResult
    from mmpref.training import PreferenceTrainer, TrainerOptions

# public name -> the package that defines it
_HOME = {
    "PairLogps": "mmpref.losses",
    "LossOutput": "mmpref.losses",
    "build_objective": "mmpref.losses",
    "PreferencePair": "mmpref.records",
    "EvalSample": "mmpref.records",
    "TaskResult": "mmpref.records",
    "PreferenceTrainer": "mmpref.training",
    "TrainerOptions": "mmpref.training",
}

__all__ = [
    "EvalSample",
    "LossOutput",
    "PairLogps",
    "PreferencePair",
    "PreferenceTrainer",
    "TaskResult",
    "TrainerOptions",
    "__version__",
    "build_objective",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'mmpref' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
