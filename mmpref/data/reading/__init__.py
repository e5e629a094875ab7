"""Rows from files, folders and the hub, one at a time."""
