"""What only some of the supported releases of transformers can do, for tests that need it."""

from __future__ import annotations

import inspect

import pytest
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLModel

CAN_SANITIZE = "sanitize_control_tokens" in inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters

needs_spelt_tokens = pytest.mark.skipif(
    not CAN_SANITIZE, reason="this release of transformers cannot keep control tokens as text: such rows are refused"
)

COUNTS_WHOLE_SECONDS = "int(next(" in inspect.getsource(Qwen2_5_VLModel.get_rope_index)
"""Whether Qwen2.5-VL drops fractions of the seconds between patches of a video (huggingface/transformers 48669)."""
