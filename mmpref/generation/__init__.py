"""Who answers the questions: anything with one method, ``answer``.

torch and the models room are loaded only when a ``TransformersAnswerer`` is built, httpx2 only by a ``ServerAnswerer``.
"""

from mmpref.generation.contract import Answerer
from mmpref.generation.in_process import BATCH_SIZE, TOKENS_PER_BATCH, TransformersAnswerer
from mmpref.generation.likelihood import LikelihoodAnswerer
from mmpref.generation.processes import ProcessesAnswerer
from mmpref.generation.scripted import ScriptedAnswerer
from mmpref.generation.server import ServerAnswerer

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
