"""An encoded pair as text that a person can read, with what is learnt marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from mmpref.processing.encode import EncodedPair

OPEN, CLOSE = "⟦", "⟧"
"""What stands around the tokens that are learnt."""
_LONGEST = 1500


def shown(pair: EncodedPair, tokenizer: Any, image_token_id: int | None) -> Iterator[tuple[str, str]]:
    """(``chosen`` or ``rejected``, the whole text as the model reads it); runs of image tokens are ``<image x N>``.

    Made from the ids alone, so that what is seen is what is trained on.
    """
    for name, side in zip(("chosen", "rejected"), pair.sides(), strict=True):
        if side is not None:
            prompt, answer = side
            before = _shortened(_text(prompt.input_ids.tolist(), tokenizer, image_token_id))
            learnt = _shortened(_text(answer.tolist(), tokenizer, image_token_id))
            yield name, f"{before}{OPEN}{learnt}{CLOSE}"


def _text(ids: Sequence[int], tokenizer: Any, image_token_id: int | None) -> str:
    pieces = []
    for is_image, run in groupby(ids, key=lambda token: token == image_token_id):
        found = list(run)
        pieces.append(f"<image x {len(found)}>" if is_image else str(tokenizer.decode(found)))
    return "".join(pieces)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} … ({len(text) - 2 * half} characters more) … {text[-half:]}"
