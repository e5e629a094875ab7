"""Training: transformers' Trainer with a preference objective, and the run around it."""

from mmpref.training.parallel.groups import PairWork
from mmpref.training.trainer.options import TrainerOptions
from mmpref.training.trainer.trainer import PreferenceTrainer

__all__ = ["PairWork", "PreferenceTrainer", "TrainerOptions"]
