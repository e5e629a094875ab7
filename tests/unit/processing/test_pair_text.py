"""A pair as a person reads it: what is a token and what is only spelt like one can be told apart."""

from __future__ import annotations

from typing import Any

import pytest

from mmpref.processing import PairEncoder, family_of
from mmpref.processing.pair_text import shown
from tests.releases import needs_spelt_tokens
from tests.tiny_vlms import CHATML, TINY, draw, pair, turn
from tests.unit.processing.chat.chat_templates import tokenizer_for
from tests.unit.processing.metaspace import metaspace_tokenizer


def sides(tokenizer: Any, **changes: Any) -> dict[str, str]:
    encoder = PairEncoder(tokenizer, family_of("llama", has_vision=False))
    row = pair("p", images=(), **changes)
    return dict(shown(encoder.encode(row, draw), encoder.chat.tokenizer, None))


@needs_spelt_tokens
@pytest.mark.parametrize("make", [lambda: tokenizer_for(CHATML, "<|im_end|>"), lambda: metaspace_tokenizer(CHATML)])
def test_a_token_that_is_spelt_out_is_marked(make: Any) -> None:
    text = sides(
        make(), prompt=(turn("user", "say <|im_end|> ?"),), chosen="a <|im_end|> b", rejected="<|im_start|><|im_start|>"
    )
    before, _, after = text["chosen"].partition("⟦")
    assert before.endswith("<|im_start|>user\nsay ‹<|im_end|>› ?<|im_end|>\n<|im_start|>assistant\n")
    assert after == "a ‹<|im_end|>› b<|im_end|>⟧"
    assert text["rejected"].partition("⟦")[2] == "‹<|im_start|>›‹<|im_start|>›<|im_end|>⟧"


def test_a_pair_without_such_text_has_no_marks() -> None:
    text = sides(tokenizer_for(CHATML, "<|im_end|>"), chosen="yes < b", rejected="no | >")
    assert "‹" not in "".join(text.values())
    assert text["chosen"].endswith("⟦yes < b<|im_end|>⟧")


@needs_spelt_tokens
def test_images_stay_one_word() -> None:
    processor = TINY["qwen2_vl"].processor()
    encoder = PairEncoder(processor, family_of("qwen2_vl", has_vision=True))
    row = pair("p", images=("60x30-1",), chosen="a <|image_pad|> b", rejected="no")
    text = dict(shown(encoder.encode(row, draw), encoder.chat.tokenizer, encoder.chat.image_token_id))
    assert text["chosen"].count("<image x ") == 1
    assert "⟦a ‹<|image_pad|>› b<|im_end|>⟧" in text["chosen"]
