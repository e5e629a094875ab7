"""The one step that downloads images: named hosts only, https only, public addresses only, with caps, and resumable.

Nothing else in mmpref opens a URL. A host is resolved once, every address it has must be public, and the connection
goes to the address that was checked, so that a second answer of the name server changes nothing. Redirects are followed
only to places that pass the same checks. Proxy settings are not read. The time limit of an image applies whatever the
server does, and a file counts as fetched when it is a whole image.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mmpref.data.fetching.policy import FetchPolicy
from mmpref.data.fetching.store import FOLDER, ImageStore
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pair_source import PairSource, all_images
from mmpref.data.pair_writing import write_pairs
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.errors import CheckpointError, ConfigError
from mmpref.files.locking import only_writer
from mmpref.files.reading import without_links
from mmpref.process.threads import each
from mmpref.records import ImageRef, PreferencePair, VideoRef

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.\-]*://")

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """What came of one call. ``used + quarantined == read``; they count pairs."""

    read: int
    used: int
    quarantined: int
    reasons: dict[str, int]
    images: int
    """Different URLs that are now files."""
    downloaded: int
    """Of these, the ones that were downloaded by this call; the others were there already."""
    num_bytes: int
    out: Path

    def summary(self) -> str:
        """What was downloaded, in words."""
        return f"{self.images:,} images ({self.downloaded:,} downloaded now, {self.num_bytes / 2**20:,.1f} MiB)"


def fetch_pairs(
    source: PairSource,
    *,
    out: Path,
    root: Path,
    policy: FetchPolicy,
    quarantine: Quarantine,
    workers: int = 4,
    progress: Progress | None = None,
) -> FetchReport:
    """Download the images that pairs name by URL, and write the pairs with the paths of the files.

    Pairs whose image cannot be had are quarantined. What is there already is not asked for again, so a call that was
    stopped goes on where it was.

    Args:
        source: pairs in any format; their images are not looked at before.
        out: canonical JSONL, written whole at the end.
        root: the image root of the written file: images go to its folder ``fetched``; paths stay relative to it.
        policy: the hosts to ask, and the caps.
        quarantine: gets the pairs that are not written, and the counts.
        workers: images on their way at a time.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: no host was allowed.
    """
    if not policy.hosts:
        raise ConfigError("no host is allowed; name the hosts that images may come from (--host images.example.org)")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"images cannot be kept in {root}: {error.strerror or error}") from error
    store = ImageStore(without_links(root), ImageLoader(root), policy)
    urls: dict[str, None] = {}
    for _, _, pair in replace(source, images=None).candidates(Quarantine(), demonstrations="all"):
        urls.update(dict.fromkeys(_urls(pair)))
    with only_writer(out, "choose another --out"), only_writer(root / FOLDER, "choose another --image-root"):
        store.remove_parts()
        outcomes = _fetch_all(store, urls, workers, progress)
        write_pairs(out, _rewritten(source, outcomes, quarantine, store.root))
        quarantine.write()
    return FetchReport(
        read=quarantine.num_read,
        used=quarantine.num_used,
        quarantined=len(quarantine),
        reasons=dict(quarantine.counts.most_common()),
        images=sum(isinstance(outcome, str) for outcome in outcomes.values()),
        downloaded=store.downloaded,
        num_bytes=store.num_bytes,
        out=out,
    )


def _fetch_all(
    store: ImageStore, urls: Iterable[str], workers: int, progress: Progress | None
) -> dict[str, str | RowError]:
    """URL -> the path of its file, or why it cannot be had."""
    wanted = list(urls)
    outcomes: dict[str, str | RowError] = {}
    try:
        with contextlib.closing(each(wanted, store.fetch, workers=workers, stop=store.stop)) as found:
            for url, outcome in found:
                if isinstance(outcome, OSError):  # what the network raises is a RowError by now; this is the disk
                    reason = outcome.strerror or outcome
                    raise CheckpointError(f"cannot write below {store.root}: {reason}") from outcome
                if isinstance(outcome, BaseException) and not isinstance(outcome, RowError):
                    raise outcome
                outcomes[url] = outcome
                if progress is not None:
                    progress(len(outcomes), len(wanted))
    finally:
        store.remove_parts()
    return outcomes


def _rewritten(
    source: PairSource, outcomes: dict[str, str | RowError], quarantine: Quarantine, root: Path
) -> Iterator[PreferencePair]:
    for file, row, pair in replace(source, images=None).candidates(quarantine, demonstrations="all"):
        try:
            images = _local(pair.images, outcomes, source, root)
            rejected = None if pair.rejected_images is None else _local(pair.rejected_images, outcomes, source, root)
            other = None if pair.other_images is None else _local(pair.other_images, outcomes, source, root)
            videos = tuple(_local_video(video, outcomes, source, root) for video in pair.videos)
        except RowError as fault:
            source.quarantine_row(quarantine, file, row, fault, row_id=pair.id)
            continue
        quarantine.num_used += 1
        yield replace(pair, images=images, rejected_images=rejected, other_images=other, videos=videos)


def _urls(pair: PreferencePair) -> Iterable[str]:
    return (ref.path for ref in all_images(pair) if ref.path is not None and _SCHEME.match(ref.path))


def _local(
    images: tuple[ImageRef, ...], outcomes: dict[str, str | RowError], source: PairSource, root: Path
) -> tuple[ImageRef, ...]:
    """The images as the written file names them: below its root, or in the row.

    Raises:
        RowError: one that could not be fetched, or a file that does not lie below the root.
    """
    found = []
    for ref in images:
        outcome = outcomes.get(ref.path) if ref.path is not None else None
        if isinstance(outcome, RowError):
            raise outcome
        if outcome is not None:
            found.append(ImageRef(path=outcome))
        elif ref.path is not None:
            found.append(ImageRef(path=_below(ref.path, source, root)))
        else:
            found.append(ref)
    return tuple(found)


def _local_video(video: VideoRef, outcomes: dict[str, str | RowError], source: PairSource, root: Path) -> VideoRef:
    """A video as the written file names it; its frames are fetched as images are, and video files are not.

    Raises:
        RowError: as :func:`_local`; a video that is a URL.
    """
    if video.path is None:
        return replace(video, frames=_local(video.frames, outcomes, source, root))
    if _SCHEME.match(video.path):
        detail = f"video {video.path[:300]!r} is a URL; videos are never fetched: download it, and give its path"
        raise RowError(detail, reason="video_url")
    return VideoRef(path=_below(video.path, source, root))


def _below(path: str, source: PairSource, root: Path) -> str:
    """A file that a row names by its path, as a path below the root of the written file."""
    places = [root] if source.images is None or source.images.root is None else [root, source.images.root]
    for place in places:
        full = place / path
        if full.is_file():
            if not without_links(full).is_relative_to(root):
                continue
            if full.is_relative_to(root):
                return full.relative_to(root).as_posix()
            return without_links(full).relative_to(root).as_posix()
    tried = " and ".join(str(place) for place in places)
    raise RowError(
        f"{path[:300]!r} is no URL, and no file below --image-root {root} (looked for in {tried}); "
        "take an image root that it is below",
        reason="image_outside_root",
    )
