"""The Trainer, and what it is made of."""
