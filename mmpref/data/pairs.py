"""A row becomes a ``PreferencePair``, or a fault that says which row, which field and why.

Everything that later rooms rely on is checked here, per row: a batch can add up while its rows do not (one row with an
image too many, the next with one too few), so totals prove nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mmpref.data.placeholders import OURS, refuse_images, refuse_marks
from mmpref.data.quarantine import RowError, where_is
from mmpref.errors import DataError
from mmpref.files.writing import replacing
from mmpref.records import ROLES, ImageRef, Message, Part, PreferencePair

END_MARKS = (
    "</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<eos>", "<|end_of_text|>",
    "<|return|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
"""How models end a turn; an answer of nothing else trains no word."""

PAIR_KEYS = (
    "id",
    "images",
    "prompt",
    "chosen",
    "rejected",
    "response_prefix",
    "rejected_images",
    "score_chosen",
    "score_rejected",
    "source",
    "meta",
    "template_kwargs",
)


_TURN_KEYS = {"role", "content"}
IMAGE_HINTS = ("min_pixels", "max_pixels", "resized_height", "resized_width", "detail")
"""What an image part may say of the size it is to be read at; images are sized by the recipe."""
_IMAGE_PART = frozenset({"type", "text", "index", *IMAGE_HINTS})
_TEXT_PART = frozenset({"type", "text", "index"})
TURN_NAMES, HINTS_FOUND = "turn_names", "image_hints"
MARKUP_TAKEN_OFF, END_TAKEN_OFF, LINKS = "chat_markup_taken_off", "end_marks_taken_off", "pictures_by_link"
ASIDES = (TURN_NAMES, HINTS_FOUND, MARKUP_TAKEN_OFF, END_TAKEN_OFF, LINKS)
"""Keys of ``meta`` for what stands in turns and parts and is not read: names of speakers, sizes of images, marks of a
chat template that the row was written out in, links to images in the text of a row without images."""
_KEYS = frozenset(PAIR_KEYS)


def pair_from_row(row: Mapping[str, Any], *, source: str, line: int) -> PreferencePair:
    """The pair that one canonical row describes. A row without ``rejected`` becomes a demonstration.

    Args:
        row: the decoded JSON object.
        source: the file or data set, for messages; also the pair's ``source`` when the row names none.
        line: the row's number in it, from 1; a ``LineNumber`` where it counts lines.

    Raises:
        RowError: with a reason code, when any rule of the format is broken.
    """
    try:
        return _build(row, source)
    except RowError as fault:
        row_id = row_name(row)
        name = "" if row_id is None else f" (id {row_id!r})"
        message = f"{where_is(source, line)}{name}: {fault.detail}"
        raise RowError(message, reason=fault.reason, detail=fault.detail, row_id=row_id) from fault


def row_name(row: Mapping[str, Any]) -> str | None:
    """The id of a row that may be broken, shortened for messages; None when it has none."""
    try:
        return _id(row.get("id"))[:200]
    except RowError:
        return None


def pair_to_row(pair: PreferencePair) -> dict[str, Any]:
    """The canonical row of a pair: JSON-ready, fields at their default left out. ``pair_from_row`` gives it back.

    In ``meta``, what JSON has no form for becomes text (bytes in base64), and NaN becomes null.
    """
    row: dict[str, Any] = {
        "id": pair.id,
        "images": [_image_to_row(image) for image in pair.images],
        "prompt": [
            {
                "role": message.role,
                "content": [
                    {"type": "image"} if part.kind == "image" else {"type": "text", "text": part.text}
                    for part in message.parts
                ],
            }
            for message in pair.prompt
        ],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "response_prefix": pair.response_prefix or None,
        "rejected_images": None
        if pair.rejected_images is None
        else [_image_to_row(image) for image in pair.rejected_images],
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
        "source": pair.source or None,
        "meta": _plain(pair.meta) or None,
        "template_kwargs": None if pair.template_kwargs is None else dict(pair.template_kwargs),
    }
    return {key: value for key, value in row.items() if value is not None}


def _plain(value: Any) -> Any:
    """What ``meta`` holds as JSON has it: parquet brings times, decimals, bytes, and NaN where nothing was said."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value if value is None or isinstance(value, str | int) else str(value)


def write_pairs(path: Path | str, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs as canonical JSONL, written atomically.

    Raises:
        DataError: a pair's ``meta`` is not JSON.
        CheckpointError: the file cannot be written.
    """
    with replacing(Path(path)) as stream:
        for pair in pairs:
            stream.write(json_line(pair))


def json_line(pair: PreferencePair) -> bytes:
    """One line of a canonical file.

    Raises:
        DataError: JSON or UTF-8 cannot hold it.
    """
    try:
        return (json.dumps(pair_to_row(pair), ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:  # half a character, say
        raise DataError(f"pair {pair.id!r} cannot be written as JSON: {error}") from error


def _build(row: Mapping[str, Any], source: str) -> PreferencePair:
    if not row.keys() <= _KEYS:
        unknown = [str(key) for key in row if key not in _KEYS]
        names, known = ", ".join(map(repr, unknown)), ", ".join(PAIR_KEYS)
        raise _fault("unknown_key", f"unknown key {names}; known: {known}; anything else belongs in 'meta'")
    given = row.get
    rejected_images = None if given("rejected_images") is None else _images(row, "rejected_images") or None
    asides: dict[str, list[Any]] = {}
    prompt = _prompt(given("prompt"), asides)
    places = sum([part.kind == "image" for message in prompt for part in message.parts])
    images = () if not places and _holds_none(given("images")) else _images(row, "images")
    _check_image_places(places, images, "images")
    chosen = _answer(row, "chosen")
    rejected = None if given("rejected") is None else _answer(row, "rejected")
    if rejected_images is not None:
        _check_image_places(places, rejected_images, "rejected_images")
        if rejected is None:
            raise _fault("rejected_images", "'rejected_images' without 'rejected'")
    same_images = rejected_images is None or rejected_images == images
    if rejected is not None and same_images and _same(chosen, rejected):
        raise _fault("identical_pair", "'chosen' and 'rejected' are the same text")
    score_chosen, score_rejected = _score(row, "score_chosen"), _score(row, "score_rejected")
    if (score_chosen is None) != (score_rejected is None):
        side = "score_chosen" if score_rejected is None else "score_rejected"
        raise _fault("score_one_side", f"only {side!r} is given; scores stand on both sides or on neither")
    return PreferencePair(
        id=_id(given("id")),
        images=images,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        response_prefix="" if given("response_prefix") is None else _text(row, "response_prefix"),
        rejected_images=rejected_images,
        score_chosen=score_chosen,
        score_rejected=score_rejected,
        source=source if given("source") is None else _text(row, "source") or source,
        meta=_meta(given("meta"), asides),
        template_kwargs=_template_kwargs(given("template_kwargs")),
    )


def _id(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return _clean(value, "id")
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise _fault("id", f"'id' must be a non-empty text or a whole number below 2**63, got {_shown(value)}")
    return str(value)


def _images(row: Mapping[str, Any], key: str) -> tuple[ImageRef, ...]:
    value = row.get(key)
    if value is None and key == "images":
        return ()
    if not isinstance(value, list | tuple):
        raise _fault("images", f"{key!r} must be a list of paths or embedded images, got {_shown(value)}")
    return tuple(_image(item, f"{key}[{place}]") for place, item in enumerate(value))


def _image(item: Any, name: str) -> ImageRef:
    """A path, raw bytes, or the mapping ``{"path": ..., "bytes": ...}`` with bytes raw or in base64."""
    if isinstance(item, str):
        if not item.strip():
            raise _fault("images", f"{name} is an empty path")
        return ImageRef(path=_clean(local_file(item), name))
    if isinstance(item, bytes):
        return ImageRef(data=item)
    if isinstance(item, Mapping) and set(item) <= {"path", "bytes"}:
        data = item.get("bytes")
        if data is None and isinstance(item.get("path"), str):
            return _image(item["path"], name)
        if isinstance(data, bytes):
            return ImageRef(data=data)
        if isinstance(data, str):
            try:
                return ImageRef(data=base64.b64decode(data, validate=True))
            except (binascii.Error, ValueError) as error:
                raise _fault("images", f"{name} has 'bytes' that are not base64: {error}") from error
    raise _fault("images", f"{name} must be a path or a mapping with 'bytes' or 'path', got {_shown(item)}")


def local_file(path: str) -> str:
    """The path that a ``file://`` address names; other paths as they are."""
    if not path.startswith("file://"):
        return path
    parts = urlsplit(path)
    return unquote(parts.path if parts.netloc in ("", "localhost") else f"{parts.netloc}{parts.path}")


def _image_to_row(image: ImageRef) -> str | dict[str, str]:
    if image.path is not None:
        return image.path
    return {"bytes": base64.b64encode(image.data or b"").decode("ascii")}


def _prompt(value: Any, asides: dict[str, list[Any]]) -> tuple[Message, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _fault("prompt", f"'prompt' must be a non-empty list of messages, got {_shown(value)}")
    prompt = tuple([_message(item, place, asides) for place, item in enumerate(value)])
    for place, item in enumerate(value):
        said = item["content"]
        is_asked = item["role"] == "user" and type(said) is str and ("](" in said or "<" in said)
        if is_asked and not any(message.num_images for message in prompt):
            refuse_images(said, f"prompt[{place}]", advice=OURS)
    if (indexes := asides.pop("index", None)) and indexes != list(range(len(indexes))):
        raise _fault("image_place", f"the image parts have the indexes {indexes[:8]}; write 'images' in their order")
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt
    turns = prompt[1:] if prompt[0].role == "system" else prompt
    roles = [message.role for message in turns]
    if not roles or any(role != ("user", "assistant")[place % 2] for place, role in enumerate(roles)):
        shown = ", ".join(message.role for message in prompt)[:200]
        raise _fault("roles", f"turns must be [system,] user, assistant, user, ...; got {shown}")
    if roles[-1] != "user":
        raise _fault(
            "roles", "the prompt must end with a user turn; the beginning of the answer goes in 'response_prefix'"
        )
    if any(message.num_images for message in prompt if message.role != "user"):
        raise _fault("image_place", "an image part stands outside a user turn")
    return prompt


def _message(item: Any, place: int, asides: dict[str, list[Any]]) -> Message:
    if (type(item) is not dict and not isinstance(item, Mapping)) or item.keys() != _TURN_KEYS:
        item = _named_turn(item, place, asides)
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise _fault("roles", f"prompt[{place}] has role {_shown(role)}; known: {', '.join(ROLES)}")
    if isinstance(content, str):
        text = content if content.isascii() else _clean(content, f"prompt[{place}]")
        if not text.strip() and role != "system":
            raise _fault("empty_turn", f"prompt[{place}] ({role}) has no text")
        if "<" in text:  # text that is meant letter by letter stands in a part
            refuse_marks(text, f"prompt[{place}]", has_images=False, advice=OURS)
        return Message(role, (Part("text", text),))
    if not isinstance(content, list | tuple):
        raise _fault(
            "prompt", f"prompt[{place}] must have a text or a list of parts as 'content', got {_shown(content)}"
        )
    parts = tuple([_part(part, place, number, asides) for number, part in enumerate(content)])
    if role != "system" and not any(part.kind == "image" or part.text.strip() for part in parts):
        raise _fault("empty_turn", f"prompt[{place}] ({role}) has neither text nor image")
    return Message(role=role, parts=parts)


def _named_turn(item: Any, place: int, asides: dict[str, list[Any]]) -> Mapping[str, Any]:
    """A turn that also says who in the role speaks, or that a parquet reader filled; anything more is refused."""
    said = item.items() if isinstance(item, Mapping) else ()
    given = {key: value for key, value in said if not _is_absent(key, value)}
    if isinstance(name := given.pop("name", ""), str) and given.keys() == _TURN_KEYS:
        if name:
            asides.setdefault(TURN_NAMES, []).append(name)
        return given
    raise _fault("prompt", f"prompt[{place}] must be a mapping with exactly 'role' and 'content', got {_shown(item)}")


def _is_absent(key: Any, value: Any) -> bool:
    return value is None or (key not in _TURN_KEYS and isinstance(value, str | list | dict) and not value)


def _part(item: Any, turn: int, number: int, asides: dict[str, list[Any]]) -> Part:
    if type(item) is dict:  # nearly all of them
        if item == {"type": "image"}:
            return Part("image")
        if len(item) == 2 and item.get("type") == "text" and type(item.get("text")) is str and item["text"].isascii():
            return Part("text", item["text"])
    name = f"prompt[{turn}].content[{number}]"
    if isinstance(item, Mapping):
        # a parquet reader fills the key that a part does not have with None
        given = {key: value for key, value in item.items() if value is not None}
        if given == {"type": "image"}:
            return Part("image")
        if given.get("type") == "text" and isinstance(given.get("text"), str) and given.keys() <= _TEXT_PART:
            return Part("text", _clean(given["text"], name))
        if given.get("type") == "image" and given.keys() <= _IMAGE_PART and not given.get("text"):
            if "index" in given:
                asides.setdefault("index", []).append(given["index"])
            if hints := {key: given[key] for key in IMAGE_HINTS if key in given}:
                asides.setdefault(HINTS_FOUND, []).append(hints)
            return Part("image")
        medium = next((medium for medium in ("video", "audio") if medium in str(given.get("type"))), None)
        if medium is not None:
            raise _fault(
                medium, f"{name} is {medium}, which is not supported, only images and text are; drop these rows"
            )
        if given.get("type") == "image_url":
            raise _fault(
                "prompt",
                f"{name} is an image_url part; write {{type: image}} there, and its path or address under 'images'",
            )
    raise _fault("prompt", f"{name} must be {{type: image}} or {{type: text, text: ...}}, got {_shown(item)}")


def _holds_none(images: Any) -> bool:
    """How a text row of a file with images says that it has none: ``[None]`` or ``[""]``."""
    return isinstance(images, list | tuple) and all(item is None or item == "" for item in images)


def _check_image_places(places: int, images: tuple[ImageRef, ...], key: str) -> None:
    if places != len(images):
        raise _fault("image_count", f"the prompt has {places} image parts and {key!r} has {len(images)} images")


def _answer(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise _fault("answer", f"{key!r} must be text, got {_shown(value)}")
    if _says_nothing(value):
        raise _fault("empty_response", f"{key!r} is empty")
    return _clean(value, key)


def _says_nothing(text: str) -> bool:
    """Blanks, characters that nobody sees, and ends of turns only."""
    left = text.strip()
    if left[:1].isalnum():
        return False
    while mark := next((mark for mark in END_MARKS if left.endswith(mark)), None):
        left = left.removesuffix(mark).strip()
    return all(char.isspace() or unicodedata.category(char) in ("Cf", "Cc") for char in left)


def _score(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _fault("score", f"{key!r} must be a number, got {_shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _fault("score", f"{key!r} must be finite, got {_shown(value)}")
    return number


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _fault(key, f"{key!r} must be text, got {_shown(value)}")
    return _clean(value, key)


def _meta(value: Any, asides: Mapping[str, Any]) -> dict[str, Any]:
    if value is None:
        return dict(asides)
    if not isinstance(value, Mapping):
        raise _fault("meta", f"'meta' must be a mapping, got {_shown(value)}")
    return {**value, **asides} if asides else dict(value)


def _template_kwargs(value: Any) -> dict[str, Any] | None:
    """What the row gives the chat template: a mapping of JSON values, or one written as JSON text."""
    if value is None:
        return None
    try:
        found = without_filled(json.loads(value) if isinstance(value, str) else value)
        written = json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _fault("template_kwargs", f"'template_kwargs' must hold JSON values: {error}") from error
    if not isinstance(found, dict):
        raise _fault("template_kwargs", f"'template_kwargs' must be a mapping, got {_shown(value)}")
    return json.loads(written) or None


def without_filled(value: Any) -> Any:
    """A value without the keys that a parquet reader filled with None, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): without_filled(item) for key, item in value.items() if item is not None}
    return [without_filled(item) for item in value] if isinstance(value, list | tuple) else value


def _clean(text: str, name: str) -> str:
    """The text itself, proved to be encodable: JSON can spell half a character, which no tokenizer takes."""
    if text.isascii():  # nearly always, and a hundred times faster than to encode it
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _fault("text_encoding", f"{name!r} has half a surrogate pair at character {error.start + 1}") from error
    return text


def _same(one: str, two: str) -> bool:
    """Whether two texts are one, blanks around them and ways to write an accent aside."""
    if one.isascii() and two.isascii():
        return one == two or one.strip() == two.strip()
    return _folded(one) == _folded(two)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def _shown(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, bool | int | float) or value is None:
        try:
            return f"{kind} {value!r}"[:80]
        except ValueError:  # a whole number too long to print
            return f"a huge {kind}"
    return f"{kind} {str(value)[:60]!r}"


def _fault(reason: str, detail: str) -> RowError:
    return RowError(detail, reason=reason)
