"""``python -m mmpref`` is the ``mmpref`` command, which begins here too."""

from __future__ import annotations

import os
import sys

from mmpref import installation
from mmpref.errors import ConfigError


def start() -> None:
    """What the installed ``mmpref`` command calls: the command line, or one line on a library that it needs."""
    if "_MMPREF_COMPLETE" not in os.environ:  # a shell that completes words shows no message
        try:
            installation.refuse_unusable(sys.argv[1:])
        except ConfigError as err:
            sys.stderr.write(f"mmpref: {err}\n")
            sys.exit(err.exit_code)
    from mmpref.cli.main import entry_point

    entry_point()


if __name__ == "__main__":
    start()
