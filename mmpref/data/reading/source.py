"""Rows from wherever they are, one at a time: memory does not grow with the file, and a broken row stops nothing else.

JSONL, JSON lists, parquet, arrow, a folder that ``datasets`` saved, a folder of files, or a hub id. Images stay
encoded, as bytes or paths, whatever they come in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from mmpref.data.quarantine import RowError, where_is
from mmpref.data.reading.dataset_info import FILE_NAME as DATASET_INFO
from mmpref.data.reading.dataset_info import Entry, choose_entry, read_entries
from mmpref.data.reading.hub import HUB_ID, hub_rows
from mmpref.data.reading.json_rows import MAX_LINE_BYTES, holds_json_lines, read_json, read_jsonl
from mmpref.data.reading.rows import FileFormat, OnFault, RowSource, SourceRow
from mmpref.data.reading.tables import table_rows
from mmpref.errors import ConfigError, DataError, library_errors
from mmpref.files.reading import home_path, open_to_read
from mmpref.files.reading import read_json as read_whole_json

__all__ = ["MAX_LINE_BYTES", "FileFormat", "RowSource", "SourceRow", "open_source", "read_jsonl"]


_SUFFIXES: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_NOT_ROWS = frozenset(
    {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "meta.json", "data_report.json"}
)
_SPLIT = re.compile(r"(train|test|valid|validation|val|dev|eval|\w+(?=-\d{5}-of-\d{5}))(?![A-Za-z0-9])")
"""The split that a file of the hub is named after: ``train.jsonl``, ``train_prefs-00000-of-00002.parquet``."""
_NOT_READ = {
    ".csv": "a CSV file",
    ".tsv": "a TSV file",
    ".xlsx": "a spreadsheet",
    ".xls": "a spreadsheet",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
    ".gz": "compressed",
    ".zst": "compressed",
    ".bz2": "compressed",
    ".xz": "compressed",
    ".zip": "an archive",
    ".tar": "an archive",
    ".tgz": "an archive",
}
_INSTEAD = "read are JSONL, JSON, parquet and arrow: convert or unpack it first"


def open_source(
    spec: Path | str, *, split: str | None = None, file_format: FileFormat | None = None, streaming: bool = True
) -> RowSource:
    """The rows of a file, a folder or a data set of the hub.

    Args:
        spec: a file; a folder written by ``datasets``' ``save_to_disk``; a folder of files of one kind, read in the
            order of their names; LLaMA-Factory's ``dataset_info.json`` or its folder, ``[:name]`` where it describes
            several data sets of pairs; or a hub id, ``owner/name[:config][@revision]``. What exists here wins over the
            hub.
        split: of a data set, or the beginning of the names of a folder's files; needed where there are several.
        file_format: of the files, where their names and first bytes do not tell.
        streaming: read the hub while it is read; without it, or offline, the hub's cache on disk is used.

    Raises:
        DataError: nothing there, or a kind of file that is not read.
        ConfigError: a choice that must be made, or that is none of those there are.
    """
    if file_format is not None and file_format not in get_args(FileFormat):
        raise ConfigError(f"file format {file_format!r} is not known; known: {', '.join(get_args(FileFormat))}")
    path, name = local_path(spec)
    if described := _described(str(spec), path, name, split, streaming):
        return described
    if path.is_dir():
        return _folder(path, split, file_format)
    if path.exists():
        if not path.is_file():  # a pipe or a device would be waited for without end
            raise DataError(f"{path} is not a regular file")
        if split is not None:
            raise ConfigError(f"{path} is one file and has no split {split!r}; leave the split out")
        if file_format is None and (kind := _NOT_READ.get(path.suffix.lower())):
            raise DataError(f"{path} is {kind}, which is not read; {_INSTEAD}")
        return _files(str(spec), path.stem, [path], None, path.parent, file_format)
    hub = HUB_ID.match(str(spec))
    if hub is None or not _may_be_on_hub(path, str(spec)):
        raise DataError(f"{spec} does not exist; check the path (now in {Path.cwd()})")
    return hub_rows(str(spec), hub, split, streaming)


def local_path(spec: Path | str) -> tuple[Path, str | None]:
    """What is meant of this machine's files: a path, and the name after ``:`` of a data set that it describes."""
    path = home_path(spec)
    before, colon, name = str(spec).rpartition(":")
    if colon and not path.exists():
        described = home_path(before)
        if described.name == DATASET_INFO or (described / DATASET_INFO).is_file():
            return described, name
    return path, None


def is_hub_id(spec: Path | str) -> bool:
    """Whether :func:`open_source` would look for this on the hub."""
    path, _ = local_path(spec)
    return not path.exists() and _may_be_on_hub(path, str(spec)) and bool(HUB_ID.match(str(spec)))


def _may_be_on_hub(path: Path, spec: str) -> bool:
    """Not what is written as a file's path, nor what would lie below a file or a broken link that is here."""
    above = path.parent
    below_no_folder = above != path and (above.is_file() or above.is_symlink()) and not above.is_dir()
    return not (path.suffix.lower() in _SUFFIXES or spec.startswith((".", "~", "/")) or below_no_folder)


def count_rows(source: RowSource) -> int | None:
    """About how many rows a source has, for a progress bar; None where that is not known without reading it."""
    from pyarrow import parquet

    total = 0
    for file in source.files:
        kind = _SUFFIXES.get(file.suffix.lower())
        try:
            if kind == "parquet":
                total += parquet.read_metadata(file).num_rows
            elif kind == "jsonl":
                with file.open("rb") as handle:
                    while piece := handle.read(2**20):
                        total += piece.count(b"\n")
            else:
                return None
        except (OSError, ValueError):  # reading it will say what is wrong
            return None
    return total if source.files else None


# ---- files ----------------------------------------------------------------------------------------------------


def _files(
    spec: str, name: str, files: list[Path], split: str | None, folder: Path, file_format: FileFormat | None
) -> RowSource:
    def open_all(on_fault: OnFault | None) -> Iterator[SourceRow]:
        for file in files:
            yield from _file_rows(file, file_format, on_fault)

    return RowSource(spec=spec, name=name, split=split, files=tuple(files), folder=folder, _open=open_all)


def _file_rows(path: Path, file_format: FileFormat | None, on_fault: OnFault | None) -> Iterator[SourceRow]:
    name = str(path)
    report = None if on_fault is None else lambda number, fault: on_fault(name, number, fault)
    kind = file_format or _kind_of(path)
    if kind == "jsonl":
        rows = read_jsonl(path, on_fault=report)
    elif kind == "json":
        rows = read_json(path, on_fault=report)
    else:
        rows = table_rows(path, kind, report)
    for number, row in rows:
        yield SourceRow(name, number, row)


def _kind_of(path: Path) -> FileFormat:
    """By the first bytes, then by the name: a ``.json`` file with one row per line is JSONL."""
    with open_to_read(path, DataError) as handle, library_errors(DataError, f"{path} cannot be read", "copy it again"):
        head = handle.read(4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    named = _SUFFIXES.get(path.suffix.lower())
    if head.startswith(b"ARROW1") or named == "arrow":
        return "arrow"
    if named in ("jsonl", "parquet"):
        return named
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"[":
        return "json"
    if first == b"{":
        return "jsonl" if holds_json_lines(path) else "json"
    if first and named is None and not head.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        beginning = head[:20].split(b"\n")[0]
        raise DataError(f"{path} begins with {beginning!r}, which no row of JSON does; {_INSTEAD}")
    return "jsonl"


# ---- folders --------------------------------------------------------------------------------------------------


def _folder(path: Path, split: str | None, file_format: FileFormat | None) -> RowSource:
    saved = _saved_dataset(path, split)
    if saved is not None:
        return saved
    places = [path, path / "data"] if (path / "data").is_dir() else [path]
    for place in places:
        files = sorted(file for file in place.iterdir() if _holds_rows(file))
        if files:
            break
    else:
        raise DataError(f"{path} holds no file of rows ({', '.join(_SUFFIXES)}); give the file or its folder")
    if split is not None:
        chosen = [file for file in files if re.match(rf"{re.escape(split)}(?![A-Za-z0-9])", file.name)]
        if not chosen:
            names = ", ".join(file.name for file in files[:8])
            raise ConfigError(f"{path} has no file of split {split!r}; its files: {names}")
        files = chosen
    elif len(splits := sorted({found[1] for file in files if (found := _SPLIT.match(file.name))})) > 1:
        raise ConfigError(f"{path} has files of the splits {', '.join(splits)}; choose one")
    kinds = sorted({_SUFFIXES[file.suffix.lower()] for file in files})
    if len(kinds) > 1 and file_format is None:
        raise ConfigError(f"{path} holds files of several kinds ({', '.join(kinds)}); give one file, or a file format")
    if file_format is not None:
        files = [file for file in files if _SUFFIXES[file.suffix.lower()] == file_format] or files
    return _files(str(path), path.name, files, split, path, file_format)


def _holds_rows(file: Path) -> bool:
    ours = file.name == "quarantine.jsonl" or file.name.endswith(".quarantine.jsonl")
    hidden = file.name.startswith(".") or ours
    return file.suffix.lower() in _SUFFIXES and file.name not in _NOT_ROWS and not hidden and file.is_file()


def _saved_dataset(path: Path, split: str | None) -> RowSource | None:
    """A folder written by ``save_to_disk``: its arrow files are read as they are, in the order its index gives."""
    index = path / "dataset_dict.json"
    if index.is_file():
        splits = [name for name in _index(index, "splits") if isinstance(name, str)]
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            wanted = "choose one" if split is None else f"{split!r} is not among them"
            raise ConfigError(f"{path} has the splits {', '.join(splits)}; {wanted}")
        found = _saved_dataset(path / split, None)
        if found is None:
            raise DataError(f"{path / split} lacks its state.json; the data set was not saved to its end")
        return RowSource(spec=str(path), name=path.name, split=split, files=found.files, folder=path, _open=found._open)
    state = path / "state.json"
    if not state.is_file():
        return None
    if split is not None:
        raise ConfigError(f"{path} is one split and has no split {split!r}; leave the split out")
    names = [entry.get("filename") for entry in _index(state, "_data_files") if isinstance(entry, dict)]
    files = [path / Path(name).name for name in names if isinstance(name, str)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise DataError(f"{path} lacks {', '.join(missing[:5])}, which its state.json names; copy the whole folder")
    return _files(str(path), path.name, files, None, path, "arrow")


def _index(file: Path, key: str) -> list[Any]:
    content = read_whole_json(file, DataError)
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{file} cannot be used: {key!r} is not a list")
    return found


def _described(spec: str, path: Path, name: str | None, split: str | None, streaming: bool) -> RowSource | None:
    """A data set of LLaMA-Factory's ``dataset_info.json``; None where there is none."""
    index = path / DATASET_INFO if path.is_dir() else path
    if index.name != DATASET_INFO or not index.is_file() or (index.parent / "state.json").is_file():
        return None
    entries = read_entries(index)
    if entries is None:
        if index == path or name is not None:
            raise DataError(f"{index} describes no data sets in LLaMA-Factory's manner; give the file of rows itself")
        return None
    entry = choose_entry(index, entries, name)
    if entry.path is None:
        hub = HUB_ID.match(entry.hub or "")
        if hub is None:
            raise DataError(f"{entry.name!r} in {index} has hf_hub_url {entry.hub!r}, which is no hub id")
        rows = hub_rows(str(entry.hub), hub, split or entry.split or "train", streaming)
    elif entry.path.is_dir():
        rows = _folder(entry.path, split or entry.split, None)
    elif entry.path.is_file():
        rows = _files(str(entry.path), entry.path.stem, [entry.path], None, index.parent, None)
    else:
        raise DataError(f"{entry.path} does not exist, and {entry.name!r} in {index} names it")
    folder = None if entry.path is None else index.parent
    said = {"columns": dict(entry.columns), "tags": dict(entry.tags)}
    return replace(
        rows,
        spec=spec,
        folder=folder,
        _open=lambda on_fault: _renamed(rows, entry, on_fault),
        format=entry.format,
        reading=json.dumps(said, sort_keys=True),
    )


def _renamed(rows: RowSource, entry: Entry, on_fault: OnFault | None) -> Iterator[SourceRow]:
    for file, number, row in rows.rows(on_fault):
        try:
            yield SourceRow(file, number, entry.row(row))
        except RowError as fault:
            if on_fault is None:
                where = where_is(file, number)
                raise RowError(f"{where}: {fault.detail}", reason=fault.reason, detail=fault.detail) from fault
            on_fault(file, number, fault)
