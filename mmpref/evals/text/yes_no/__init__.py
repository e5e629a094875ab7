"""Reading yes or no from an answer: a function per protocol, ours and those of three public tools."""

from mmpref.evals.text.yes_no.reader import read_mmpref, says_unsure
from mmpref.evals.text.yes_no.tools import Reader, YesNo, read_lmms_eval, read_official, read_vlmevalkit

__all__ = ["Reader", "YesNo", "read_lmms_eval", "read_mmpref", "read_official", "read_vlmevalkit", "says_unsure"]
