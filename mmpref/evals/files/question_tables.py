"""Questions as data sets of the hub have them: files of rows, several too, and parquet with the images in the rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.files.question_rows import question_rows
from mmpref.files.rows import Row, Source
from mmpref.records import ImageRef

_PARQUET = ".parquet"


def question_table(source: Source) -> list[tuple[str, Row]]:
    """The rows of a source with their places, as ``question_rows`` gives them.

    Args:
        source: rows; a file of JSON lines, JSON, a table or parquet; several of these, whose rows follow each other; or
            a folder with parquet files.

    Raises:
        DataError: a file cannot be read, or a folder has no parquet file.
    """
    if isinstance(source, str | Path):
        return _of_file(Path(source))
    if isinstance(source, list | tuple) and source and all(isinstance(part, str | Path) for part in source):
        return [found for part in source for found in _of_file(Path(part))]
    return question_rows(source)


def _of_file(file: Path) -> list[tuple[str, Row]]:
    if file.is_dir():
        if not (shards := sorted(file.glob(f"*{_PARQUET}"))):
            raise DataError(f"{file}: no {_PARQUET} file in this folder; give the files of the questions")
        return [found for shard in shards for found in _of_file(shard)]
    if file.suffix.lower() != _PARQUET:
        return question_rows(file)
    from mmpref.data.reading.source import open_source  # loads pyarrow, which no other format needs

    return [(f"{file}, row {found.number}", found.row) for found in open_source(file).rows()]


def image_path(image: Any) -> str | None:
    """The name of an image's file, where a row has that and not the image itself."""
    name = image.get("path") if isinstance(image, Mapping) and _bytes(image) is None else image
    return name if isinstance(name, str) and 0 < len(name) <= _LONGEST_PATH and not name.startswith("data:") else None


def image_ref(image: Any, name: str) -> ImageRef:
    """The image of a row: its bytes, where it has them, else the file of that name."""
    data = _bytes(image)
    return ImageRef(path=name) if data is None else ImageRef(data=data)


def _bytes(image: Any) -> bytes | None:
    data = image.get("bytes") if isinstance(image, Mapping) else None
    return data if isinstance(data, bytes) and data else None


_LONGEST_PATH = 300  # an image itself in base 64 is longer
