"""Files that rows name, images and videos alike: a path stays inside the root, and only a regular file is opened."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError
from mmpref.files.reading import without_links

Medium = Literal["image", "video"]
_URL = re.compile(r"^(?:[A-Za-z][A-Za-z0-9+.\-]*://|data:)")


class Measured(NamedTuple):
    """What decoding an image or a video showed; an image has no ``num_frames``."""

    width: int
    height: int
    num_frames: int = 0


class MediaFiles:
    """The files of one medium below one root. It can be pickled.

    Args:
        medium: how it is called in messages, and how every reason begins.
        root: the folder that relative paths start from and that no path may leave; None has no files.
        max_bytes: a larger file is refused before it is opened.

    Every refusal is a ``RowError`` with one of these reasons, here for images: ``image_url``, ``image_no_root``,
    ``image_outside_root``, ``image_missing``, ``image_not_a_file``, ``image_unreadable``, ``image_too_large``,
    ``image_decode`` (an empty file).
    """

    def __init__(self, medium: Medium, root: Path | str | None, *, max_bytes: int) -> None:
        self.medium = medium
        self.max_bytes = max_bytes
        self.root: Path | None = None
        if root is not None:
            self.root = without_links(root)
            if not self.root.is_dir():
                raise ConfigError(
                    f"the {medium} root {self.root} is not a folder; set it to the folder that {medium} paths start "
                    "from"
                )

    def resolve(self, path: str) -> Path:
        """The real path of a file named in a row, proved to be inside the root."""
        medium = self.medium
        if _URL.match(path):
            raise self.fault("url", path, self._instead_of_url(path))
        if self.root is None:
            detail = f"is a path and no {medium} root is set; set the folder that {medium} paths start from"
            raise self.fault("no_root", path, detail)
        try:
            real = without_links(self.root / path)
        except (OSError, ValueError, RuntimeError) as error:  # NUL byte, name too long, loop of links
            raise self.fault("missing", path, f"cannot be a path below {self.root}: {error}") from error
        if not real.is_relative_to(self.root):
            raise self.fault("outside_root", path, f"leads outside the {medium} root {self.root} (to {real})")
        return real

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        """The file, opened for reading."""
        real = self.resolve(path)
        try:
            found = real.stat()
            if not stat.S_ISREG(found.st_mode):  # a FIFO would block for ever, a device never ends
                is_frames = self.medium == "video" and stat.S_ISDIR(found.st_mode)
                advice = '; write its images in their order as {"frames": [...]}' if is_frames else ""
                raise self.fault("not_a_file", path, f"is not a regular file ({real}){advice}")
            self.check_bytes(found.st_size, path)
            handle = os.fdopen(os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.fault("missing", path, f"does not exist below the {self.medium} root {self.root}") from error
        except OSError as error:
            raise self.fault("unreadable", path, f"cannot be read: {error.strerror or error}") from error
        with handle:
            yield handle

    def num_bytes(self, path: str) -> int:
        """Size of the file, which is not opened."""
        real = self.resolve(path)
        try:
            return real.stat().st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self.fault("missing", path, f"does not exist below the {self.medium} root {self.root}") from error
        except OSError as error:
            raise self.fault("unreadable", path, f"cannot be read: {error.strerror or error}") from error

    def check_bytes(self, size: int, name: str) -> None:
        """Refuse an encoded file of that size where it is too large, or empty."""
        if size > self.max_bytes:
            raise self.fault("too_large", name, f"has {size} bytes, the limit is {self.max_bytes}")
        if size == 0:
            raise self.fault("decode", name, "is empty")

    def fault(self, reason: str, name: str, detail: str) -> RowError:
        """What is wrong with one file; the reason gets the medium before it."""
        return RowError(f"{self.medium} {name[:300]!r} {detail}", reason=f"{self.medium}_{reason}")

    def _instead_of_url(self, path: str) -> str:
        kind = path.partition(":")[0].lower()
        if self.medium == "video":
            return "is a URL; videos are never fetched: download it, and give its path"
        if kind == "https":
            return "is a URL; images are never fetched here: mmpref data fetch downloads them once"
        if kind == "data":
            return 'is written out in a data: URL; write its base64 text as {"bytes": ...}'
        return (
            f"is a URL; mmpref data fetch downloads images once, and takes https alone: bring those of {kind}: yourself"
        )
