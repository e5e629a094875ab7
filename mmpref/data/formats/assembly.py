"""The pieces of a foreign row put together: id, scores, images in their places, and what is left over as ``meta``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmpref.data.formats.border import IMAGE_PART, Images, Message, fault, number, optional_text, shown
from mmpref.data.formats.contract import FormatOptions, Row


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
) -> dict[str, Any]:
    """The canonical row; what was not used goes to ``meta``, untouched.

    Args:
        used: keys of the row that were read; ``ids``, the scores and ``meta`` are added to them.
        ids: where the id may stand, in order.
        suffix: makes the ids of several pairs of one row differ.
        meta: facts that the adapter found, added to what is left over.
        scores: of the chosen and the rejected answer; None takes the row's own ``score_chosen`` and ``score_rejected``.
    """
    places = sum(part == IMAGE_PART for message in prompt for part in message["content"])
    for key, side in (("images", images), ("rejected_images", rejected_images)):
        if side is not None and places != len(side.items):
            raise fault("image_count", f"the prompt has {places} image places and {key!r} has {len(side.items)} images")
    names = ("score_chosen", "score_rejected")
    given = [number(row.get(key), key) for key in names] if scores is None else list(scores)
    row_id, id_key = _id(row, ids, options)
    spent = {*used, *names, "meta", "source", *([id_key] if id_key else [])}
    kept = _own_meta(row)
    left = {key: value for key, value in row.items() if key not in spent and value is not None}
    if images.names:
        left.setdefault("image_names", images.names)
    for key, value in (*left.items(), *(meta or {}).items()):
        if key in kept:
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
        "response_prefix": response_prefix or None,
        **dict(zip(names, given, strict=True)),
        "source": source or None,
        "meta": kept or None,
    }
    return {key: value for key, value in result.items() if value is not None}


def _id(row: Row, keys: Sequence[str], options: FormatOptions) -> tuple[str, str | None]:
    for key in keys:
        value = row.get(key)
        if value is None:
            continue
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            return str(value), key
        if not isinstance(value, str) or not value.strip():
            raise fault("id", f"{key!r} must be a non-empty text or a whole number, got {shown(value)}")
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
