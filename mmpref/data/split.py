"""A seeded split by image and video: pairs that share one are never on both sides."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from mmpref.records import ImageRef, PreferencePair


def split_by_image(
    pairs: Sequence[PreferencePair], *, held_out: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Split into (train, held out), each in the order given.

    Pairs that share an image or a video, directly or through a third pair, stay together; a pair with neither stays
    with those that have the same prompt. Groups are taken in a seeded order until ``held_out`` of the pairs is reached,
    so the share is met up to the size of one group. The order of a group depends on the seed and its images and videos
    alone, so adding pairs moves few others.

    Args:
        held_out: share of the pairs to hold out, in [0, 1].
        seed: another seed, another split.
    """
    if not 0 <= held_out <= 1:
        raise ValueError(f"held_out must be in [0, 1], got {held_out}")
    groups = _groups(pairs)
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    wanted, taken = round(held_out * len(pairs)), set[int]()
    for key in order:
        if len(taken) >= wanted:
            break
        taken.update(groups[key])
    train = [pair for place, pair in enumerate(pairs) if place not in taken]
    return train, [pair for place, pair in enumerate(pairs) if place in taken]


def _groups(pairs: Sequence[PreferencePair]) -> dict[str, list[int]]:
    """Smallest key of the group -> places of its pairs (union-find over what the pairs show)."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = [_keys(pair) for pair in pairs]
    for first, *others in keys:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    groups: dict[str, list[int]] = defaultdict(list)
    for place, (first, *_) in enumerate(keys):
        groups[root(first)].append(place)
    return groups


def _keys(pair: PreferencePair) -> list[str]:
    frames = (frame for video in pair.videos for frame in video.frames)
    keys = [_image_key(image) for image in (*pair.images, *(pair.rejected_images or ()), *frames)]
    keys += ["path:" + video.path for video in pair.videos if video.path is not None]
    if keys:
        return keys
    return ["text:" + "\n".join(f"{message.role}:{message.text}" for message in pair.prompt)]


def _image_key(image: ImageRef) -> str:
    if image.path is not None:
        return "path:" + image.path
    return "data:" + hashlib.sha256(image.data or b"").hexdigest()
