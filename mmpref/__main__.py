"""``python -m mmpref`` is the ``mmpref`` command, which begins here too."""

from __future__ import annotations

import os
import sys

from mmpref import installation
from mmpref.errors import ConfigError


def start() -> None:
    """What the installed ``mmpref`` command calls: the command line, or one line on a library that it needs."""
    completing = "_MMPREF_COMPLETE" in os.environ
    try:
        installation.refuse_unusable(sys.argv[1:])
    except ConfigError as err:
        if not completing:  # a shell that completes words has no place for a message
            sys.stderr.write(f"mmpref: {err}\n")
        sys.exit(err.exit_code)
    from mmpref.cli.main import entry_point

    entry_point()


if __name__ == "__main__":
    start()
