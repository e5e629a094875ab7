"""Which image files were decoded whole at an earlier start: a file that has not changed since is not decoded again.

Kept in the user's cache folder beside the hashes of large files (``mmpref.files.hashes``), as one digest for each file:
of its real path, size, times of change, inode and device, and of what decoded it (Pillow's version, the limits); of an
image whose bytes stand in its row, of these. Only
whole images are kept, so that a broken one is looked at, and named, at every start. Where the folder cannot be written
every image is decoded at every start.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.errors import MMPrefError
from mmpref.files.hashes import SETTLED_NS, cache_folder
from mmpref.files.writing import replacing
from mmpref.records import ImageRef

_DIGEST = 16  # bytes
_MOST_FILES = 8
_MOST_KEPT = 2_000_000
"""Images, 32 MB; with more, the newest half is kept."""


class DecodedBefore:
    """The digests of the images below one root.

    Args:
        loader: opens them.
    """

    def __init__(self, loader: ImageLoader) -> None:
        self._loader = loader
        folder = cache_folder("decoded")
        name = hashlib.sha256(os.fsencode(loader.root or "")).hexdigest()[:24]
        self._folder = None if folder is None else folder / name
        self._by = loader.decoded_by
        self._known = self._read()
        self._new: dict[bytes, None] = {}

    def __len__(self) -> int:
        """Images that are known to be whole."""
        return len(self._known)

    def key(self, ref: ImageRef) -> bytes | None:
        """What an image is known by as it is now; None for one that cannot be kept: it is not there, or was changed a
        moment ago and may change again within one tick of its file system's clock.
        """
        if ref.path is None:
            found = hashlib.blake2b(self._by.encode(), digest_size=_DIGEST)
            found.update(ref.data or b"")
            return found.digest()
        try:
            real = self._loader.resolve(ref.path)
            facts = real.stat()
        except (RowError, OSError):
            return None
        if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) < SETTLED_NS:
            return None
        stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev)
        said = f"{self._by} {stamp} {os.fspath(real)}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(said, digest_size=_DIGEST).digest()

    def has(self, key: bytes | None) -> bool:
        """Whether the image of that key was decoded whole."""
        return key in self._known

    def add(self, key: bytes) -> None:
        """The image of that key was decoded whole."""
        self._new[key] = None

    def write(self) -> None:
        """Keep what was added, in a file of its own, so that several processes may write at once."""
        folder = self._folder
        if folder is None or not self._new:
            return
        with contextlib.suppress(MMPrefError, OSError):  # a home that is full or read-only: decoded next time too
            old = _files(folder)
            kept = dict.fromkeys(self._new)
            if len(old) >= _MOST_FILES:
                kept = {**dict.fromkeys(self._known), **kept}
                kept = kept if len(kept) <= _MOST_KEPT else dict.fromkeys(list(kept)[len(kept) // 2 :])
            content = b"".join(kept)
            path = folder / f"{hashlib.blake2b(content, digest_size=12).hexdigest()}.bin"
            with replacing(path) as stream:
                stream.write(content)
            if len(old) >= _MOST_FILES:
                for file in old:
                    if file != path:
                        file.unlink(missing_ok=True)
        self._known |= self._new
        self._new = {}

    def _read(self) -> dict[bytes, None]:
        found: dict[bytes, None] = {}
        for file in [] if self._folder is None else _files(self._folder):
            with contextlib.suppress(OSError):
                content = file.read_bytes()
                whole = hashlib.blake2b(content, digest_size=12).hexdigest() == file.stem
                if whole:  # what is damaged there is as if it were not there
                    pieces = range(0, len(content), _DIGEST)
                    found.update(dict.fromkeys(content[at : at + _DIGEST] for at in pieces))
        return found


def _files(folder: Path) -> list[Path]:
    """The files of digests, the oldest first."""
    try:
        return sorted(folder.glob("*.bin"), key=lambda file: file.stat().st_mtime_ns)
    except OSError:  # another process removed one meanwhile
        return []
