"""Warnings of other libraries: most speak to programmers, and would hide what a user must know.

They go to whoever keeps a log (``train.log`` of a run), and to the terminal only where ``MMPREF_WARNINGS=1`` asks for
them, or where they say that something is computed otherwise than asked (``PASSED``). Errors, and what mmpref itself
warns of, are always shown.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

ASK = "MMPREF_WARNINGS"
PASSED = re.compile(
    "|".join((
        # weights that are not those of the file, or files that do not fit the model
        r"newly initialized", r"\bmissing\b.*\b(keys?|weights?)\b", r"\bLOAD REPORT\b", r"\bmismatch",
        # answers or losses of something else than was given
        r"right-padding was detected", r"truncat", r"longer than the specified maximum", r"exceeds? the model.s",
        r"input length of input_ids",
        # what was asked for is not what is done
        r"\bfall(s|ing)? ?back\b", r"none of the inputs have requires_grad", r"no gradient", r"(is|are|be) ignored",
        r"not (a )?deterministic|nondeterministic|non-deterministic",
        # numbers
        r"overflow", r"underflow", r"invalid value encountered", r"divide by zero", r"\bnan\b", r"out of memory",
    )),
    re.IGNORECASE,
)  # fmt: skip
"""What a warning of another library says that is shown."""
_KNOWN = re.compile(
    "|".join((
        r"generation flags are not valid",  # answers are greedy; the model's file also says a temperature
        r"kernels-community",  # a faster kernel that is not installed
    )),
    re.IGNORECASE,
)  # fmt: skip
"""What is not shown although it reads like one of those."""
_ABOUT_CODE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
_OURS = "mmpref"
_VERBOSITY = {"transformers": "TRANSFORMERS_VERBOSITY", "datasets": "DATASETS_VERBOSITY", "diffusers": "",
              "huggingface_hub": "HF_HUB_VERBOSITY"}  # fmt: skip
_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")

_early: list[str] = []
"""What was said before anybody kept a log: libraries warn while they are loaded."""
_keepers: list[Callable[[str], None]] = []
_installed: list[bool] = []


def install() -> None:
    """From now on warnings of this process go the way that this file says; before other libraries are loaded."""
    if _installed:
        return
    _installed.append(True)
    logging.setLoggerClass(Logger)
    if not sys.warnoptions:  # -W or PYTHONWARNINGS: somebody knows better
        _show.otherwise = warnings.showwarning  # type: ignore[attr-defined]
        warnings.showwarning = _show
    if os.environ.get("WORLD_SIZE", "1") != "1" and not is_asked():  # each rank's C++ warns of its own settings
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    ours = logging.getLogger(_OURS)
    if not ours.handlers:
        ours.addHandler(_Said())
        ours.propagate = False
    if not (sys.stderr is not None and sys.stderr.isatty()):  # bars of downloads and loading make no sense in a file
        for name in _BARS:
            os.environ.setdefault(name, "1")


@contextlib.contextmanager
def kept_by(keep: Callable[[str], None]) -> Iterator[None]:
    """While the block runs, every warning is also given to ``keep``, each text once."""
    seen: set[str] = set()

    def once(text: str) -> None:
        if text not in seen and len(seen) < 1000:
            seen.add(text)
            keep(text)

    for text in _early:
        once(text)
    _early.clear()
    _keepers.append(once)
    try:
        yield
    finally:
        _keepers.remove(once)


def is_asked() -> bool:
    """Whether the user wants to see every warning."""
    return os.environ.get(ASK, "").lower() not in ("", "0", "false", "no")


def passes(text: str) -> bool:
    """Whether a warning of another library says that something is computed otherwise than asked."""
    return PASSED.search(text) is not None and _KNOWN.search(text) is None


class Logger(logging.Logger):
    """A logger whose warnings reach its handlers only where they are to be shown."""

    def handle(self, record: logging.LogRecord) -> None:
        """Give a record to whoever keeps a log, and to the handlers where it is to be shown."""
        library = self.name.partition(".")[0]
        if record.levelno < logging.WARNING:  # somebody lowered the level: they want it
            super().handle(record)
            return
        try:
            text = record.getMessage()
        except Exception:  # a message that does not fit its arguments: logging reports it
            super().handle(record)
            return
        _keep(f"{record.levelname.lower()} of {self.name}: {text}")
        wanted = is_asked() or bool(os.environ.get(_VERBOSITY.get(library) or ASK))
        if library == _OURS or record.levelno >= logging.ERROR or wanted or passes(text):
            super().handle(record)


class _Said(logging.Handler):
    """Our own warnings, one line each on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"mmpref: {record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)  # noqa: T201


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if file is not None:
        _show.otherwise(message, category, filename, lineno, file, line)  # type: ignore[attr-defined]
        return
    text = str(message)
    if category.__module__.partition(".")[0] == _OURS:
        _keep(f"warning: {text}")
        print(f"mmpref: warning: {text}", file=sys.stderr)  # noqa: T201
        return
    _keep(f"{category.__name__} of {_library(filename)}: {text}")
    about_code = issubclass(category, _ABOUT_CODE)
    if is_asked() or (not about_code and (passes(text) or issubclass(category, (RuntimeWarning, BytesWarning)))):
        _show.otherwise(message, category, filename, lineno, file, line)  # type: ignore[attr-defined]


def _library(filename: str) -> str:
    parts: tuple[Any, ...] = Path(filename).parts
    return str(parts[parts.index("site-packages") + 1]) if "site-packages" in parts[:-1] else Path(filename).name


def _keep(text: str) -> None:
    if not _keepers and len(_early) < 100:
        _early.append(text)
    for keep in list(_keepers):
        keep(text)
