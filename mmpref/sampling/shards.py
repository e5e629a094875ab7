"""Prompts shared between machines: by the hash of their id, so that neither order nor company changes a share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mmpref.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shard:
    """Share ``number`` of ``total``, counted from 1. ``Shard()`` is everything."""

    number: int = 1
    total: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.total:
            raise ConfigError(f"a shard is i/n with 1 <= i <= n, for example 2/8; got {self}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``2/8`` names.

        Raises:
            ConfigError: it names none.
        """
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if found is None:
            raise ConfigError(f"a shard is i/n with 1 <= i <= n, for example 2/8; got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def has(self, prompt_id: str) -> bool:
        """Whether the prompt is in this share."""
        return self.total == 1 or _hash(prompt_id, "shard") % self.total == self.number - 1


def seed_of(seed: int, prompt_id: str, sample: int) -> int:
    """The seed of one sample of a prompt, from 0 to 2^31 - 1: the same in every shard, order and number of samples.

    Args:
        seed: of the whole run.
        sample: the sample's number, from 0.
    """
    return _hash(prompt_id, f"{seed} {sample}") % 2**31


def digest_of_ids(ids: Iterable[str]) -> str:
    """What the same ids have in common in any order."""
    digest = hashlib.sha256()
    for encoded in sorted(map(_encoded, ids)):
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:32]


def _hash(prompt_id: str, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{what}\0".encode() + _encoded(prompt_id)).digest()[:8], "big")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
