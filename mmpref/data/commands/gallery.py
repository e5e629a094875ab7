"""Pairs as one HTML page to look through: image, prompt, both answers with their differences marked, scores.

The page is one file and loads nothing. Everything that comes from the data travels as JSON in a block that no browser
runs, and the page's own script writes it as text, never as markup; its content security policy allows that one script
and that one style by hash, and images from data URIs, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import unicodedata
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined

from mmpref.data.images.derived import thumbnail
from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import QuarantinedRow, RowError, where_is
from mmpref.data.text_similarity import Piece, count_words, edit_similarity, mark_differences, words
from mmpref.data.videos.loader import VideoLoader
from mmpref.files.writing import write_text
from mmpref.records import AnswerWeight, ImageRef, Message, PreferencePair, VideoRef
from mmpref.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL_SIDE = 320
"""Longest side of an image in the page, in pixels."""

FRAME_SIDE = 160
"""Longest side of a frame of a video in the page, in pixels."""

TINY_SIDE = 96
"""Images up to this side are shown pixel by pixel."""

MAX_CHARACTERS = 20_000
"""Longer texts are cut, and the page says so."""

NAMED_SPANS = 5
"""Of more spans with weights, as many are named."""

LEAST_SHARED = 0.15
"""Answers that share less than this (edit similarity) are shown without marks: everything would be marked."""


def build_gallery(
    pairs: Iterable[PreferencePair],
    quarantined: Sequence[QuarantinedRow] = (),
    *,
    images: ImageLoader | None,
    videos: VideoLoader | None = None,
    out: Path,
    title: str = "Preference pairs",
    limit: int = 1000,
    num_pairs: int | None = None,
) -> Path:
    """Write the gallery of some pairs, taken one at a time: memory is bounded by the page.

    Args:
        pairs: of a list of more than ``limit``, as many are shown, evenly spaced, and the page says so. Anything else
            that gives pairs is shown whole: choose with :func:`evenly` before.
        quarantined: rows that are not used; they are shown with their reason, at most ``limit`` of them.
        images: opens the images; without it the page has none.
        videos: opens the videos, whose frames are shown as a model is shown them; without it the page has none.
        out: the HTML file to write, written atomically.
        title: heading of the page.
        limit: most pairs, and most rows of the quarantine, to show. A page of 1,000 photographs is about 20 MB.
        num_pairs: how many pairs there are, when ``pairs`` is a choice of them.

    Returns:
        ``out``.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    album = _Album(images, videos)
    if isinstance(pairs, Sequence):
        num_pairs = len(pairs)
        pairs = [pairs[place] for place in evenly(num_pairs, limit)]
    shown = [_pair(pair, album) for pair in pairs]
    left_out = [_quarantined(quarantined[place]) for place in evenly(len(quarantined), limit)]
    content = {
        "cards": shown + left_out,
        "images": album.images,
        "numPairs": len(shown) if num_pairs is None else num_pairs,
        "numQuarantined": len(quarantined),
    }
    write_text(out, _page(title, content))
    return out


class _Album:
    """Each distinct image once, as a data URI, or why it cannot be shown."""

    def __init__(self, loader: ImageLoader | None, videos: VideoLoader | None) -> None:
        self.images: list[dict[str, Any]] = []
        self._loader, self._videos = loader, videos
        self._places: dict[tuple[str | None, bytes | None], int] = {}
        self._frames: dict[VideoRef, list[int]] = {}

    def place(self, ref: ImageRef) -> int:
        """The number of an image in the page; a new one is added."""
        key = (ref.path, None if ref.data is None else hashlib.sha256(ref.data).digest())
        if key not in self._places:
            self._places[key] = len(self.images)
            self.images.append({"name": _text(ref.describe()), **self._look(ref)})
        return self._places[key]

    def frames(self, ref: VideoRef) -> list[int]:
        """The numbers of the frames of a video, or of what says why it cannot be shown."""
        if ref not in self._frames:
            found = self._look_at_video(ref)
            self._frames[ref] = list(range(len(self.images), len(self.images) + len(found)))
            self.images += found
        return self._frames[ref]

    def _look_at_video(self, ref: VideoRef) -> list[dict[str, Any]]:
        name = _text(ref.describe())
        if self._videos is None:
            return [{"name": name, "why": "videos were not opened"}]
        try:
            shown = self._videos(ref)
        except RowError as fault:
            return [{"name": name, "why": _text(fault.detail[:400]), "reason": fault.reason}]
        together = zip(shown.frames, shown.times, strict=True)
        return [{"name": f"{name}, second {time:.2f}", **_shown(frame, FRAME_SIDE)} for frame, time in together]

    def _look(self, ref: ImageRef) -> dict[str, Any]:
        if self._loader is None:
            return {"why": "images were not opened"}
        try:
            image = self._loader.open(ref)
        except RowError as fault:
            return {"why": _text(fault.detail[:400]), "reason": fault.reason}
        return _shown(image, THUMBNAIL_SIDE)


def _shown(image: Image, side: int) -> dict[str, Any]:
    kind, data = thumbnail(image, side=side)
    return {
        "src": f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}",
        "width": image.width,
        "height": image.height,
        "tiny": max(image.size) <= TINY_SIDE,
    }


def _pair(pair: PreferencePair, album: _Album) -> dict[str, Any]:
    """One card. Missing keys are what the pair does not have."""
    card: dict[str, Any] = {
        "kind": "pair",
        "id": _text(pair.id),
        "source": _text(pair.source),
        "prompt": [_turn(message) for message in pair.prompt],
        "images": [album.place(image) for image in pair.images],
    }
    if pair.videos:
        card["videos"] = [album.frames(video) for video in pair.videos]
    if pair.other_images is not None:
        card["otherImages"] = [album.place(image) for image in pair.other_images]
    if pair.weight != 1:
        card["weight"] = pair.weight
    if pair.label is not None:
        card["label"] = pair.label
    weights = [(pair.chosen_weight, pair.chosen), (pair.rejected_weight, pair.rejected or "")]
    if any(weight is not None for weight, _ in weights):
        card["answerWeights"] = [None if weight is None else _weights(weight, text) for weight, text in weights]
    if pair.response_prefix:
        card["prefix"] = _cut(pair.response_prefix)
    more = {**({"template_kwargs": pair.template_kwargs} if pair.template_kwargs else {}), **pair.meta}
    if more:
        card["meta"] = _cut(json.dumps(more, ensure_ascii=False, indent=1, default=str), 4000)
    if pair.rejected is None:
        return card | {"chosen": _unmarked(pair.chosen), "words": [count_words(pair.chosen), None]}
    if pair.rejected_images is not None:
        card["rejectedImages"] = [album.place(image) for image in pair.rejected_images]
    alike = edit_similarity(words(pair.chosen.casefold()), words(pair.rejected.casefold()))
    chosen, rejected = _cut(pair.chosen), _cut(pair.rejected)
    if alike < LEAST_SHARED:
        card |= {"chosen": _unmarked(chosen), "rejected": _unmarked(rejected), "unmarked": True}
    else:
        marked = mark_differences(chosen, rejected)
        card |= {"chosen": _marked(marked[0]), "rejected": _marked(marked[1])}
    card["words"] = [count_words(pair.chosen), count_words(pair.rejected)]
    card["characters"] = [len(pair.chosen), len(pair.rejected)]
    card["alike"] = round(alike, 4)
    scores = [score for score in (pair.score_chosen, pair.score_rejected) if score is not None and math.isfinite(score)]
    if len(scores) == 2:
        card["scores"] = scores
    return card


def _weights(weight: AnswerWeight, answer: str) -> str:
    """What the tokens of an answer count, in words."""
    if not isinstance(weight, tuple):
        return f"tokens count {weight:g}"
    named = [f"{_text(answer[span.start : span.end])[:40]!r} counts {span.weight:g}" for span in weight[:NAMED_SPANS]]
    more = [f"{len(weight) - NAMED_SPANS} more"] if len(weight) > NAMED_SPANS else []
    return ", ".join([*named, *more])


def _quarantined(row: QuarantinedRow) -> dict[str, Any]:
    return {
        "kind": "quarantined",
        "id": _text(row.id or ""),
        "source": _text(row.source),
        "place": _text(where_is(row.file, row.row)),
        "reason": _text(row.reason),
        "detail": _cut(row.detail),
    }


def _turn(message: Message) -> list[Any]:
    """[role, part, part, ...]; a part is a text, null for an image place, or 0 for a video place."""
    places = {"image": None, "video": 0}
    return [message.role, *(places[part.kind] if part.kind in places else _cut(part.text) for part in message.parts)]


def _marked(pieces: Iterable[Piece]) -> list[list[Any]]:
    return [[int(piece.differs), piece.text] for piece in pieces]


def _unmarked(text: str) -> list[list[Any]]:
    return [[0, _cut(text)]]


def _cut(text: str, most: int = MAX_CHARACTERS) -> str:
    text = _text(text)
    return text if len(text) <= most else f"{text[:most]} [... {len(text) - most:,} more characters]"


def _text(value: str) -> str:
    """Text that every browser takes: half and control characters become a visible mark, line ends one kind."""
    plain = value.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(char if char in "\n\t" or unicodedata.category(char) != "Cc" else "\ufffd" for char in plain)


def evenly(total: int, limit: int) -> list[int]:
    """Which of ``total`` things are shown: all, or ``limit`` of them, evenly spaced."""
    return [place * total // limit for place in range(limit)] if total > limit else list(range(total))


def _page(title: str, content: dict[str, Any]) -> str:
    """The template with everything filled in. Texts are escaped by it; style, script and data go in as they are."""
    environment = Environment(autoescape=True, keep_trailing_newline=True, undefined=StrictUndefined)
    environment.filters["hash"] = _hash
    # "<" cannot be in the block, so nothing in it can end it or open a comment
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return environment.from_string(_asset("gallery.html")).render(
        title=_text(title), version=__version__, style=_asset("gallery.css"), script=_asset("gallery.js"), data=data
    )


def _asset(name: str) -> str:
    return resources.files("mmpref.data.commands").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The source of a content security policy that allows this text alone."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
