"""One of several processes: runs command lines of mmpref one after another, as torchrun starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mmpref.cli.main import entry_point, main


def one_after_another() -> int:
    for line in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        code = main(line)
        if code:
            print(f"exit code {code}: {line}", file=sys.stderr)  # noqa: T201
            return code
    return 0


if __name__ == "__main__":
    entry_point(one_after_another)
