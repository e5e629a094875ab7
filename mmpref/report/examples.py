"""Which images are shown, and how a caption's words are marked.

The rule never looks at who wins: images are sorted into cases, every case is shuffled by a hash of the image's id,
and the cases take turns.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.files.reading import without_links
from mmpref.report.runs import Row, Run

CASES: Mapping[str, str] = {
    "fixed": "fixed by at least one run: the baseline hallucinates, and some run does not",
    "broken": "newly broken: the baseline does not hallucinate, and some run does",
    "stayed": "still wrong: the baseline and every run hallucinate",
    "lost": "said less: nobody hallucinates, and some run leaves out an object that the baseline names",
    "same": "unchanged: nobody hallucinates, and no run leaves out more than the baseline",
}
SHORT: Mapping[str, str] = {
    "fixed": "fixed", "broken": "newly broken", "stayed": "still wrong", "lost": "said less", "same": "unchanged",
}  # fmt: skip
_MAX_PICTURE_BYTES = 600_000
_MAX_ALL_PICTURES = 1_400_000
_TINY = 200  # pixels; smaller images are enlarged with hard edges
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a caption; ``mark`` is "" or says what the stretch is."""

    text: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What one run said about the image."""

    label: str
    pieces: tuple[Piece, ...]
    hallucinated: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One image. ``data_uri`` is None when it cannot be shown; ``why_no_image`` then says why."""

    name: str
    case: str
    objects: tuple[str, ...]
    said: tuple[Said, ...]
    data_uri: str | None
    tiny: bool
    why_no_image: str


@dataclass(frozen=True, slots=True)
class Gallery:
    """The chosen examples, and how many images fall into each case."""

    examples: tuple[Example, ...]
    counts: Mapping[str, int]
    num_images: int


def choose_examples(
    runs: Sequence[Run], *, count: int, seed: int, images_root: Path | None = None, album: Album | None = None
) -> Gallery:
    """Images that every run with captions has described, by the rule above."""
    captions = [(run.label, {str(item["id"]): item for item in chair.items}) for run in runs if (chair := run.chair())]
    captions = [(label, items) for label, items in captions if items]
    if not captions:
        return Gallery((), {}, 0)
    shared = set.intersection(*(set(items) for _, items in captions))
    by_case: dict[str, list[str]] = {case: [] for case in CASES}
    for name in sorted(shared, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()):
        by_case[_case([items[name] for _, items in captions])].append(name)
    counts = {case: len(names) for case, names in by_case.items()}
    chosen = _take_turns(by_case, count)
    album = album or Album(images_root)
    examples = tuple(_example(name, case, captions, album) for case, name in chosen)
    return Gallery(examples, counts, len(shared))


def mark_words(caption: str, mentions: Sequence[Mapping[str, Any]]) -> tuple[Piece, ...]:
    """The caption in pieces, hallucinated words marked. A mention without a place in the text is looked for by word."""
    spans = []
    for mention in mentions:
        if mention.get("hallucinated") is not True:
            continue
        spans += _spans(caption, mention)
    pieces, done = [], 0
    for start, end in sorted(set(spans)):
        if start < done:
            continue
        pieces += [Piece(caption[done:start]), Piece(caption[start:end], "hallucinated")]
        done = end
    pieces.append(Piece(caption[done:]))
    return tuple(piece for piece in pieces if piece.text)


def _spans(caption: str, mention: Mapping[str, Any]) -> list[tuple[int, int]]:
    span = mention.get("span")
    if isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span):
        start, end = span
        if 0 <= start < end <= len(caption):
            return [(start, end)]
    word = str(mention.get("word", ""))
    found = re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", caption, re.IGNORECASE) if word else ()
    return [match.span() for match in found]


def _case(items: Sequence[Row]) -> str:
    first, rest = items[0], items[1:]
    if first["hallucinated"]:
        return "stayed" if all(item["hallucinated"] for item in rest) else "fixed"
    if any(item["hallucinated"] for item in rest):
        return "broken"
    named = set(map(str, first["objects"])) - set(map(str, first["missing"]))
    return "lost" if any(named & set(map(str, item["missing"])) for item in rest) else "same"


def _take_turns(by_case: Mapping[str, Sequence[str]], count: int) -> list[tuple[str, str]]:
    """``count`` names, one of each case in turn; shown case by case."""
    turns = [
        (place, order, case, name)
        for order, (case, names) in enumerate(by_case.items())
        for place, name in enumerate(names[: max(count, 0)])
    ]
    taken = sorted(turns)[: max(count, 0)]
    return [(case, name) for _, _, case, name in sorted(taken, key=lambda turn: (turn[1], turn[0]))]


def _example(name: str, case: str, captions: Sequence[tuple[str, Mapping[str, Row]]], album: Album) -> Example:
    said = []
    for label, items in captions:
        item = items[name]
        said.append(
            Said(
                label,
                mark_words(str(item["text"]), item["mentions"]),
                tuple(map(str, item["hallucinated"])),
                tuple(map(str, item["missing"])),
            )
        )
    item = captions[0][1][name]
    uri, tiny, why = album.embed(item.get("image"))
    return Example(name, case, tuple(map(str, item["objects"])), tuple(said), uri, tiny, why)


class Album:
    """Images as data URIs, within a budget. Paths come from result files and are not trusted.

    Args:
        root: where image paths start.
        is_given: whether the user named it: then it holds for the paths of every run.
    """

    def __init__(self, root: Path | None, *, is_given: bool = False) -> None:
        self._root = without_links(root) if root is not None else None
        self._is_given = is_given
        self._left = _MAX_ALL_PICTURES

    def root_for(self, own: Path | None) -> Path | None:
        """Where paths of a run start: at its ``own`` root where it names one, unless the user named one for all."""
        return self._root if self._is_given or own is None else without_links(own)

    def embed(self, path: Any, own: Path | None = None) -> tuple[str | None, bool, str]:
        """(data URI or None, whether the image is tiny, why there is none).

        Args:
            path: below the root.
            own: the root of the run whose path it is: two runs may have other images under one path.
        """
        root = self.root_for(own)
        if root is None:
            return None, False, "no image folder was given"
        if not isinstance(path, str) or not path or "\0" in path:
            return None, False, "the results name no image"
        try:
            file = without_links(root / path)
            if not file.is_relative_to(root):
                return None, False, "the image is outside the image folder"
            if not file.is_file():
                return None, False, "the image is not in the image folder"
            size = file.stat().st_size
            if size > min(_MAX_PICTURE_BYTES, self._left):
                return None, False, "the image is too large to put into the page"
            content = file.read_bytes()
        except (OSError, RuntimeError):
            return None, False, "the image cannot be read"
        kind = _kind(content)
        if kind is None:
            return None, False, "the image is not PNG, JPEG, GIF or WebP"
        self._left -= len(content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}", _is_tiny(content, kind), ""


def _kind(content: bytes) -> str | None:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)


def _is_tiny(content: bytes, kind: str) -> bool:
    """Whether a PNG's header gives fewer pixels a side than is good to see; other kinds are taken as photographs."""
    return kind == "png" and max(int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) < _TINY
