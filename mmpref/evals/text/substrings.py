"""The rule by which the scripts of RePOPE and DASH-B read yes or no: letters anywhere in the answer.

``compute_answer`` of both scripts is the same (YanNeu/RePOPE and YanNeu/DASH-B, ``src/eval_utils.py``).
"""

from __future__ import annotations

from mmpref.evals.text.yes_no import YesNo


def read_substring(text: str, question: str = "") -> YesNo:
    """Yes where the letters "yes" are anywhere in the answer, else no where "no" is, else unparsed.

    So "No, but yesterday" and "eyes" are a yes, "I cannot tell" and "unknown" a no, and so is "There is none".
    """
    lower = text.lower()
    if "yes" in lower:
        return "yes"
    return "no" if "no" in lower else "unparsed"
