"""Other images from other rows: every image of a source in the place of another row's, so that none is seen more often.

What is dealt out depends on the seed, the ids and the images alone: not on the order of rows, nor on how many processes
read them.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from mmpref.errors import DataError
from mmpref.records import ImageRef, PreferencePair

_Content = tuple[int, str]
"""Bytes of an image file, and their hash where another image has as many; the same for equal files alone."""
_TRIES = 64


class ImageContents(Protocol):
    """What tells images apart by their files, without decoding them."""

    def num_bytes(self, ref: ImageRef) -> int:
        """How many bytes the encoded image has."""
        ...

    def digest(self, ref: ImageRef) -> str:
        """The hash of these bytes."""
        ...


def with_random_images(
    pairs_of_each_source: Sequence[Sequence[PreferencePair]],
    *,
    seed: int,
    images: ImageContents,
    names: Sequence[str] = (),
    more: Sequence[Sequence[PreferencePair]] = (),
) -> list[list[PreferencePair]]:
    """The same pairs, those with images with ``other_images`` from other rows of their source.

    The images of a source are dealt out again over their places, at random: no place gets a file that its row shows
    already, on either side, nor one of its row twice where that can be. Where one file has so many of the places that
    this cannot be, what is left draws from the different files of the source, each as likely.

    Args:
        pairs_of_each_source: the pairs of each source; pairs without images stay as they are.
        seed: another seed, other images.
        images: tells files apart. Only files of equal length are read.
        names: what the sources are called in messages.
        more: further pairs of each source, whose images are drawn from where the pairs of the source show fewer than
            two different files: of held-out pairs, those that are trained on.

    Raises:
        DataError: a source whose rows show fewer than two different images, or a row that shows all that there are.
        RowError: an image whose file is not there.
    """
    given = [*pairs_of_each_source, *more]
    contents = _contents([pair for pairs in given for pair in pairs], images)
    found = []
    for number, pairs in enumerate(pairs_of_each_source):
        name = names[number] if number < len(names) else f"source {number + 1}"
        extra = more[number] if number < len(more) else ()
        found.append(_dealt(pairs, extra, contents, random.Random(f"{seed}/random_row/{number}"), name))
    return found


def _dealt(
    pairs: Sequence[PreferencePair],
    more: Sequence[PreferencePair],
    contents: Mapping[ImageRef, _Content],
    rng: random.Random,
    name: str,
) -> list[PreferencePair]:
    shown = sorted((pair for pair in pairs if pair.images), key=lambda pair: pair.id)
    if not shown:
        return list(pairs)
    places = [(row, place) for row, pair in enumerate(shown) for place in range(len(pair.images))]
    pool = [shown[row].images[place] for row, place in places]
    distinct = {contents[image]: image for image in pool}
    if len(distinct) < 2:
        distinct |= {contents[image]: image for pair in more for image in pair.images}
    if len(distinct) < 2:
        raise DataError(
            f"the {len(shown):,} rows of {name} with images show one image, and data.other_image=random_row takes "
            "another row's: write `data.other_image=made processing.other_image.kind=crop`"
        )
    own = [{contents[image] for image in (*pair.images, *(pair.rejected_images or ()))} for pair in shown]
    dealt = _Dealt([contents[image] for image in pool], [row for row, _ in places], own)
    rng.shuffle(dealt.order)
    left = dealt.mend(rng)
    others = [pool[source] for source in dealt.order]
    choices = [distinct[content] for content in sorted(distinct)]
    for at in left:
        row = places[at][0]
        fitting = [image for image in choices if contents[image] not in own[row]]
        if not fitting:
            raise DataError(
                f"row {shown[row].id!r} of {name} shows every image that its source has, and "
                "data.other_image=random_row takes one that it does not show: leave the row out, or write "
                "`data.other_image=made processing.other_image.kind=crop`"
            )
        others[at] = rng.choice(fitting)
    by_id: dict[str, list[ImageRef]] = {}
    for (row, _), image in zip(places, others, strict=True):
        by_id.setdefault(shown[row].id, []).append(image)
    return [replace(pair, other_images=tuple(by_id[pair.id])) if pair.images else pair for pair in pairs]


class _Dealt:
    """Which image every place gets: ``order[place]`` is the place that the image is from."""

    def __init__(self, contents: Sequence[_Content], rows: Sequence[int], own: Sequence[set[_Content]]) -> None:
        self.order = list(range(len(contents)))
        self._contents, self._rows, self._own = contents, rows, own

    def mend(self, rng: random.Random) -> list[int]:
        """Swap what may not stay where it is with random places; the places for which no swap was found."""
        got: list[Counter[_Content]] = [Counter() for _ in self._own]
        for place, source in enumerate(self.order):
            got[self._rows[place]][self._contents[source]] += 1
        left = []
        for place in range(len(self.order)):
            if self._fits(place, self.order[place], got, there=True):
                continue
            for _ in range(_TRIES):
                other = rng.randrange(len(self.order))
                mine, theirs = self.order[place], self.order[other]
                if self._rows[other] == self._rows[place]:
                    continue
                if self._fits(place, theirs, got) and self._fits(other, mine, got):
                    got[self._rows[place]].subtract([self._contents[mine]])
                    got[self._rows[other]].subtract([self._contents[theirs]])
                    self.order[place], self.order[other] = theirs, mine
                    got[self._rows[place]][self._contents[theirs]] += 1
                    got[self._rows[other]][self._contents[mine]] += 1
                    break
            else:
                if self._contents[self.order[place]] in self._own[self._rows[place]]:
                    left.append(place)
        return left

    def _fits(self, place: int, source: int, got: Sequence[Counter[_Content]], *, there: bool = False) -> bool:
        """Whether a place may have the image: its row does not show it, and no other place of the row gets it."""
        row, content = self._rows[place], self._contents[source]
        return content not in self._own[row] and got[row][content] <= there


def same_as_own(pairs: Sequence[PreferencePair], images: ImageContents) -> list[str]:
    """Ids of pairs whose ``other_images`` are the files of their ``images``, in their order, whatever their names."""
    named = [pair for pair in pairs if pair.other_images is not None]
    contents = _contents(named, images)
    return [
        pair.id
        for pair in named
        if [contents[image] for image in pair.images] == [contents[image] for image in pair.other_images or ()]
    ]


def _contents(pairs: Sequence[PreferencePair], images: ImageContents) -> dict[ImageRef, _Content]:
    """What every image of some pairs is by its file; a file is read where another one has the same length."""
    refs = dict.fromkeys(
        image for pair in pairs for image in (*pair.images, *(pair.rejected_images or ()), *(pair.other_images or ()))
    )
    sizes = {ref: images.num_bytes(ref) for ref in refs}
    shared = Counter(sizes.values())
    return {ref: (size, "" if shared[size] == 1 else _digest(ref, images)) for ref, size in sizes.items()}


def _digest(ref: ImageRef, images: ImageContents) -> str:
    return hashlib.sha256(ref.data).hexdigest() if ref.data is not None else images.digest(ref)
