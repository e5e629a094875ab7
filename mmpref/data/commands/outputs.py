"""What a command on data is to write, looked at before it reads the first row."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmpref.data.pair_source import PairSource
from mmpref.errors import ConfigError
from mmpref.files.reading import refuse_written_over
from mmpref.files.writing import real_path, refuse_special, writing_to


def refuse_outputs(
    opened: Sequence[PairSource],
    outputs: Mapping[str, Path | None],
    *,
    read: Sequence[object],
    files: Mapping[str, Path | None] | None = None,
) -> None:
    """Nothing that is read is written over, what is to be a file is no folder, and it can be written: known at once.

    Args:
        opened: the sources.
        outputs: by option, what the user asks to be written.
        read: what else is read: a card, questions of a benchmark.
        files: what is written beside.
    """
    inputs = [file for source in opened for file in source.rows.files]
    refuse_written_over({**outputs, **(files or {})}, [*inputs, *read])
    for out in outputs.values():
        if out is None:
            continue
        if out.is_dir() or not out.name:
            raise ConfigError(f"{out} is a folder; name the file to write")
        with writing_to(out):
            refuse_special(real_path(out))
            out.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out.parent).close()
