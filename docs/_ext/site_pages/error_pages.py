"""Every error class with its exit code, what it means and what to do, and every exit code."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import signal

import mmpref
from mmpref.errors import MMPrefError, StoppedError
from mmpref.sampling.rounds import StepFailedError
from site_pages.markdown import code, label, page, prose, table

_WHAT_TO_DO = {
    "MMPrefError": "Catch this class to catch every expected error; none is raised as itself.",
    "ConfigError": "Change what the message names: a key, an option, a file. Near names are offered; "
    "`mmpref config --keys` lists keys and `mmpref COMMAND --help` options.",
    "DataError": "Look at the file and row that it names; `mmpref data check` finds all bad rows at once, and "
    "`--fix FILE` writes the good ones.",
    "NonFiniteError": "The message names the step and the tensor, and the dump beside the run its pairs. Lower the "
    "learning rate, or look at those pairs; what was trained before stays.",
    "NonFiniteInputError": "A log-prob or score of the data is not a number: look at the pairs that it names.",
    "OutOfMemoryError": "The message names what was running and the keys that help; `mmpref plan RECIPE --fit "
    "MEMORY` finds settings that fit.",
    "CheckpointError": "Free space, or name a folder that can be written; a damaged checkpoint is refused and an "
    "older one is named.",
    "DistributedError": "The message names the rank and the change of the launch that resolves it.",
    "EvalIncompleteError": "Give the same command again: what is there is kept, and only what is missing is asked for.",
    "StoppedError": "Nothing is lost: `mmpref train RECIPE --resume` goes on from the checkpoint that was written.",
    "VanishedError": "The run folder was deleted or moved while it trained: go on from the folder that the message "
    "names.",
    "NoLocksError": "Write to a file system with locks, or see the command's own advice.",
    "EncodeError": "The row is quarantined with this reason, or ends the run where too many are; its text or image "
    "must change.",
    "RowError": "The row is quarantined with this reason; `quarantine.jsonl` has it whole.",
    "StepFailedError": "The step reported its own error above; repair that and give the same command again.",
}
"""Class -> what a user or a program does about it."""


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {"reference/errors.md": errors()}


def error_classes() -> list[type[MMPrefError]]:
    """Every class of expected errors, wherever in mmpref it is defined, bases first."""
    for module in pkgutil.walk_packages(mmpref.__path__, "mmpref."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[type[MMPrefError], None] = {}
    waiting = [MMPrefError]
    while waiting:
        kind = waiting.pop(0)
        if kind.__module__.startswith("mmpref."):
            found[kind] = None
        waiting += kind.__subclasses__()
    return list(found)


def errors() -> str:
    """The page of error classes and exit codes."""
    parts = [
        "An expected error is one line: what is wrong, where (file, row, key) and what to do. The command line "
        "prints it after `mmpref:` and ends with the code of its class; from Python it is an exception below "
        "`MMPrefError`. Anything else is a defect of mmpref and shows its traceback. Symptoms without an error: "
        "[troubleshooting](../troubleshooting.md).",
        "## Exit codes\n",
        table(["code", "meaning", "classes"], _codes()),
        "## Classes\n",
    ]
    for kind in error_classes():
        parts += [f"{label(anchor(kind))}### {code(kind.__name__)}\n", _about(kind)]
    return page("Errors and exit codes", *parts)


def anchor(kind: type[MMPrefError]) -> str:
    """The anchor of a class on the page."""
    return f"error-{kind.__name__.lower()}"


def exit_code(kind: type[MMPrefError]) -> str:
    """The code that a class ends a command with."""
    if issubclass(kind, StoppedError):
        return "128 + the signal's number"
    return "the step's own" if issubclass(kind, StepFailedError) else str(kind.exit_code)


def _about(kind: type[MMPrefError]) -> str:
    above = next(base for base in kind.__bases__ if issubclass(base, Exception))
    rows = [
        ["exit code", exit_code(kind)],
        ["is a", code(above.__name__)],
        ["import", code(f"from {kind.__module__} import {kind.__name__}")],
        ["what to do", prose(_WHAT_TO_DO[kind.__name__])],
    ]
    text = inspect.cleandoc(kind.__doc__ or "").split("\nAttributes:")[0].split("\nArgs:")[0]
    text = text.replace(":func:", "").replace(":class:", "")
    return prose(text) + "\n\n" + table(["fact", "value"], rows)


def _codes() -> list[list[str]]:
    by_code: dict[str, list[type[MMPrefError]]] = {}
    for kind in error_classes():
        if kind is not MMPrefError:
            by_code.setdefault(exit_code(kind), []).append(kind)
    rows = [["0", "The command did what it was asked to, also where only the reader of its output went away.", ""]]
    for number in sorted((name for name in by_code if name.isdigit()), key=int):
        kinds = by_code[number]
        first = inspect.cleandoc(kinds[0].__doc__ or "").split(f" (exit {number})")[0].splitlines()[0]
        note = " Also a usage error of the command line." if number == "2" else ""
        rows.append(
            [number, f"{prose(first)}.{note}", ", ".join(f"[{code(one.__name__)}](#{anchor(one)})" for one in kinds)]
        )
    stopped = f"[{code('StoppedError')}](#{anchor(StoppedError)})"
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        known = "Ctrl-C" if name == signal.SIGINT else name.name
        rows.append([str(128 + name), f"Stopped by {known}, while training after a complete checkpoint.", stopped])
    return rows
