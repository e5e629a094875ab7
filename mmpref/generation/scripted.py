"""Answers that were written before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmpref.records import Answer, EvalSample


@dataclass(frozen=True, slots=True)
class ScriptedAnswerer:
    """Gives answers that were written before; for tests and for rehearsing a pipeline.

    Args:
        script: sample id -> answer, or a function of the sample.
    """

    script: Mapping[str, str] | Callable[[EvalSample], str]

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """The answer of the script to each sample, in order."""
        for sample in samples:
            text = self.script(sample) if callable(self.script) else self.script[sample.id]
            yield Answer(id=sample.id, text=text)
