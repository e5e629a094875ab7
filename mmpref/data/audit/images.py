"""What the images are: how often each appears, how large, how many image tokens, and whether a benchmark has it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mmpref.data.audit.leaks import Leak, LeakFinder, coco_ids
from mmpref.data.audit.stats import Quantiles
from mmpref.data.images.derived import fingerprint
from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.image_tokens import IMAGE_TOKENS, RULES
from mmpref.records import ImageRef, PreferencePair

HELD_OUT = 0.05
"""Share of rows for which the danger of a split by row is estimated."""

_VAL_NAME = re.compile(r"val20(?:14|17)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Image tokens of one model family."""

    per_image: Quantiles
    per_pair: Quantiles
    """All images of a pair's prompt together, over pairs whose images could all be read."""
    num_refused: int
    """Images that the family does not take."""
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The images of all pairs. Sizes and tokens are known only where a loader was given."""

    num_places: int
    """Images named in rows, each time they are named."""
    num_distinct: int
    by_content: bool
    """Images were distinguished by their bytes; otherwise by path alone."""
    num_copies: int
    """Paths whose image is also under another path."""
    copy_examples: tuple[tuple[str, str], ...]
    rows_per_image: Quantiles
    num_rows_sharing: int
    """Rows with an image that another row has too."""
    split_danger: float | None
    """Expected share of held-out rows whose image is also in training, with 5 % held out by row, not by image."""
    faults: Mapping[str, int]
    """Reason -> images that cannot be used."""
    fault_examples: tuple[str, ...]
    width: Quantiles
    height: Quantiles
    megapixels: Quantiles
    tokens: Mapping[str, Tokens]
    num_with_others: int
    """Rows with ``other_images``. These are looked at and compared with benchmarks, for a loss shows them; they make no
    row share an image with another, for no answer that is learnt is about them."""
    num_other_sizes: int
    """Of these, rows in which one has another size than the image in whose place it stands."""
    other_size_examples: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for the terminal."""
        if not self.num_places:
            return [("images", "none")]
        how = "by content" if self.by_content else "by path"
        most = f", one in up to {self.rows_per_image.max:g} rows" if self.rows_per_image.n else ""
        rows = [("distinct images", f"{self.num_distinct:,} {how} in {self.num_places:,} places{most}")]
        if self.split_danger is not None:
            rows.append((f"held-out rows seen in training, {HELD_OUT:.0%} split by row", f"{self.split_danger:.1%}"))
        if self.num_copies:
            rows.append(("copies under another name", f"{self.num_copies:,}"))
        if self.faults:
            rows.append(("images that cannot be used", _counts(self.faults)))
        if self.width.n:
            sides = f"{self.width.median:g} x {self.height.median:g}, "
            rows.append(("image size (median), megapixels (max)", f"{sides}{self.megapixels.max:.3g}"))
        for name, found in self.tokens.items():
            if found.per_image.n:
                quantiles = found.per_image
                shown = f"{quantiles.median:,.0f}, {quantiles.p95:,.0f}, {quantiles.max:,.0f}"
                rows.append((f"image tokens of {name} (median, 95 %, max)", shown))
        return rows

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        found = []
        if self.split_danger is not None and self.split_danger > 0.01:
            found.append(
                f"{self.num_rows_sharing:,} rows share an image with another: hold out by image, by row "
                f"{self.split_danger:.0%} of the held-out rows would have their image in training"
            )
        if self.num_copies:
            first, second = self.copy_examples[0]
            found.append(
                f"{self.num_copies:,} files are copies of an image under another name (such as {first[-80:]} and "
                f"{second[-80:]}); a split by path may put them on both sides"
            )
        if self.num_other_sizes:
            found.append(
                f"{self.num_other_sizes:,} of {self.num_with_others:,} rows have other_images of another size than "
                f"their images (such as {', '.join(map(repr, self.other_size_examples[:2]))}): resize them, or write "
                "`processing.other_image.resize=true`"
            )
        if self.faults:
            found.append(
                f"{sum(self.faults.values()):,} images cannot be used ({_counts(self.faults)}); first: "
                f"{self.fault_examples[0]}"
            )
        return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What one pair showed: a name per image, equal for equal images, and the benchmarks' images among them."""

    keys: tuple[str, ...]
    leaks: tuple[Leak, ...]


@dataclass(slots=True)
class _Entry:
    """What is known of one distinct image."""

    number: int
    paths: list[str] = field(default_factory=list)  # the first two
    num_paths: int = 0
    size: tuple[int, int] | None = None
    fingerprint: int | None = None
    rows: int = 0


class ImageTally:
    """Reads each distinct image once and counts where it appears."""

    def __init__(self, loader: ImageLoader | None, finder: LeakFinder) -> None:
        self.num_with_coco_id = 0
        self.num_val_names = 0
        self._loader, self._finder = loader, finder
        self._names: dict[str, str] = {}  # path -> key of its image
        self._entries: dict[str, _Entry] = {}
        self._pairs: list[tuple[int, ...]] = []  # numbers of the images of each pair that has any
        self._prompts: list[tuple[str, ...]] = []
        self._num_places = 0
        self._num_with_others = 0
        self._other_sizes: list[str] = []
        self._faults: Counter[str] = Counter()
        self._first_faults: list[str] = []

    def add(self, pair: PreferencePair) -> Seen:
        """Look at the images of one pair."""
        keys = tuple(self._key(image) for image in pair.images)
        every = (*keys, *(self._key(image) for image in pair.rejected_images or ()))
        others = tuple(self._key(image) for image in pair.other_images or ())
        self._num_places += len(every) + len(others)
        distinct = tuple(dict.fromkeys(every))
        for key in distinct:
            self._entries[key].rows += 1
        if distinct:
            self._pairs.append(tuple(self._entries[key].number for key in distinct))
            self._prompts.append(keys)
        if others:
            self._compare_sizes(pair, keys, others)
        return Seen(every, tuple(self._leaks(pair, tuple(dict.fromkeys((*every, *others))))))

    def _compare_sizes(self, pair: PreferencePair, keys: tuple[str, ...], others: tuple[str, ...]) -> None:
        sizes = [(self._entries[one].size, self._entries[other].size) for one, other in zip(keys, others, strict=True)]
        self._num_with_others += 1
        if any(one is not None and other is not None and one != other for one, other in sizes):
            self._other_sizes.append(pair.id)

    def finish(self) -> Images:
        """What all pairs together show."""
        entries = list(self._entries.values())
        sizes = np.array([entry.size for entry in entries if entry.size], dtype=np.float64).reshape(-1, 2)
        rows = [entry.rows for entry in entries]  # 0 of one that stands in the place of others alone
        most = [max(rows[number] for number in pair) for pair in self._pairs]
        danger = [1 - HELD_OUT ** (count - 1) for count in most]
        copies = [entry for entry in entries if entry.num_paths > 1]
        return Images(
            num_places=self._num_places,
            num_distinct=len(entries),
            by_content=self._loader is not None,
            num_copies=sum(entry.num_paths - 1 for entry in copies),
            copy_examples=tuple((entry.paths[0], entry.paths[1]) for entry in copies[:5]),
            rows_per_image=Quantiles.of([number for number in rows if number]),
            num_rows_sharing=sum(count > 1 for count in most),
            split_danger=float(np.mean(danger)) if danger else None,
            faults=dict(self._faults.most_common()),
            fault_examples=tuple(self._first_faults),
            width=Quantiles.of(sizes[:, 0]),
            height=Quantiles.of(sizes[:, 1]),
            megapixels=Quantiles.of(sizes[:, 0] * sizes[:, 1] / 1e6),
            tokens=self._tokens() if len(sizes) else {},
            num_with_others=self._num_with_others,
            num_other_sizes=len(self._other_sizes),
            other_size_examples=tuple(self._other_sizes[:5]),
        )

    def _tokens(self) -> dict[str, Tokens]:
        found = {}
        sizes = {key: entry.size for key, entry in self._entries.items() if entry.size is not None}
        for name, rule in IMAGE_TOKENS.items():
            by_size = {size: rule(*size) for size in set(sizes.values())}
            by_key = {key: by_size[size] for key, size in sizes.items()}
            known = [count for count in by_key.values() if count is not None]
            per_pair = []
            for keys in self._prompts:
                counts = [count for key in keys if (count := by_key.get(key)) is not None]
                if counts and len(counts) == len(keys):
                    per_pair.append(sum(counts))
            found[name] = Tokens(
                per_image=Quantiles.of(known),
                per_pair=Quantiles.of(per_pair),
                num_refused=len(by_key) - len(known),
                rule=RULES[name],
            )
        return found

    def _key(self, image: ImageRef) -> str:
        path = image.path
        if path is None:
            key = "data:" + hashlib.sha256(image.data or b"").hexdigest()
        elif path in self._names:
            return self._names[path]
        else:
            key = self._content_key(image, path)
            self._names[path] = key
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(len(self._entries))
            self._look(entry, image)
        if path is not None:
            entry.num_paths += 1
            if len(entry.paths) < 2:
                entry.paths.append(path)
        return key

    def _content_key(self, image: ImageRef, path: str) -> str:
        if self._loader is None:
            return "path:" + path
        try:
            return "data:" + self._loader.digest(image)
        except RowError:
            return "path:" + path  # the fault is counted when the image is looked at

    def _look(self, entry: _Entry, image: ImageRef) -> None:
        """Size from the header; pixels only where there are benchmark images to compare with."""
        if self._loader is None:
            return
        try:
            entry.size = self._loader.size(image)
            if self._finder.compares_content:
                entry.fingerprint = fingerprint(self._loader.open(image))
        except RowError as fault:
            entry.size = None
            self._faults[fault.reason] += 1
            if len(self._first_faults) < 5:
                self._first_faults.append(fault.detail[:300])

    def _leaks(self, pair: PreferencePair, keys: tuple[str, ...]) -> list[Leak]:
        ids = coco_ids(pair, visual_genome=self._finder.visual_genome)
        self.num_with_coco_id += bool(ids)
        every = (*pair.images, *(pair.rejected_images or ()), *(pair.other_images or ()))
        paths = (image.path for image in every if image.path is not None)
        self.num_val_names += any(_VAL_NAME.search(path) is not None for path in paths)
        found = self._finder.by_name(pair, ids)
        if self._finder.compares_content:
            for key in keys:
                found += self._finder.by_content(pair.id, key.removeprefix("data:"), self._entries[key].fingerprint)
        return found


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
