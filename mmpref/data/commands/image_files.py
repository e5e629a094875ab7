"""The image paths of converted rows, and the files that embedded images become."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mmpref.errors import ConfigError
from mmpref.files.reading import refuse_foreign_folder, without_links
from mmpref.files.writing import replacing_folder

_MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}
_WRITTEN = re.compile(r"[0-9a-f]{32}\.(jpg|png|gif|bmp|webp|bin)")


@dataclass
class ImageFiles:
    """The image paths that are written, all from one folder; embedded images become files, one per content."""

    folder: Path
    """Of embedded images; it appears when the rows are whole."""
    here: Path
    """The output's folder."""
    root: Path
    """What the rows' paths start from."""
    base: Path | None
    """What written paths start from; not known before the first, unless it was said."""
    rebase: bool
    stack: ExitStack
    named: bool = False
    used: bool = False
    place: Path | None = None

    @classmethod
    def beside(cls, out: Path, *, root: Path | None, folder: Path | None, rebase: bool, stack: ExitStack) -> Self:
        """For the rows that are written to ``out``.

        Args:
            root: what the rows' paths start from; None: the output's folder.
            folder: of embedded images; None: ``<name>_images`` beside the output.
            rebase: write paths relative to the output's folder.
            stack: makes the folder appear when it is closed without an error.
        """
        here = without_links(out.parent)
        root = here if root is None else without_links(root)
        is_named = folder is not None
        folder = without_links(out.with_name(f"{out.stem}_images") if folder is None else folder)
        base = here if rebase or root == here else None
        if base is None and is_named:
            base = root if folder.is_relative_to(root) else here
        return cls(folder=folder, here=here, root=root, base=base, rebase=rebase, stack=stack)

    def path_of(self, item: Any, *, embed: bool) -> Any:
        """What to write for an image; ``embed`` leaves embedded images in the row."""
        if not isinstance(item, Mapping):
            self.named = True
            return self._row_path(str(item))
        if embed:
            return item
        self.named = True
        data = base64.b64decode(item["bytes"])
        if self.place is None:
            self.base = self.here if self.base is None else self.base
            if not self.folder.is_relative_to(self.base):
                if self.base == self.root:
                    raise self._two_roots()
                raise ConfigError(f"embedded images cannot go to {self.folder}: it is not below {self.base}")
            refuse_foreign_folder(self.folder, _WRITTEN, [self.here, self.root], "give --image-folder a new folder")
            self.place = self.stack.enter_context(replacing_folder(self.folder))
            self.used = True
        ending = next((ending for magic, ending in _MAGIC.items() if data.startswith(magic)), ".bin")
        file = hashlib.sha256(data).hexdigest()[:32] + ending
        if not (self.place / file).exists():
            (self.place / file).write_bytes(data)
        return (self.folder / file).relative_to(self.base or self.here).as_posix()

    def _row_path(self, path: str) -> str:
        if self.base is None:
            self.base = self.root
        if "://" in path or Path(path).is_absolute() or self.base == self.root:
            return path
        full = Path(os.path.normpath(self.root / path))  # links stay as they are: they may lead where the reader is
        if full.is_relative_to(self.base):
            return full.relative_to(self.base).as_posix()
        if not self.rebase:
            raise self._two_roots()
        raise ConfigError(f"{full} is not below {self.base}, so its path cannot start there; write the output above it")

    def _two_roots(self) -> ConfigError:
        return ConfigError(
            f"the rows name images below {self.root} and hold embedded ones, which would go to {self.folder}: no one "
            f"folder serves both; give --image-folder a folder below {self.root}"
        )
