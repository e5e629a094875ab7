"""Figures of reports as SVG: data in, text out."""
