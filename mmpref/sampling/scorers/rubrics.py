"""By what a judge rates an answer: built-in rubrics in our own words, or a text file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mmpref.errors import ConfigError
from mmpref.yaml_text import did_you_mean

_LONGEST = 20_000  # characters
_WHAT = (
    "You rate the last answer of a conversation, as a careful reader would who sees the images, where there are any. "
    "Look at the images before you read the answer."
)
_SEEN = (
    "Whatever the answer says of an image must be seen in it: objects, numbers, colours, places, actions, writing. A "
    "statement that the image contradicts, or that cannot be known from it, is an error, however likely it sounds. "
    "What the answer leaves open or doubts with good reason is none, and right general knowledge is none either."
)
_LENGTH = "Length in itself counts neither for an answer nor against it."

RUBRICS: Mapping[str, str] = MappingProxyType(
    {
        "helpfulness_and_faithfulness": (
            f"{_WHAT}\nTwo things count, the first one more.\n"
            f"1. Faithfulness. {_SEEN}\n"
            "2. Helpfulness. The answer gives what was asked for, all of it, in the form that was asked for.\n"
            f"{_LENGTH} More is better only where it is right and was asked for.\n"
            "The worst: wrong in what matters most, or no answer. In the middle: right in the main thing, with an "
            "error in a detail or something important left out. The best: no error, and nothing left out that was "
            "asked for."
        ),
        "hallucination": (
            f"{_WHAT}\nOne thing counts: does the answer keep to what the images show? {_SEEN}\n"
            f"{_LENGTH} An answer that says little, and nothing wrong, has no error.\n"
            "The worst: made up in what matters most. In the middle: an error in a detail. The best: no error."
        ),
        "helpfulness": (
            f"{_WHAT}\nOne thing counts: how well the answer serves the person who asked. It is right, gives all that "
            "was asked for, keeps to the form that was asked for, and can be understood at once.\n"
            f"{_LENGTH} More is better only where it is right and was asked for.\n"
            "The worst: wrong, or beside the question. In the middle: right in the main thing, with something "
            "important missing or hard to understand. The best: nothing to improve."
        ),
    }
)
DEFAULT = "helpfulness_and_faithfulness"


def rubric_text(given: str, name: str) -> str:
    """A rubric's text: of a built-in one by its name, or of a UTF-8 file.

    Args:
        name: of the option, for messages.

    Raises:
        ConfigError: there is no such rubric, or the file cannot be used.
    """
    if given in RUBRICS:
        return RUBRICS[given]
    file = Path(given)
    if not file.is_file():
        hint = did_you_mean(given, list(RUBRICS))
        raise ConfigError(f"{name}={given}: no rubric of that name{hint} and no file; built in: {', '.join(RUBRICS)}")
    try:
        text = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as err:
        raise ConfigError(f"{name}={given}: the file is not UTF-8") from err
    except OSError as err:
        raise ConfigError(f"{name}={given} cannot be read: {err.strerror or err}") from err
    if not 0 < len(text) <= _LONGEST:
        raise ConfigError(f"{name}={given} has {len(text)} characters; a rubric has 1 to {_LONGEST}")
    return text
