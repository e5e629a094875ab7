"""The questions a careful researcher asks of pairs: lengths, repeats, scores, images, overlap with benchmarks."""

from mmpref.data.audit.report import AuditReport, LeakSummary, audit, drop_leaks

__all__ = ["AuditReport", "LeakSummary", "audit", "drop_leaks"]
