"""What other programs rely on: public names with their signatures, commands with their options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_public_names_signatures_and_options_are_those_of_the_list() -> None:
    """Fails with the difference; ``python scripts/public_api.py --update`` writes the list where it is meant."""
    done = subprocess.run(
        [sys.executable, "scripts/public_api.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
