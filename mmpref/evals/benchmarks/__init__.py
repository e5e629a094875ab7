"""The benchmarks, one file each, and their table: a new one is a row here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mmpref.evals.benchmarks.amber import AMBER
from mmpref.evals.benchmarks.chair import CHAIR
from mmpref.evals.benchmarks.contract import Benchmark
from mmpref.evals.benchmarks.crpe import CRPE
from mmpref.evals.benchmarks.dash_b import DASH_B
from mmpref.evals.benchmarks.finer import FINER
from mmpref.evals.benchmarks.hallusionbench import HALLUSIONBENCH
from mmpref.evals.benchmarks.mme import MME
from mmpref.evals.benchmarks.mmhal import MMHAL
from mmpref.evals.benchmarks.mmvp import MMVP
from mmpref.evals.benchmarks.naturalbench import NATURALBENCH
from mmpref.evals.benchmarks.object_halbench import OBJECT_HALBENCH
from mmpref.evals.benchmarks.pope import POPE
from mmpref.evals.benchmarks.preference import PREFERENCE
from mmpref.evals.benchmarks.repope import REPOPE
from mmpref.evals.benchmarks.win_rate import WIN_RATE

_ALL: tuple[Benchmark[Any], ...] = (
    POPE,
    CHAIR,
    AMBER,
    HALLUSIONBENCH,
    MME,
    MMHAL,
    OBJECT_HALBENCH,
    REPOPE,
    DASH_B,
    NATURALBENCH,
    CRPE,
    MMVP,
    FINER,
    PREFERENCE,
    WIN_RATE,
)
BENCHMARKS: Mapping[str, Benchmark[Any]] = MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
