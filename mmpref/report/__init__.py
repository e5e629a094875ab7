"""From run folders to one page: tables with intervals, training curves, examples. Loads no torch and no model."""
