"""Rules of CHAIR's script for words that belong together and are not in the synonym list."""

from __future__ import annotations

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
# a young or grown animal is not a person, a passenger train has no passenger in it, a toilet seat is no chair
QUALIFIED = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "toilet seat": "toilet",
}
"""Two words -> the one that counts."""
NO_OBJECT = ("home plate", "train track")
"""Joined and then known to no list, so that neither word counts."""
TOILET = "toilet"
