"""``python -m mmpref`` is the ``mmpref`` command."""

from mmpref.cli.main import entry_point

entry_point()
