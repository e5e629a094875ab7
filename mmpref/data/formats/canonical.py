"""The pieces of a foreign row put together: id, scores, images in their places, and what is left over as ``meta``.

Here every format meets the list of columns that change a pair: what is read the same way for all is read here, and a
row with one that nobody read is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmpref.data.formats.columns import SCORE_PAIRS, other_scores
from mmpref.data.formats.contract import FormatOptions, Row
from mmpref.data.formats.fields import IMAGE_PART, Images, Message, fault, number, optional_text, read_images, shown
from mmpref.data.formats.shared_fields import Shared, asides_of, take_shared, with_system
from mmpref.data.formats.unread import refuse_hidden, refuse_unread
from mmpref.data.formats.written_out import may_be_written_out, read_written_out
from mmpref.data.pairs import LINKS
from mmpref.data.placeholders import links_to_images, refuse_images, refuse_marks


def canonical(
    row: Row,
    options: FormatOptions,
    *,
    prompt: Sequence[Message],
    images: Images,
    chosen: str,
    rejected: str | None,
    used: Iterable[str],
    ids: Sequence[str] = ("id",),
    suffix: str = "",
    meta: Mapping[str, Any] | None = None,
    rejected_images: Images | None = None,
    response_prefix: str = "",
    scores: tuple[float, float] | None = None,
    look_for_scores: bool = True,
    told: Sequence[str] = (),
) -> dict[str, Any]:
    """The canonical row; what was not used goes to ``meta``, untouched.

    A system prompt, tools, switches of the chat template, ``response_prefix`` and ``rejected_images`` are read here,
    whatever the format, from columns that are not ``used``.

    Args:
        used: keys of the row that were read; ``ids``, the scores and ``meta`` are added to them.
        ids: where the id may stand, in order.
        suffix: makes the ids of several pairs of one row differ.
        meta: facts that the adapter found, added to what is left over.
        scores: of the chosen and the rejected answer; None takes the row's own.
        look_for_scores: whether the row's own may stand under other names than ours.
        told: columns on the list of those that change a pair which this format knows to change nothing.

    Raises:
        RowError: image places and images that do not match, or a column that changes the pair and was not read.
    """
    used = tuple(used)
    taken_off: dict[str, Any] = {}
    written: tuple[list[str], list[str]] = ([], [])  # with their marks, as another column may repeat them
    if may_be_written_out(prompt, chosen, rejected):
        plain = not any(_is_talk(row.get(key)) for key in used)
        written = (_texts(prompt), [chosen, rejected or ""])
        prompt, chosen, rejected, taken_off = read_written_out(prompt, chosen, rejected, plain=plain)
    pair_scores, score_keys = (scores, ()) if scores is not None else _scores(row, look_for_scores)
    row_id, id_key = _id(row, ids, options)
    spent = {*used, *SCORE_PAIRS[0], *score_keys, "meta", "source", *([id_key] if id_key else [])}
    left = {key: value for key, value in row.items() if key not in spent and value is not None}
    shared = take_shared(left, prefix=response_prefix) if left else Shared(prefix=response_prefix)
    prompt = with_system(prompt, shared.system)
    rejected_key = "rejected_images"
    if rejected_images is None and shared.rejected_images is not None:
        rejected_key = shared.rejected_images[1]
        rejected_images = read_images(*shared.rejected_images, options)
    texts = _texts(prompt)
    kept = _own_meta(row)
    if kept or not images.items:
        refuse_hidden(row, kept, id_key=id_key, images=images.items, prompt=texts)
    if left:
        asked, said = [*texts, *written[0]], [chosen, rejected or "", *written[1]]
        refuse_unread(left, images=images.items, prompt=asked, answers=said, told=told)
    places = sum([part == IMAGE_PART for message in prompt for part in message["content"]])
    for key, side in (("images", images), (rejected_key, rejected_images)):
        if side is not None and places != len(side.items):
            raise fault("image_count", f"the prompt has {places} image places and {key!r} has {len(side.items)} images")
    for role, content in _said(prompt):
        refuse_marks(content, "the prompt", has_images=bool(places))
        if not places and ("](" in content or "<" in content):
            if role == "user":  # other turns show nothing: they say how images are written, or write them
                refuse_images(content, "the prompt")
            if links := links_to_images(content):
                taken_off[LINKS] = taken_off.get(LINKS, 0) + links
    if images.names:
        left.setdefault("image_names", images.names)
    for key, value in (*left.items(), *asides_of(row, used).items(), *taken_off.items(), *(meta or {}).items()):
        if key in kept and key not in taken_off:
            raise fault("meta", f"{key!r} stands in the row and in its 'meta'")
        kept[key] = value
    source = optional_text(row, "source") or options.source
    result: dict[str, Any] = {
        "id": options.id_prefix + row_id + suffix,
        "images": images.items,
        "prompt": list(prompt),
        "chosen": chosen,
        "rejected": rejected,
        "rejected_images": None if rejected_images is None else rejected_images.items,
        "response_prefix": shared.prefix or None,
        "score_chosen": pair_scores[0],
        "score_rejected": pair_scores[1],
        "source": source or None,
        "meta": kept or None,
        "template_kwargs": shared.template_kwargs,
    }
    return {key: value for key, value in result.items() if value is not None}


def _texts(prompt: Iterable[Message]) -> list[str]:
    return [content for _, content in _said(prompt)]


def _said(prompt: Iterable[Message]) -> list[tuple[str, str]]:
    """Who says what."""
    return [
        (message["role"], part["text"]) for message in prompt for part in message["content"] if part["type"] == "text"
    ]


def _is_talk(value: Any) -> bool:
    """A list of messages. Beside one, a text that ends with ``Assistant:`` is what someone said."""
    is_list = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
    return is_list and ("role" in value[0] or "from" in value[0])


def _scores(row: Row, look: bool) -> tuple[tuple[float | None, float | None], Sequence[str]]:
    """The scores of both answers and their columns. Under other names than ours they are read where both are numbers
    and no other pair of columns says otherwise."""
    ours = tuple([number(row.get(key), key) for key in SCORE_PAIRS[0]])
    if ours != (None, None) or not look:
        return (ours[0], ours[1]), ()
    found: dict[tuple[float, float], list[str]] = {}
    for keys in other_scores(tuple(row)):
        values = [row[key] for key in keys]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            chosen, rejected = (number(value, key) for value, key in zip(values, keys, strict=True))
            found.setdefault((chosen or 0.0, rejected or 0.0), []).extend(keys)
    if len(found) != 1:
        return (None, None), ()
    ((both, columns),) = found.items()
    return both, columns


def _id(row: Row, keys: Sequence[str], options: FormatOptions) -> tuple[str, str | None]:
    for key in keys:
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return str(value), key
        if not isinstance(value, str) or not value.strip():
            raise fault("id", f"{key!r} must be a non-empty text or a whole number below 2**63, got {shown(value)}")
        return value, key
    if options.place is not None:
        return options.place, None
    try:
        content = json.dumps(row, sort_keys=True, default=_hashable).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise fault("id", f"the row has no id, and its content cannot be hashed into one: {error}") from error
    return hashlib.blake2b(content, digest_size=10).hexdigest(), None


def _hashable(value: Any) -> str:
    return hashlib.blake2b(value, digest_size=20).hexdigest() if isinstance(value, bytes) else repr(value)


def _own_meta(row: Row) -> dict[str, Any]:
    """The row's own ``meta``: a mapping, or a mapping written as JSON text (as our writers do)."""
    value = row.get("meta")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise fault("meta", f"'meta' is text and not a JSON object: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise fault("meta", f"'meta' must be a mapping, got {shown(value)}")
    return dict(value)
