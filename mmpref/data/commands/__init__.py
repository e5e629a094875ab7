"""What ``mmpref data`` does: check, clean, convert, show."""
