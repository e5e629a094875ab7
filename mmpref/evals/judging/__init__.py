"""A model as judge of answers, over an OpenAI-compatible API: cost first, cache by content, failures are missing."""

from mmpref.evals.judging.cost import Estimate, Prices, Spent, dollars
from mmpref.evals.judging.engine import JudgingPlan, Outcome, load_answered, plan_judging
from mmpref.evals.judging.tasks import JUDGED, official_judge

__all__ = [
    "JUDGED",
    "Estimate",
    "JudgingPlan",
    "Outcome",
    "Prices",
    "Spent",
    "dollars",
    "load_answered",
    "official_judge",
    "plan_judging",
]
