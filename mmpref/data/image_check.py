"""Every image and video of a run decoded once before its first step, so that none stops it at its row.

A header gives the size of an image and not that it is whole. Where no manifest of a check says that the images were
decoded, they are decoded here: in threads, as decoders let go of Python's lock, and each once however many pairs show
it, and once for all starts while its file stays as it is (``decoded_before``). An image that kills its decoder kills
this process too; ``mmpref data check`` decodes in processes of their own and names it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mmpref.data.decoded_before import DecodedBefore
from mmpref.data.images.decoding import MediaLoader
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pair_source import PairSource, all_files
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef, PreferencePair, VideoRef

_PIECE = 16  # images that one thread takes at a time
_WORTH_A_WORD = 20_000


def _only_mine(value: Any) -> list[Any]:
    return [value]


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """Decodes the images of some pairs; called as ``load_each`` wants it.

    Args:
        rank, size: of this process among those that share the work.
        gather: what each of them found, in order of rank, for all of them.
        say: called with what is done, in one line.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[Any], list[Any]] = _only_mine
    say: Callable[[str], None] | None = None

    def __call__(
        self, sources: Sequence[PairSource], lists: Sequence[Sequence[PreferencePair]]
    ) -> Mapping[tuple[int, str], RowError]:
        """(number of the source, id) -> fault of each pair that has an image which cannot be decoded."""
        tasks: list[_Task] = []
        known: dict[tuple[int, str], int] = {}
        shown: list[tuple[int, str, list[int]]] = []
        for number, (source, pairs) in enumerate(zip(sources, lists, strict=True)):
            for pair in pairs:
                places = []
                for ref in all_files(pair):
                    loader = source.videos if isinstance(ref, VideoRef) else source.images
                    if loader is None:
                        continue
                    key = (number, ref.path) if ref.path is not None else (-1, f"{len(tasks)}")
                    if key not in known:
                        tasks.append((loader, ref))
                    places.append(known.setdefault(key, len(tasks) - 1))
                if places:
                    shown.append((number, pair.id, places))
        mine = range(self.rank, len(tasks), self.size)
        found, num_known = self._decode_new([tasks[place] for place in mine])
        parts = self.gather((num_known, {mine[place]: (fault.reason, fault.detail) for place, fault in found.items()}))
        faults = {place: fault for _, part in parts for place, fault in part.items()}
        if tasks and self.say is not None:
            broken_ones = f"{len(faults):,} of them" if faults else "none"
            known = sum(number for number, _ in parts)
            before = f" ({known:,} of them at an earlier start, and their files are as they were)" if known else ""
            decoded = f"{len(tasks):,} decoded{before}, {broken_ones} broken"
            self.say(f"{_what(tasks)} of the rows in order so far: {decoded}")
        broken: dict[tuple[int, str], RowError] = {}
        for number, name, places in shown:
            if fault := next((faults[place] for place in places if place in faults), None):
                broken[number, name] = RowError(fault[1], reason=fault[0])
        return broken

    def _decode_new(self, tasks: Sequence[_Task]) -> tuple[dict[int, RowError], int]:
        """Place -> fault of what cannot be decoded, and how many images were found whole at an earlier start."""
        memories: dict[int, DecodedBefore] = {}
        keys: dict[int, tuple[DecodedBefore, bytes | None]] = {}
        for place, (loader, ref) in enumerate(tasks):
            if isinstance(loader, ImageLoader) and isinstance(ref, ImageRef):
                if id(loader) not in memories:
                    memories[id(loader)] = DecodedBefore(loader)
                memory = memories[id(loader)]
                keys[place] = memory, memory.key(ref)
        left = [place for place in range(len(tasks)) if place not in keys or not keys[place][0].has(keys[place][1])]
        total = len(left) * self.size
        if total >= _WORTH_A_WORD and self.say is not None:
            about = "" if self.size == 1 else "about "
            what = _what([tasks[place] for place in left])
            self.say(f"decoding {about}{total:,} {what} once, to find broken ones before the first step")
        found = {left[at]: fault for at, fault in decode_all([tasks[place] for place in left]).items()}
        for place in left:
            if place in keys and place not in found:
                (memory, key), ref = keys[place], tasks[place][1]
                if key is not None and isinstance(ref, ImageRef) and memory.key(ref) == key:  # the file decoded is this
                    memory.add(key)
        for memory in memories.values():
            memory.write()
        return found, len(tasks) - len(left)


_Task = tuple[MediaLoader, ImageRef | VideoRef]


def _what(tasks: Sequence[_Task]) -> str:
    return "images and videos" if any(isinstance(ref, VideoRef) for _, ref in tasks) else "images"


def decode_all(tasks: Sequence[_Task]) -> dict[int, RowError]:
    """Place -> fault of what cannot be decoded; done by all cores that this process has to itself."""
    pieces = [tasks[start : start + _PIECE] for start in range(0, len(tasks), _PIECE)]
    local = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    threads = max(1, len(os.sched_getaffinity(0)) // local)
    found: dict[int, RowError] = {}
    pool = ThreadPoolExecutor(min(threads, len(pieces) or 1), thread_name_prefix="decode")
    try:
        for number, faults in enumerate(pool.map(_decode, pieces)):
            found.update({number * _PIECE + place: fault for place, fault in faults.items()})
    finally:
        pool.shutdown(cancel_futures=True)
    return found


def _decode(piece: Sequence[_Task]) -> dict[int, RowError]:
    faults = {}
    for place, (loader, ref) in enumerate(piece):
        try:
            loader.measure(ref)
        except RowError as fault:
            faults[place] = fault
    return faults
