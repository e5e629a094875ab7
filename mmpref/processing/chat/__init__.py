"""Conversations as text and token ids, by the model's own chat template."""
