"""Analyses of a run's pair log: why training did what it did, and whether the model looks at the image."""
