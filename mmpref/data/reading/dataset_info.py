"""LLaMA-Factory's ``dataset_info.json``: which file has which data set, and what its columns and tags are called.

The rows of an entry are given under LLaMA-Factory's default names, so that its two formats read them. A column that the
entry does not name keeps its name, or gets ``row_`` before it where it would be taken for one of the defaults.
Read from the description of the file in LLaMA-Factory's ``data/README.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.data.formats.columns import TURNS, column_of
from mmpref.data.formats.media_values import is_empty
from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import read_json

FILE_NAME = "dataset_info.json"
_MOST_BYTES = 64 * 2**20

_PLACES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_COLUMNS = {
    "alpaca": {
        "prompt": "instruction",
        "query": "input",
        "history": "history",
        "system": "system",
        "chosen": "chosen",
        "rejected": "rejected",
        "images": "images",
        "videos": "videos",
        "audios": "audios",
        "tools": "tools",
        "score_chosen": "score_chosen",
        "score_rejected": "score_rejected",
    },
    "sharegpt": {
        "messages": "conversations",
        "system": "system",
        "chosen": "chosen",
        "rejected": "rejected",
        "images": "images",
        "videos": "videos",
        "audios": "audios",
        "tools": "tools",
        "score_chosen": "score_chosen",
        "score_rejected": "score_rejected",
    },
}
"""Key of ``columns`` -> the name under which our adapters of the two formats read it. The scores are Uni-DPO's own."""
_DEFAULTS = {*_COLUMNS["alpaca"].values(), *_COLUMNS["sharegpt"].values(), "messages", "image", "video"} - {
    "score_chosen",
    "score_rejected",
}
"""Names that our adapters read; the scores are read under their own name, whether an entry names them or not."""
_UNUSED = {"response", "kto_tag", "prompt", "query", "history", "messages"}
"""Columns of other tasks or of the other format: known names that change nothing here."""
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One data set of the file."""

    name: str
    formatting: str
    path: Path | None
    """Its file or folder of files; None for a data set of the hub."""
    hub: str | None
    split: str | None
    columns: Mapping[str, str]
    """Name in the rows -> name that our adapter reads."""
    tags: Mapping[str, str]
    has_labels: bool = False
    """Its rows are single answers with a ``kto_tag``, and no pairs."""

    @property
    def format(self) -> str:
        """The row format in which :meth:`row` gives the rows."""
        if self.has_labels:
            return "llamafactory_kto" if self.formatting == "alpaca" else "llamafactory_kto_sharegpt"
        return f"llamafactory_{self.formatting}"

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the data set under the default names.

        Raises:
            RowError: a column that the entry does not name, and that changes what the model is given.
        """
        found: dict[str, Any] = {}
        taken = {*_DEFAULTS, *self.columns.values()}
        for key, value in row.items():
            if key in self.columns:
                found[self.columns[key]] = value
                continue
            column = column_of(key) if key in taken else None
            if column is not None and column.kind is not TURNS and not is_empty(value):
                raise RowError(
                    f"column {key!r} holds {column.kind.name}, and the entry {self.name!r} of {FILE_NAME} does not "
                    "name it: add it to the entry's columns, or drop it from the rows",
                    reason=column.kind.reason,
                )
            found[f"row_{key}" if key in taken else key] = value
        if self.formatting == "sharegpt":
            turns = found.get("conversations")
            if isinstance(turns, list | tuple):
                found["conversations"] = [self._turn(turn) for turn in turns]
            for side in () if self.has_labels else ("chosen", "rejected"):
                found[side] = self._turn(found.get(side))
        return found

    def _turn(self, turn: Any) -> Any:
        """A turn under the default tags; what is no turn stays as it is, for the adapter to refuse."""
        if not isinstance(turn, Mapping):
            return turn
        names = {self.tags["role_tag"]: "from", self.tags["content_tag"]: "value"}
        roles = {self.tags[key]: _TAGS[key] for key in _TAGS if key not in ("role_tag", "content_tag")}
        found = {names.get(key, key): value for key, value in turn.items()}
        role = found.get("from")
        return {**found, "from": roles.get(role, role)} if isinstance(role, str) else found


def read_entries(path: Path) -> dict[str, Any] | None:
    """The entries of a ``dataset_info.json`` by name; None for a file of that name that ``datasets`` wrote.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    found = read_json(path, DataError, most=_MOST_BYTES)
    if not isinstance(found, dict):
        return None
    entries = {
        name: entry
        for name, entry in found.items()
        if isinstance(entry, dict) and any(isinstance(entry.get(key), str) for key in _PLACES)
    }
    return entries or None


def choose_entry(path: Path, entries: Mapping[str, Any], name: str | None) -> Entry:
    """The named data set, or the only one that holds preferences, as pairs or as single answers with a ``kto_tag``.

    Raises:
        ConfigError: a choice that must be made, a name that is not there, or an entry that holds no pairs or cannot
            be read; the message names what there is.
    """
    ranking = [known for known, entry in entries.items() if entry.get("ranking") is True or _has_labels(entry)]
    listed = ", ".join(ranking[:30]) or "none"
    if name is None:
        if len(ranking) != 1:
            what = "no data set with ranking: true" if not ranking else f"{len(ranking)} data sets of pairs: {listed}"
            raise ConfigError(f"{path} describes {what}; choose one as {path}:NAME, or give the file of rows itself")
        name = ranking[0]
    if name not in entries:
        raise ConfigError(f"{path} describes no data set {name!r}; those of pairs: {listed}")
    if name not in ranking:
        raise ConfigError(f"{name!r} in {path} has no ranking: true, so it holds no pairs; those of pairs: {listed}")
    return _entry(path, name, entries[name])


def _has_labels(entry: Mapping[str, Any]) -> bool:
    """Whether the rows are single answers with a label; LLaMA-Factory looks at the tag before it looks for a pair."""
    columns = entry.get("columns")
    return entry.get("ranking") is not True and isinstance(columns, Mapping) and columns.get("kto_tag") is not None


def _entry(path: Path, name: str, given: Mapping[str, Any]) -> Entry:
    where = f"{name!r} in {path}"
    formatting = given.get("formatting", "alpaca")
    if formatting not in _COLUMNS:
        raise DataError(f"{where} has formatting {formatting!r}; read are: {', '.join(_COLUMNS)}")
    if given.get("num_samples") is not None:
        raise DataError(
            f"{where} asks for num_samples, a random choice that is not made here; remove it, and give the source a "
            "weight below 1 in the recipe instead"
        )
    columns, tags = given.get("columns") or {}, given.get("tags") or {}
    if not all(isinstance(part, Mapping) for part in (columns, tags)):
        raise DataError(f"{where}: 'columns' and 'tags' must be mappings")
    return Entry(
        name=name,
        formatting=formatting,
        path=_local(path, given, where),
        hub=_hub_spec(given),
        split=_text(given, "split", where),
        columns=_columns(columns, formatting, where, has_labels=_has_labels(given)),
        has_labels=_has_labels(given),
        tags={key: _text(tags, key, where) or default for key, default in _TAGS.items()},
    )


def _columns(given: Mapping[str, Any], formatting: str, where: str, *, has_labels: bool) -> dict[str, str]:
    ours = _COLUMNS[formatting]
    if has_labels:
        more = {"kto_tag": "kto_tag", **({"response": "output"} if formatting == "alpaca" else {})}
        ours = {key: name for key, name in ours.items() if name not in ("chosen", "rejected")} | more
    if unknown := sorted(set(given) - set(ours) - _UNUSED):
        raise DataError(f"{where} has unknown columns {', '.join(unknown)}; known: {', '.join(ours)}")
    asked = "prompt" if formatting == "alpaca" else "messages"
    defaults = {asked: ours[asked], "chosen": "chosen", "rejected": "rejected"}
    if has_labels:
        defaults = {asked: ours[asked], **({"response": "output"} if formatting == "alpaca" else {})}
    if not given and formatting == "alpaca":
        defaults["query"] = ours["query"]
    named = {key: _text(given, key, where) for key in ours if given.get(key) is not None}
    found: dict[str, str] = {}
    for key, column in {**defaults, **named}.items():
        if column in found:
            raise DataError(f"{where} gives the column {column!r} two meanings: {key} and another")
        found[str(column)] = ours[key]
    return found


def _local(path: Path, given: Mapping[str, Any], where: str) -> Path | None:
    if _hub_spec(given) is not None:
        return None
    file_name = _text(given, "file_name", where)
    if file_name is None:
        there = ", ".join(key for key in _PLACES if key in given)
        raise DataError(f"{where} lies at {there}, which is not read; download it and write its file_name")
    return path.parent / file_name


def _hub_spec(given: Mapping[str, Any]) -> str | None:
    hub = given.get("hf_hub_url")
    if not isinstance(hub, str):
        return None
    subset, revision = given.get("subset"), given.get("revision")
    return hub + (f":{subset}" if subset else "") + (f"@{revision}" if revision else "")


def _text(given: Mapping[str, Any], key: str, where: str) -> str | None:
    value = given.get(key)
    if value is not None and not (isinstance(value, str) and value):
        raise DataError(f"{where}: {key!r} must be text")
    return value
