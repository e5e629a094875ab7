"""Sampled answers of every type: those of a prompt that is run once are those of one that each answer reads itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import transformers
from packaging.version import Version

from mmpref.errors import ConfigError
from mmpref.generation import AnswerSettings, SamplingAnswerer, TransformersAnswerer
from mmpref.models import LoadedModel
from mmpref.records import EvalSample, PreferencePair
from tests.tiny_vlms import draw

NOT_SHARED = frozenset({"minimax", "rwkv"})
CACHES_OF_OLD = frozenset({"deepseek_v4", "qwen4_exp", "qwen4_exp_text"})
"""Types whose caches transformers 5.17 does not repeat whole, and 5.23 does: there each answer reads its own prompt."""
"""Types that keep something of a prompt that cannot be repeated."""
_SETTINGS = AnswerSettings(batch_size=4, max_new_tokens=3)


def check_sampling(loaded: LoadedModel, rows: Sequence[PreferencePair]) -> None:
    """Two answers to the first and the last row.

    Raises:
        AssertionError: they differ.
    """
    samples = [
        EvalSample(id=f"{row.id} {seed}", images=row.images, prompt=row.prompt, meta={"seed": seed})
        for row in (rows[0], rows[-1])
        for seed in range(2)
    ]
    shared = SamplingAnswerer(loaded, _SETTINGS, load_image=draw)
    apart = SamplingAnswerer(loaded, _SETTINGS, load_image=draw, shares_prompts=False)
    try:
        want = {answer.id: answer.text for answer in apart.answer(samples)}
    except ConfigError:  # transformers' own generate does not run it either (recurrent_gemma, xlstm)
        with pytest.raises(ConfigError):
            list(TransformersAnswerer(loaded, _SETTINGS, load_image=draw).answer(samples))
        return
    found = {answer.id: answer.text for answer in shared.answer(samples)}
    assert found == want, "answers that share a prompt are other ones"
    if found:
        kind = loaded.model.config.model_type
        if kind not in CACHES_OF_OLD or Version(transformers.__version__) >= Version("5.23"):
            assert shared.facts["shares_prompts"] is (kind not in NOT_SHARED), shared.facts
