"""The number of the rules by which answers are read: the same number, the same readings.

It stands in every ``results.json`` (``reader.revision``), and numbers of different revisions are never put into one
column. It is raised by hand whenever an answer is read otherwise than before, by any reader of this package:
``tests/fixtures/evals/readings.jsonl`` holds answers with their readings, a test compares them, and
``scripts/golden_readings.py`` refuses to write them anew under the same number.
"""

READING_REVISION = 8
