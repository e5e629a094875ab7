"""What exactly was checked: files, images, videos and settings as hashes, and the proof that training reads the same.

Row files are compared by their bytes, and a file that changes while it is read is refused: nobody could say which bytes
were read. Images and videos are compared by name, size and time of change, without reading them;
where only a time differs (a copy, say) or a full comparison is asked for, by the hash of their bytes. A source without
files (a hub id) is compared by what its pairs say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.data.accepted import Demonstrations
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pair_source import PairSource, all_files
from mmpref.errors import DataError, library_errors
from mmpref.files.reading import open_to_read
from mmpref.files.writing import replacing
from mmpref.records import ImageRef, PreferencePair, VideoRef

REPORT_FILE = "data_report.json"
QUARANTINE_FILE = "quarantine.jsonl"


@dataclass
class Listing:
    """The images, or video files, of one source that its used pairs name, as digests without an order; its pairs in
    theirs."""

    num_bytes: int = 0
    _sizes: list[bytes] = field(default_factory=list)
    _times: list[bytes] = field(default_factory=list)
    _contents: list[bytes] = field(default_factory=list)
    _pairs: Any = field(default_factory=hashlib.sha256)

    def add(self, name: str, num_bytes: int, mtime_ns: int, sha256: str = "") -> None:
        """One image or video; each only once."""
        self.num_bytes += num_bytes
        self._sizes.append(_digest(f"{name}\0{num_bytes}"))
        self._times.append(_digest(f"{name}\0{mtime_ns}"))
        self._contents.append(_digest(f"{name}\0{sha256}"))

    def add_pair(self, pair: PreferencePair, images: ImageLoader | None) -> None:
        """One pair that is used, in the order of the source: everything of it that training reads."""
        root = None if images is None else images.root
        entries = [
            media_name(ref.path, root) if ref.path is not None else hashlib.sha256(_embedded(ref)).hexdigest()
            for ref in all_files(pair)
        ]
        said = [[turn.role, *((part.kind, part.text) for part in turn.parts)] for turn in pair.prompt]
        answers = [pair.response_prefix, pair.chosen, pair.rejected, pair.score_chosen, pair.score_rejected]
        facts: list[Any] = [pair.id, len(pair.images), entries, said, answers]
        if pair.template_kwargs is not None:
            facts.append(dict(pair.template_kwargs))
        if pair.videos:
            facts.append([[video.path is not None, len(video.frames), video.fps] for video in pair.videos])
        if (more := _said_to_the_loss(pair)) != _NOTHING_SAID:
            facts.append({"loss": more})
        self._pairs.update(json.dumps(facts).encode())

    def __len__(self) -> int:
        return len(self._sizes)

    def as_json(self) -> dict[str, Any]:
        """The images or videos in the manifest: their number, size and three hashes."""
        return {
            "num": len(self),
            "bytes": self.num_bytes,
            "names_and_sizes": self.names_and_sizes,
            "times": self.times,
            "contents": self.contents,
        }

    @property
    def names_and_sizes(self) -> str:
        """One hash of all names and sizes."""
        return _joined(self._sizes)

    @property
    def times(self) -> str:
        """One hash of all names and times of change."""
        return _joined(self._times)

    @property
    def contents(self) -> str:
        """One hash of all names and contents."""
        return _joined(self._contents)

    @property
    def pairs(self) -> str:
        """One hash of the pairs in their order."""
        digest: str = self._pairs.hexdigest()
        return digest


_NOTHING_SAID: list[Any] = [None, 1.0, None, None, None]


def _said_to_the_loss(pair: PreferencePair) -> list[Any]:
    """What only a loss reads of a pair, and many pairs do not have: manifests of those stay what they were."""
    other = None if pair.other_images is None else len(pair.other_images)
    return [other, pair.weight, pair.chosen_weight, pair.rejected_weight, pair.label]


def names_of(pair: PreferencePair, kind: type[ImageRef | VideoRef], root: Path | None) -> dict[str, str]:
    """Name below the root -> path as the pair writes it, for every image, or every video, that is a file."""
    paths = (ref.path for ref in all_files(pair) if isinstance(ref, kind) and ref.path is not None)
    return {media_name(path, root): path for path in paths}


def _embedded(ref: ImageRef | VideoRef) -> bytes:
    return (ref.data or b"") if isinstance(ref, ImageRef) else b""


def media_name(path: str, root: Path | None) -> str:
    """One name per file, whether the path is relative or absolute."""
    if root is None:
        return path
    full = root / path
    return full.relative_to(root).as_posix() if full.is_relative_to(root) else full.as_posix()


def hash_before(sources: Sequence[PairSource]) -> dict[Path, str]:
    """The hash of every file of rows, before it is read; :func:`build_manifest` wants the same ones after."""
    return {file: file_hash(file) for source in sources for file in source.rows.files}


def build_manifest(
    sources: Sequence[PairSource],
    listings: Sequence[Listing],
    videos: Sequence[Listing],
    *,
    demonstrations: Demonstrations,
    quarantine: Path,
    before: Mapping[Path, str],
) -> dict[str, Any]:
    """The manifest of what was checked; ``hash`` covers the data and not where it lies.

    Args:
        sources: what was checked.
        listings: the images of each, and its pairs.
        videos: the video files of each.
        demonstrations: rows without ``rejected`` were accepted.
        quarantine: the file of rows that are not used.
        before: of :func:`hash_before`, made before the first row was read.

    Raises:
        DataError: a file was changed while it was read.
    """
    for file, digest in before.items():
        if file_hash(file) != digest:
            raise changed_while_read(file)
    entries = [
        {
            "spec": source.rows.spec,
            "split": source.rows.split,
            "format": source.row_format,
            "reading": source.rows.reading,
            "files": [{"path": str(file), "sha256": before[file]} for file in source.rows.files],
            "images": listing.as_json(),
            **({"videos": shown.as_json()} if len(shown) else {}),
            **({} if source.rows.files else {"pairs": listing.pairs}),
        }
        for source, listing, shown in zip(sources, listings, videos, strict=True)
    ]
    manifest: dict[str, Any] = {
        "sources": entries,
        "demonstrations": demonstrations,
        "quarantine": file_hash(quarantine),
    }
    return {**manifest, "hash": manifest_hash(manifest)}


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """One hash for the contents that a manifest describes."""
    facts = [
        [
            entry["split"],
            [entry["format"], entry["reading"]],
            [file["sha256"] for file in entry["files"]] or [entry["spec"], entry["pairs"]],
            entry["images"]["contents"],
            entry["images"]["names_and_sizes"],
            *([entry["videos"]["contents"], entry["videos"]["names_and_sizes"]] if "videos" in entry else []),
        ]
        for entry in manifest["sources"]
    ]
    return hashlib.sha256(json.dumps([facts, manifest["demonstrations"]]).encode()).hexdigest()


def changed_while_read(file: Path) -> DataError:
    """The error about a file of rows that is not what it was when reading began."""
    return DataError(
        f"{file} was changed while it was read, so that what of it was is unknown: wait until nothing writes it, and "
        "run the command again"
    )


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with open_to_read(path, DataError) as handle, library_errors(DataError, f"{path} cannot be read", "copy it again"):
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_report(path: Path, content: Mapping[str, Any]) -> None:
    """Write findings as JSON in ASCII, written atomically: rows may hold halves of characters, which UTF-8 does not.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with replacing(path) as stream:
        stream.write((json.dumps(content, indent=2) + "\n").encode("ascii"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _joined(digests: Iterable[bytes]) -> str:
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
