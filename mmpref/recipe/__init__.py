"""The recipe: typed sections, read from YAML, changed by dotted overrides, refused when a key is unknown."""
