"""What only some of the supported releases of transformers can do, for tests that need it."""

from __future__ import annotations

import inspect

import pytest
from transformers import PreTrainedTokenizerBase

CAN_SANITIZE = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters

needs_spelt_tokens = pytest.mark.skipif(
    not CAN_SANITIZE, reason="this release of transformers cannot keep control tokens as text: such rows are refused"
)
