"""Any readable rows written as canonical pairs, or as rows of TRL, LLaMA-Factory or ms-swift, written atomically.

A field that the target has no place for is never dropped in silence: such a row is put aside, and the report counts the
fields. Embedded images become files beside the output where the target wants paths.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from mmpref.data.formats import FORMATS, Format, FormatOptions, format_named, read_row
from mmpref.data.loading import describe_left_over, left_over
from mmpref.data.pairs import pair_from_row, pair_to_row, row_name
from mmpref.data.quarantine import NO_PAIR, Quarantine, RowError
from mmpref.data.reading.dataset_info import FILE_NAME as DATASET_INFO
from mmpref.errors import ConfigError, DataError, library_errors
from mmpref.files.reading import read_json, refuse_foreign_folder, without_links
from mmpref.files.writing import json_text, replacing, replacing_folder, write_json

TARGETS = tuple(name for name, found in FORMATS.items() if found.from_canonical is not None)
_MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}
_WRITTEN = re.compile(r"[0-9a-f]{32}\.(jpg|png|gif|bmp|webp|bin)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What was read, what was written, and what the target could not take."""

    target: str
    num_rows: int
    """Foreign rows read; one of them can hold several pairs."""
    num_pairs: int
    """Pairs written."""
    num_quarantined: int
    """Pairs, and rows that gave none, put aside."""
    formats: Mapping[str, int]
    """Rows by the format they were read as."""
    fields_lost: Mapping[str, int]
    """Canonical fields that the target has no place for -> pairs that use them; those pairs were put aside."""
    left_over: Mapping[str, int]
    """Columns that nothing is read from -> rows that have them; they are written in ``meta``."""
    files: tuple[Path, ...]
    """What was written: the rows, the folder of images if there is one, ``dataset_info.json``."""
    image_root: Path | None
    """The folder that the written image paths start from; None where no path was written."""

    def summary(self) -> str:
        """One line for the terminal, and one that says where the images are."""
        line = f"{self.num_rows} rows read, {self.num_pairs} pairs written as {self.target} to {self.files[0]}"
        line += f", {self.num_quarantined} quarantined" if self.num_quarantined else ""
        lost = ", ".join(f"{name} ({count})" for name, count in self.fields_lost.items())
        line = f"{line}; {self.target} has no place for {lost}" if lost else line
        if self.image_root is not None and self.image_root != without_links(self.files[0].parent):
            line += f"\nimage paths start from {self.image_root}; say so where the file is read: {_SAID[self.target]}"
            line += f"={self.image_root}"
        if self.left_over:
            line += f"\n{describe_left_over(self.left_over)}"
        return line


_SAID = {
    "canonical": "data.root",
    "trl": "data.root",
    "llamafactory_alpaca": "media_dir",
    "llamafactory_sharegpt": "media_dir",
    "ms_swift": "ROOT_IMAGE_DIR",
}
"""What the reader of a target calls the folder that image paths start from."""


def convert(
    rows: Iterable[tuple[str, int, Mapping[str, Any]]],
    *,
    to: str,
    out: Path,
    source_format: str | None = None,
    quarantine: Quarantine,
    options: FormatOptions | None = None,
    name: str | None = None,
    root: Path | None = None,
    images: Path | None = None,
    rebase: bool = False,
    new_ids: bool = False,
) -> ConvertReport:
    """Write rows in another format. Pairs written + pairs and rows quarantined = pairs and rows counted as read.

    Args:
        rows: (file or data set, row number from 1, row).
        to: one of ``TARGETS``.
        out: the file of rows: a JSON list for LLaMA-Factory, JSONL for the others. ``dataset_info.json`` is written, or
            taken up and extended, beside it.
        source_format: the rows' format; None detects it row by row.
        quarantine: gets what cannot be used, with the reason; it is written too.
        options: what the rows alone do not say.
        name: the data set's name in ``dataset_info.json``; the file's name by default.
        root: what the rows' image paths start from; without it, the output's folder.
        images: the folder that embedded images are written to, for targets that want paths; ``<name>_images`` beside
            the output by default. One folder must serve all paths that are written: below ``root``, the paths of these
            images start from there too.
        rebase: write the rows' image paths relative to the output's folder; one that leads out of it is refused.
        new_ids: name pairs by their place, such as ``file:12``; the row's id goes to ``meta`` as ``row_id``.

    Raises:
        ConfigError: an unknown format.
        DataError: nothing that could be written, or a broken ``dataset_info.json`` in the way.
        CheckpointError: the output cannot be written.
    """
    target = format_named(to)
    if target.from_canonical is None:
        raise ConfigError(f"format {to!r} is only read; written are: {', '.join(TARGETS)}")
    source = None if source_format is None else format_named(source_format)
    out = Path(out)
    name = out.stem if name is None else name
    is_list = target.name.startswith("llamafactory")
    known = _read_info(out.with_name(DATASET_INFO), name) if is_list else {}
    with ExitStack() as stack:
        image_files = _ImageFiles.beside(out, root=root, images=images, rebase=rebase, stack=stack)
        job = _Job(target, target.from_canonical, source, options or FormatOptions(), quarantine, image_files, new_ids)
        stream = stack.enter_context(replacing(out))
        _write(stream, job.written(rows), is_list=is_list)
        if not job.num_pairs:
            quarantine.write()
            first = f"; first: {quarantine.rows[0].describe()}" if quarantine.rows else ""
            raise DataError(f"nothing could be written to {out}: {quarantine.summary()}{first}")
    files = [out, *([image_files.folder] if image_files.used else [])]
    if is_list:
        write_json(out.with_name(DATASET_INFO), {**known, name: _info(out.name, target.name, job.columns)})
        files.append(out.with_name(DATASET_INFO))
    quarantine.write()
    return ConvertReport(
        target=target.name,
        num_rows=job.num_rows,
        num_pairs=job.num_pairs,
        num_quarantined=job.num_quarantined,
        formats=dict(job.formats),
        fields_lost=dict(job.lost),
        left_over=dict(quarantine.left_over.most_common()),
        files=tuple(files),
        image_root=image_files.base if image_files.named else None,
    )


def _write(stream: IO[bytes], rows: Iterable[str], *, is_list: bool) -> None:
    if not is_list:
        for row in rows:
            stream.write(row.encode() + b"\n")
        return
    opening = b"[\n"
    for row in rows:
        stream.write(opening + row.encode())
        opening = b",\n"
    stream.write(b"\n]\n")


@dataclass
class _ImageFiles:
    """The image paths that are written, all from one folder; embedded images become files, one per content."""

    folder: Path
    """Of embedded images; it appears when the rows are whole."""
    here: Path
    """The output's folder."""
    root: Path
    """What the rows' paths start from."""
    base: Path | None
    """What written paths start from; not known before the first, unless it was said."""
    rebase: bool
    stack: ExitStack
    named: bool = False
    used: bool = False
    place: Path | None = None

    @classmethod
    def beside(cls, out: Path, *, root: Path | None, images: Path | None, rebase: bool, stack: ExitStack) -> Self:
        here = without_links(out.parent)
        root = here if root is None else without_links(root)
        folder = without_links(out.with_name(f"{out.stem}_images") if images is None else images)
        base = here if rebase or root == here else None
        if base is None and images is not None:
            base = root if folder.is_relative_to(root) else here
        return cls(folder=folder, here=here, root=root, base=base, rebase=rebase, stack=stack)

    def path_of(self, item: Any, *, embed: bool) -> Any:
        """What to write for an image; ``embed`` leaves embedded images in the row."""
        if not isinstance(item, Mapping):
            self.named = True
            return self._row_path(str(item))
        if embed:
            return item
        self.named = True
        data = base64.b64decode(item["bytes"])
        if self.place is None:
            self.base = self.here if self.base is None else self.base
            if not self.folder.is_relative_to(self.base):
                if self.base == self.root:
                    raise self._two_roots()
                raise ConfigError(f"embedded images cannot go to {self.folder}: it is not below {self.base}")
            refuse_foreign_folder(self.folder, _WRITTEN, [self.here, self.root], "give --images a new folder")
            self.place = self.stack.enter_context(replacing_folder(self.folder))
            self.used = True
        ending = next((ending for magic, ending in _MAGIC.items() if data.startswith(magic)), ".bin")
        file = hashlib.sha256(data).hexdigest()[:32] + ending
        if not (self.place / file).exists():
            (self.place / file).write_bytes(data)
        return (self.folder / file).relative_to(self.base or self.here).as_posix()

    def _row_path(self, path: str) -> str:
        if self.base is None:
            self.base = self.root
        if "://" in path or Path(path).is_absolute() or self.base == self.root:
            return path
        full = Path(os.path.normpath(self.root / path))  # links stay as they are: they may lead where the reader is
        if full.is_relative_to(self.base):
            return full.relative_to(self.base).as_posix()
        if not self.rebase:
            raise self._two_roots()
        raise ConfigError(f"{full} is not below {self.base}, so its path cannot start there; write the output above it")

    def _two_roots(self) -> ConfigError:
        return ConfigError(
            f"the rows name images below {self.root} and hold embedded ones, which would go to {self.folder}: no one "
            f"folder serves both; give --images a folder below {self.root}"
        )


@dataclass
class _Job:
    """Rows in, JSON texts of the target out, with the counts."""

    target: Format
    write: Callable[[Mapping[str, Any]], dict[str, Any]]
    source: Format | None
    options: FormatOptions
    quarantine: Quarantine
    image_files: _ImageFiles
    new_ids: bool
    num_rows: int = 0
    num_pairs: int = 0
    num_quarantined: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    columns: set[str] = field(default_factory=set)
    _ids: set[bytes] = field(default_factory=set)

    def written(self, rows: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Iterable[str]:
        """Every row that can be written, as JSON; the others go to quarantine."""
        for file, line, row in rows:
            self.num_rows += 1
            try:
                source, candidates = read_row(row, self.source, self._options(file, line))
                self.formats[source.name] += 1
                if not candidates:
                    raise RowError(
                        "the row contains no preference (a tie, or a row its makers leave out)", reason=NO_PAIR
                    )
            except RowError as fault:
                self._put_aside(file, line, row_name(row), fault)
                continue
            counted = False
            for place, candidate in enumerate(candidates):
                try:
                    text = self._text(candidate, file, line, f":{place}" if len(candidates) > 1 else "")
                except RowError as fault:
                    self._put_aside(file, line, row_name(candidate), fault)
                    continue
                self.quarantine.num_read += 1
                self.quarantine.num_used += 1
                self.num_pairs += 1
                if not counted:
                    counted = True
                    own = source.name == "canonical"
                    self.quarantine.left_over.update(left_over({} if own else row, candidate.get("meta") or {}))
                yield text

    def _options(self, file: str, line: int) -> FormatOptions:
        """The options with the row's place, which names a row without an id as loading it would."""
        if self.options.place is not None:
            return self.options
        return replace(self.options, place=f"{self.options.source or Path(file).stem}:{line}")

    def _text(self, candidate: Mapping[str, Any], file: str, line: int, suffix: str) -> str:
        pair = pair_from_row(candidate, source=Path(file).stem, line=line)
        if self.new_ids:
            pair = replace(pair, id=f"{self._options(file, line).place}{suffix}", meta={**pair.meta, "row_id": pair.id})
        key = hashlib.blake2b(pair.id.encode(), digest_size=12).digest()
        if key in self._ids:
            raise RowError(f"the id {pair.id[:200]!r} appears twice; convert with --new-ids", reason="duplicate_id")
        row = pair_to_row(pair)
        lost = self.target.not_held(row)
        self.lost.update(lost)
        for images in ("images", "rejected_images"):
            if images in row and not lost:
                embed = self.target.name == "canonical"
                row[images] = [self.image_files.path_of(item, embed=embed) for item in row[images]]
        target_row = self.write(row)
        try:
            text = json.dumps(target_row, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RowError(f"the row cannot be written as JSON: {error}", reason="not_json") from error
        self.columns.update(target_row)
        self._ids.add(key)
        return text

    def _put_aside(self, file: str, line: int, row_id: str | None, fault: RowError) -> None:
        self.num_quarantined += 1
        self.quarantine.num_read += 1
        self.quarantine.add(
            source=Path(file).stem, file=file, row=line, row_id=row_id, reason=fault.reason, detail=fault.detail
        )


def _read_info(path: Path, name: str) -> dict[str, Any]:
    """The entries of a ``dataset_info.json`` that is there already."""
    if not path.exists():
        return {}
    found = read_json(path, DataError, f"{name!r} is to be added to a file that cannot be used:")
    if not isinstance(found, dict):
        raise DataError(f"{path} is there and is not a JSON object, so {name!r} cannot be added to it")
    with library_errors(DataError, f"{path} is there and {name!r} cannot be added to it", "put it right"):
        json_text(found)  # NaN and 1e999 are read, and are no JSON that could be written
    return found


def _info(file_name: str, target: str, columns: set[str]) -> dict[str, Any]:
    """LLaMA-Factory's description of the file: which column holds what."""
    if target == "llamafactory_alpaca":
        names = {"prompt": "instruction", "query": "input"}
    else:
        names = {"messages": "conversations"}
    names |= {"chosen": "chosen", "rejected": "rejected"}
    names |= {key: key for key in ("system", "history", "images", "tools") if key in columns}
    return {
        "file_name": file_name,
        "formatting": target.removeprefix("llamafactory_"),
        "ranking": True,
        "columns": names,
    }
