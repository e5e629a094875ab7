"""From what a user writes (a recipe's ``data`` section, a command line) to sources of pairs with their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mmpref.data.card import load_card
from mmpref.data.formats import FormatOptions, format_named
from mmpref.data.images.loader import ImageLimits, ImageLoader
from mmpref.data.mixture import RootedImages, RootedVideos
from mmpref.data.pair_source import PairSource
from mmpref.data.reading.rows import FileFormat
from mmpref.data.reading.source import is_hub_id, local_path, open_source
from mmpref.data.videos.loader import VideoLoader
from mmpref.data.videos.sampling import FrameRule
from mmpref.errors import ConfigError
from mmpref.recipe.sections import DataSection, ProcessingSection, SourceSection


def open_pairs(
    spec: Path | str,
    *,
    format: str = "auto",
    root: Path | None = None,
    split: str | None = None,
    card: str | None = None,
    file_format: FileFormat | None = None,
    limits: ImageLimits | None = None,
    frame_rule: FrameRule | None = None,
) -> PairSource:
    """One source of pairs with its images and videos.

    Args:
        spec: file, folder or hub id; see :func:`mmpref.data.reading.source.open_source`.
        format: name of the row format; ``auto`` takes the card's, or recognises it by the keys.
        root: paths of images and videos start here; default: the source's own folder.
        split: where the source has several.
        card: name of the data card that describes the source.
        file_format: of the files, where their names do not say.
        limits: what is refused before an image is decoded.
        frame_rule: which frames of a video are shown; default: the usual ones.
    """
    if format not in ("auto", "canonical"):
        format = format_named(format).name
    options = FormatOptions()
    if card is not None:
        known = load_card(card)
        options = known.options()
        format = known.format if format == "auto" else format
    rows = open_source(spec, split=split, file_format=file_format)
    root_of_media = root if root is not None else rows.folder
    images = ImageLoader(root_of_media, limits=limits)
    return PairSource(
        rows=rows,
        format=format,
        options=options,
        images=images,
        videos=VideoLoader(root_of_media, rule=frame_rule, images=images),
        name=None if card is None else options.source,
        asked_root=root,
        card=card,
    )


def frame_rule(section: ProcessingSection) -> FrameRule:
    """Which frames of a video are shown, as a recipe says it."""
    return FrameRule(fps=section.video_fps, max_frames=section.video_max_frames)


def recipe_sources(
    section: DataSection, rule: FrameRule | None = None
) -> tuple[list[PairSource], list[PairSource], ImageLoader | RootedImages]:
    """The training sources, the held-out sources, and what opens the images of both.

    Where all images lie below one root, paths stay as the rows write them; where there are several, they become
    absolute. :func:`videos_of` gives what opens the videos.

    Args:
        section: the recipe's ``data``.
        rule: which frames of a video are shown; default: the usual ones. See :func:`frame_rule`.

    Raises:
        ConfigError: a file that is not there, or roots that must be named.
        DataError: a source that cannot be opened.
    """
    written = [*section.train, *section.eval]
    entries = [SourceSection(path=entry) if isinstance(entry, str) else entry for entry in written]
    for entry in entries:
        if not local_path(entry.path)[0].exists() and not is_hub_id(entry.path):
            raise ConfigError(f"data file {entry.path} does not exist (from data.train or data.eval)")
    sources = [
        open_pairs(
            entry.path,
            format=entry.format,
            root=entry.root or section.root,
            split=entry.split,
            card=entry.card,
            frame_rule=rule,
        )
        for entry in entries
    ]
    _refuse_guessed_roots(section, entries, sources)
    loaders = {source.images.root: source.images for source in sources if source.images is not None}
    images: ImageLoader | RootedImages
    if len(loaders) == 1:
        (images,) = loaders.values()
    else:
        images = RootedImages(tuple(loaders.values()))
        sources = [replace(source, anchored=True) for source in sources]
    return sources[: len(section.train)], sources[len(section.train) :], images


def videos_of(sources: Sequence[PairSource]) -> VideoLoader | RootedVideos:
    """What opens the videos of these sources, which :func:`recipe_sources` gave: all of them, the held-out ones too."""
    loaders = {source.videos.root: source.videos for source in sources if source.videos is not None}
    if len(loaders) == 1:
        return next(iter(loaders.values()))
    return RootedVideos(tuple(loaders.values()))


def weights(section: DataSection) -> list[float]:
    """The weight of each training source."""
    return [1.0 if isinstance(entry, str) else entry.weight for entry in section.train]


def _refuse_guessed_roots(
    section: DataSection, entries: Sequence[SourceSection], sources: Sequence[PairSource]
) -> None:
    """Files in one folder have that folder as their root; files in several do not say where their images are."""
    guessed = {
        source.rows.folder
        for entry, source in zip(entries, sources, strict=True)
        if entry.root is None and section.root is None and source.rows.folder is not None
    }
    if len(guessed) > 1:
        names = ", ".join(sorted(map(str, guessed)))
        raise ConfigError(f"the data files lie in different folders ({names}); say where images are with data.root")
