"""Files: read within limits, written atomically, locked, hashed; rows of JSON lines and tables."""
