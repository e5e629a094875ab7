"""What a start-up check found, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. ``passed`` is None where there was nothing to check."""

    name: str
    passed: bool | None
    detail: str
    meaning: str = ""
    """What a failure means and what to do; where it passed, what is to be known all the same, and mostly empty."""
    unused: int = 0
    """Trained tensors that the output does not depend on."""

    def describe(self) -> str:
        """One line for the terminal."""
        mark = {True: "WARNING" if self.meaning else "ok", False: "FAILED", None: "skipped"}[self.passed]
        line = f"check: {self.name}: {mark} ({self.detail})"
        return f"{line}. {self.meaning}" if self.meaning else line
