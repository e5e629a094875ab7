"""Who answers the questions: anything with one method, ``answer``.

torch and the models room are loaded only when a ``TransformersAnswerer`` is built, httpx2 only by a ``ServerAnswerer``.
"""

from mmpref.evals.answerers.contract import Answerer
from mmpref.evals.answerers.in_process import BATCH_SIZE, TOKENS_PER_BATCH, TransformersAnswerer
from mmpref.evals.answerers.likelihood import LikelihoodAnswerer
from mmpref.evals.answerers.processes import ProcessesAnswerer
from mmpref.evals.answerers.scripted import ScriptedAnswerer
from mmpref.evals.answerers.server import ServerAnswerer

__all__ = [
    "BATCH_SIZE",
    "TOKENS_PER_BATCH",
    "Answerer",
    "LikelihoodAnswerer",
    "ProcessesAnswerer",
    "ScriptedAnswerer",
    "ServerAnswerer",
    "TransformersAnswerer",
]
