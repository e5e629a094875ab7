"""``mmpref data verify``: whether data is still what a check found it to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmpref.data.accepted import Demonstrations
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import Quarantine
from mmpref.data.verification import verify


def verify_sources(report: Path, sources: Sequence[PairSource], *, demonstrations: Demonstrations, full: bool) -> str:
    """Compare rows and images with the report of a check, as training with it does; what was found, in one line.

    Args:
        report: the folder that the check wrote, or the report in it.
        sources: as they were checked.
        demonstrations: as for the check.
        full: hash every image again, whatever its time of change.

    Raises:
        DataError: something is not what was checked; it is named.
    """
    checked = verify(report, sources, demonstrations=demonstrations)
    quarantines = [Quarantine() for _ in sources]
    lists = [
        (found.pair for found in source.pairs(quarantine, demonstrations=demonstrations, skip=checked.skip))
        for source, quarantine in zip(sources, quarantines, strict=True)
    ]
    checked.verify_images(sources, lists, full=full)
    num_used = sum(quarantine.num_used for quarantine in quarantines)
    return f"{num_used:,} pairs are as {report} describes them; manifest {checked.hash[:16]}"
