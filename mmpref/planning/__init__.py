"""Whether a recipe will fit and how fast it may be, before anything is downloaded."""
