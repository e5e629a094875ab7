"""Which models the rows of an answer file name: a result is of one model, and so are the answers that it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mmpref.errors import DataError
from mmpref.files.rows import Row

_KEYS = ("model_id", "model", "model_name", "model_path", "model_name_or_path", "generator")
_JUDGES_REPLY = "choices"  # of a chat completion, whose model is the judge
_SHOWN = 3


def refuse_several_models(rows: Iterable[Row], where: str) -> None:
    """Raise over answers of several models, of which one number would be made.

    Raises:
        DataError: the rows name two models or more under one key.
    """
    named: dict[str, Counter[str]] = {key: Counter() for key in _KEYS}
    for row in rows:
        if _JUDGES_REPLY in row:
            continue
        for key, found in named.items():
            if isinstance(name := row.get(key), str) and name.strip():
                found[name.strip()] += 1
    for key, found in named.items():
        if len(found) > 1:
            shown = ", ".join(f"{name!r} ({count:,} rows)" for name, count in found.most_common(_SHOWN))
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise DataError(
                f"{where}: answers of {len(found)} models: {key} is {shown}{more}; a result is of one model: score the "
                f"rows of each in a file of their own, or leave {key!r} out where they are of one"
            )
