"""The images and videos that a run reads, as they are at its start: compared file by file when the run is resumed.

Each checkpoint has the list (``images.parquet``): name below the data root, bytes, time of change, and the sha256 of
the bytes where it is known. It is taken where all images together are small enough to be read in a second or so; where
``data.manifest`` proves the bytes, the proof counts instead. The root is no part of it, so that a data set may move.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmpref.data.images.loader import ImageLoader
from mmpref.data.mixture import RootedImages
from mmpref.data.pair_source import all_files
from mmpref.errors import CheckpointError, library_errors
from mmpref.files.hashes import Say, content_hashes
from mmpref.files.writing import replacing
from mmpref.records import PreferencePair
from mmpref.training.trainer.metrics import InCheckpoint

LIST = "images.parquet"
HASHED_BELOW = 1 << 30
MOST_HASHED = 20_000
"""Bytes and number of all images together up to which their bytes are hashed at every start: a second or two."""
_SCHEMA = pa.schema(
    [("name", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64()), ("sha256", pa.string())]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of one image file; ``sha256`` is "" where its bytes were not read."""

    num_bytes: int
    mtime_ns: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class RunImages:
    """Name -> facts, sorted by name.

    Attributes:
        manifest: hash of the data manifest that the bytes of the training images were proved to match.
    """

    files: Mapping[str, FileFacts] = field(default_factory=dict)
    manifest: str | None = None

    def fact(self) -> str:
        """One line that is the same where every image is, for as much as is known of them."""
        digest = hashlib.sha256(json.dumps(self.manifest).encode())
        for name, known in self.files.items():
            digest.update(f"{name}\0{known.num_bytes}\0{known.sha256 or known.mtime_ns}\n".encode("utf-8", "replace"))
        total = sum(known.num_bytes for known in self.files.values())
        return f"{len(self.files)} images of {total} bytes, sha256 of the list {digest.hexdigest()[:16]}"

    def changed_since(self, then: RunImages) -> Changes:
        """Which images differ between the lists; those of one list alone belong to pairs that were added or removed."""
        found = Changes()
        proved = self.manifest is not None and self.manifest == then.manifest
        for name, now in self.files.items():
            before = then.files.get(name)
            if before is None:
                found.came.append(name)
            elif now.num_bytes != before.num_bytes:
                found.other.append(name)
            elif now.sha256 and before.sha256:
                if now.sha256 != before.sha256:
                    found.other.append(name)
            elif now.mtime_ns != before.mtime_ns and not proved:
                found.touched.append(name)
        found.went.extend(name for name in then.files if name not in self.files)
        return found

    def write(self, path: Path) -> None:
        """As parquet, written atomically."""
        rows = [(name, one.num_bytes, one.mtime_ns, one.sha256) for name, one in self.files.items()]
        columns = {key: [row[place] for row in rows] for place, key in enumerate(_SCHEMA.names)}
        schema = _SCHEMA.with_metadata({"manifest": self.manifest or ""})
        with replacing(path) as stream:
            pq.write_table(pa.table(columns, schema=schema), stream, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> RunImages:
        """The list of a checkpoint.

        Raises:
            CheckpointError: it cannot be read.
        """
        with library_errors(CheckpointError, f"{path} cannot be read", "delete its checkpoint to go on from another"):
            table = pq.read_table(path)
            rows = zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True)
            files = {name: FileFacts(size, time, digest) for name, size, time, digest in rows}
        return cls(files, (table.schema.metadata or {}).get(b"manifest", b"").decode() or None)


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of images: ``other`` bytes, ``touched`` (another time of change, and the earlier bytes are not known), in
    one list alone."""

    other: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    went: list[str] = field(default_factory=list)


class ImageListKept(InCheckpoint):
    """Writes the list into every checkpoint."""

    def __init__(self, images: RunImages) -> None:
        self.images = images

    def copy_to(self, checkpoint: Path) -> None:
        """Write ``images.parquet``."""
        self.images.write(checkpoint / LIST)


def images_of(
    trained: Sequence[PreferencePair],
    evaluated: Sequence[PreferencePair],
    loader: ImageLoader | RootedImages,
    manifest: str | None,
    say: Say | None = None,
) -> RunImages:
    """The files of images and videos that these pairs name, as they are now.

    Args:
        manifest: hash of the manifest that the images of ``trained`` were proved to match, if there is one; their bytes
            are not read again.
    """
    roots = [one.root for one in (loader.loaders if isinstance(loader, RootedImages) else (loader,))]
    of_training, of_evaluation = _paths(trained, roots), _paths(evaluated, roots)
    paths = of_evaluation | of_training
    unproved = [name for name in paths if manifest is None or name not in of_training]
    files = {}
    for name in sorted(paths):
        try:
            found = os.stat(paths[name])  # noqa: PTH116 - of 100,000 files, a Path of each takes longer than all else
        except OSError:  # deleted meanwhile: training fails with its name where it opens it
            continue
        files[name] = FileFacts(found.st_size, found.st_mtime_ns)
    to_hash = [name for name in unproved if name in files]
    if len(to_hash) <= MOST_HASHED and sum(files[name].num_bytes for name in to_hash) <= HASHED_BELOW:
        hashes = content_hashes([Path(paths[name]) for name in to_hash], CheckpointError, say=say)
        for name, digest in zip(to_hash, hashes.values(), strict=True):
            files[name] = FileFacts(files[name].num_bytes, files[name].mtime_ns, digest)
    return RunImages(files, manifest)


def _paths(pairs: Iterable[PreferencePair], roots: Sequence[Path | None]) -> dict[str, str]:
    """Name -> file. Names are relative to the data root; if there are several, after the number of theirs."""
    paths = {ref.path for pair in pairs for ref in all_files(pair) if ref.path is not None}
    known = [str(root).rstrip(os.sep) + os.sep for root in roots if root is not None]
    found: dict[str, str] = {}
    for path in paths:
        full = os.path.normpath(os.path.join(known[0] if known else "", path))  # noqa: PTH118 - as above
        place = max(range(len(known)), key=lambda at: len(known[at]) if full.startswith(known[at]) else -1, default=-1)
        if place < 0 or not full.startswith(known[place]):
            found[path] = full
        else:
            name = full[len(known[place]) :].replace(os.sep, "/")
            found[name if len(known) == 1 else f"{place}:{name}"] = full
    return found
