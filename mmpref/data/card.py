"""Data cards: what a data set is, where it comes from, how its rows are read and what to watch for.

A card is one Markdown file with YAML front matter, in the manner of the model hub's own cards. The front matter is
typed: an unknown key, a wrong type or a format that does not exist is an error that names the card and the key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from mmpref.data.formats import FormatOptions, format_named
from mmpref.errors import ConfigError, DataError
from mmpref.files.reading import read_text
from mmpref.recipe.keys import known_keys
from mmpref.yaml_text import did_you_mean, parse_yaml

CARD_FOLDER = "data_cards"
_MOST_BYTES = 4 * 2**20
Certainty = Literal["measured", "read", "assumed"]
ImageKind = Literal["none", "paths", "bytes", "zip", "tar", "split_zip", "own_root"]


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("string_type", "blank")
    return value


def _count_or_text(value: Any) -> Any:
    """Refused here in one sentence; a union would refuse it once for each of its types."""
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.strip())):
        raise PydanticCustomError("int_type", "neither a count nor text")
    return value


def _under(key: str) -> BeforeValidator:
    """A text alone is the value of one key of the mapping."""
    return BeforeValidator(lambda value: {key: value} if isinstance(value, str) else value)


Text = Annotated[str, AfterValidator(_not_blank)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
CountOrText = Annotated[int | str, BeforeValidator(_count_or_text)]


class _Facts(BaseModel):
    """A mapping of the front matter, read strictly: no other key, no number for a text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CardImages(_Facts):
    """How the images come, and how the paths in the rows lead to them."""

    kind: ImageKind
    """``paths`` beside the rows, ``bytes`` in them, archives to unpack, or a root that the user has to bring."""
    files: Texts = ()
    """The archives, in order; the parts of a split zip are joined before unpacking."""
    root: Text | None = None
    """What the data root must contain."""
    path_after: Text | None = None
    """Only what follows this folder counts in the image paths of the rows."""
    template: Text | None = None
    """Path of an image that the rows name by id."""


class CardScores(_Facts):
    """What gave the scores, and which constants of Uni-DPO fit their scale."""

    kind: Text
    scale: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """Lowest and highest possible score; null where nothing bounds them or nobody knows."""
    eta: float | None = None
    tau_good: float | None = None
    origin: Text | None = None
    """Where ``eta`` and ``tau_good`` come from."""

    def summary(self) -> str:
        """What gave them, and their scale."""
        return self.kind if self.scale is None else f"{self.kind} {self.scale[0]:g}..{self.scale[1]:g}"


class CardLeaks(_Facts):
    """Which images of benchmarks may be in the set."""

    note: Text
    images: Texts = ()
    """Collections the images come from: ``coco``, ``visual_genome``."""


class Expected(_Facts):
    """Counts that must be true of one split or file; null where nobody has counted."""

    read: int | None = None
    used: int | None = None
    quarantined: int | None = None
    reasons: dict[str, int] = Field(default_factory=dict)


class Card(_Facts):
    """The facts of one data set, and the text below them."""

    name: Text
    summary: Text
    source: Text
    revision: Text | None
    license: Text
    commercial_use: Literal["yes", "no", "unclear"]
    size: dict[str, CountOrText]
    format: Text
    fields: dict[str, Text]
    images: Annotated[CardImages, _under("kind")]
    scores: CardScores | None
    defects: dict[str, Text]
    leaks: Annotated[CardLeaks, _under("note")]
    expected: dict[str, Expected]
    sure: dict[str, Certainty]
    files: Texts = ()
    """The annotation files in the source, where it has others too."""
    text: Text = ""
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
        for name in type(self).model_fields:
            if name in ("name", "text"):
                continue
            certain = self.sure.get(name)
            shown = _line(getattr(self, name))
            lines.append((name, f"{shown} [{certain}]" if certain else shown))
        return lines

    def row(self) -> list[str]:
        """Its line in the list of cards: name, format, size, licence, commercial use, scores."""
        size = ", ".join(f"{count:,}" if isinstance(count, int) else count for count in self.size.values())
        scores = "none" if self.scores is None else self.scores.summary()
        return [self.name, self.format, size, self.license, self.commercial_use, scores]


def list_cards() -> list[Card]:
    """All shipped cards, by name."""
    return [load_card(path) for path in _shipped().values()]


def load_card(name_or_path: str | Path) -> Card:
    """One card: a shipped one by its name, or any file.

    Raises:
        DataError: no such card, or one without what a card must say.
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
    try:
        card = Card.model_validate({**tree, "text": "\n".join(lines[end + 1 :]).strip()})
    except ValidationError as error:
        unknown_first = sorted(
            error.errors(), key=lambda problem: problem["type"] not in ("extra_forbidden", "invalid_key")
        )
        raise DataError(f"{where}: {'; '.join(map(_explain, unknown_first))}") from None
    if problems := _contradictions(card):
        raise DataError(f"{where}: {'; '.join(problems)}")
    return card


_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "too_long": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""Kind of a pydantic problem -> what the value must be."""


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic problem as a sentence with the dotted key, and the nearest known key where one was mistyped."""
    *sections, last = problem["loc"]
    kind, value = problem["type"], problem.get("input")
    if last == "[key]":  # the key itself is no text
        return f"'{_dotted(sections[:-1])}' has the key {value!r}, which must be text"
    if kind == "missing" and isinstance(last, int):  # a list that is too short
        return f"'{_dotted(sections)}' must be a list, got {str(value)[:60]!r}"
    dotted = _dotted(problem["loc"])
    if kind == "invalid_key":  # no text
        return f"unknown key '{_dotted([*sections, str(last)])}'"
    if kind == "extra_forbidden":
        in_split = len(sections) == 2 and sections[0] == "expected"
        known = known_keys(Expected, []) if in_split else known_keys(Card, sections)
        return f"unknown key '{dotted}'{did_you_mean(str(last), known, prefix=sections)}"
    if kind == "missing":
        return f"missing key '{dotted}'"
    wanted = _WANTED.get(kind) or " or ".join(re.findall(r"'([^']*)'", str(problem.get("ctx", {}).get("expected"))))
    return f"'{dotted}' must be {wanted}, got {str(value)[:60]!r}"


def _dotted(location: Sequence[Any]) -> str:
    """``images.files[0]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _contradictions(card: Card) -> list[str]:
    """What the types alone do not say."""
    problems = []
    try:
        format_named(card.format)
    except ConfigError as error:
        problems.append(f"'format': {error}")
    unknown = [key for key in card.sure if key not in Card.model_fields]
    problems += [f"'sure' names {key!r}, which is no field of a card" for key in unknown]
    if card.scores is not None and card.scores.scale is not None and card.scores.scale[0] >= card.scores.scale[1]:
        problems.append("'scores.scale' must be [lowest, highest]")
    for split, counts in card.expected.items():
        parts = (counts.read, counts.used, counts.quarantined)
        if None not in parts and counts.read != sum(part for part in parts[1:] if part is not None):
            problems.append(f"'expected.{split}': read must be used + quarantined")
    return problems


def _shipped() -> dict[str, Path]:
    """Name -> file of the cards in the source tree, or of those that were installed with the package."""
    beside = Path(__file__).resolve().parents[2]
    # pip install --target puts them beside the package, whatever its record says of their place
    folders = (beside / CARD_FOLDER, beside / "share" / "mmpref" / CARD_FOLDER)
    if folder := next(filter(Path.is_dir, folders), None):
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
    if isinstance(value, BaseModel):
        value = {key: item for key, item in value if item not in (None, (), {})}
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_line(item)}" for key, item in value.items()) or "none"
    if isinstance(value, tuple):
        return ", ".join(_line(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
