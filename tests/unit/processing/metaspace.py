"""A tokenizer that writes blanks as SentencePiece does: before all that begins, and with no piece of its own."""

from __future__ import annotations

import string
from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def metaspace_tokenizer(
    template: str, *, prepend: Literal["first", "always", "never"] = "first", eos: str = "<|im_end|>"
) -> PreTrainedTokenizerFast:
    """Letters, and the words Yes and No with a blank before them and without."""
    vocab: dict[str, int] = {}
    for piece in ["<unk>", "▁", *string.printable.strip(), "\n", "Ye", "Yes", "▁Yes", "No", "▁No"]:
        vocab.setdefault(piece, len(vocab))
    merges = [("Y", "e"), ("Ye", "s"), ("▁", "Yes"), ("N", "o"), ("▁", "No")]
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend, split=False)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    named = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "</s>")
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in named])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=eos, unk_token="<unk>", chat_template=template)
