"""The other images of a run's pairs that come from rows, as ``data.other_image`` says: their own, or other rows'.

Those that are made of a row's own images (``made``) are made by the workers, and nothing of them is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmpref.data.pair_source import PairSource
from mmpref.data.random_images import ImageContents, same_as_own, with_random_images
from mmpref.errors import DataError
from mmpref.files.hashes import Say
from mmpref.records import PreferencePair

_SHOWN = 3
_MADE = "`data.other_image=made processing.other_image.kind=crop`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesOfRows:
    """Gives pairs their other images, or proves that they have them.

    Args:
        mode: ``data.other_image``.
        seed: ``processing.other_image.seed``.
        images: opens the images of all sources.
        say: called with what the rows have and nothing uses, in one line.
    """

    mode: Literal["column", "made", "random_row"] | None
    seed: int
    images: ImageContents
    say: Say | None = None

    def __call__(
        self,
        lists: Sequence[Sequence[PreferencePair]],
        sources: Sequence[PairSource],
        *,
        more: Sequence[Sequence[PreferencePair]] = (),
    ) -> list[list[PreferencePair]]:
        """The same pairs, with other images where they come from rows.

        Args:
            lists: the pairs of each source.
            sources: where they are from, for messages.
            more: as in :func:`mmpref.data.random_images.with_random_images`.

        Raises:
            DataError: with ``column``, rows that have images and no ``other_images``, or the same files as those; with
                ``random_row``, a source with fewer than two different images.
        """
        names = [source.rows.spec for source in sources]
        if self.mode == "column":
            for pairs, name in zip(lists, names, strict=True):
                self._refuse_missing(pairs, name)
                self._refuse_same(pairs, name)
            return [list(pairs) for pairs in lists]
        unused = sum(pair.other_images is not None for pairs in lists for pair in pairs)
        if unused and self.mode != "made" and self.say is not None:  # of ``made`` the encoder's notes say it
            rows = "1 row" if unused == 1 else f"{unused:,} rows"
            self.say(
                f"other_images of {rows} are not used: data.other_image is {self.mode or 'null'} "
                "(data.other_image=column uses them, with a loss that looks at another image)"
            )
        if self.mode == "random_row":
            return with_random_images(lists, seed=self.seed, images=self.images, names=names, more=more)
        return [list(pairs) for pairs in lists]

    def _refuse_missing(self, pairs: Sequence[PreferencePair], name: str) -> None:
        missing = [pair.id for pair in pairs if pair.images and pair.other_images is None]
        if missing:
            with_images = sum(bool(pair.images) for pair in pairs)
            raise DataError(
                f"{len(missing):,} of the {with_images:,} rows of {name} with images have no 'other_images' "
                f"({_first(missing)}), and data.other_image is column: give one for each of their images, or make them "
                f"with {_MADE}"
            )

    def _refuse_same(self, pairs: Sequence[PreferencePair], name: str) -> None:
        if same := same_as_own(pairs, self.images):
            raise DataError(
                f"{len(same):,} of the {len(pairs):,} rows of {name} have in 'other_images' the very files of their "
                f"'images' under other names ({_first(same)}), so that there is nothing to compare: give others, leave "
                f"these rows out, or make them with {_MADE}"
            )


def _first(ids: Sequence[str]) -> str:
    named = ", ".join(repr(name[:80]) for name in ids[:_SHOWN])
    return f"ids {named}, ..." if len(ids) > _SHOWN else f"{'id' if len(ids) == 1 else 'ids'} {named}"
