"""One value of the ``loss:`` section as what its key takes, or an error that names the key. No torch here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from mmpref.errors import ConfigError


def choice(value: Any, allowed: Iterable[str], key: str) -> None:
    """Refuse a value that is not one of ``allowed``, with the nearest of them."""
    allowed = tuple(allowed)
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        tail = f", did you mean '{near[0]}'?" if near else ""
        raise ConfigError(f"{key} must be one of {', '.join(allowed)}, got {value!r}{tail}")


def flag(value: Any, key: str, *, or_else: str = "") -> bool:
    """True or false.

    Args:
        or_else: another word that the key takes, which the caller has handled already; for the message.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{key} must be true{f', false or {or_else}' if or_else else ' or false'}, got {value!r}")
    return value


def number(
    value: Any, key: str, *, above: float | None = None, least: float | None = None, most: float | None = None
) -> float:
    """A finite number within the limits: > ``above``, >= ``least``, <= ``most``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"{key} must be a number, got {value!r}")
    given = float(value)
    if not math.isfinite(given):
        raise ConfigError(f"{key} must be finite, got {given}")
    if above is not None and given <= above:
        raise ConfigError(f"{key} must be > {above:g}, got {given:g}")
    if least is not None and given < least:
        raise ConfigError(f"{key} must be >= {least:g}, got {given:g}")
    if most is not None and given > most:
        raise ConfigError(f"{key} must be <= {most:g}, got {given:g}")
    return given


def whole(value: Any, key: str, *, least: int) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ConfigError(f"{key} must be a whole number, got {value!r}")
    if value < least:
        raise ConfigError(f"{key} must be >= {least}, got {value}")
    return int(value)
