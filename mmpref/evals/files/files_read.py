"""Which files a benchmark's questions, answers and options are read from, so that none of them is written over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_IN_FOLDERS = (
    "*.txt",
    "*/*.txt",
    "*/*/*.txt",
    "annotations.json",
    "relation.json",
    "query/*.json",
    "dash_benchmark_*.json",
    "Questions.csv",
)
"""Of MME, AMBER, DASH-B and MMVP."""
_POPE = ("*.json*",)
_IN_PARTS = ("crpe", "finer")
"""These take every file of a folder that is named after a part of theirs."""


def files_read(benchmark: str, *sources: object, options: Mapping[str, Any] | None = None) -> Iterator[Path]:
    """The files of sources (a path, several, splits by name; rows are no files) and of options that are paths.

    Args:
        benchmark: its name; POPE takes every JSON file of a folder.
    """
    for source in (*sources, *(options or {}).values()):
        if isinstance(source, Mapping):
            yield from files_read(benchmark, *source.values())
        elif isinstance(source, list | tuple):
            yield from files_read(benchmark, *source)
        elif isinstance(source, str | Path) and (path := _there(source)) is not None:
            patterns = (*_IN_FOLDERS, *(f"data/{pattern}" for pattern in _IN_FOLDERS))
            patterns += _POPE if "pope" in benchmark.lower() else ()
            patterns += ("*.json*", "*.csv", "*.tsv", "*.xlsx") if benchmark.lower() in _IN_PARTS else ()
            yield path
            for pattern in patterns if path.is_dir() else ():
                yield from path.glob(pattern)


def _there(source: str | Path) -> Path | None:
    """The path, if something is there: an option may be any text."""
    try:
        return Path(source) if Path(source).exists() else None
    except (OSError, ValueError):
        return None
