"""Who answers the questions: anything with one method, ``answer``.

torch and ``mmpref.models`` are loaded only when a ``TransformersAnswerer`` is built, httpx2 only by a
``ServerAnswerer``.
"""

from mmpref.generation.api_server import Server
from mmpref.generation.contract import Answerer
from mmpref.generation.in_process import TransformersAnswerer
from mmpref.generation.likelihood import LikelihoodAnswerer
from mmpref.generation.model_source import ModelSource
from mmpref.generation.processes import ProcessesAnswerer
from mmpref.generation.sampled import SamplingAnswerer
from mmpref.generation.scripted import ScriptedAnswerer
from mmpref.generation.server import ServerAnswerer
from mmpref.generation.settings import BATCH_SIZE, TOKENS_PER_BATCH, AnswerSettings, SampleSettings

__all__ = [
    "BATCH_SIZE",
    "TOKENS_PER_BATCH",
    "AnswerSettings",
    "Answerer",
    "LikelihoodAnswerer",
    "ModelSource",
    "ProcessesAnswerer",
    "SampleSettings",
    "SamplingAnswerer",
    "ScriptedAnswerer",
    "Server",
    "ServerAnswerer",
    "TransformersAnswerer",
]
