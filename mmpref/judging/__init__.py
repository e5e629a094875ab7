"""A model as judge, over an OpenAI-compatible API: cost first, cache by content, what others wrote fenced in."""

from mmpref.judging.cost import Estimate, Prices, Spent, dollars

__all__ = ["Estimate", "Prices", "Spent", "dollars"]
