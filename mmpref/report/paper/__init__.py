"""The table that a paper prints: models in rows, the metrics of several benchmarks in columns."""
