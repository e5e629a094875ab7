"""What a sweep says: its cells as a table, arms compared cell by cell, maps and curves."""
