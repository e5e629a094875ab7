"""One run, one folder: what is in it, who may write to it."""
