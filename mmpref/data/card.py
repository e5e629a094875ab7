"""Data cards: what a data set is, where it comes from, how its rows are read and what to watch for.

A card is one Markdown file with YAML front matter, in the manner of the model hub's own cards. The front matter is
typed: an unknown key, a wrong type or a format that does not exist is an error that names it.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mmpref.data.formats import FormatOptions, format_named
from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import read_text
from mmpref.yaml_text import parse_yaml

CARD_FOLDER = "data_cards"
_MOST_BYTES = 4 * 2**20
Certainty = Literal["measured", "read", "assumed"]
ImageKind = Literal["none", "paths", "bytes", "zip", "tar", "split_zip", "own_root"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardImages:
    """How the images come, and how the paths in the rows lead to them."""

    kind: ImageKind
    """``paths`` beside the rows, ``bytes`` in them, archives to unpack, or a root that the user has to bring."""
    files: tuple[str, ...] = ()
    """The archives, in order; the parts of a split zip are joined before unpacking."""
    root: str | None = None
    """What the data root must hold."""
    path_after: str | None = None
    """Only what follows this folder counts in the image paths of the rows."""
    template: str | None = None
    """Path of an image that the rows name by id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardScores:
    """What gave the scores, and which constants of Uni-DPO fit their scale."""

    kind: str
    scale: tuple[float, float] | None = None
    """Lowest and highest possible score; null where nothing bounds them or nobody knows."""
    eta: float | None = None
    tau_good: float | None = None
    origin: str | None = None
    """Where ``eta`` and ``tau_good`` come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardLeaks:
    """Which images of benchmarks may be in the set."""

    note: str
    images: tuple[str, ...] = ()
    """Collections the images come from: ``coco``, ``visual_genome``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Counts that must hold for one split or file; null where nobody has counted."""

    read: int | None = None
    used: int | None = None
    quarantined: int | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """The facts of one data set, and the text below them."""

    name: str
    summary: str
    source: str
    revision: str | None
    license: str
    commercial_use: Literal["yes", "no", "unclear"]
    size: Mapping[str, int | str]
    format: str
    fields: Mapping[str, str]
    images: CardImages
    scores: CardScores | None
    defects: Mapping[str, str]
    leaks: CardLeaks
    expected: Mapping[str, Expected]
    sure: Mapping[str, Certainty]
    files: tuple[str, ...] = ()
    """The annotation files in the source, where it holds others too."""
    text: str = ""
    """The Markdown below the front matter."""

    @property
    def on_hub(self) -> bool:
        """The source is a hub id, and not a command."""
        return self.source.count("/") == 1 and " " not in self.source

    def options(self) -> FormatOptions:
        """What the rows alone do not say, for the row format."""
        return FormatOptions(
            source=self.name,
            image_after=self.images.path_after or "",
            image_template=self.images.template or FormatOptions().image_template,
        )

    def facts(self) -> list[tuple[str, str]]:
        """Every fact as a label and a line for the terminal, with how sure it is."""
        lines = []
        for item in dataclasses.fields(self):
            if item.name in ("name", "text"):
                continue
            certain = self.sure.get(item.name)
            shown = _line(getattr(self, item.name))
            lines.append((item.name, f"{shown} [{certain}]" if certain else shown))
        return lines


def list_cards() -> list[Card]:
    """All shipped cards, by name."""
    return [load_card(path) for path in _shipped().values()]


def load_card(name_or_path: str | Path) -> Card:
    """One card: a shipped one by its name, or any file.

    Raises:
        DataError: no such card, or one that does not hold what a card must.
    """
    path = Path(name_or_path)
    if path.suffix != ".md":
        shipped = _shipped()
        if str(name_or_path) not in shipped:
            near = difflib.get_close_matches(str(name_or_path), shipped, n=1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"no data card {str(name_or_path)!r}{hint} (shipped: {', '.join(shipped)})")
        path = shipped[str(name_or_path)]
    content = read_text(path, DataError, "the data card", most=_MOST_BYTES)
    card = parse_card(content, where=f"data card {path.name}")
    if card.name != path.stem:
        raise DataError(f"data card {path.name}: 'name' is {card.name!r}, and must be the file's name {path.stem!r}")
    return card


def parse_card(content: str, *, where: str) -> Card:
    """The card that a Markdown text with front matter describes; ``where`` names it in the error."""
    lines = content.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        raise DataError(f"{where} has no front matter; it must begin with a line '---'")
    end = next((place for place, line in enumerate(lines[1:], start=1) if line.rstrip() == "---"), None)
    if end is None:
        raise DataError(f"{where} has front matter without its closing line '---'")
    try:
        tree = parse_yaml("\n".join(lines[1:end]), where=where)
    except ConfigError as error:
        raise DataError(str(error)) from error
    if not isinstance(tree, dict) or "text" in tree:
        raise DataError(f"{where}: the front matter must be a mapping of the fields of a card")
    if isinstance(tree.get("images"), str):
        tree["images"] = {"kind": tree["images"]}
    if isinstance(tree.get("leaks"), str):
        tree["leaks"] = {"note": tree["leaks"]}
    problems: list[str] = []
    card = _build(Card, {**tree, "text": "\n".join(lines[end + 1 :]).strip()}, "", problems)
    if not problems:
        problems += _contradictions(card)
    if problems:
        raise DataError(f"{where}: {'; '.join(problems)}")
    return typing.cast(Card, card)


def _contradictions(card: Card) -> list[str]:
    """What the types alone do not say."""
    problems = []
    try:
        format_named(card.format)
    except ConfigError as error:
        problems.append(f"'format': {error}")
    known = {item.name for item in dataclasses.fields(Card)}
    problems += [f"'sure' names {key!r}, which is no field of a card" for key in card.sure if key not in known]
    if card.scores is not None and card.scores.scale is not None and card.scores.scale[0] >= card.scores.scale[1]:
        problems.append("'scores.scale' must be [lowest, highest]")
    for split, counts in card.expected.items():
        parts = (counts.read, counts.used, counts.quarantined)
        if None not in parts and counts.read != sum(part for part in parts[1:] if part is not None):
            problems.append(f"'expected.{split}': read must be used + quarantined")
    return problems


def _shipped() -> dict[str, Path]:
    """Name -> file of the cards in the source tree, or of those that were installed with the package."""
    folder = Path(__file__).resolve().parents[2] / CARD_FOLDER
    if folder.is_dir():
        found = folder.glob("*.md")
    else:
        try:
            recorded = metadata.files("mmpref") or []
        except metadata.PackageNotFoundError:
            recorded = []
        found = (Path(file.locate()) for file in recorded if file.parent.name == CARD_FOLDER and file.suffix == ".md")
    return {path.stem: path for path in sorted(found) if path.stem != "README"}


def _line(value: Any) -> str:
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        value = {key: item for key, item in value.items() if item not in (None, (), {})}
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_line(item)}" for key, item in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(_line(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _build(kind: type[Any], tree: Mapping[str, Any], at: str, problems: list[str]) -> Any:
    """A mapping as the dataclass, every problem noted with its dotted key; None where there is a problem."""
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in dataclasses.fields(kind)}
    before = len(problems)
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            problems.append(f"unknown key '{at}{key}'" + (f", did you mean '{at}{near[0]}'?" if near else ""))
    values = {}
    for name, item in known.items():
        if name in tree:
            values[name] = _read(hints[name], tree[name], f"{at}{name}", problems)
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            problems.append(f"missing key '{at}{name}'")
    return kind(**values) if len(problems) == before else None


def _read(hint: Any, value: Any, at: str, problems: list[str]) -> Any:
    """A value of the front matter as its type, read strictly."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        choices = [choice for choice in inner if choice is not type(None)]
        fits = [choice for choice in choices if choice in _SCALARS and _SCALARS[choice](value)]
        return _read(fits[0] if fits else choices[0], value, at, problems)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return _build(typing.cast(type[Any], hint), value, f"{at}.", problems)
    if origin is Literal and isinstance(value, str) and value in inner:
        return value
    if origin is tuple and isinstance(value, list):
        wanted = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        if len(wanted) == len(value):
            pairs = enumerate(zip(wanted, value, strict=True))
            return tuple(_read(kind, item, f"{at}[{place}]", problems) for place, (kind, item) in pairs)
    if origin is not None and isinstance(value, Mapping) and issubclass(origin, Mapping):
        odd = [key for key in value if not isinstance(key, str)]
        problems += [f"'{at}' has the key {key!r}, which must be text" for key in odd]
        return {key: _read(inner[1], item, f"{at}.{key}", problems) for key, item in value.items() if key not in odd}
    if hint in _SCALARS and _SCALARS[hint](value):
        return float(value) if hint is float else value
    problems.append(f"'{at}' must be {_wanted(hint)}, got {str(value)[:60]!r}")
    return None


_SCALARS: Mapping[Any, Callable[[Any], bool]] = {
    str: lambda value: isinstance(value, str) and bool(value.strip()),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _wanted(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(inner)
    names: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", tuple: "a list"}
    return names.get(origin or hint, "a mapping")
