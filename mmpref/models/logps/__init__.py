"""From a batch and a model to the log-probs that a loss takes."""
