"""Where the public question files are; tests that need them are skipped where they are not."""

import os
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def bench_data() -> Path:
    """The folder of public benchmark files, from MMPREF_BENCH_DATA or beside the repository."""
    folder = Path(os.environ.get("MMPREF_BENCH_DATA", _REPOSITORY.parent / "shared" / "bench_data"))
    if not folder.is_dir():
        pytest.skip("no public question files; point MMPREF_BENCH_DATA at them")
    return folder
