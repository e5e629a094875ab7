"""An encoded pair as text that a person can read, with what is learnt marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from mmpref.processing.encoded import EncodedPair

OPEN, CLOSE = "⟦", "⟧"
"""What stands around the tokens that are learnt."""
SPELT_OPEN, SPELT_CLOSE = "‹", "›"
"""What stands around the name of a special token that is spelt letter by letter, and is none."""
_LONGEST = 1500


def shown(
    pair: EncodedPair, tokenizer: Any, image_token_id: int | None, video_token_id: int | None = None
) -> Iterator[tuple[str, str]]:
    """(``chosen`` or ``rejected``, the whole text as the model reads it); runs of image tokens are ``<image x N>``, of
    video tokens ``<video x N>``, and a special token that is only spelt out is ``‹<token>›``.

    Made from the ids alone, so that what is seen is what is trained on.
    """
    places = {
        token: name for token, name in ((image_token_id, "image"), (video_token_id, "video")) if token is not None
    }
    for name, side in zip(("chosen", "rejected"), pair.sides(), strict=True):
        if side is not None:
            prompt, answer = side
            before = _shortened(_text(prompt.input_ids.tolist(), tokenizer, places))
            learnt = _shortened(_text(answer.tolist(), tokenizer, places))
            yield name, f"{before}{OPEN}{learnt}{CLOSE}"


def _text(ids: Sequence[int], tokenizer: Any, places: Mapping[int, str]) -> str:
    pieces = []
    for name, run in groupby(ids, key=places.get):
        found = list(run)
        pieces.append(f"<{name} x {len(found)}>" if name else _with_spelt_marked(found, tokenizer))
    return "".join(pieces)


def _with_spelt_marked(ids: Sequence[int], tokenizer: Any) -> str:
    """Decoded text, with marks around what looks like a special token and is letters."""
    decode = partial(tokenizer.decode, skip_special_tokens=False)
    special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
    names = sorted({name for name in special.values() if name.strip()}, key=len, reverse=True)
    looks_special = re.compile("|".join(map(re.escape, names)) or "(?!)")
    whole = str(decode(ids))
    here = [place for place, number in enumerate(ids) if number in special]
    if len(looks_special.findall(whole)) <= len(here):
        return whole
    # decoded up to each token and not piece by piece: some tokenizers leave out a blank where a text begins
    pieces, done = [], ""
    for place in [*here, len(ids)]:
        before, through = str(decode(ids[:place])), str(decode(ids[: place + 1]))
        pieces.append(looks_special.sub(rf"{SPELT_OPEN}\g<0>{SPELT_CLOSE}", before[len(done) :]))
        pieces.append(through[len(before) :])
        done = through
    return "".join(pieces)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} … ({len(text) - 2 * half} characters more) … {text[-half:]}"
