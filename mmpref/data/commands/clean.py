"""The rows that a check found in order, as one canonical file that needs no further word."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mmpref.data.accepted import Demonstrations
from mmpref.data.pair_source import PairSource, with_paths
from mmpref.data.pair_writing import json_line
from mmpref.data.quarantine import Quarantine, Skip
from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import refuse_foreign_folder, without_links
from mmpref.files.writing import replacing, replacing_folder
from mmpref.records import PreferencePair


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanFile:
    """What was written."""

    path: Path
    num_pairs: int
    unwritable: tuple[str, ...]
    """Pairs that JSON cannot express, each in one line; they were left out."""
    root: Path | None
    """Where image paths start, if that is not the file's own folder."""
    images: Path | None
    """The folder of copied images, if images were copied."""


def write_clean(
    sources: Sequence[PairSource], *, out: Path, skip: Skip, demonstrations: Demonstrations, copy_images: bool = False
) -> CleanFile:
    """Write the pairs that a check used as canonical JSONL, written atomically. Embedded images stay embedded.

    Args:
        sources: as they were checked.
        out: the file. Image paths are written relative to its folder where the images lie below it; else they start
            from the sources' common root.
        skip: what the check quarantined.
        demonstrations: as for the check.
        copy_images: copy the images to ``<name>_images`` beside the file, so that the two can be moved together.

    Raises:
        ConfigError: sources with several image roots, which the file's folder is not above.
        DataError: no pair is left.
        CheckpointError: the file or the images cannot be written.
    """
    if copy_images:
        roots = [source.images.root for source in sources if source.images is not None]
        read = [*roots, *(file for source in sources for file in source.rows.files)]
        folder = out.with_name(f"{out.stem}_images")
        refuse_foreign_folder(folder, re.compile("[0-9]+"), read, "give --fix another name")
    base = None if copy_images else _base(out, sources)
    written = 0
    unwritable: list[str] = []
    with ExitStack() as stack:
        stream = stack.enter_context(replacing(out))
        folder = out.with_name(f"{out.stem}_images")
        copies = _Copies(folder, stack.enter_context(replacing_folder(folder))) if copy_images else None
        for number, source, pair in _used(sources, skip, demonstrations):
            try:
                line = json_line(_moved(pair, number, source, base, copies))
            except DataError as error:
                unwritable.append(str(error))
                continue
            stream.write(line)
            written += 1
        if not written:
            raise DataError(f"no row is in order, so {out} was not written")
    elsewhere = base is not None and base != without_links(out.parent)
    return CleanFile(
        path=out,
        num_pairs=written,
        unwritable=tuple(unwritable),
        root=base if elsewhere else None,
        images=folder if copy_images else None,
    )


def _used(
    sources: Sequence[PairSource], skip: Skip, demonstrations: Demonstrations
) -> Iterator[tuple[int, PairSource, PreferencePair]]:
    for number, source in enumerate(sources):
        for file, row, pair in source.candidates(Quarantine(), demonstrations=demonstrations):
            if (file, row, pair.id) not in skip:
                yield number, source, pair


def _base(out: Path, sources: Sequence[PairSource]) -> Path:
    """The folder that written image paths start from."""
    here = without_links(out.parent)
    roots = {source.images.root for source in sources if source.images is not None and source.images.root is not None}
    if all(root.is_relative_to(here) for root in roots):
        return here
    if len(roots) > 1:
        raise ConfigError(
            f"images lie below {', '.join(sorted(map(str, roots)))}, and no path from {here} leads to all of them; "
            "copy them with --copy-images, or write the file to a folder above them"
        )
    return next(iter(roots))


@dataclass
class _Copies:
    """Images copied once each, under the names that they have below their root."""

    folder: Path
    place: Path
    """The folder until the file is whole."""

    def path_of(self, number: int, source: PairSource, path: str) -> str:
        """Where the copy of an image or a video is, below the file's folder; the first call copies it."""
        assert source.images is not None
        name = f"{number}/{_below(path, source.images.root)}"
        target = self.place / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.images.resolve(path), target)
        return f"{self.folder.name}/{name}"


def _moved(
    pair: PreferencePair, number: int, source: PairSource, base: Path | None, copies: _Copies | None
) -> PreferencePair:
    """The pair with paths of images and videos that resolve from the written file."""
    if source.images is None or source.images.root is None:
        return pair
    root = source.images.root

    def path_of(path: str) -> str:
        if copies is not None:
            return copies.path_of(number, source, path)
        start = root.relative_to(base) if base is not None and root.is_relative_to(base) else Path()
        return (start / _below(path, root)).as_posix()

    return with_paths(pair, path_of)


def _below(path: str, root: Path | None) -> str:
    """A path as it is written below its root; links stay as they are."""
    assert root is not None
    full = Path(os.path.normpath(root / path))
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else path
