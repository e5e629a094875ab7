"""The pieces of a foreign row put together: id, scores, images in their places, and what is left over as ``meta``.

Here every format meets the list of columns that change a pair: what is read the same way for all is read here, and a
row with one that nobody read is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpref.data.formats.columns import SCORE_PAIRS, other_scores
from mmpref.data.formats.contract import FormatOptions, Row
from mmpref.data.formats.fields import (
    Images,
    Message,
    fault,
    number,
    optional_text,
    read_images,
    shown,
)
from mmpref.data.formats.shared_fields import Shared, asides_of, take_shared, with_system
from mmpref.data.formats.unread import refuse_hidden, refuse_pieces, refuse_unread
from mmpref.data.formats.video_places import refuse_places, with_video_places
from mmpref.data.formats.written_out import may_be_written_out, read_written_out
from mmpref.data.pairs import LINKS
from mmpref.data.placeholders import links_to_images, refuse_images, refuse_marks

IMAGE_NAMES = "image_names"
"""In the ``meta`` of a row: what its embedded images are called in it, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalRow:
    """What a format read from one foreign row; :meth:`build` makes the canonical row of it."""

    prompt: Sequence[Message]
    images: Images
    chosen: str
    rejected: str | None
    used: tuple[str, ...]
    """Keys of the row that were read; ``ids``, the scores and ``meta`` are added to them."""
    ids: Sequence[str] = ("id",)
    """Keys that may have the id, in order."""
    suffix: str = ""
    """Makes the ids of several pairs of one row differ."""
    meta: Mapping[str, Any] | None = None
    """Facts that the format found, added to what is left over."""
    rejected_images: Images | None = None
    response_prefix: str = ""
    scores: tuple[float, float] | None = None
    """Of the chosen and the rejected answer; None takes the row's own."""
    look_for_scores: bool = True
    """Whether the row's own may have other names than ours."""
    other_images: Images | None = None
    label: Any = None
    """Of a single answer, as the row has it."""
    weight: float | None = None
    """Of the pair's whole loss, by which the row's own is multiplied; None takes that alone."""
    rejected_weight: Any = None
    """Of the rejected answer's tokens; None takes the row's own."""
    ignored: Sequence[str] = ()
    """Columns on the list of those that change a pair which this format knows to change nothing."""

    def build(self, row: Row, options: FormatOptions) -> dict[str, Any]:
        """The canonical row; what was not used goes to ``meta``, untouched.

        A system prompt, tools, switches of the chat template, ``response_prefix``, ``rejected_images``,
        ``other_images`` and weights are read here, whatever the format, from columns that are not ``used``.

        Raises:
            RowError: image places and images that do not match, or a column that changes the pair and was not read.
        """
        said = self._without_markup(row)
        own = (*self.scores, ()) if self.scores is not None else _scores(row, self.look_for_scores)
        score_chosen, score_rejected, score_keys = own
        row_id, id_key = _id(row, self.ids, options)
        spent = {*self.used, *SCORE_PAIRS[0], *score_keys, "meta", "source", *([id_key] if id_key else [])}
        if self.images.videos:
            spent |= {"video", "videos"}
        left = {key: value for key, value in row.items() if key not in spent and value is not None}
        shared = take_shared(left, prefix=self.response_prefix) if left else Shared(prefix=self.response_prefix)
        prompt = with_system(self._with_videos(said, row, left), shared.system)
        rejected_images, rejected_key = self.rejected_images, "rejected_images"
        if rejected_images is None and shared.rejected_images is not None:
            rejected_key = shared.rejected_images[1]
            rejected_images = read_images(*shared.rejected_images, options)
        other_images, other_key = self.other_images, "other_images"
        if other_images is None and shared.other_images is not None:
            other_key = shared.other_images[1]
            other_images = read_images(*shared.other_images, options)
        self._refuse_unfit(said, shared)
        meta = _own_meta(row)
        self._refuse_unread(row, left, meta, id_key=id_key, prompt=_texts(prompt), said=said)
        kinds = [part["type"] for message in prompt for part in message["content"]]
        _refuse_other_counts(
            kinds.count("image"), {"images": self.images, rejected_key: rejected_images, other_key: other_images}
        )
        if (places := kinds.count("video")) != len(self.images.videos):
            raise fault(
                "video_count", f"the prompt has {places} video parts and the row has {len(self.images.videos)} videos"
            )
        if links := _links_in(prompt, is_shown=bool(places) or "image" in kinds):
            said.taken_off[LINKS] = said.taken_off.get(LINKS, 0) + links
        if self.images.names:
            left.setdefault(IMAGE_NAMES, self.images.names)
        found = (*left.items(), *asides_of(row, self.used).items(), *said.taken_off.items(), *(self.meta or {}).items())
        for key, value in found:
            if key in meta and key not in said.taken_off:
                raise fault("meta", f"{key!r} is in the row and in its 'meta'")
            meta[key] = value
        result: dict[str, Any] = {
            "id": options.id_prefix + row_id + self.suffix,
            "images": self.images.items,
            "prompt": list(prompt),
            "chosen": said.chosen,
            "rejected": said.rejected,
            "rejected_images": None if rejected_images is None else rejected_images.items,
            "response_prefix": shared.prefix or None,
            "score_chosen": score_chosen,
            "score_rejected": score_rejected,
            "source": optional_text(row, "source") or options.source or None,
            "meta": meta or None,
            "template_kwargs": shared.template_kwargs,
            "videos": self.images.videos or None,
            "other_images": None if other_images is None else other_images.items,
            "weight": self._weight(shared.weights.get("weight")),
            "chosen_weight": shared.weights.get("chosen_weight"),
            "rejected_weight": shared.weights.get("rejected_weight", self.rejected_weight),
            "label": self.label,
        }
        return {key: value for key, value in result.items() if value is not None}

    def _weight(self, own: Any) -> Any:
        if self.weight is None:
            return own
        return self.weight if own is None else self.weight * own

    def _refuse_unfit(self, said: _Spoken, shared: Shared) -> None:
        """Refuse spans that count the characters of an answer which begins or ends elsewhere than in the row, and
        images of a rejected answer that a single answer does not have."""
        if self.label is not None and shared.rejected_images is not None:
            raise fault(
                "rejected_images",
                f"column {shared.rejected_images[1]!r} holds images of a rejected answer, and the row is a single "
                "answer with a label: drop the column, or give the rejected answer",
            )
        for side, read, written in (("chosen", said.chosen, self.chosen), ("rejected", said.rejected, self.rejected)):
            if read != written and isinstance(shared.weights.get(f"{side}_weight"), list | tuple):
                raise fault(
                    "answer_weight",
                    f"'{side}_weight' has spans of an answer from which marks of a chat template are taken off, so "
                    "that they would be of other characters: take the marks off in the row, and count anew",
                )

    def _with_videos(self, said: _Spoken, row: Row, left: Row) -> Sequence[Message]:
        """The prompt with its videos in their places; rows without any keep it."""
        videos = self.images.videos
        if not videos:
            return said.prompt
        for key, answer in (("chosen", said.chosen), ("rejected", said.rejected or "")):
            refuse_places(answer, key)
        refuse_pieces(left, videos)
        texts = [row.get(key) for key in self.used]
        return with_video_places(said.prompt, len(videos), num_images=len(self.images.items), texts=texts)

    def _without_markup(self, row: Row) -> _Spoken:
        """Prompt and answers without the marks of a chat template that the row is written out in."""
        if not may_be_written_out(self.prompt, self.chosen, self.rejected):
            return _Spoken(self.prompt, self.chosen, self.rejected)
        plain = not any(_is_talk(row.get(key)) for key in self.used)
        prompt, chosen, rejected, taken_off = read_written_out(self.prompt, self.chosen, self.rejected, plain=plain)
        return _Spoken(prompt, chosen, rejected, taken_off, _texts(self.prompt), [self.chosen, self.rejected or ""])

    def _refuse_unread(
        self, row: Row, left: Row, meta: Row, *, id_key: str | None, prompt: list[str], said: _Spoken
    ) -> None:
        media = [*self.images.items, *self.images.videos]
        if meta or not media:
            refuse_hidden(row, meta, id_key=id_key, images=media, prompt=prompt)
        if left:
            refuse_unread(
                left,
                images=self.images.items,
                videos=self.images.videos,
                prompt=[*prompt, *said.prompt_as_written],
                answers=[said.chosen, said.rejected or "", *said.answers_as_written],
                ignored=self.ignored,
            )


@dataclass(frozen=True, slots=True)
class _Spoken:
    """Prompt and answers, and what they were before marks were taken off: another column may repeat them so."""

    prompt: Sequence[Message]
    chosen: str
    rejected: str | None
    taken_off: dict[str, Any] = field(default_factory=dict)
    prompt_as_written: Sequence[str] = ()
    answers_as_written: Sequence[str] = ()


def _refuse_other_counts(places: int, sides: Mapping[str, Images | None]) -> None:
    """Refuse images that are not as many as their places in the prompt."""
    for key, side in sides.items():
        if side is not None and places != len(side.items):
            raise fault("image_count", f"the prompt has {places} image places and {key!r} has {len(side.items)} images")


def _links_in(prompt: Sequence[Message], *, is_shown: bool) -> int:
    """How many images the texts of a prompt without images and videos link to.

    Args:
        prompt: as it is read.
        is_shown: it has an image or a video.

    Raises:
        RowError: marks of a chat template, or images written into the text.
    """
    num_links = 0
    for role, content in _role_texts(prompt):
        refuse_marks(content, "the prompt", has_images=is_shown)
        if not is_shown and ("](" in content or "<" in content):
            if role == "user":  # other turns show nothing: they say how images are written, or write them
                refuse_images(content, "the prompt")
            num_links += links_to_images(content)
    return num_links


def _texts(prompt: Iterable[Message]) -> list[str]:
    return [content for _, content in _role_texts(prompt)]


def _role_texts(prompt: Iterable[Message]) -> list[tuple[str, str]]:
    """Who says what."""
    return [
        (message["role"], part["text"]) for message in prompt for part in message["content"] if part["type"] == "text"
    ]


def _is_talk(value: Any) -> bool:
    """A list of messages. Beside one, a text that ends with ``Assistant:`` is what someone said."""
    is_list = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping)
    return is_list and ("role" in value[0] or "from" in value[0])


def _scores(row: Row, look: bool) -> tuple[float | None, float | None, Sequence[str]]:
    """The scores of both answers, and their columns. Under other names than ours they are read where both are numbers
    and no other pair of columns says otherwise."""
    ours = tuple([number(row.get(key), key) for key in SCORE_PAIRS[0]])
    if ours != (None, None) or not look:
        return ours[0], ours[1], ()
    found: dict[tuple[float, float], list[str]] = {}
    for keys in other_scores(tuple(row)):
        values = [row[key] for key in keys]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            better, worse = (number(value, key) for value, key in zip(values, keys, strict=True))
            found.setdefault((better or 0.0, worse or 0.0), []).extend(keys)
    if len(found) != 1:
        return None, None, ()
    (((chosen, rejected), columns),) = found.items()
    return chosen, rejected, columns


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
