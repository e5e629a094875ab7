"""What ``mmpref data check`` may write, and how it ends: the next steps, a clean file, or an error with what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpref.data.accepted import Demonstrations
from mmpref.data.commands.check_report import CheckReport
from mmpref.data.commands.clean import write_clean
from mmpref.data.commands.next_steps import after_check, train_on_file
from mmpref.data.commands.outputs import refuse_outputs
from mmpref.data.manifest import QUARANTINE_FILE, REPORT_FILE
from mmpref.data.pair_source import PairSource
from mmpref.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanSettings:
    """Where ``--fix`` writes the rows in order."""

    path: Path | None = None
    """A file that is not there yet; None writes none."""
    copy_images: bool = False
    """Copy their images to a folder beside the file."""


def refuse_check_outputs(
    sources: Sequence[PairSource], *, out: Path, clean: CleanSettings, read: Sequence[object]
) -> None:
    """Refuse, before the first row is read, what a check could not write or would write over.

    Args:
        sources: what is to be checked.
        out: folder of the report.
        clean: the clean file that is asked for.
        read: what else is read, such as a data card.

    Raises:
        ConfigError: names the option.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out is the folder of the report")
    if clean.copy_images and clean.path is None:
        raise ConfigError("--copy-images goes with --fix FILE, which names the clean file")
    files = {"the report in --out,": out / REPORT_FILE, "the list in --out,": out / QUARANTINE_FILE}
    refuse_outputs(sources, {"--fix": clean.path}, read=read, files=files)
    if clean.path is not None and clean.path.exists():
        raise ConfigError(
            f"--fix {clean.path} is there already and would be written over; delete it, or give another name"
        )


def finish_check(
    sources: Sequence[PairSource],
    report: CheckReport,
    *,
    out: Path,
    clean: CleanSettings,
    demonstrations: Demonstrations,
) -> list[str]:
    """Write the clean file that is asked for, and say what to do next, in lines.

    Raises:
        DataError: there is no row, or training would refuse the data and no clean file is asked for: the first bad
            rows, and what to do about them.
    """
    if not report.read:
        raise DataError(f"{report.fault}: {', '.join(source.rows.spec for source in sources)} is empty")
    if clean.path is not None and report.used:
        return _written_clean(sources, report, clean, clean.path, out, demonstrations)
    steps = after_check(sources, report, out, demonstrations=demonstrations)
    if report.fault is None:
        return steps
    first = [f"  {line}" for line in report.first_bad]
    more = report.quarantined - len(first)
    others = [f"  ... and {more:,} more"] if more else []
    listed = f"  all of them: {out / QUARANTINE_FILE}"
    raise DataError("\n".join([f"{report.fault}:", *first, *others, listed, *steps]))


def _written_clean(
    sources: Sequence[PairSource],
    report: CheckReport,
    clean: CleanSettings,
    path: Path,
    out: Path,
    demonstrations: Demonstrations,
) -> list[str]:
    written = write_clean(
        sources, out=path, skip=report.skip, demonstrations=demonstrations, copy_images=clean.copy_images
    )
    left_out = f", {report.quarantined:,} left out ({out / QUARANTINE_FILE})" if report.quarantined else ""
    images = "" if written.images is None else f"; their images in {written.images}"
    return [
        f"wrote {path}: {written.num_pairs:,} pairs{left_out}{images}",
        *(f"  left out too: {line}" for line in written.unwritable[:5]),
        "next:",
        f"  {train_on_file(path, written.root, demonstrations=demonstrations)}",
    ]
