"""The parts of a reference cache: what was written there for these facts, or refused by name."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmpref.errors import CheckpointError, ConfigError
from mmpref.training.run.reference_cache import FACTS, ReferenceCache

HERE = {"model": "m"}


def filled(folder: Path, facts: dict = HERE) -> ReferenceCache:
    cache = ReferenceCache.open(folder, facts)
    for first in (0, 2):
        cache._keep({str(n): torch.tensor([n + 0.5]) for n in (first, first + 1)})
    return cache


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def flipped(folder: Path) -> str:
    content = bytearray(parts(folder)[0].read_bytes())
    content[-3] ^= 1  # in a number: safetensors reads it without a word
    parts(folder)[0].write_bytes(content)
    return "has other bytes than were written"


def cut(folder: Path) -> str:
    parts(folder)[0].write_bytes(parts(folder)[0].read_bytes()[:-4])
    return "has other bytes than were written"


def emptied(folder: Path) -> str:
    parts(folder)[0].write_bytes(b"")
    return "has other bytes than were written"


def swapped(folder: Path) -> str:
    one, other = parts(folder)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return "has other bytes than were written"


def renamed(folder: Path) -> str:
    parts(folder)[0].rename(folder / "part-copy.safetensors")
    return "part-copy.safetensors is not of this cache"


def foreign(folder: Path) -> str:
    filled(folder.parent / "other", {"model": "another"})
    shutil.copy(parts(folder.parent / "other")[0], folder)
    return "was written for another cache"


def a_folder(folder: Path) -> str:
    (folder / "part-more").mkdir()
    return "part-more is not of this cache"


def a_pipe(folder: Path) -> str:
    name = parts(folder)[0].name
    parts(folder)[0].unlink()
    os.mkfifo(folder / name)
    return f"{name} is not of this cache"


@pytest.mark.parametrize(
    "harm", [flipped, cut, emptied, swapped, renamed, foreign, a_folder, a_pipe], ids=lambda h: h.__name__
)
def test_a_part_that_is_not_what_was_written_is_refused_and_the_advice_helps(
    tmp_path: Path, harm: Callable[[Path], str]
) -> None:
    folder = tmp_path / "the cache"
    filled(folder)
    told = harm(folder)
    with pytest.raises(CheckpointError) as caught:
        ReferenceCache.open(folder, HERE)
    message = str(caught.value)
    assert told in message
    assert "\n" not in message
    command = shlex.split(message.split("`")[1])
    assert command[:2] == ["rm", "-r"]
    assert all(Path(name).parent == folder for name in command[2:])
    subprocess.run(command, check=True)
    again = ReferenceCache.open(folder, HERE)
    assert len(again) in (0, 2, 4)
    assert all(float(logps) == int(key) + 0.5 for key, logps in again._entries.items())


def test_a_part_that_is_gone_is_only_missing_and_other_files_do_not_count(tmp_path: Path) -> None:
    filled(tmp_path / "cache")
    parts(tmp_path / "cache")[0].unlink()
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    assert len(ReferenceCache.open(tmp_path / "cache", HERE)) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "[" * 99999])
def test_facts_that_cannot_be_read_are_one_line(tmp_path: Path, content: str) -> None:
    filled(tmp_path / "cache")
    (tmp_path / "cache" / FACTS).write_text(content)
    with pytest.raises(
        CheckpointError, match=r"facts.json cannot be read: .*; delete .* to compute it again"
    ) as caught:
        ReferenceCache.open(tmp_path / "cache", HERE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("before", ['{"model": "m"}', '{"model": "m", "format": 2}'])
def test_a_cache_of_an_earlier_version_is_refused_in_one_line_that_says_so(tmp_path: Path, before: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / FACTS).write_text(before)
    with pytest.raises(ConfigError, match=r"is of another version of mmpref, and its entries .*; delete"):
        ReferenceCache.open(tmp_path / "cache", HERE)
