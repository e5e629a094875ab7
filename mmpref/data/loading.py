"""Sources become checked pairs: every row is used or quarantined, and the two add up to what was read.

What is counted are pairs: a row that gives several (four ranked answers, say) counts as that many, and a row that gives
none counts as one that was quarantined.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpref.data.accepted import Demonstrations
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pair_source import PairSource, describe_left_over
from mmpref.data.quarantine import NO_PAIR, Quarantine, RowError, Skip, where_is
from mmpref.data.reading.source import open_source
from mmpref.errors import DataError
from mmpref.records import PreferencePair

DEFAULT_MAX_BAD_FRACTION = 0.001
"""One row in a thousand may be bad before loading stops."""

FindBroken = Callable[[Sequence["PairSource"], Sequence[Sequence[PreferencePair]]], Mapping[tuple[int, str], RowError]]
"""Sources and their pairs -> (number of the source, id) -> fault of pairs whose images cannot be decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do about data that is refused, as lines for the message; asked for only then."""

    on_bad_rows: Callable[[], Sequence[str]] = list
    on_ids: Callable[[], Sequence[str]] = list
    """About ids that appear twice."""


NO_ADVICE = Advice()

_log = logging.getLogger(__name__)


def load_pairs(
    sources: Sequence[Path | str | PairSource],
    *,
    allow_demonstrations: Demonstrations,
    quarantine: Quarantine,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    images: ImageLoader | None = None,
) -> list[PreferencePair]:
    """Read all pairs of some sources, in order. Pairs used + pairs quarantined = pairs read.

    Args:
        sources: files, folders or hub ids in any known container and row format, or ``PairSource`` for more say.
        allow_demonstrations: accept rows without ``rejected``, which only the ``sft`` loss can train on.
        quarantine: gets every row that is not used, and the counts.
        max_bad_fraction: more bad rows than this share is an error.
        images: given, the header of every image is read too, so that a missing or oversized one shows now and not in a
            worker in the middle of a run. A ``PairSource`` brings its own.

    Raises:
        DataError: a file that cannot be read, an id that appears twice, too many bad rows, or no usable row at all.
    """
    lists = load_each(
        [
            source if isinstance(source, PairSource) else PairSource(rows=open_source(source), images=images)
            for source in sources
        ],
        allow_demonstrations=allow_demonstrations,
        quarantine=quarantine,
        max_bad_fraction=max_bad_fraction,
    )
    return [pair for pairs in lists for pair in pairs]


def load_each(
    sources: Sequence[PairSource],
    *,
    allow_demonstrations: Demonstrations,
    quarantine: Quarantine,
    max_bad_fraction: float = DEFAULT_MAX_BAD_FRACTION,
    skip: Skip | None = None,
    find_broken: FindBroken | None = None,
    advice: Advice = NO_ADVICE,
) -> list[list[PreferencePair]]:
    """As :func:`load_pairs`, with one list per source.

    Args:
        skip: as in :meth:`PairSource.pairs`.
        find_broken: decodes the images of the pairs whose rows are in order.
        advice: what the messages that refuse the data say should be done.
    """
    lists: list[list[PreferencePair]] = []
    places: dict[str, tuple[str, int]] = {}
    twice: list[str] = []
    for source in sources:
        pairs: list[PreferencePair] = []
        for file, row, pair in source.pairs(quarantine, demonstrations=allow_demonstrations, skip=skip):
            if pair.id in places:
                twice.append(f"{pair.id!r} in {where_is(*places[pair.id])} and in {where_is(file, row)}")
            places.setdefault(pair.id, (file, row))
            pairs.append(pair)
        lists.append(pairs)
    if find_broken is not None and not twice:
        lists = _without_broken(sources, lists, find_broken(sources, lists), places, quarantine)
    quarantine.write()
    if len(quarantine):
        _log.warning("%s", quarantine.summary())
    if line := describe_left_over(dict(quarantine.left_over.most_common())):
        _log.warning("%s", line)
    if twice:
        listed = _first_five(f"{len(twice)} ids appear more than once; every id must be unique", twice)
        raise DataError("\n".join([listed, *advice.on_ids()]))
    refuse_too_many_bad(quarantine, max_bad_fraction, advice)
    if not any(lists):
        names = ", ".join(source.rows.spec for source in sources) or "(no file given)"
        if not quarantine.num_read:
            raise DataError(f"no usable row in {names}: there is no row to read, the file is empty")
        raise DataError(f"no usable row in {names}; a row needs id, images, prompt, chosen and rejected")
    return lists


def _without_broken(
    sources: Sequence[PairSource],
    lists: Sequence[list[PreferencePair]],
    broken: Mapping[tuple[int, str], RowError],
    places: Mapping[str, tuple[str, int]],
    quarantine: Quarantine,
) -> list[list[PreferencePair]]:
    """The pairs whose images are whole; the others are quarantined, in the order of the rows."""
    for (number, name), fault in broken.items():
        quarantine.num_used -= 1
        sources[number].quarantine_row(quarantine, *places[name], fault, row_id=name)
    if broken:
        order = {str(file): n for n, file in enumerate(file for source in sources for file in source.rows.files)}
        quarantine.rows.sort(key=lambda row: (order.get(row.file, -1), row.row))
    return [[pair for pair in pairs if (number, pair.id) not in broken] for number, pairs in enumerate(lists)]


def refuse_too_many_bad(quarantine: Quarantine, max_bad_fraction: float, advice: Advice = NO_ADVICE) -> None:
    """Raise ``DataError`` when more than the allowed share of what was read is bad: how many of each kind, the first
    five with their places, where all are listed, and what to do."""
    bad, read = quarantine.num_bad, quarantine.num_read
    if not bad or bad <= max_bad_fraction * read:
        return
    head = (
        f"{bad} of {read} rows cannot be used ({quarantine.reasons()}), more than the allowed share of "
        f"{max_bad_fraction:g}"
    )
    first = _first_five(head, [row.describe() for row in quarantine.rows if row.reason != NO_PAIR])
    listed = [] if quarantine.path is None else [f"all of them: {quarantine.path}"]
    raise DataError("\n".join([first, *(f"  {line}" for line in listed), *advice.on_bad_rows()]))


def _first_five(head: str, lines: list[str]) -> str:
    more = [f"... and {len(lines) - 5} more"] if len(lines) > 5 else []
    return "\n  ".join([head + ":", *lines[:5], *more])
