"""The mask of rows that are padded on the right: none, where every token sees only what stands before it.

No token of such a row can see its padding, so the causal mask alone is right for all that is read of it. transformers
looks whether a mask holds padding at all, which waits for the device, and makes one of all tokens by all tokens when
it does, which the flash kernel cannot take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

_STOCK = ("sdpa", "flash_attention_2")
"""Attention of transformers whose mask is looked at; the model keeps the name, because some models go by it."""

_is_padded_on_the_right: ContextVar[bool] = ContextVar("_is_padded_on_the_right", default=False)


@contextmanager
def padded_on_the_right(known: bool = True) -> Iterator[None]:
    """Inside, rows that a model runs have their padding on the right, if any, and nothing is read of it.

    Args:
        known: False leaves everything as it is.
    """
    if not known:
        yield
        return
    masks = ALL_MASK_ATTENTION_FUNCTIONS
    before = {name: masks[name] for name in _STOCK}
    local = {name for name in _STOCK if name in masks._local_mapping}
    token = _is_padded_on_the_right.set(True)
    try:
        for name, stock in before.items():
            masks[name] = without_right_padding(stock)
        yield
    finally:
        for name, stock in before.items():
            if name in local:
                masks[name] = stock
            else:
                del masks[name]
        _is_padded_on_the_right.reset(token)


def without_right_padding(stock: Callable[..., Any]) -> Callable[..., Any]:
    """A mask function of transformers that does not look for padding where it is known to stand on the right.

    Anything but a plain causal mask (windows, chunks, prompts read in both directions) is made as before.
    """

    def mask(
        *args: Any,
        mask_function: Callable[..., Any] = causal_mask_function,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if _is_padded_on_the_right.get() and mask_function is causal_mask_function:
            attention_mask = None
        return stock(*args, mask_function=mask_function, attention_mask=attention_mask, **kwargs)

    return mask
