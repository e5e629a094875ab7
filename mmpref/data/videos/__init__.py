"""Videos: which frames of them a model is shown, and how those are read."""
