"""``python -m mmpref`` is the ``mmpref`` command."""

from mmpref.cli import entry_point

entry_point()
