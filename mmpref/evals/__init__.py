"""Hallucination benchmarks: questions answered by a model, and scored by a named protocol with intervals.

Scoring imports no torch; only a model that answers in this process does, when it is loaded.
"""

from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.evals.evaluate import evaluate
from mmpref.evals.export import export_answers
from mmpref.evals.plan import EvalSettings
from mmpref.evals.results import result_content, write_items, write_result, write_scored
from mmpref.evals.scoring import compare, load_samples, score, score_beside, score_by

__all__ = [
    "BENCHMARKS",
    "EvalSettings",
    "compare",
    "evaluate",
    "export_answers",
    "load_samples",
    "result_content",
    "score",
    "score_beside",
    "score_by",
    "write_items",
    "write_result",
    "write_scored",
]
