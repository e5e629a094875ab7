"""What the commands of ``mmpref data`` share: the source, how its rows are read, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpref.cli.completion import card_names
from mmpref.errors import ConfigError

if TYPE_CHECKING:
    from mmpref.data.pair_source import PairSource

SOURCE_HELP = (
    "A file (JSONL, JSON, parquet, arrow), a folder, a dataset_info.json[:name] of LLaMA-Factory, "
    "or a hub id: owner/name[:config]\\[@revision]."  # escaped: typer reads square brackets as markup
)
Source = Annotated[str, typer.Argument(help=SOURCE_HELP)]
Sources = Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCE_HELP)]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Share of bad rows that is allowed.")]
_IMAGE_ROOT = "The folder that image paths start from; default: the source's own folder."


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """How the rows of a source are read."""

    format: Annotated[str, typer.Option("--format", help="Row format; auto recognises it by the keys of each row.")] = (
        "auto"
    )
    split: Annotated[str | None, typer.Option(help="Which split, where there are several.")] = None
    card: Annotated[
        str | None,
        typer.Option(help="The data card that describes the source (mmpref data list).", autocompletion=card_names),
    ] = None

    def open(self, source: str, image_root: Path | None = None) -> PairSource:
        """The source with its images."""
        from mmpref.data.opening import open_pairs

        return open_pairs(source, format=self.format, root=image_root, split=self.split, card=self.card)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How the rows of a source are read, and where its images are."""

    rows: RowOptions
    image_root: Annotated[Path | None, typer.Option(help=_IMAGE_ROOT)] = None

    @property
    def card(self) -> str | None:
        """The data card as it was given."""
        return self.rows.card

    def open(self, source: str) -> PairSource:
        """The source with its images."""
        return self.rows.open(source, self.image_root)


def named_paths(options: list[str] | None) -> dict[str, Path]:
    """``NAME=PATH`` options as a mapping.

    Raises:
        ConfigError: one that is written otherwise, or whose path can be none.
    """
    from mmpref.files.reading import why_no_path

    found = {}
    for option in options or ():
        name, separator, path = option.partition("=")
        if not separator or not name or not path:
            raise ConfigError(f"'{option}' must be written NAME=PATH, for example pope=coco_pope_random.json")
        if why := why_no_path(path):
            raise ConfigError(f"the path of {name[:60]} {why}")
        found[name] = Path(path)
    return found
