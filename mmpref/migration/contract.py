"""What is said of each key of another tool: a row of a table, and a finding about the value that a file gives it.

A table row (:class:`Key`) is the fact, a :class:`Finding` what became of one key of one file. :class:`Draft` collects
both the recipe and the findings, and refuses to end while a key that was read has no finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from mmpref.migration.values import Kind, convert
from mmpref.yaml_text import did_you_mean

LAUNCHER: Final = ("launch ", "env ")
"""Beginnings of what a command line says of the start of processes and of their environment."""


class Fate(StrEnum):
    """What became of a key."""

    CARRIED = "carried"
    SAME = "nothing to carry"
    NOT_CARRIED = "not carried"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Unset:
    """No default that would have to be written out."""


UNSET: Final = _Unset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of another tool, as a fact.

    Attributes:
        to: our dotted key; empty where there is none.
        kind: what its values are.
        default: theirs, written into the recipe where the file does not give the key; UNSET where nothing is to write.
        note: what our key means differently.
        same: values that change nothing here.
        why: the reason why it is not carried.
        matters: whether what is not carried may change what is learned.
        null: null is a value of its own; elsewhere it stands for the default.
        under: our dotted key that must be on for this one to do something.
        by: the part (loss, adapter, ...) whose function reads the key; empty where this row says everything.
    """

    to: str = ""
    kind: Kind = Kind.ANY
    default: Any = UNSET
    note: str = ""
    same: tuple[Any, ...] = ()
    why: str = ""
    matters: bool = True
    null: bool = False
    under: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one key that was read.

    Attributes:
        key: their name.
        value: as the file gives it.
        fate: what became of it.
        ours: dotted keys of the recipe that it became, with their values.
        note: what differs in meaning, or why it is not carried.
        matters: whether what is not carried may change what is learned.
    """

    key: str
    value: Any
    fate: Fate
    ours: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    matters: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """A value of the recipe that stands for a key which the file does not give: the other tool's default."""

    key: str
    ours: str
    value: Any
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A recipe from another tool's settings, and the account of every key.

    Attributes:
        tool: the other tool, as people write it.
        source: the file.
        tree: the recipe as a nested mapping.
        findings: one for each key that was read, in the order of the file.
        assumed: values of the recipe that are the other tool's defaults.
        to_set: what has to be set by hand before the recipe trains.
        launch: the ``--launch`` that stands for how the other tool was started; None for one process.
        processes: how many processes on this machine; None where that is not said.
    """

    tool: str
    source: str
    tree: Mapping[str, Any]
    findings: tuple[Finding, ...]
    assumed: tuple[Assumed, ...]
    to_set: tuple[str, ...]
    launch: str | None = None
    processes: int | None = None


class Draft:
    """A recipe in the making: what the functions of a tool read keys from and write findings to.

    Args:
        given: the other tool's settings.
        table: its keys.
        tool: its name, as people write it.
        where: names the file in errors.
    """

    def __init__(self, given: Mapping[str, Any], table: Mapping[str, Key], *, tool: str, where: str) -> None:
        self.given = dict(given)
        self.table = table
        self.tool = tool
        self.where = where
        self.values: dict[str, Any] = {}
        """Our dotted keys."""
        self.findings: dict[str, Finding] = {}
        self.assumed: dict[str, Assumed] = {}
        self.to_set: list[str] = []
        self.launch: str | None = None
        self.processes: int | None = None

    def has(self, name: str) -> bool:
        """Whether the file gives the key a value other than null."""
        return self.given.get(name) is not None and self.value(name) is not None

    def value(self, name: str) -> Any:
        """The value of a key by its kind, or the other tool's default; None where it has none.

        Raises:
            ConfigError: the value is of another kind.
        """
        row = self.table[name]
        found = convert(self.given.get(name), row.kind, f"{self.where}: {name}")
        if found is not None or (row.null and name in self.given):
            return found
        return None if isinstance(row.default, _Unset) else row.default

    def carry(self, name: str, ours: Mapping[str, Any], note: str = "") -> None:
        """Write keys of ours for one of theirs; where the file does not give it, they stand for its default."""
        self.values.update(ours)
        if name in self.given:
            self._found(name, Fate.CARRIED, ours=dict(ours), note=note or self.table[name].note)
        else:
            for key, value in ours.items():
                self.assumed[key] = Assumed(key=name, ours=key, value=value, note=note or self.table[name].note)

    def same(self, name: str, note: str = "") -> None:
        """Say of a key that there is nothing to carry."""
        self._found(name, Fate.SAME, note=note)

    def drop(self, name: str, why: str, *, matters: bool = True) -> None:
        """Say of a key why it is not carried."""
        self._found(name, Fate.NOT_CARRIED, note=why, matters=matters)

    def unknown(self, name: str) -> None:
        """Say of a key that the tool is not known to have it; what starts processes is no key of the tool."""
        if name.startswith(LAUNCHER):
            self.drop(name, "mmpref train starts processes itself, with --launch", matters=False)
            return
        near = did_you_mean(name, sorted(self.table))
        self._found(name, Fate.UNKNOWN, note=f"no key of {self.tool} that is known here{near}", matters=True)

    def by_the_table(self) -> None:
        """What the rows themselves say, for every key that no function has spoken of and for every default."""
        for name in self.given:
            if name not in self.table and name not in self.findings:
                self.unknown(name)
        for conditional in (False, True):
            for name, row in self.table.items():
                if bool(row.under) == conditional and not row.by and name not in self.findings:
                    self._by_row(name, row)

    def _by_row(self, name: str, row: Key) -> None:
        if name not in self.given:
            if row.to and not isinstance(row.default, _Unset) and row.to not in self.values:
                self.carry(name, {row.to: row.default})
            return
        value = self.value(name)
        if value is None and not row.null:
            self.same(name, "null")
        elif value in row.same:
            self.same(name, row.note if not row.to else "")
        elif not row.to:
            self.drop(name, row.why, matters=row.matters)
        elif row.under and not self.values.get(row.under):
            self.drop(name, f"it does nothing without {row.under}", matters=False)
        else:
            self.carry(name, {row.to: value})

    def _found(self, name: str, fate: Fate, **more: Any) -> None:
        if name in self.given:
            self.findings[name] = Finding(key=name, value=self.given[name], fate=fate, **more)

    def take_back(self, ours: str, why: str) -> None:
        """Remove a key of ours that would do nothing; the keys that became it are no longer carried."""
        self.values.pop(ours, None)
        self.assumed.pop(ours, None)
        for name, finding in self.findings.items():
            if ours in finding.ours:
                left = {key: value for key, value in finding.ours.items() if key != ours}
                if left:
                    self._found(name, Fate.CARRIED, ours=left, note=finding.note)
                else:
                    self.drop(name, why, matters=False)

    def finish(self) -> Migration:
        """The recipe and the account.

        Raises:
            RuntimeError: a key was read and nothing said of it, which is a defect.
        """
        silent = [name for name in self.given if name not in self.findings]
        if silent:
            raise RuntimeError(f"nothing was said of {', '.join(silent)} of {self.where}")
        for name, one in self.findings.items():  # a later key may have changed what an earlier one wrote
            self.findings[name] = replace(one, ours={key: self.values[key] for key in one.ours})
        return Migration(
            tool=self.tool,
            source=self.where,
            tree=nested(self.values),
            findings=tuple(self.findings[name] for name in self.given),
            assumed=tuple(self.assumed.values()),
            to_set=tuple(self.to_set),
            launch=self.launch,
            processes=self.processes,
        )


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        at = tree
        for section in sections:
            at = at.setdefault(section, {})
        at[last] = value
    return tree
