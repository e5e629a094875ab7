"""A step of training never waits for the GPU; ``tests/invariants/test_no_waits.py`` says where, without one."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.device import needs_cuda
from tests.training_steps import FULL, LORA, arguments, three_updates

pytestmark = [pytest.mark.gpu, needs_cuda]


class Recorded:
    """Every synchronisation that torch knows of between :meth:`begin` and :meth:`end`, with the line that asked."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._catching: Any = None

    def begin(self) -> None:
        self._catching = warnings.catch_warnings()
        self._catching.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = self._note
        torch.cuda.set_sync_debug_mode("warn")

    def end(self) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._catching.__exit__(None, None, None)

    def _note(self, message: Any, *_: Any, **__: Any) -> None:
        if "called a synchronizing" not in str(message):  # torch says once that the mode itself is a prototype, too
            return
        frames = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename]
        self.lines.append(" < ".join(f"{Path(f.filename).name}:{f.lineno} {f.line}" for f in reversed(frames[-4:])))


def test_a_wait_is_recorded_with_its_line() -> None:
    seen = Recorded()
    x = torch.ones(3, device="cuda")
    seen.begin()
    x.sum().item()
    x[x > 0].tolist()
    seen.end()
    x.sum().item()
    assert len(seen.lines) >= 3
    assert all("test_waits_gpu.py" in line for line in seen.lines)


@pytest.mark.parametrize("is_cached", [False, True], ids=["live", "cached"])
@pytest.mark.parametrize(("name", "tuning"), [("llava", LORA), ("qwen2_5_vl", LORA), ("qwen3_vl", FULL)])
def test_the_middle_update_of_a_run_waits_for_nothing(name: str, tuning: Any, is_cached: bool, tmp_path: Path) -> None:
    """3 updates of 2 micro-batches of 2 pairs, fused AdamW, bf16; the log line comes at the end."""
    seen = Recorded()
    args = arguments(tmp_path, bf16=True)
    assert args.device.type == "cuda"
    args._n_gpu = 1  # a Trainer that sees several would copy the model to all of them
    try:
        three_updates(name, tmp_path, args, begin=seen.begin, end=seen.end, tuning=tuning, is_cached=is_cached)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen.lines == []
