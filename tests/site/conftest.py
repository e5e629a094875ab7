"""What tests of the site share: mmpref installed from its wheel."""

from __future__ import annotations

from tests.installed_wheel import installed

__all__ = ["installed"]
