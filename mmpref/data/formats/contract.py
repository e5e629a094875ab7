"""What a format is: how its rows are known, how they become canonical, and how canonical rows are written in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
"""A foreign row as a reader gives it. A key whose value is None counts as absent: parquet fills columns that way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatOptions:
    """What the rows alone do not say. The defaults change nothing."""

    source: str = ""
    """Written as ``source`` of rows that name none."""
    id_prefix: str = ""
    """Put before every id, so that two data sets that both count from 1 can be mixed."""
    place: str | None = None
    """Id of a row that has none, such as ``file:12``; without it the id is a hash of the row's content."""
    image_after: str = ""
    """Keep only what follows this folder in every image path (``MM-RLHF`` for ``/data/x/MM-RLHF/long/1.png``)."""
    image_index: Mapping[str, str] = field(default_factory=dict)
    """Image id -> path, for rows that have only an id."""
    image_template: str = "{image_id}.jpg"
    """Path of an image id that ``image_index`` does not have."""
    description_prompt: str = "Describe this image in detail."
    """The question of rows that have two descriptions and no question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One shape of rows."""

    name: str
    title: str
    signature: str
    """The keys and shapes that identify it, for people."""
    key: str | None
    """One key that every row of it has; looked at first. None where there are several forms."""
    matches: Callable[[Row], bool]
    """The signature for programs."""
    to_canonical: Callable[[Row, FormatOptions], list[dict[str, Any]]]
    """One foreign row to canonical rows: one as a rule, several where more than two answers are compared, none where
    the row is in order and prefers nothing (a tie, or a row that the set's authors leave out)."""
    from_canonical: Callable[[Row], dict[str, Any]] | None = None
    """The canonical row (as ``pair_to_row`` gives it) in this format; None for formats that are only read."""
    cannot_hold: tuple[str, ...] = ()
    """Canonical fields that the written format has no place for; a row that uses one is refused, never changed."""
    holds: Literal["pairs", "labels", "both"] = "pairs"
    """Whether the written format has pairs, or single answers with a label."""
    template_keys: frozenset[str] | None = frozenset({"tools"})
    """Keys of ``template_kwargs`` that the written format has a place for; None: all."""

    def not_held(self, row: Row) -> list[str]:
        """The fields of a canonical row that the written format has no place for."""
        found = [key for key in self.cannot_hold if row.get(key) is not None]
        kwargs = row.get("template_kwargs") or {}
        if self.template_keys is not None and kwargs.keys() - self.template_keys:
            found.append("template_kwargs")
        return found
