"""Tokens of a tokenizer that the model has no embedding for: no row may hold one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_ROWS = "rows_of_embedding"


def note_rows(tokenizer: Any, rows: int) -> None:
    """Say at a tokenizer that its model has fewer embeddings than it has tokens; it travels to loader workers so."""
    setattr(tokenizer, _ROWS, rows)


def without_embedding(tokenizer: Any, ids: Iterable[int]) -> str:
    """What is wrong with ids that the model has no embedding for; empty where it has them all."""
    rows = getattr(tokenizer, _ROWS, None)
    if rows is None:
        return ""
    first = next((number for number in ids if number >= rows), None)
    if first is None:
        return ""
    token = str(tokenizer.convert_ids_to_tokens(first))
    return (
        f"is written with the token {token[:40]!r} of number {first}, and the model has embeddings for {rows} tokens "
        "only; use the tokenizer that belongs to this model, or save the model after resize_token_embeddings"
    )
