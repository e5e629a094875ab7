"""Any readable rows written as canonical pairs, or as rows of TRL, LLaMA-Factory or ms-swift, written atomically.

A field that the target has no place for is never dropped in silence: such a row is quarantined, and the report counts
the fields. Embedded images become files beside the output where the target wants paths.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from mmpref.data.commands.image_files import ImageFiles
from mmpref.data.formats import FORMATS, Format, FormatOptions, format_named, read_row
from mmpref.data.pair_source import PairSource, describe_left_over, left_over
from mmpref.data.pair_writing import pair_to_row
from mmpref.data.pairs import pair_from_row, row_name
from mmpref.data.quarantine import NO_PAIR, Quarantine, RowError
from mmpref.data.reading.dataset_info import FILE_NAME as DATASET_INFO
from mmpref.errors import ConfigError, DataError, library_errors
from mmpref.files.reading import read_json, without_links
from mmpref.files.writing import json_text, replacing, write_json

TARGETS = tuple(name for name, found in FORMATS.items() if found.from_canonical is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertReport:
    """What was read, what was written, and what the target could not take."""

    target: str
    num_rows: int
    """Foreign rows read; one of them can give several pairs."""
    num_pairs: int
    """Pairs written."""
    num_quarantined: int
    """Pairs, and rows that gave none."""
    formats: Mapping[str, int]
    """Rows by the format they were read as."""
    fields_lost: Mapping[str, int]
    """Canonical fields that the target has no place for -> pairs that use them; those pairs were quarantined."""
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
    "trl_kto": "data.root",
    "llamafactory_kto": "media_dir",
    "llamafactory_kto_sharegpt": "media_dir",
    "ms_swift_kto": "ROOT_IMAGE_DIR",
}
"""What the reader of a target calls the folder that image paths start from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertSettings:
    """What is written, and where."""

    to: str
    """One of ``TARGETS``."""
    out: Path
    """The file of rows: a JSON list for LLaMA-Factory, JSONL for the others. ``dataset_info.json`` is written, or taken
    up and extended, beside it."""
    name: str | None = None
    """The data set's name in ``dataset_info.json``; the file's name by default."""
    image_folder: Path | None = None
    """The folder that embedded images are written to, for targets that want paths; ``<name>_images`` beside the output
    by default. One folder must serve all paths that are written: below the rows' own image root, the paths of these
    images start from there too."""
    rebase: bool = False
    """Write the rows' image paths relative to the output's folder; one that leads out of it is refused."""
    new_ids: bool = False
    """Name pairs by their place, such as ``file:12``; the row's id goes to ``meta`` as ``row_id``."""


def outputs_beside(settings: ConvertSettings, quarantine: Quarantine) -> dict[str, Path | None]:
    """What a conversion writes beside its file of rows, by what a message calls it."""
    files = {"the list of rows left out beside --out,": quarantine.path}
    if settings.to.startswith("llamafactory"):
        files["the description beside --out,"] = settings.out.with_name(DATASET_INFO)
    return files


def convert_source(source: PairSource, settings: ConvertSettings, quarantine: Quarantine) -> ConvertReport:
    """:func:`convert` for a source of pairs; what of its files is no row at all is quarantined and counted too."""
    unreadable = 0

    def broken(file: str, row: int, fault: RowError) -> None:
        nonlocal unreadable
        unreadable += 1
        quarantine.num_read += 1
        source.quarantine_row(quarantine, file, row, fault, row_id=None)

    report = convert(
        source.rows.rows(broken),
        settings,
        quarantine=quarantine,
        source_format=None if source.row_format == "auto" else source.row_format,
        options=source.options,
        root=None if source.images is None else source.images.root,
    )
    return replace(report, num_rows=report.num_rows + unreadable, num_quarantined=report.num_quarantined + unreadable)


def convert(
    rows: Iterable[tuple[str, int, Mapping[str, Any]]],
    settings: ConvertSettings,
    *,
    quarantine: Quarantine,
    source_format: str | None = None,
    options: FormatOptions | None = None,
    root: Path | None = None,
) -> ConvertReport:
    """Write rows in another format. Pairs written + pairs and rows quarantined = pairs and rows counted as read.

    Args:
        rows: (file or data set, row number from 1, row).
        settings: what is written, and where.
        quarantine: gets what cannot be used, with the reason; it is written too.
        source_format: the rows' format; None detects it row by row.
        options: what the rows alone do not say.
        root: what the rows' image paths start from; without it, the output's folder.

    Raises:
        ConfigError: an unknown format.
        DataError: nothing that could be written, or a broken ``dataset_info.json`` in the way.
        CheckpointError: the output cannot be written.
    """
    target = format_named(settings.to)
    if target.from_canonical is None:
        raise ConfigError(f"format {settings.to!r} is only read; written are: {', '.join(TARGETS)}")
    source = None if source_format is None else format_named(source_format)
    out = Path(settings.out)
    name = out.stem if settings.name is None else settings.name
    is_list = target.name.startswith("llamafactory")
    known = _read_info(out.with_name(DATASET_INFO), name) if is_list else {}
    with ExitStack() as stack:
        image_files = ImageFiles.beside(
            out, root=root, folder=settings.image_folder, rebase=settings.rebase, stack=stack
        )
        job = _Job(
            target=target,
            write=target.from_canonical,
            source=source,
            options=options or FormatOptions(),
            quarantine=quarantine,
            image_files=image_files,
            new_ids=settings.new_ids,
        )
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


@dataclass(kw_only=True)
class _Job:
    """Rows in, JSON texts of the target out, with the counts."""

    target: Format
    write: Callable[[Mapping[str, Any]], dict[str, Any]]
    source: Format | None
    options: FormatOptions
    quarantine: Quarantine
    image_files: ImageFiles
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
                self._quarantine_row(file, line, row_name(row), fault)
                continue
            counted = False
            for place, candidate in enumerate(candidates):
                try:
                    text = self._text(candidate, file, line, f":{place}" if len(candidates) > 1 else "")
                except RowError as fault:
                    self._quarantine_row(file, line, row_name(candidate), fault)
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
        for images in ("images", "rejected_images", "other_images"):
            if images in row and not lost:
                embed = self.target.name == "canonical"
                row[images] = [self.image_files.path_of(item, embed=embed) for item in row[images]]
        if "videos" in row and not lost:
            row["videos"] = [self._video(item) for item in row["videos"]]
        target_row = self.write(row)
        try:
            text = json.dumps(target_row, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RowError(f"the row cannot be written as JSON: {error}", reason="not_json") from error
        self.columns.update(target_row)
        self._ids.add(key)
        return text

    def _video(self, item: Any) -> Any:
        embed = self.target.name == "canonical"
        if isinstance(item, str):
            return self.image_files.path_of(item, embed=embed)
        return {**item, "frames": [self.image_files.path_of(frame, embed=embed) for frame in item["frames"]]}

    def _quarantine_row(self, file: str, line: int, row_id: str | None, fault: RowError) -> None:
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
    """LLaMA-Factory's description of the file: which column has what."""
    names = {"messages": "conversations"}
    if target in ("llamafactory_alpaca", "llamafactory_kto"):
        names = {"prompt": "instruction", "query": "input"}
    if target == "llamafactory_kto":
        names["response"] = "output"
    is_ranking = not target.startswith("llamafactory_kto")
    names |= {"chosen": "chosen", "rejected": "rejected"} if is_ranking else {"kto_tag": "kto_tag"}
    names |= {key: key for key in ("system", "history", "images", "videos", "tools") if key in columns}
    return {
        "file_name": file_name,
        "formatting": "alpaca" if "prompt" in names else "sharegpt",
        "ranking": is_ranking,
        "columns": names,
    }
