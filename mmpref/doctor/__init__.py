"""What this machine can do, and whether a recipe would start: ``mmpref doctor``."""
