"""Rows in, clean pairs out, nothing lost: reading, checking and quarantining rows, and opening images safely."""

from mmpref.data.images.loader import ImageLimits, ImageLoader
from mmpref.data.loading import load_pairs
from mmpref.data.pair_writing import pair_to_row, write_pairs
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.data.reading.source import read_jsonl
from mmpref.data.split import split_by_image

__all__ = [
    "ImageLimits",
    "ImageLoader",
    "Quarantine",
    "RowError",
    "load_pairs",
    "pair_from_row",
    "pair_to_row",
    "read_jsonl",
    "split_by_image",
    "write_pairs",
]
