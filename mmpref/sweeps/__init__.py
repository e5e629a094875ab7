"""Grids over a recipe: what is run, how it is run, and what it says together."""
