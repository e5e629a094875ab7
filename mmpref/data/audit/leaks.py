"""Is a training image also a benchmark's image? By COCO id, by Visual Genome id, by file name, by content.

COCO numbers an image once for all its splits, and train2017 contains most of val2014, which POPE, CHAIR and Object
HalBench use. So ids are compared, never split names. Ids are read from file names (``COCO_val2014_000000123456.jpg``,
``000000123456.jpg``) and from ``coco_id`` / ``cocoid`` fields; a Visual Genome image is looked up in its
``image_data.json``. Images without any id can only be compared by content.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpref.data.images.derived import FINGERPRINT_BITS, fingerprint
from mmpref.data.images.loader import ImageLimits, ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.errors import DataError
from mmpref.files.reading import is_there, parse_json, read_text
from mmpref.records import ImageRef, PreferencePair

MAX_BITS = 10
"""Images whose fingerprints differ in at most this many of 128 bits count as the same."""

_COCO_NAME = re.compile(r"COCO_(train|val|test)(2014|2015|2017)_0*(\d{1,12})(?!\d)", re.IGNORECASE)
# COCO ids end below a million: twelve digits that begin with six zeros, alone between separators
_COCO_NUMBER = re.compile(r"(?:^|[/\\_\-])0{6}(\d{6})(?=[._]|$)")
_COCO_KEYS = frozenset({"coco_id", "cocoid", "coco_image_id"})
_GENOME_NAME = re.compile(r"(?:VG_100K(?:_2)?|gqa(?:/images)?)[/\\](\d{1,8})(?=\.|$)", re.IGNORECASE)
_AMBER_NAME = re.compile(r"(?:^|[/\\])AMBER_(\d+)\.", re.IGNORECASE)
_LONGEST_NAME = 4096
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Leak:
    """One pair that shows a benchmark's image.

    ``how`` is one of ``coco_id``, ``visual_genome``, ``file_name``, ``same_file`` and ``looks_alike``.
    """

    pair_id: str
    benchmark: str
    how: str
    detail: str


def coco_ids_in(text: str) -> set[int]:
    """COCO ids in a path or file name."""
    if len(text) > _LONGEST_NAME:
        return set()
    found = {int(match[3]) for match in _COCO_NAME.finditer(text)}
    return found | {int(match[1]) for match in _COCO_NUMBER.finditer(text)}


def coco_ids(pair: PreferencePair, *, visual_genome: Mapping[int, int] | None = None) -> dict[int, str]:
    """COCO id -> how it was found, for everything in the pair that names an image."""
    found: dict[int, str] = {}
    for text in _names(pair):
        for number in coco_ids_in(text):
            found.setdefault(number, "coco_id")
        for genome in _GENOME_NAME.findall(text) if visual_genome else ():
            if (number := (visual_genome or {}).get(int(genome), -1)) >= 0:
                found.setdefault(number, "visual_genome")
    for number in _fields(pair.meta, _COCO_KEYS):
        found.setdefault(number, "coco_id")
    return found


def read_benchmark_ids(path: Path | str) -> set[int]:
    """COCO ids of the images that a benchmark's question or annotation file names.

    JSON, JSONL, or a plain list of numbers. Ids come from file names anywhere in a row, from ``coco_id``, ``cocoid``
    and ``image_id`` fields, and from numeric keys. ``image_id`` is not read where the row's image is a file that is
    not named as COCO names files (Visual Genome and GQA number their images differently).

    Raises:
        DataError: the file cannot be read, or has no COCO id (AMBER's and GQA's images have none).
    """
    path = Path(path)
    found: set[int] = set()
    for row in _rows(path):
        found |= _row_ids(row)
    if not found:
        raise DataError(
            f"{path} names no COCO image; a benchmark whose images are not from COCO can only be compared by "
            "content: give the folder of its images"
        )
    return found


def read_visual_genome(path: Path | str) -> dict[int, int]:
    """Visual Genome id -> COCO id, from Visual Genome's ``image_data.json``; images without one are left out."""
    found = {}
    for row in _rows(Path(path)):
        number, coco = (row.get("image_id", row.get("id")), row.get("coco_id")) if isinstance(row, dict) else (0, 0)
        if type(number) is int and type(coco) is int:
            found[number] = coco
    if not found:
        raise DataError(f"{path} has no row with image_id and coco_id; give Visual Genome's image_data.json")
    return found


class LeakFinder:
    """Compares pairs with the images of some benchmarks.

    Args:
        ids: benchmark -> COCO ids of its images.
        folders: benchmark -> folder of its images. Every image below it is opened once; one that cannot be opened
            is counted in ``num_unreadable``. COCO ids in the file names join ``ids``.
        visual_genome: Visual Genome id -> COCO id.
    """

    def __init__(
        self,
        *,
        ids: Mapping[str, Collection[int]] | None = None,
        folders: Mapping[str, Path] | None = None,
        visual_genome: Mapping[int, int] | None = None,
    ) -> None:
        self.ids = {name: set(numbers) for name, numbers in (ids or {}).items()}
        self.visual_genome = dict(visual_genome or {})
        self.num_images: dict[str, int] = {}
        self.num_unreadable = 0
        self._digests: dict[str, tuple[str, str]] = {}
        self._places: list[tuple[str, str]] = []
        prints: list[int] = []
        for name, folder in (folders or {}).items():
            self._read_folder(name, Path(folder), prints)
        self._prints = _as_words(prints)

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The benchmarks that pairs are compared with, by id or by content."""
        return tuple(dict.fromkeys((*self.ids, *self.num_images)))

    @property
    def compares_content(self) -> bool:
        """Whether there are benchmark images to compare with."""
        return bool(self._digests)

    def by_name(self, pair: PreferencePair, ids: Mapping[int, str]) -> list[Leak]:
        """Leaks found by what the row says: its ``coco_ids``, and file names that only a benchmark has."""
        found = []
        for number, how in ids.items():
            for name, numbers in self.ids.items():
                if number in numbers:
                    found.append(Leak(pair.id, name, how, f"COCO {number}"))
        for text in _names(pair):
            if _AMBER_NAME.search(text):
                found.append(Leak(pair.id, "AMBER", "file_name", text[-80:]))
        return found

    def by_content(self, pair_id: str, digest: str, print_: int | None) -> list[Leak]:
        """Leaks found by the image itself: its bytes, or its look."""
        if digest in self._digests:
            name, place = self._digests[digest]
            return [Leak(pair_id, name, "same_file", place)]
        if print_ is None or not len(self._prints):
            return []
        apart = np.bitwise_count(self._prints ^ _as_words([print_])).sum(axis=1)
        closest: dict[str, Leak] = {}
        for place in np.argsort(apart, kind="stable")[: int((apart <= MAX_BITS).sum())]:
            name, file = self._places[int(place)]
            detail = f"{file}, {int(apart[place])} of {FINGERPRINT_BITS} bits apart"
            closest.setdefault(name, Leak(pair_id, name, "looks_alike", detail))
        return list(closest.values())

    def _read_folder(self, name: str, folder: Path, prints: list[int]) -> None:
        loader = ImageLoader(folder, limits=ImageLimits(min_side=1))
        below = (Path(at, file) for at, _, names in os.walk(folder) for file in names)  # passes what may not be read
        files = sorted(path for path in below if path.suffix.lower() in _SUFFIXES and is_there(path))
        if not files:
            raise DataError(f"{folder} has no image ({', '.join(sorted(_SUFFIXES))}); it should hold those of {name}")
        self.num_images[name] = len(files)
        for path in files:
            place = path.relative_to(folder).as_posix()
            numbers = coco_ids_in(place)
            if numbers:
                self.ids.setdefault(name, set()).update(numbers)
            try:
                ref = ImageRef(path=place)
                self._digests.setdefault(loader.digest(ref), (name, place))
                seen = fingerprint(loader.open(ref))
            except RowError:
                self.num_unreadable += 1
                continue
            if seen is not None:
                self._places.append((name, place))
                prints.append(seen)


_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})


def _as_words(prints: Sequence[int]) -> NDArray[np.uint64]:
    """Fingerprints as [n, 2] unsigned 64-bit numbers."""
    low = (1 << 64) - 1
    return np.array([[number >> 64, number & low] for number in prints], dtype=np.uint64).reshape(-1, 2)


def _names(pair: PreferencePair) -> Iterator[str]:
    """Every text of the pair that may name an image: paths, the id, and the texts of ``meta``."""
    frames = [frame for video in pair.videos for frame in video.frames]
    for image in (*pair.images, *(pair.rejected_images or ()), *(pair.other_images or ()), *frames):
        if image.path is not None:
            yield image.path
    for video in pair.videos:
        if video.path is not None:
            yield video.path
    yield pair.id
    yield from _texts(pair.meta)


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) <= _LONGEST_NAME:
            yield value
    elif depth < _DEEPEST and isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item, depth + 1)
    elif depth < _DEEPEST and isinstance(value, list | tuple):
        for item in value[:1000]:
            yield from _texts(item, depth + 1)


def _fields(value: Any, keys: frozenset[str], depth: int = 0) -> Iterator[int]:
    """Whole numbers, also written as text, in fields of these names, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if str(key).lower() in keys and (number := _whole(item)) is not None:
                yield number
            elif depth < _DEEPEST:
                yield from _fields(item, keys, depth + 1)
    elif depth < _DEEPEST and isinstance(value, list | tuple):
        for item in value[:1000]:
            yield from _fields(item, keys, depth + 1)


def _whole(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table with empty cells turns whole numbers into floating-point ones
    if type(value) is int:
        return value if 0 <= value < 10**12 else None
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}", value) else None


def _row_ids(row: Any) -> set[int]:
    if isinstance(row, Mapping):
        found = set(_fields(row, _COCO_KEYS))
        names = [text for text in _texts(row) if re.search(r"\.(?:jpe?g|png|webp)\b", text, re.IGNORECASE)]
        named = set[int]().union(*map(coco_ids_in, names))
        return found | named if found or names else set(_fields(row, frozenset({"image_id"})))
    if isinstance(row, str):
        return coco_ids_in(row) or {number for number in [_whole(row)] if number is not None}
    return {number for number in [_whole(row)] if number is not None}


def _rows(path: Path) -> Iterator[Any]:
    """The rows of a JSON array, of JSON lines, or of an object (its lists' rows, or its numeric keys)."""
    text = read_text(path, DataError)
    try:
        whole = parse_json(text, DataError, str(path))
    except DataError:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield parse_json(line, DataError, f"{path}, line {number}")
        return
    if isinstance(whole, list):
        yield from whole
    elif isinstance(whole, dict) and any(isinstance(item, list) and key == "images" for key, item in whole.items()):
        yield from whole["images"]
    elif isinstance(whole, dict) and whole and all(_whole(key) is not None for key in whole):
        yield from whole
    else:
        yield whole
