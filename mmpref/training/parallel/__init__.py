"""Several processes for one run: how they are started, how they talk, how batches and weights are divided."""
