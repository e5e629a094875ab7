"""The one list of columns that change a pair, for all row formats: each is read, or its row is refused and says so.

A column is known by its name, however it is spelt (``imagePath``, ``image-path``), or by a value that looks like media
or like a conversation. Empty values (None, "", [], {}, and lists of those) count as absent. What is not on the list
changes nothing; it stays in ``meta`` and is counted. ``unread.py`` refuses what no reader took.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from mmpref.data.formats.contract import Row
from mmpref.data.formats.media_values import as_list, is_empty, looks_like_image, medium_of, names_the_same
from mmpref.data.quarantine import RowError


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column holds, and what is said where it cannot be read."""

    name: str
    reason: str
    advice: str


IMAGES = Kind(
    "images", "unread_images", "name it 'images' if it is what the prompt is about ('rejected_images' for the rejected "
    "side of an image pair, 'other_images' for the one that a loss with an image term compares it with), else drop it",
)  # fmt: skip
VIDEO = Kind(
    "video", "video", "name it 'videos' if it is a whole video that the prompt is about (a path, or a list of frames), "
    "else drop these rows",
)  # fmt: skip
REJECTED_VIDEO = Kind(
    "a video of the rejected side", "video", "both sides show the videos of the prompt, and only images may differ "
    "('rejected_images'): drop the column if it names the same videos, else drop these rows",
)  # fmt: skip
AUDIO = Kind("audio", "audio", "audio is not supported, only images, videos and text are; drop these rows")
SYSTEM = Kind("a system prompt", "unread_system", "give it as text under 'system'")
TOOLS = Kind("tools", "unread_tools", "give the functions as JSON schemas in a list under 'tools', else drop it")
TEMPLATE = Kind("a switch of the chat template", "unread_template", "put it into the mapping 'chat_template_kwargs'")
BOXES = Kind(
    "boxes", "boxes", "boxes are not supported; write their numbers into the text as plain words (tokens such as "
    "<|box_start|> would be learnt letter by letter), or drop it",
)  # fmt: skip
TURNS = Kind(
    "text that the model would be asked", "unread_turns", "put it into the prompt, or drop it if it is not part of it"
)
PREFIX = Kind("the beginning of the answer", "unread_prefix", "name it 'response_prefix', or drop it")
VERDICT = Kind(
    "that neither answer is preferred, or the one that is given as rejected", "preference", "leave the row out, or "
    "swap its answers where the rejected one is the better, and drop the column",
)  # fmt: skip
MEDIA = Kind("media, by its value", "unread_media", "name it 'images' if it is what the prompt is about, else drop it")
MEDIA_OF_VIDEO = Kind(
    MEDIA.name, MEDIA.reason, "name it 'videos' if it is a whole video that the prompt is about, else drop it"
)
MEDIA_OF_AUDIO = Kind(MEDIA.name, MEDIA.reason, AUDIO.advice)
IMAGE_NAME = Kind("the name of an image", "unread_images", "give the image's path under 'images', or drop the column")

Use = Literal["main", "early", "late", "named"]


@dataclass(frozen=True, slots=True)
class Column:
    """One entry of the list.

    ``use``: ``main`` has the images or the videos that the prompt is about; ``early`` is read by no format and refused
    at once; ``late`` is refused where the row's format has not read it; ``named`` only names an image or a video, and
    is refused where none was read.
    """

    kind: Kind
    use: Use


_FILE = r"(?:_(?:paths?|files?|filepaths?|filenames?|urls?|uris?|src|bytes|data|base64|b64|list))*"
_COUNT = r"(?!(?:num|n|has|is|no|max|min|len|total|count|with|without)_)"  # ``num_images`` is no image
_MAIN_IMAGE = re.compile(rf"(?:image|img|picture|pic|photo|screenshot|figure)s?{_FILE}")
_MAIN_MEDIA = re.compile(rf"media{_FILE}")
_NAME_OF_IMAGE = re.compile(
    r"(?:image|img|picture|pic|photo|coco|vg)_(?:ids?|names?)"
    r"|(?:image|img|picture|pic|photo)s?_(?:files?_names?|keys?|locations?|locs?|refs?|references?|uids?|uuids?"
    r"|(?:rel|relative|abs|absolute|local|full|orig|original)_(?:paths?|files?|urls?|names?))"
    rf"|visuals?(?!_inputs?$)(?:_inputs?)?(?=_){_FILE}"
)
_OTHER_IMAGE = re.compile(rf"{_COUNT}(?:\w+_)?(?:image|img)s?{_FILE}(?:_?\d+|_[a-d])?")
_MAIN_VIDEO = re.compile(rf"videos?{_FILE}")
_NAME_OF_VIDEO = re.compile(
    r"(?:videos?|clips?|youtube|yt)_(?:ids?|names?|uids?|keys?|idx|index|refs?)|vids?"
    r"|(?:videos?|clips?|frames?)_(?:dirs?|director(?:y|ies)|folders?)"
)
_VIDEO = re.compile(
    rf"{_COUNT}(?:(?:\w+_)?videos?|frames?|(?:video_?)?clips?|youtube|yt){_FILE}(?:_(?:ids?|names?))?(?:_?\d+)?"
)
_AUDIO = re.compile(rf"{_COUNT}(?:(?:\w+_)?audios?|sounds?|wavs?|waveforms?){_FILE}(?:_(?:ids?|names?))?(?:_?\d+)?")
_SPEECH = re.compile(r"(?:speech|voice|recording)s?(?:_(?:paths?|files?|urls?|bytes|wavs?))+")
_BOXES = re.compile(rf"{_COUNT}(?:\w+_)?(?:bbox|box|polygon|segmentation)(?:e?s)?|ref_objects?")

SYSTEM_COLUMNS = (
    "system", "system_prompt", "system_message", "system_instruction", "system_content", "system_text", "system_msg",
    "system_instructions", "system_prompt_text", "sys", "sys_prompt", "sys_msg", "preamble", "system_prompts",
    "system_messages", "developer_message", "developer_prompt", "developer_instructions",
)  # fmt: skip
TEMPLATE_COLUMNS = ("template_kwargs", "chat_template_kwargs")
_NAMES: dict[str, Column] = {
    **dict.fromkeys(SYSTEM_COLUMNS, Column(SYSTEM, "late")),
    "tools": Column(TOOLS, "late"),
    **dict.fromkeys(
        ("functions", "tool_list", "available_tools", "function_definitions", "tool_calls", "tool_results"),
        Column(TOOLS, "early"),
    ),
    **dict.fromkeys(TEMPLATE_COLUMNS, Column(TEMPLATE, "late")),
    **dict.fromkeys(
        ("chat_template", "enable_thinking", "reasoning_effort", "documents", "add_generation_prompt"),
        Column(TEMPLATE, "early"),
    ),
    **dict.fromkeys(("objects", "regions", "masks", "keypoints", "grounding"), Column(BOXES, "early")),
    **dict.fromkeys(
        (
            "history", "chat_history", "conversation_history", "dialogue_history", "conversation", "conversations",
            "dialogue", "dialog", "turns", "messages", "prompt", "question", "query", "instruction", "input", "context",
            "passage", "user_prompt", "user_input", "choices", "answer_choices", "options", "hint", "hints", "lecture",
            "pre_prompt", "post_prompt", "prompt_prefix", "prompt_suffix",
        ),
        Column(TURNS, "late"),
    ),
    **dict.fromkeys(
        ("is_tie", "tie", "tied", "winner", "preference", "preferred", "preferred_answer", "better", "better_answer"),
        Column(VERDICT, "late"),
    ),
    **dict.fromkeys(("visual", "visuals", "visual_input", "visual_inputs", "pixel_values"), Column(IMAGES, "late")),
    **dict.fromkeys(("rejected_videos", "rejected_video"), Column(REJECTED_VIDEO, "late")),
    "response_prefix": Column(PREFIX, "late"),
    **dict.fromkeys(
        ("prefix", "prefill", "assistant_prefix", "answer_prefix", "assistant_prefill", "response_prefill"),
        Column(PREFIX, "early"),
    ),
}  # fmt: skip

_SIDES = ("score_{}", "{}_score", "{}_rating", "rating_{}", "{}_reward", "reward_{}")
SCORE_PAIRS = tuple((side.format("chosen"), side.format("rejected")) for side in _SIDES)
"""Names that the scores of both answers have; the first is ours."""

MEDIA_KINDS = (IMAGES, VIDEO, REJECTED_VIDEO, AUDIO, MEDIA, BOXES)


def media_kind(value: Any) -> Kind:
    """What media are by their look, where no name says it: of images, of videos or of sound."""
    medium = medium_of(value)
    return MEDIA_OF_VIDEO if medium == "video" else MEDIA_OF_AUDIO if medium == "audio" else MEDIA


def spelt(name: str) -> str:
    """A column's name as the list spells it: lower case, words joined by ``_``."""
    return re.sub(r"[\s\-.]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())).lower()


@functools.lru_cache(maxsize=4096)
def column_of(name: Any) -> Column | None:
    """What the list says of a column of that name; None for a column that changes nothing."""
    if not isinstance(name, str):
        return None
    name = spelt(name)
    if (found := _NAMES.get(name)) is not None:
        return found
    for pattern, column in (
        (_MAIN_IMAGE, Column(IMAGES, "main")),
        (_MAIN_MEDIA, Column(MEDIA, "main")),
        (_NAME_OF_IMAGE, Column(IMAGE_NAME, "named")),
        (_OTHER_IMAGE, Column(IMAGES, "late")),
        (_MAIN_VIDEO, Column(VIDEO, "main")),
        (_NAME_OF_VIDEO, Column(VIDEO, "named")),
        (_VIDEO, Column(VIDEO, "early")),
        (_AUDIO, Column(AUDIO, "early")),
        (_SPEECH, Column(AUDIO, "early")),
        (_BOXES, Column(BOXES, "early")),
    ):
        if pattern.fullmatch(name):
            return column
    return None


@functools.lru_cache(maxsize=1024)
def listed(keys: tuple[Any, ...]) -> tuple[tuple[Any, Column], ...]:
    """The columns of a row that are on the list; asked for once for all rows with the same columns."""
    return tuple((key, column) for key in keys if (column := column_of(key)) is not None)


@functools.lru_cache(maxsize=1024)
def other_scores(keys: tuple[Any, ...]) -> tuple[tuple[str, str], ...]:
    """The columns of a row that give scores of both answers under other names than ours."""
    spelling = {spelt(key): key for key in keys if isinstance(key, str)}
    return tuple((spelling[one], spelling[two]) for one, two in SCORE_PAIRS if one in spelling and two in spelling)


def standard(row: Row, *, check: bool = True) -> Row:
    """The row as the formats read it: what is empty left out, its one column of images, and of videos, under the usual
    name.

    Args:
        row: as a reader gives it.
        check: refuse columns that no format reads.

    Raises:
        RowError: such a column, or two that hold different images, or different videos.
    """
    main: list[str] = []
    videos: list[str] = []
    empty: set[str] = set()
    for key, column in listed(tuple(row)):
        value = row[key]
        if value is None:
            continue
        first = value[0] if type(value) is list and value else value
        if type(first) is str and first and not first[0].isspace():  # nearly all of them: text that is not empty
            if column.use == "late":
                continue
            if key in ("image", "images"):
                main.append(key)
                continue
        if column.kind is TURNS:
            if key != "instruction" and is_empty(value):  # alpaca's may be empty, with the question in ``input``
                empty.add(key)
        elif is_empty(value) or (value is False and column.kind in MEDIA_KINDS):
            empty.add(key)
        elif column.use == "early":
            if check and not _is_count(key, value, column.kind):
                refuse(key, column.kind)
        elif column.kind is VIDEO and column.use == "main":
            if not _is_count(key, value, VIDEO):
                videos.append(key)
        elif column.use == "main" and _holds_images(key, value):
            main.append(key)
    if len(main) > 1 or len(videos) > 1:
        for names, one, several in ((main, "image", "images"), (videos, "video", "videos")):
            if len(names) > 1 and one in names and several in names and names_the_same(row[one], as_list(row[several])):
                empty.add(one)  # says the same once more
    known = _is_known(main, "image", "images") and (not videos or _is_known(videos, "video", "videos"))
    if known and not empty:
        return row
    found = {key: value for key, value in row.items() if key not in empty}
    if not known:
        for names, kind in ((main, IMAGES), (videos, VIDEO)):
            _under_usual_name(row, found, names, kind)
    return found


def _is_known(names: Sequence[str], one: str, several: str) -> bool:
    return not names or one in names or several in names


def _under_usual_name(row: Row, found: dict[str, Any], names: Sequence[str], kind: Kind) -> None:
    """Put what one of several columns holds under the name that the formats know.

    Raises:
        RowError: the columns hold different media.
    """
    usual = ("images", "image") if kind is IMAGES else ("videos", "video")
    if _is_known(names, *usual):
        return
    chosen = _leader(row, names)
    if chosen is None:
        listed_names = " and ".join(map(repr, names))
        raise RowError(f"columns {listed_names} hold different {usual[0]}; {kind.advice}", reason=kind.reason)
    value = found.pop(chosen)
    found[usual[0] if isinstance(value, list | tuple) else usual[1]] = value


def _leader(row: Row, names: Sequence[str]) -> str | None:
    """The column that the others only repeat; local files before URLs. None where they hold different media."""
    for name in sorted(names, key=lambda name: "://" in str(row[name])[:40]):
        images = as_list(row[name])
        if all(other == name or names_the_same(row[other], images) for other in names):
            return name
    return None


def _is_count(key: str, value: Any, kind: Kind) -> bool:
    """A number is how many there are (``frames: 8``), unless its name says that it is an id, or is the medium's own."""
    if kind not in (VIDEO, AUDIO, BOXES) or not isinstance(value, int | float):
        return False
    return not re.search(r"(?:^|_)(?:ids?|video|audio)$", spelt(key))


def _holds_images(key: str, value: Any) -> bool:
    """No numbers; and what ``media`` holds must look like images, since it may be anything."""
    if key in ("image", "images"):
        return True
    items = as_list(value)
    if any(isinstance(item, int | float) for item in items):
        return False
    return not spelt(key).startswith("media") or all(looks_like_image(item) for item in items)


def refuse(key: str, kind: Kind, *, inside: bool = False) -> NoReturn:
    """Refuse the row for a column, or for what is inside of one."""
    is_movable = kind in (IMAGES, MEDIA, MEDIA_OF_VIDEO, SYSTEM)
    move = "make it a column of its own: " if inside and is_movable else ""
    name = ", or rename it if it is none" if inside and kind is SYSTEM else ""  # the name of the system that answered
    detail = f"column {key!r} holds {kind.name}, which is not read here: {move}{kind.advice}{name}"
    raise RowError(detail, reason=kind.reason)
