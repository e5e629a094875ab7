"""Random damage to files of every container: each row is a pair or in quarantine, or the file as a whole is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from mmpref.data.commands.check import check
from mmpref.data.opening import open_pairs
from mmpref.errors import DataError
from tests.tiers import corners

PROMPT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
ROWS: list[dict[str, Any]] = [
    {"id": f"r{number}", "images": ["good.png"], "prompt": PROMPT, "chosen": f"Cup {number}.", "rejected": "A dog."}
    for number in range(6)
]
OTHERS: list[dict[str, Any]] = [
    {"images": ["good.png"], "instruction": "<image>What?", "input": "", "chosen": f"Cup {number}.", "rejected": "Dog."}
    for number in range(6)
]
KINDS = ("jsonl", "json", "parquet", "arrow", "foreign.jsonl")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good file of each kind, and their image."""
    folder = tmp_path_factory.mktemp("seeds")
    Image.frombytes("RGB", (32, 32), random.Random(0).randbytes(32 * 32 * 3)).save(folder / "good.png")
    (folder / "seed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "seed.foreign.jsonl").write_text("".join(json.dumps(row) + "\n" for row in OTHERS))
    (folder / "seed.json").write_text(json.dumps(ROWS))
    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, folder / "seed.parquet", compression="none", use_dictionary=False)
    with pa.OSFile(str(folder / "seed.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder


def damaged(data: bytes, kind: str, seed: int) -> bytes:
    """Some bytes changed, cut out, doubled or brought in."""
    chance = random.Random(seed)
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(content))
        how = chance.choice(("flip", "set", "cut", "double", "insert"))
        length = chance.choice((1, 2, 8, 40))
        if how == "flip":
            content[place] ^= 1 << chance.randrange(8)
        elif how == "set":
            content[place] = chance.choice(b'"{}[],:\n\\\0\xff0a')
        elif how == "cut":
            del content[place : place + length]
        elif how == "double":
            content[place:place] = content[place : place + length]
        else:
            content[place:place] = chance.choice((b"\n", b'"', b"NaN", b"[" * 50, b"\xed\xa0\x80", b"\\ud800", b"null"))
        if not content:
            break
    return bytes(content)


@pytest.mark.parametrize("kind", corners(KINDS, "jsonl", "parquet"))
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(seed=st.integers(0, 2**32))
def test_every_row_of_a_damaged_file_is_a_pair_or_in_quarantine(
    seeds: Path, tmp_path: Path, kind: str, seed: int
) -> None:
    path = seeds / f"damaged.{kind}"
    path.write_bytes(damaged((seeds / f"seed.{kind}").read_bytes(), kind, seed))
    try:
        report = check([open_pairs(path)], out=tmp_path, workers=1, max_bad_fraction=1)
    except DataError as error:
        if kind.endswith("jsonl") or path.name not in str(error):
            raise  # a line that is broken stops no other, and an error of a file names it
        return
    assert report.used + report.quarantined == report.read == report.used + sum(report.reasons.values())
    put_aside = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert len(put_aside) == report.quarantined
    if kind == "jsonl":
        assert report.read == sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_image_is_decoded_or_has_its_reason(seeds: Path, tmp_path: Path, seed: int) -> None:
    (tmp_path / "good.png").write_bytes(damaged((seeds / "good.png").read_bytes(), "png", seed))
    report = check([open_pairs(seeds / "seed.jsonl", root=tmp_path)], out=tmp_path / "out", workers=1)
    assert report.used + report.quarantined == report.read == 6
    assert all(reason.startswith("image_") for reason in report.reasons)
    assert report.used in (0, 6)
