"""Proof that data is still what a check found it to be: its files, its images, its settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.data.accepted import Demonstrations, check_option
from mmpref.data.manifest import (
    QUARANTINE_FILE,
    REPORT_FILE,
    Listing,
    changed_while_read,
    file_hash,
    manifest_hash,
    names_of,
)
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import Skip
from mmpref.errors import DataError, one_line
from mmpref.files.reading import parse_json, read_json, read_text
from mmpref.records import ImageRef, PreferencePair, VideoRef

_Stamp = tuple[int, int, int]
"""Size, time of change and number of a file."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A manifest that was found to describe the sources at hand."""

    hash: str
    skip: Skip
    """(file, row, id) -> reason of what the check quarantined, with the files' names as they are now."""
    _entries: tuple[Mapping[str, Any], ...]
    _report: Path
    _stamps: Mapping[Path, _Stamp]

    def verify_images(
        self, sources: Sequence[PairSource], lists: Sequence[Iterable[PreferencePair]], *, full: bool = False
    ) -> None:
        """Compare the images and videos of the pairs with the manifest, and the pairs of sources without files.

        Args:
            sources: as given to :func:`verify`.
            lists: the pairs of each that are used, in order.
            full: hash everything again; without it, only where names and sizes are the same and times are not.

        Raises:
            DataError: images or videos were added, removed or changed since the check, a hub id gives other pairs, or a
                file of rows was changed after :func:`verify` and may have been read so.
        """
        for source, pairs, entry in zip(sources, lists, self._entries, strict=True):
            found = Listing()
            images: dict[str, str] = {}
            videos: dict[str, str] = {}
            for pair in pairs:
                if not source.rows.files:
                    found.add_pair(pair, source.images)
                if source.images is not None:
                    images.update(names_of(pair, ImageRef, source.images.root))
                if source.videos is not None and pair.videos:
                    videos.update(names_of(pair, VideoRef, source.videos.root))
            for file in source.rows.files:
                if _stamp(file) != self._stamps[file]:
                    raise changed_while_read(file)
            if not source.rows.files and found.pairs != entry["pairs"]:
                raise DataError(
                    f"{source.rows.spec} does not give the pairs that {self._report} describes: it was changed on the "
                    "hub; check it again, and write it with a revision (owner/name@revision) so that it cannot change"
                )
            for medium, names, loader in (("images", images, source.images), ("videos", videos, source.videos)):
                resolve = Path if loader is None else loader.resolve  # without a loader there is no name
                what = f"the {medium} of {source.rows.spec}"
                wanted = entry.get(medium) or Listing().as_json()  # a manifest without videos says nothing of them
                there = _listing(resolve, names, hashed=False)
                self._compare(what, there, wanted)
                if full or there.times != wanted.get("times"):
                    self._compare(what, _listing(resolve, names, hashed=True), wanted, hashed=True)

    def _compare(self, what: str, found: Listing, wanted: Mapping[str, Any], *, hashed: bool = False) -> None:
        if found.names_and_sizes != wanted["names_and_sizes"]:
            raise DataError(
                f"{what} are not those of {self._report}: {len(found)} files of {found.num_bytes} bytes now, "
                f"{wanted['num']} of {wanted['bytes']} then; run the check again"
            )
        if hashed and found.contents != wanted["contents"]:
            raise DataError(
                f"{what} are not those of {self._report}: names and sizes are the same, and the bytes of at least one "
                "are not; run the check again"
            )


def _listing(resolve: Callable[[str], Path], names: Mapping[str, str], *, hashed: bool) -> Listing:
    """The files as they are now; ``hashed`` reads their bytes."""
    found = Listing()
    for name, path in names.items():
        file = resolve(path)
        facts = file.stat()
        found.add(name, facts.st_size, facts.st_mtime_ns, file_hash(file) if hashed else "")
    return found


def verify(report: Path, sources: Sequence[PairSource], *, demonstrations: Demonstrations) -> Checked:
    """Prove that a report of ``mmpref data check`` is about these sources as they are now.

    Args:
        report: the folder that the check wrote, or the ``data_report.json`` in it.
        sources: what is to be used; the check may have been about more.
        demonstrations: rows without ``rejected`` are accepted.

    Raises:
        DataError: the report cannot be read or was changed, or a file is not what was checked; it is named.
    """
    report = report_file(report)
    manifest = _read(report)
    if manifest["demonstrations"] != demonstrations:
        wanted, there = " ".join(check_option(demonstrations)), " ".join(check_option(manifest["demonstrations"]))
        add = f"with {wanted}" if wanted else f"without {there}"
        labelled = manifest["demonstrations"] == "labelled"
        told = " (answers with a label, which train with loss.name=kto)" if labelled else ""
        raise DataError(f"{report} was made for another use of the rows{told}; run mmpref data check {add}")
    stamps = {file: _stamp(file) for source in sources for file in source.rows.files}
    entries = [_entry(report, manifest, source) for source in sources]
    names = {
        old["path"]: str(new)
        for source, entry in zip(sources, entries, strict=True)
        for old, new in zip(entry["files"], source.rows.files, strict=True)
    }
    skip = _quarantined(report.with_name(QUARANTINE_FILE), manifest["quarantine"], names)
    return Checked(hash=manifest["hash"], skip=skip, _entries=tuple(entries), _report=report, _stamps=stamps)


def _stamp(path: Path) -> _Stamp:
    try:
        facts = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return facts.st_size, facts.st_mtime_ns, facts.st_ino


def describes(report: Path, sources: Sequence[PairSource]) -> bool:
    """Whether a report is about all these files as they are now; what it says of them is not looked at."""
    known = {file["sha256"] for entry in _read(report_file(report))["sources"] for file in entry["files"]}
    return all(source.rows.files for source in sources) and all(
        file_hash(file) in known for source in sources for file in source.rows.files
    )


def report_file(path: Path) -> Path:
    """``data_report.json`` of the folder that a check wrote, whichever of the two is given."""
    return path / REPORT_FILE if path.is_dir() else path


def _read(report: Path) -> dict[str, Any]:
    content = read_json(report, DataError, f"{REPORT_FILE} of mmpref data check:")
    try:
        manifest = content["manifest"]
        wanted = manifest_hash(manifest)
        if manifest["hash"] != wanted:
            raise DataError(f"{report} was changed by hand: its manifest has another hash; run mmpref data check again")
        for entry in manifest["sources"]:
            if not all(isinstance(file["path"], str) and isinstance(file["sha256"], str) for file in entry["files"]):
                raise TypeError("files without a path")
            if not isinstance(entry["images"]["num"], int):
                raise TypeError("no number of images")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{report} is not a report of mmpref data check ({one_line(error)}); give the folder that it wrote"
        ) from error
    return dict(manifest)


def _entry(report: Path, manifest: Mapping[str, Any], source: PairSource) -> Mapping[str, Any]:
    """The part of the manifest that describes a source."""
    rows = source.rows
    hashes = [file_hash(file) for file in rows.files]
    read_as = (rows.split, source.row_format, rows.reading)
    known = {file["sha256"] for entry in manifest["sources"] for file in entry["files"]}
    for entry in manifest["sources"]:
        same_rows = [file["sha256"] for file in entry["files"]] == hashes and (hashes or entry["spec"] == rows.spec)
        if same_rows and (entry["split"], entry["format"], entry["reading"]) == read_as:
            return dict(entry)
    for file, found in zip(rows.files, hashes, strict=True):
        if found not in known:
            raise DataError(
                f"{file} is not what {report} describes: its bytes have changed, or it was never checked; "
                "run mmpref data check again"
            )
    raise DataError(f"{report} does not describe {rows.spec} read this way (files, split and format together)")


def _quarantined(quarantine: Path, wanted: str, names: Mapping[str, str]) -> dict[tuple[str, int, str | None], str]:
    if file_hash(quarantine) != wanted:
        raise DataError(f"{quarantine} is not the one that was written with the report; run mmpref data check again")
    lines = read_text(quarantine, DataError).splitlines()
    rows = [parse_json(line, DataError, f"{quarantine}:{number}") for number, line in enumerate(lines, start=1)]
    return {
        (names.get(row["file"], row["file"]), row["line"] if "line" in row else row["row"], row["id"]): row["reason"]
        for row in rows
    }
