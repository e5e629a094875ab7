"""The questions a careful researcher asks of pairs: lengths, repeats, scores, images, overlap with benchmarks."""

from mmpref.data.audit.report import AuditReport, AuditSettings, LeakSummary, audit

__all__ = ["AuditReport", "AuditSettings", "LeakSummary", "audit"]
