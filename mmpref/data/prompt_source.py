"""Prompts to sample answers for, from any source of rows: pair sets, question files, conversations, folders of images.

Rows used + rows quarantined + duplicates = rows read. Images are not opened.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpref.data.card import load_card
from mmpref.data.formats import FormatOptions, fitting, format_named
from mmpref.data.formats.canonical import IMAGE_NAMES
from mmpref.data.formats.media_values import looks_like_image
from mmpref.data.formats.prompt_only import PromptRow, prompt_of
from mmpref.data.pair_source import canonical_rows
from mmpref.data.pairs import ANSWER_KEYS, PAIR_KEYS, PROMPT_KEYS, prompt_from_row, row_name
from mmpref.data.quarantine import NO_PAIR, Quarantine, RowError
from mmpref.data.reading.rows import FileFormat, OnFault, RowSource, SourceRow
from mmpref.data.reading.source import open_source
from mmpref.errors import ConfigError, DataError
from mmpref.records import Prompt, PromptKey, VideoRef

PROMPTS_ONLY = "prompts"
"""The name of the format of rows without preferences, where the rows shall not be looked at for one."""
DUPLICATES, ANSWERS_DROPPED = "duplicates", "answers_dropped"
_CANONICAL = frozenset(PAIR_KEYS)


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """A source of prompts, which can be read again and again.

    Args:
        rows: where the rows come from.
        format: the name of a row format, ``prompts`` for rows without preferences, or ``auto``: recognised row by row.
        options: what the format's adapter takes (a data card knows it).
        root: paths of images and videos start here; None: the rows' own folder.
        name: the prompts' ``source`` where the rows name none; None: the name of their file.
    """

    rows: RowSource
    format: str = "auto"
    options: FormatOptions = field(default_factory=FormatOptions)
    root: Path | None = None
    name: str | None = None

    @property
    def image_root(self) -> Path | None:
        """The absolute folder that relative paths of images and videos start from; None for a set of the hub."""
        root = self.root if self.root is not None else self.rows.folder
        return None if root is None else root.expanduser().absolute()

    def prompts(self, quarantine: Quarantine, counts: Counter[str] | None = None) -> Iterator[Prompt]:
        """The prompts in the order of their rows, each once.

        Two rows whose prompts have the same ``key`` (images by path) are one prompt, with the id of the first. A row
        without an id is named by its file and number. Answers, scores and the other columns of a pair set are left out.

        Args:
            quarantine: gets the rows that cannot be used, and how many were read and used. An id that another prompt
                has already is one of the reasons: ``id_twice``.
            counts: gets ``duplicates``, and ``answers_dropped``: conversations whose last answer was left out.
        """
        counts = Counter() if counts is None else counts
        keys: set[bytes] = set()
        ids: dict[str, bytes] = {}

        def refuse(file: str, number: int, fault: RowError, row_id: str | None) -> None:
            quarantine.num_read += 1
            quarantine.add(
                source=self._label(file),
                file=file,
                row=number,
                row_id=row_id,
                reason=fault.reason,
                detail=fault.detail,
            )

        for file, number, row in self.rows.rows(lambda file, number, fault: refuse(file, number, fault, fault.row_id)):
            place = f"{self._stem(file)}:{number}"
            try:
                found = _prompt_rows(row, self._row_format, self.options, place)
            except RowError as fault:
                refuse(file, number, fault, row_name(row))
                continue
            of_row: set[bytes] = set()  # several pairs of one row have one prompt
            for canonical, had_answer in found:
                counts[ANSWERS_DROPPED] += had_answer
                try:
                    prompt = prompt_from_row(canonical, source=self._label(file), line=number)
                    key = _digest(prompt.key)
                    if key in of_row:
                        continue
                    of_row.add(key)
                    if key not in keys and prompt.id in ids:
                        detail = f"the id {prompt.id[:200]!r} has another prompt already; give every prompt its own id"
                        raise RowError(detail, reason="id_twice", row_id=prompt.id)
                except RowError as fault:
                    refuse(file, number, fault, row_name(canonical))
                    continue
                quarantine.num_read += 1
                if key in keys:
                    counts[DUPLICATES] += 1
                    continue
                keys.add(key)
                ids[prompt.id] = key
                quarantine.num_used += 1
                yield prompt

    @property
    def _row_format(self) -> str:
        return self.rows.format if self.format == "auto" and self.rows.format is not None else self.format

    def _label(self, file: str) -> str:
        return self.name if self.name is not None else Path(self._stem(file)).name

    def _stem(self, file: str) -> str:
        """What the ids of a file's rows begin with: its name, with its folder where two files have the same name."""
        return self._stems.get(file) or (Path(file).stem if self.rows.files else self.rows.name)

    @functools.cached_property
    def _stems(self) -> Mapping[str, str]:
        names = Counter(file.stem for file in self.rows.files)
        return {str(file): file.stem if names[file.stem] == 1 else self._below(file) for file in self.rows.files}

    def _below(self, file: Path) -> str:
        above = self.rows.folder
        return file.relative_to(above).as_posix() if above is not None and file.is_relative_to(above) else str(file)


def read_prompts(
    spec: Path | str,
    *,
    root: Path | None = None,
    format: str = "auto",
    split: str | None = None,
    card: str | None = None,
    file_format: FileFormat | None = None,
) -> PromptSource:
    """Prompts of a pair set, of which the answers are left out, or of rows that only ask.

    Args:
        spec: file, folder or hub id; see :func:`mmpref.data.reading.source.open_source`.
        root: paths of images and videos start here; default: the source's own folder.
        format: name of a row format of pairs; ``prompts`` for rows without preferences; ``auto`` takes the card's, or
            recognises each row by its keys.
        split: where the source has several.
        card: name of the data card that describes the source.
        file_format: of the files, where their names do not say.

    Raises:
        ConfigError: no such format or card, or a choice that must be made.
        DataError: a source that cannot be opened.
    """
    if format not in ("auto", "canonical", PROMPTS_ONLY):
        format = format_named(format).name
    options = FormatOptions()
    if card is not None:
        known = load_card(card)
        options = known.options()
        format = known.format if format == "auto" else format
    rows = open_source(spec, split=split, file_format=file_format)
    name = None if card is None else options.source
    return PromptSource(rows=rows, format=format, options=options, root=root, name=name)


def prompts_of_images(folder: Path | str, question: str) -> PromptSource:
    """One question about each image in a folder and its subfolders, by path; its path in the folder is the id.

    Args:
        folder: also what the paths of the images start from.
        question: ``<image>`` says where the image stands; without it, it stands before the text.

    Raises:
        ConfigError: no such folder, or nothing is asked.
        DataError: no image in the folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise ConfigError(f"{place} is no folder of images")
    if not question.strip():
        raise ConfigError("the question about the images is empty")
    paths = sorted(
        path.relative_to(place).as_posix()
        for path in place.rglob("*")
        if looks_like_image(path.suffix) and not path.name.startswith(".") and path.is_file()
    )
    if not paths:
        raise DataError(f"{place} and its subfolders hold no image (by the ending: .jpg, .png, .webp, ...)")

    def rows(_: OnFault | None) -> Iterator[SourceRow]:
        for number, path in enumerate(paths, 1):
            yield SourceRow(str(place / path), number, {"id": path, "images": [path], "question": question})

    source = RowSource(spec=str(place), name=place.absolute().name, split=None, files=(), folder=place, _open=rows)
    return PromptSource(rows=source, format=PROMPTS_ONLY, name=source.name)


def _prompt_rows(row: Mapping[str, Any], format: str, options: FormatOptions, place: str) -> list[PromptRow]:
    """The rows of the prompts that a row has: canonical ones without answers.

    Raises:
        RowError: the row is not in the format, or asks nothing.
    """
    if format == PROMPTS_ONLY or (format == "auto" and _only_asks(row)):
        return [_prompt_row(row, replace(options, place=place), place)]
    pairs = canonical_rows(row, format, options, place=place)
    if not pairs:
        detail = "the row contains no preference (a tie, or a row its makers leave out), and its format reads no other"
        raise RowError(detail, reason=NO_PAIR)
    is_own = pairs[0] is row or row.keys() <= _CANONICAL  # whose meta its user wrote
    found = []
    for pair in pairs:
        kept = {key: value for key, value in pair.items() if key not in ANSWER_KEYS and (is_own or key != "meta")}
        if not is_own and (names := pair.get("meta", {}).get(IMAGE_NAMES)):
            kept["meta"] = {IMAGE_NAMES: names}
        found.append(PromptRow(kept if kept.get("id") is not None else {**kept, "id": place}, False))
    return found


def _only_asks(row: Mapping[str, Any]) -> bool:
    """Whether the row fits no format of pairs. RLHF-V's signature is an image and a text, which question files have
    too; its own text is JSON."""
    found = fitting(row)
    if [format.name for format in found] == ["rlhf_v"]:
        return not str(row.get("text")).lstrip().startswith("{")
    return not found and not {"chosen", "rejected"} & {key for key, value in row.items() if value is not None}


def _prompt_row(row: Mapping[str, Any], options: FormatOptions, place: str) -> PromptRow:
    """Our own row without answers as it is, and any other row that asks."""
    if isinstance(row.get("candidates"), list | tuple) and row.keys() <= PROMPT_KEYS | {"candidates"}:
        row = {key: value for key, value in row.items() if key != "candidates"}  # of an earlier step of sampling
    if not row.keys() <= PROMPT_KEYS or isinstance(row.get("prompt"), str | None):
        return prompt_of(row, options)
    own = dict(row) if row.get("id") is not None else {**row, "id": place}
    try:
        prompt_from_row(own, source="", line=1)
    except RowError as fault:
        try:  # TRL's: images inside of parts, or without a place; or a conversation with its answer
            return prompt_of(row, options)
        except RowError:
            raise fault from None
    return PromptRow(own, False)


def _digest(key: PromptKey) -> bytes:
    """A prompt's key in 16 bytes, so that memory does not grow with texts and embedded images."""
    digest = hashlib.blake2b(digest_size=16)

    def add(*values: str | bytes | None) -> None:
        for value in values:
            encoded = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value or b""
            digest.update(f"{type(value).__name__}{len(encoded)}:".encode() + encoded)

    for image in key.images:
        add("image", image.path, image.data)
    for video in key.videos:
        _add_video(video, add)
    for message in key.prompt:
        add("turn", message.role)
        for part in message.parts:
            add(part.kind, part.text)
    add("prefix", key.response_prefix, key.template_kwargs)
    return digest.digest()


def _add_video(video: VideoRef, add: Any) -> None:
    add("video", video.path, repr(video.fps))
    for frame in video.frames:
        add("frame", frame.path, frame.data)
