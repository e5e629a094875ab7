"""A folder for a project of one's own: recipe, data, and a README of its commands in order."""
