"""Where the tests of this folder run: on the GPU, or with ``MMPREF_GPU_TESTS_ON=cpu`` at toy size on the CPU."""

from __future__ import annotations

import os

import pytest

ON_CPU = os.environ.get("MMPREF_GPU_TESTS_ON") == "cpu"
DEVICE = "cpu" if ON_CPU else "cuda"
needs_cuda = pytest.mark.skipif(ON_CPU, reason="looks at what only a CUDA device does")
