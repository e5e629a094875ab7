"""How long a sequence may be that a model has a place for each token of.

Models that turn positions (rotary) run longer sequences than they were trained on, well or badly. Those with a table
of vectors (GPT-2, OPT) have none beyond its end: the CPU says that an index is out of range, and a GPU fails in a way
that names nothing.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from mmpref.models.unwrap import base_model
from mmpref.processing.family import Family

_TABLES = re.compile(r"(.*\.)?(wpe|pos_emb|(embed_)?positions?(_embed(ding)?s?)?)")
_NOT_LEARNED = ("embed_positions", "pos_encoding")
"""Tables that are made once: those of GPT-J and CodeGen, and of CTRL."""
_LENGTHS = {"mpt": "max_seq_len"}
"""Types that make their distances (ALiBi) for so many tokens and no more -> the key of their config."""
_MOST_BEFORE = 2
"""Rows before that of the first place, which OPT and BART have."""


def num_places(model: nn.Module, family: Family) -> int | None:
    """Tokens of the longest sequence that the language model has places for; None where it has no table of them."""
    base: Any = base_model(model)
    config = base.config.get_text_config()
    said: Any = getattr(config, _LENGTHS.get(config.model_type, "max_position_embeddings"), None)
    if not isinstance(said, int) or config.model_type in _LENGTHS:
        return said if isinstance(said, int) else None
    for name, module in base.named_modules():
        rows = _rows_of_table(name, module)
        if rows is not None and 0 <= rows - said <= _MOST_BEFORE and family.part_of(name) == "language":
            return said
    return None


def _rows_of_table(name: str, module: nn.Module) -> int | None:
    if isinstance(module, nn.Embedding):
        grows = hasattr(module, "make_weights")  # it makes more rows when it must
        return module.num_embeddings if _TABLES.fullmatch(name) and not grows else None
    tables = (getattr(module, attribute, None) for attribute in _NOT_LEARNED)
    return next((len(table) for table in tables if isinstance(table, Tensor) and table.dim() == 2), None)
