"""Some of a run's pairs as people read them (``pair_texts.jsonl``), for a report that has only the run folder."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.files.writing import json_text, write_text
from mmpref.records import ImageRef, Message, PreferencePair, VideoRef
from mmpref.training.trainer.pair_log import place_of

MOST = 256
"""Pairs of each set that are written."""
_PLACES = {"image": "<image>", "video": "<video>"}


def write_pair_texts(path: Path, train: Sequence[PreferencePair], held_out: Sequence[PreferencePair]) -> None:
    """Write up to :data:`MOST` training pairs and as many held-out ones, atomically, one JSON object a line.

    They are those whose ids have the smallest hashes, by which ``train.pair_log`` chooses too: a sampled log has the
    statistics of the pairs that can be read, as far as it has as many. Answers are whole. Characters that JSON escapes
    are escaped, half a surrogate pair among them.

    Raises:
        CheckpointError: the file cannot be written.
    """
    rows = [*_rows("train", train), *_rows("eval", held_out)]
    write_text(path, "".join(f"{json_text(row)}\n" for row in rows))


def _rows(name: str, pairs: Sequence[PreferencePair]) -> Iterator[Mapping[str, Any]]:
    once = {pair.id: pair for pair in pairs}  # a weighted source repeats its pairs
    for pair in heapq.nsmallest(MOST, once.values(), key=lambda pair: (place_of(pair.id), pair.id)):
        yield as_text(pair, name)


def as_text(pair: PreferencePair, set_name: str) -> dict[str, Any]:
    """A pair as a row of ``pair_texts.jsonl``.

    ``images`` (and ``videos``, ``rejected_images`` where there are any) are paths relative to the data root; what is
    embedded in the data has no path, and stands there as null. ``rejected`` is null for a single answer, which has a
    ``label`` where the data says whether it is desirable.
    """
    row: dict[str, Any] = {
        "id": pair.id,
        "set": set_name,
        "prompt": prompt_text(pair.prompt, pair.response_prefix),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "images": _paths(pair.images),
        "score_chosen": pair.score_chosen,
        "score_rejected": pair.score_rejected,
    }
    if pair.videos:
        row["videos"] = _paths(pair.videos)
    if pair.rejected_images is not None and not pair.has_same_images:
        row["rejected_images"] = _paths(pair.rejected_images)
    if pair.label is not None:
        row["label"] = pair.label
    if pair.source:
        row["source"] = pair.source
    return row


def prompt_text(prompt: Sequence[Message], response_prefix: str = "") -> str:
    """A prompt as people read it: ``<image>`` and ``<video>`` on lines of their own where the model sees them, and the
    role before each message, but for a single one of the user. The beginning of the answer that is given comes last.
    """
    written = [(message.role, _text(message)) for message in prompt]
    if response_prefix:
        written.append(("assistant", response_prefix))
    if len(written) == 1 and written[0][0] == "user":
        return written[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in written)


def _text(message: Message) -> str:
    pieces: list[str] = []
    for part in message.parts:
        place = _PLACES.get(part.kind)
        if place is None:
            pieces.append(part.text.removeprefix("\n") if pieces and pieces[-1].endswith("\n") else part.text)
        else:
            lead = "" if not pieces or pieces[-1].endswith("\n") else "\n"
            pieces.append(f"{lead}{place}\n")
    return "".join(pieces).removesuffix("\n")


def _paths(files: Sequence[ImageRef | VideoRef]) -> list[str | None]:
    return [file.path for file in files]
