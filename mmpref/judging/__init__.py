"""A model as judge, over an OpenAI-compatible API: cost first, cache by content, what others wrote fenced in."""

from mmpref.judging.contract import JudgeTask
from mmpref.judging.cost import Estimate, Prices, Spent, dollars
from mmpref.judging.engine import Case, Engine, case_of

__all__ = ["Case", "Engine", "Estimate", "JudgeTask", "Prices", "Spent", "case_of", "dollars"]
