"""Several processes for one run: launch, communication, and the division of batches and weights."""
