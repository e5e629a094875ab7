"""Training: transformers' Trainer with a preference objective, and the run around it."""

from mmpref.training.trainer import PreferenceTrainer

__all__ = ["PreferenceTrainer"]
