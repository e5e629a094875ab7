"""ms-swift's rows: messages, shared talks or question and answer, with what is rejected beside them.

Its rules, from ``swift/dataset/preprocessor/core.py`` and ``swift/template/template_inputs.py`` of
modelscope/ms-swift: one column of several names holds the question, one the answer (two of a kind are not renamed);
``rejected_response`` is text or the turns after the last question, none of them the user's; with it the rejected side
has the images and videos of the chosen one, with ``rejected_messages`` those of ``rejected_images`` and
``rejected_videos`` alone; two answers that are the same are an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpref.data.formats import writers
from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import InParts, chat_messages, images_in_parts
from mmpref.data.formats.columns import REJECTED_VIDEO, refuse
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    IMAGE_PART,
    PLACEHOLDER,
    Images,
    Message,
    answer_without_images,
    fault,
    has,
    has_any,
    is_text,
    is_turns,
    parts_of,
    placeholder_turn,
    read_images,
    read_videos,
    shown,
    text,
    turn,
    without_none,
)
from mmpref.data.formats.frameworks import LOSS_NOT_HELD, history_of, images_of

_TALKS = ("messages", "conversation", "conversations")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant"}
_ASKED = ("instruction", "input", "query", "prompt", "question", "problem")
_ANSWERED = (
    "response", "answer", "output", "targets", "target", "answer_key", "answers", "solution", "text", "completion",
    "content",
)  # fmt: skip
_REJECTED = ("rejected_response", "rejected_messages", "rejected_images", "rejected_videos")


def _talk_key(row: Row) -> str | None:
    """The column of the whole conversation, where one and no more has one."""
    found = [key for key in _TALKS if has(row, key)]
    return found[0] if len(found) == 1 else None


def _question_keys(row: Row) -> tuple[tuple[str, ...], str] | None:
    """The columns of the question and of the answer; two of the question are ``instruction`` and ``input`` together."""
    asked = tuple(key for key in _ASKED if has(row, key))
    answered = [key for key in _ANSWERED if has(row, key)]
    both = ("response", "query")
    if len(answered) > 1 or len(asked) > 1:  # a column that has ms-swift's own name goes before others
        answered = [key for key in answered if key in both] or answered
        if asked != ("instruction", "input"):
            asked = tuple(key for key in asked if key in both) or asked
    if len(answered) != 1 or not (len(asked) == 1 or asked == ("instruction", "input")):
        return None
    return asked, answered[0]


def _is_swift(row: Row) -> bool:
    if not (row.get("rejected_response") or row.get("rejected_messages") or row.get("rejected_images")):
        return False
    if has_any(row, "chosen", "chosen_response", "chosen_messages", "rejected"):
        return False
    if has_any(row, *_TALKS):
        return True
    keys = _question_keys(row)
    return keys is not None and is_text(row, *keys[0], keys[1])


def _swift(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """ms-swift's row. Where there are more images than places, the missing places come before what is said first: its
    own rule, and the reason why many of its files have no places at all."""
    turns, used, inside = _talk(row)
    answer = _said(turns[-1], used[-1])
    rejected = _rejected(row, turns, answer)
    more = read_images(row["rejected_images"], "rejected_images", options) if has(row, "rejected_images") else None
    images = images_in_parts(inside, images_of(row, options), options)
    for medium, items in (("image", images.items), ("video", images.videos)):
        if items and has(row, "rejected_messages") and not has(row, f"rejected_{medium}s"):
            raise fault(
                f"{medium}_count",
                f"'rejected_messages' has no {medium}s of its own: ms-swift takes them from 'rejected_{medium}s' "
                "alone; add that column, or give the rejected answer as 'rejected_response'",
            )
    if has(row, "rejected_videos") and read_videos(row["rejected_videos"], "videos", options) != images.videos:
        refuse("rejected_videos", REJECTED_VIDEO)
    return [
        CanonicalRow(
            prompt=_with_missing(turns[:-1], images),
            images=images,
            chosen=answer,
            rejected=answer_without_images(rejected, "rejected"),
            used=("image", "images", *used, *_REJECTED),
            rejected_images=more,
        ).build(row, options)
    ]


def _talk(row: Row) -> tuple[list[Message], tuple[str, ...], InParts]:
    """The turns with the answer, the columns that they are from, and the images inside of them."""
    inside = InParts()
    if not has_any(row, *_TALKS):
        return *_questions(row), inside
    key = _talk_key(row)
    if key is None:
        raise fault("prompt", f"the row has more than one of the columns {', '.join(_TALKS)}; keep one")
    return _swift_turns(row, key, inside), (key,), inside


def _with_missing(prompt: list[Message], images: Images) -> list[Message]:
    """The prompt with places for all images: those that are missing come before what is said first."""
    missing = len(images.items) - sum(part == IMAGE_PART for message in prompt for part in message["content"])
    first = next((message for message in prompt if message["role"] == "user"), None)
    if first is not None and missing > 0:
        first["content"] = [*(dict(IMAGE_PART) for _ in range(missing)), *first["content"]]
    return prompt


def swift_answered(row: Row, options: FormatOptions) -> tuple[list[Message], str, Images, tuple[str, ...]]:
    """The prompt of a row with one answer, that answer, its images, and the columns that were read."""
    turns, used, inside = _talk(row)
    images = images_in_parts(inside, images_of(row, options), options)
    return _with_missing(turns[:-1], images), _said(turns[-1], used[-1]), images, used


def _rejected(row: Row, turns: list[Message], answer: str) -> str:
    """The rejected answer; the chosen one where only the images differ."""
    if has(row, "rejected_response", "rejected_messages"):
        raise fault("answer", "the row has both 'rejected_response' and 'rejected_messages'")
    if has(row, "rejected_messages"):
        others = _swift_turns(row, "rejected_messages", InParts())
        if others[:-1] != turns[:-1]:
            raise fault("prompt_differs", "the row's turns and 'rejected_messages' do not begin with the same turns")
        return _said(others[-1], "rejected_messages")
    if isinstance(row.get("rejected_response"), list | tuple):  # the turns after the last question
        others = _swift_turns(row, "rejected_response", InParts())
        if len(others) != 1:
            raise fault("answer", f"'rejected_response' has {len(others)} messages; a pair has one answer on each side")
        return _said(others[0], "rejected_response")
    return text(row, "rejected_response") if has(row, "rejected_response") else answer


def _swift_turns(row: Row, key: str, inside: InParts) -> list[Message]:
    """Messages of texts with placeholders, or of lists of parts, whose texts may hold placeholders too."""
    given = row.get(key)
    if isinstance(given, list | tuple) and (is_turns(given, "human") or is_turns(given, "user")):
        given = _in_rounds(given, key)
    elif isinstance(given, list | tuple):
        given = [_message(item, f"{key}[{place}]", place == len(given) - 1) for place, item in enumerate(given)]
    turns = []
    for place, message in enumerate(chat_messages(given, key, inside)):
        if message["role"] == "user":
            content = [
                found
                for part in message["content"]
                for found in (parts_of(part["text"]) if part["type"] == "text" else [part])
            ]
            turns.append(turn("user", content))
        elif any(part["type"] != "text" or PLACEHOLDER in part["text"] for part in message["content"]):
            raise fault("image_place", f"{key}[{place}] holds an image or a video; they belong in user turns")
        else:
            turns.append(message)
    return turns


def _said(message: Message, key: str) -> str:
    """The answer that ends a list of turns."""
    if message["role"] != "assistant":
        raise fault("answer", f"{key!r} must end with the answer of the assistant")
    return "".join(part["text"] for part in message["content"])


def _message(item: Any, name: str, is_last: bool) -> Any:
    """A message with the role and the text under our names, and without its weight in the loss: only the last answer is
    trained here, and earlier ones, the same on both sides, leave DPO's loss as it is."""
    given = without_none(item)
    if not given or not isinstance(given.get("role", given.get("from")), str):
        return item  # said by the reader of messages
    if given.keys() == {"role", "content"} and given["role"] not in _ROLES:
        return item
    if "from" in given and "value" in given and not has_any(given, "role", "content"):
        given["role"], given["content"] = given.pop("from"), given.pop("value")
    if "role" in given:
        given["role"] = _ROLES.get(given["role"], given["role"])
    for key in ("loss", "loss_scale"):
        weight = given.pop(key, None)
        is_fair = weight is None or (
            isinstance(weight, bool | int | float)
            and (weight == 1 if is_last else weight in (0, 1) if given.get("role") == "assistant" else not weight)
        )
        if not is_fair:
            raise fault(
                "loss_weight",
                f"{name}.{key} is {shown(weight)}: only the last answer is trained, with the weight 1",
            )
    return given


def _in_rounds(rounds: Sequence[Any], key: str) -> list[Message]:
    """Rounds of question and answer: ``{"human", "assistant"}``."""
    found = []
    for place, item in enumerate(rounds):
        given = without_none(item)
        asked = [name for name in ("user", "human") if name in given]
        answered = [name for name in ("assistant", "gpt", "bot") if name in given]
        if len(asked) != 1 or len(answered) != 1 or len(given) != 2:
            raise fault("prompt", f"{key}[{place}] must be a question ('human') and an answer ('assistant')")
        found += [{"role": "user", "content": given[asked[0]]}, {"role": "assistant", "content": given[answered[0]]}]
    return found


def _questions(row: Row) -> tuple[list[Message], tuple[str, ...]]:
    """The turns of question and answer, after earlier ones, and their columns."""
    keys = _question_keys(row)
    if keys is None:
        raise fault("prompt", "the row has no column of a question and one of an answer, or several")
    asked, answered = keys
    turns: list[tuple[str, str]] = []
    for question, answer in history_of(row):
        turns += [("user", question), ("assistant", answer)]
    question = "\n".join(piece for key in asked if (piece := text(row, key, reason="prompt")))
    turns += [("user", question), ("assistant", text(row, answered))]
    return [placeholder_turn(role, content) for role, content in turns], ("history", *asked, answered)


SWIFT = (
    Format(
        name="ms_swift",
        title="ms-swift: messages with a rejected answer",
        signature="messages, conversation(s), or query and response (question, prompt ... and answer, output ...), and "
        "rejected_response, rejected_messages or rejected_images; images",
        key=None,
        matches=_is_swift,
        to_canonical=_swift,
        from_canonical=writers.to_ms_swift,
        cannot_hold=("response_prefix", *LOSS_NOT_HELD),
    ),
)
