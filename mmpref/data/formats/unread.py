"""What no reader took and what would change the pair: its row is refused, by the column's name or by its value.

A column that only repeats what the pair says anyway changes nothing. What that may be differs: a whole conversation
has the answers too, while choices, a context or earlier turns must be in the prompt, where the model sees them.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmpref.data.formats.columns import (
    BOXES,
    IMAGE_NAME,
    IMAGES,
    MEDIA,
    MEDIA_KINDS,
    REJECTED_VIDEO,
    SYSTEM,
    TURNS,
    VERDICT,
    VIDEO,
    Column,
    Kind,
    column_of,
    listed,
    media_kind,
    refuse,
    spelt,
)
from mmpref.data.formats.contract import Row
from mmpref.data.formats.media_values import (
    ends_like_an_image,
    is_empty,
    looks_like_media,
    names_the_same,
)
from mmpref.data.quarantine import RowError

_WHOLE = frozenset({"messages", "conversation", "conversations", "dialogue", "dialog", "turns"})
"""Columns that hold a whole conversation, its answer included."""
_LEVEL = frozenset({"both", "neither", "none", "draw", "equal", "same", "no preference"})
_ASKS = frozenset({"user", "human", "system", "developer"})
_JUDGES = re.compile(
    r"(?:^|_)(?:judge|judge?ment|critic|critique|grader?|grading|review|annotation|annotator|evaluation|evaluator|label"
    r"|labell?ing|rating|ranking|reward|verifier|feedback|generation|generator|raw)s?_"
)
"""Conversations with a judge are about the answers, and instructions of a generator are no part of the prompt as given:
argilla's sets have ``labelling_prompt``, ``generation_prompt``."""
_OF_IMAGE = re.compile(r"(?:image|img|picture|pic|photo|visual)s?_(?P<rest>\w+)")
_OF_VIDEO = re.compile(r"(?:video|frame)s?_(?P<rest>\w+)")
_ABOUT_IMAGE = re.compile(
    r"(?:^|_)(?:captions?|desc(?:ription)?s?|texts?|ocr|width|height|size|wh|hw|shape|dims?|ratio|resolution|formats?"
    r"|mime|types?|modes?|quality|category|categories|class(?:es)?|labels?|tags?|titles?|alts?|sources?|datasets?|origin"
    r"|styles?|prompts?|questions?|topics?|domains?|genres?|themes?|counts?|num|hash|md5|sha\w*|licen[cs]es?|models?"
    r"|splits?|lang(?:uage)?|authors?|credits?|status|difficulty|scores?|ratings?|colou?rs?|summary|keywords?|objects?"
    r"|relevance|dependency|required|needed|generator|subset|task|group|date|time|note|comments?|page|extension|ext)$"
)
_NO_NAME = frozenset({"none", "null", "nan", "n/a", "na", "no", "-"})
_PLACE = re.compile(r"(?:image|img|picture|pic|photo)s?_(?:(?P<where>locations?|locs?)|refs?|references?|keys?)")
"""Names of an image that may be something else: how many there are, or where the photo was taken."""
_ROOTED = re.compile(r"\.{0,2}[/\\]|~/|[A-Za-z]:[/\\]|[a-z][a-z0-9+.-]*://")
_FOLDERS = re.compile(r"[/\\]")
_FILE_ENDING = re.compile(r"\w\.[A-Za-z]\w{1,4}$")


def refuse_unread(
    left: Row,
    *,
    images: Sequence[Any],
    videos: Sequence[Any],
    prompt: Sequence[str],
    answers: Sequence[str],
    ignored: Sequence[str] = (),
) -> None:
    """Refuse a row of which no reader took a column that changes the pair.

    Args:
        left: the columns that were not read, without empty ones.
        images: the images that were read.
        videos: the videos that were read.
        prompt: the texts of the prompt: a column that only repeats them changes nothing.
        answers: what the pair says beside it; only a whole conversation may repeat that too.
        ignored: columns that the format knows and leaves out, as its description says.

    Raises:
        RowError: the first such column, what it is, and what to do.
    """
    for key, value in left.items():
        column = column_of(key)
        whole = False  # whether it may hold the answer as well
        if column is not None:
            if column.use == "early" or is_empty(value) or key in ignored:
                continue
            kind = column.kind
            whole = spelt(key) in _WHOLE
        elif looks_like_media(value):
            kind = MEDIA
        elif (
            (type(value) is not str or value[:1] == "[")
            and _is_talk(value)
            and not _JUDGES.search(f"{spelt(str(key))}_")
        ):
            kind, whole = TURNS, True
        else:
            if not images and not videos and key not in ignored:
                if type(value) is not str or value[:1] in ("{", "["):
                    _refuse_media_below(value, str(key))
                if (kind_named := _may_be_media(key)) is not None:
                    _refuse_path(value, str(key), kind_named)
            continue
        if key in ignored:
            continue
        if kind in (IMAGES, IMAGE_NAME, MEDIA):
            is_read = _is_shown(key, value, column, images) or (kind is MEDIA and names_the_same(value, videos))
        elif kind in (VIDEO, REJECTED_VIDEO) and column is not None and column.use != "early":
            is_read = bool(videos) if column.use == "named" else names_the_same(value, videos)
        elif kind is TURNS:
            is_count = whole and isinstance(value, int | float)  # ``turns: 1``
            is_read = is_count or _is_said(value, (*prompt, *answers) if whole else prompt)
        elif kind is VERDICT and looks_like_media(value):
            kind, is_read = MEDIA, False
        elif kind is VERDICT:
            if not images and not videos:
                _refuse_media_below(value, str(key))
            is_read = not _voids(key, value)
        else:
            is_read = False
        if not is_read:
            refuse(key, media_kind(value) if kind is MEDIA else kind)


_TIME_UNITS = frozenset({"h", "hr", "m", "min", "mins", "s", "sec", "secs", "second", "seconds", "ms", "to"})
_WHEN = r"(?:_?(?:times?|timestamps?|secs?|seconds?|s|ms|t|ts|frames?|idx|index|pos|offset|point))?"
_PIECE = re.compile(
    rf"(?:(?:video|clip|segment|temporal|time|timestamp|ts|t|frame)s?_)?(?:start|end|begin|stop){_WHEN}"
    r"|(?:(?:video|clip)_)?(?:timestamps?|(?:time|temporal)_?(?:spans?|ranges?|windows?|intervals?|segments?)"
    r"|segments?|intervals?|span|trim)"
)
"""Names of what cuts a piece out of a video."""
_SPANS = frozenset({"time", "times", "window", "windows"})
"""Names that do so where they hold two times."""
_RATE = re.compile(r"(?:(?:video|sample|sampling|sampled|frame|clip)s?_)*(?:fps|frame_?rate|frames_per_second)")
"""Names of how many frames a second has."""


def refuse_pieces(left: Row, videos: Sequence[Any]) -> None:
    """Refuse a row whose prompt is about a piece of its video, of which the whole would be shown, and one that says in
    a column how fast its list of frames is, which may be of the list or of the film that it is from.

    Args:
        left: the columns that were not read.
        videos: canonical items.

    Raises:
        RowError: ``video``.
    """
    is_unrated = any(isinstance(video, Mapping) and video.get("fps") is None for video in videos)
    for key, value in left.items():
        name = spelt(key) if isinstance(key, str) else ""
        may_cut = _PIECE.fullmatch(name) or (name in _SPANS and isinstance(value, Mapping | list | tuple))
        if may_cut and _says_when(value):
            raise RowError(
                f"column {key!r} names a piece of the video, and a video is shown whole: cut the piece out into a file "
                "of its own (ffmpeg -ss), and drop the column",
                reason=VIDEO.reason,
            )
        if is_unrated and _RATE.fullmatch(name) and _says_when(value):
            raise RowError(
                f"column {key!r} says how many frames a second has, and the row's list of frames does not say so of "
                f'itself: write {{"frames": [...], "fps": NUMBER}} with the frames of the list for each second, and '
                "drop the column",
                reason=VIDEO.reason,
            )


def _says_when(value: Any) -> bool:
    """Whether a value is a time other than the beginning: a number, a clock's time, or several of them."""
    if isinstance(value, str):
        has_number = re.search(r"[1-9]", value) is not None and value.strip() not in ("-1", "-1.0")
        return has_number and _TIME_UNITS.issuperset(re.findall(r"[^\W\d_]+", value.lower()))
    if isinstance(value, Mapping):
        return any(map(_says_when, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_says_when, value))
    return not is_empty(value) and value not in (0, -1) and _count_numbers(value) > 0


def _voids(key: str, value: Any) -> bool:
    """Whether a column about the answers says that they are level, or that the rejected one is the better."""
    said = value.strip().lower() if isinstance(value, str) else value
    if "tie" in spelt(key):
        return bool(said) and said not in ("false", "no", "0")
    return isinstance(said, str) and (said.startswith(("tie", "reject")) or said in _LEVEL)


def _is_shown(key: str, value: Any, column: Column | None, images: Sequence[Any]) -> bool:
    """Whether a column of an image says nothing beside the images that were read."""
    if column is not None and column.use == "named":
        if _embeds(value):  # no name, but an image
            return names_the_same(value, images)
        return bool(images) or _names_none(key, value)
    if isinstance(value, int | float):
        return True
    return (column is None or column.use == "main") and names_the_same(value, images)


def _embeds(value: Any) -> bool:
    """Whether a value has the bytes of a file, alone, in a list, or beside its path."""
    if isinstance(value, list | tuple):
        return any(map(_embeds, value))
    return isinstance(value.get("bytes") if isinstance(value, Mapping) else value, bytes)


def _names_none(key: str, value: Any) -> bool:
    """Whether a column that may name an image names none: ``N/A``, a number of references, the town of a photo."""
    place = _PLACE.fullmatch(spelt(key))
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, str):
            if item.strip().lower() in _NO_NAME:
                continue
            if place is None or not (place["where"] or "ref" in place[0]) or _may_be_a_file(item.strip()):
                return False
        elif place is None or not isinstance(item, int | float):
            return False
    return True


def _may_be_a_file(name: str) -> bool:
    """A path of any kind, or a name with an ending, which no town and no number has."""
    if any(map(str.isspace, name)):
        return ends_like_an_image(name)
    return _FOLDERS.search(name) is not None or _FILE_ENDING.search(name) is not None


def _is_said(value: Any, texts: Sequence[str]) -> bool:
    """Whether every text inside a value is in the texts, as words of its own (``No`` is not in ``Now``)."""
    said = "\n".join(texts)
    return all(_stands_in(piece.strip(), said) for piece in _pieces(value))


def _stands_in(piece: str, said: str) -> bool:
    place = said.find(piece)
    while place >= 0:
        end = place + len(piece)
        if not (_goes_on(said[place - 1 : place] + piece[:1]) or _goes_on(piece[-1:] + said[end : end + 1])):
            return True
        place = said.find(piece, place + 1)
    return False


def _goes_on(two: str) -> bool:
    """Two letters of one word, or two digits of one number; scripts without spaces have no such ends."""
    return len(two) == 2 and two.isascii() and (two.isalpha() or two.isdigit())


def _is_talk(value: Any) -> bool:
    """A list of messages in which someone asks; the answers of several models are none."""
    if type(value) is str:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    if not isinstance(value, list | tuple) or not value:
        return False
    roles = []
    for item in value:
        if not isinstance(item, Mapping):
            return False
        role, said = (
            (item.get("role"), item.get("content")) if "role" in item else (item.get("from"), item.get("value"))
        )
        if role is None or is_empty(said):
            return False
        roles.append(role)
    return any(isinstance(role, str) and role.lower() in _ASKS for role in roles)


def refuse_hidden(row: Row, meta: Row, *, id_key: str | None, images: Sequence[Any], prompt: Sequence[str]) -> None:
    """Refuse a foreign row whose ``id``, ``source`` or ``meta`` has what the pair lacks.

    These go into the pair as they are, and nothing is read from them: an image that only they name would be lost, and
    so would a system prompt.

    Raises:
        RowError: the image or the system prompt, where it is, and what to do.
    """
    if not images:
        for key in ("source", id_key):
            value = None if key is None else row.get(key)
            if type(value) is str and ends_like_an_image(value):
                raise RowError(
                    f"{key!r} is {value[:80]!r}, the name of an image, and the row has no image: give the "
                    f"image's path under 'images', or take the ending off {key!r} if the row is about none",
                    reason=MEDIA.reason,
                )
    if not meta:
        return
    if not images:
        _refuse_media_below(meta, "meta")
    for key, column in listed(tuple(meta)):
        value = meta[key]
        is_prompt = column.kind is SYSTEM and not is_empty(value) and not _is_name_of_system(key, value)
        if is_prompt and not (isinstance(value, str) and value in prompt):
            refuse(f"meta.{key}", SYSTEM, inside=True)


def _is_name_of_system(key: str, value: Any) -> bool:
    """``system: gpt-4`` says which system wrote the answers. One word of a script without blanks may be a sentence."""
    return spelt(key) == "system" and isinstance(value, str) and value.isascii() and len(value.split()) == 1


def refuse_media_inside(items: Iterable[Row], where: str) -> None:
    """Refuse a row with media inside of an answer, or of a mapping beside a prompt without images.

    Raises:
        RowError: the first key that is on the list for images, video or audio, and holds something.
    """
    for item in items:
        for key, column in listed(tuple(item)):
            value = item[key]
            is_media = column.kind in MEDIA_KINDS and not isinstance(value, int | float)
            if column.kind is BOXES:
                is_media = is_media and _holds_boxes(key, value)
            if is_media and not is_empty(value):
                refuse(f"{where}.{key}", column.kind, inside=True)


_ROW_OF_NUMBERS = re.compile(r"\d\s*[,;\s]\s*[-\d.]")
_MANY_THINGS = frozenset({"objects", "regions", "grounding"})
"""Names that boxes have, and that regions of the world and grades for grounding have too."""


def _holds_boxes(key: str, value: Any) -> bool:
    """Boxes are numbers: four of them, where the name alone does not say that they are boxes."""
    return _count_numbers(value) >= (4 if spelt(key) in _MANY_THINGS else 1)


def _count_numbers(value: Any) -> int:
    if isinstance(value, str):
        return len(re.findall(r"\d+", value)) if _ROW_OF_NUMBERS.search(value) else 0
    if isinstance(value, Mapping):
        return sum(map(_count_numbers, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_count_numbers, value))
    if value is None or isinstance(value, bool):
        return 0
    return 1 if isinstance(value, int | float) else 4  # bytes and arrays are full of them


def _refuse_media_below(value: Any, where: str, depth: int = 6) -> None:
    """Refuse a row without images that has media anywhere inside of a column: in mappings, in lists, in JSON text.

    Raises:
        RowError: the first one, by its key or by its value.
    """
    if type(value) is str:
        if value[:1] not in ("{", "["):
            return
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return
    if depth == 0 or not isinstance(value, Mapping | list | tuple):
        return
    if isinstance(value, Mapping):
        refuse_media_inside([value], where)
        inner = [(f"{where}.{key}", item) for key, item in value.items()]
    else:
        inner = [(f"{where}[{place}]", item) for place, item in enumerate(value[:100])]
    for name, item in inner:
        if looks_like_media(item):
            refuse(name, media_kind(item), inside=True)
        _refuse_media_below(item, name, depth - 1)


@functools.lru_cache(maxsize=4096)
def _may_be_media(key: Any) -> Kind | None:
    """What a name that the list does not know would hold if it held a path."""
    for pattern, kind in ((_OF_IMAGE, IMAGE_NAME), (_OF_VIDEO, VIDEO)):
        found = pattern.fullmatch(spelt(key)) if isinstance(key, str) else None
        if found is not None and _ABOUT_IMAGE.search(found["rest"]) is None:
            return kind
    return None


def _refuse_path(value: Any, key: str, kind: Kind) -> None:
    """Refuse a row without images and videos for a path under a name such as ``image_somewhere``.

    Raises:
        RowError: the column.
    """
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, bytes) or (isinstance(item, str) and _is_path(item.strip())):
            refuse(key, kind)


def _is_path(name: str) -> bool:
    """A path by its spelling. ``16/9``, ``yes/no`` and ``N/A`` are none: they have no root, no ending, and no folder of
    letters beside a number."""
    if not _FOLDERS.search(name) or any(map(str.isspace, name)) or name.lower() in _NO_NAME:
        return False
    has_both = any(map(str.isalpha, name)) and any(map(str.isdigit, name))
    return has_both or _ROOTED.match(name) is not None or _FILE_ENDING.search(name) is not None


_SEPARATE = re.compile(r"<image>\n?")


def _pieces(value: Any) -> Iterator[str]:
    """Every text inside a value that is not a role or a kind of part, placeholders left out."""
    if isinstance(value, str):
        yield from _SEPARATE.split(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("role", "from", "type"):
                yield from _pieces(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _pieces(item)
    elif value is not None:
        yield str(value)
