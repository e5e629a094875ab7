"""Reading yes or no from an answer: a function per protocol, ours and those of three public tools.

Our reader is imported with the first answer that it reads: its patterns take a quarter of a second to compile, which a
command that reads no such answer need not wait for.
"""

from functools import lru_cache

from mmpref.evals.text.yes_no.tools import Reader, YesNo, read_lmms_eval, read_official, read_vlmevalkit

__all__ = ["Reader", "YesNo", "read_lmms_eval", "read_mmpref", "read_official", "read_vlmevalkit", "says_unsure"]


def read_mmpref(text: str, question: str = "") -> YesNo:
    """What a careful person who knows the question ("" for unknown) takes the answer to claim, or "unparsed"."""
    return _read_short(text, question) if len(text) <= _SHORT else _read(text, question)


def _read(text: str, question: str) -> YesNo:
    from mmpref.evals.text.yes_no import reader

    return reader.read_mmpref(text, question)


_SHORT = 200  # characters; models repeat their short answers, as benchmarks their questions
_read_short = lru_cache(maxsize=20_000)(_read)


def says_unsure(text: str, question: str = "") -> bool:
    """Whether the answer says in so many words that it does not know, or refuses."""
    from mmpref.evals.text.yes_no import reader

    return reader.says_unsure(text, question)
