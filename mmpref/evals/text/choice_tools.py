"""How the public tools take an answer to a multiple-choice question, in their own ways, quirks included.

Each gives the letter, or "unparsed" where the tool has none.

- lmms-eval ``tasks/mmvp/utils.py``: the first of five forms, small letters too. A letter at the end of any word counts
  ("sofa" is A), and so does one at the beginning of the word after "answer is" ("answer is because" is B).
- lmms-eval ``tasks/crpe_relation/utils.py``: the text of an option anywhere, else the answer without punctuation.
- VLMEvalKit ``utils/matching_util.py`` with ``exact_matching``: one capital letter among the last five words, else the
  text of one option in an answer that is not long.
- VLMEvalKit ``dataset/utils/crpe.py``: the first character, else the text of the right answer anywhere.
- FINER ``eval/finer_benchmarks/utils.py``: the first of the letters a to e, in whatever word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mmpref.evals.text.choice import UNPARSED
from mmpref.evals.text.options import Options

_READ_AS_NOTHING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip


def _first(text: str, *patterns: str) -> str:
    for pattern in patterns:
        if (found := re.search(pattern, text, re.IGNORECASE)) is not None:
            return found[1].upper()
    return UNPARSED


def read_lmms_eval_mmvp(text: str, options: Options) -> str:
    """lmms-eval's letter of MMVP, A or B."""
    said = text.strip()
    letter = r"\(?([AB])\)?"
    found = _first(
        said,
        rf"^{letter}\.?$",
        rf"^{letter}[.\s]",
        rf"answer\s+is\s+{letter}",
        rf"option\s+{letter}",
        rf"{letter}(?:\s|$)",
    )
    if found == UNPARSED and said[:1].upper() in ("A", "B"):
        return said[0].upper()
    return found


def read_lmms_eval_crpe(text: str, question: str) -> str:
    """lmms-eval's answer of CRPE, which it compares without case and punctuation: a letter, or whatever was said.

    Args:
        question: the whole text, with the options.
    """
    said = text
    for tag in ("think", "thought"):
        said = re.sub(rf"<{tag}>.*?</{tag}>", "", said, flags=re.DOTALL).strip()
    if (marked := re.search(r"<answer>(.*?)</answer>", said, re.DOTALL)) is not None:
        said = marked[1].strip()
    said = re.sub(r"[^\w\s]", "", said).strip()
    letters = {line[2].strip(): line[1] for line in re.finditer(r"\b([A-Z])\.\s+([^\n]*)", question)}
    texts = [line[2].strip() for line in re.finditer(r"\b([A-Z])\.\s+([^\n]*)", question)]
    found = re.search("|".join(map(re.escape, texts)), said) if texts else None
    return letters[found[0]] if found is not None and found[0] in letters else said


def as_pandas_reads(text: str) -> str:
    """An answer as VLMEvalKit finds it in its table: pandas takes empty cells and words such as "None" for nothing."""
    return "nan" if text in _READ_AS_NOTHING else text


_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_LAST_WORDS = 5


def read_vlmevalkit_choice(text: str, options: Options) -> str:
    """VLMEvalKit's letter of a multiple-choice answer, without a judge."""
    said = as_pandas_reads(text)
    return _vlmevalkit_letter(said, options) or _vlmevalkit_text(said, options) or UNPARSED


def _vlmevalkit_letter(said: str, options: Options) -> str:
    if "Failed to obtain answer via API" in said:
        return ""
    if any(refusal in said for refusal in _REFUSALS):
        return UNPARSED
    words = said.translate(_PUNCTUATION).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - _LAST_WORDS:
        return found[0]
    if not found and "Z" in words:
        return UNPARSED
    named = re.search(r"answer\s+is\s+\**([ABCD])", said, re.IGNORECASE)
    return named[1].upper() if named is not None and named[1].upper() in options else ""


def _vlmevalkit_text(said: str, options: Options) -> str:
    if len(said) > 2 * sum(map(len, options.values())):
        return ""
    found = [letter for letter, text in options.items() if text.lower() in said.lower()]
    return found[0] if len(found) == 1 else ""


def is_right_vlmevalkit_crpe(text: str, answer: str) -> bool:
    """Whether VLMEvalKit takes an answer to CRPE for right.

    Args:
        answer: the right answer as its table has it, which begins with the letter; the tool looks for what stands
            from its fifth character on, which is nothing where the table has the letter alone. Any other text is right
            then.
    """
    said = as_pandas_reads(text)
    if len(said) == 1 or said[0] in "ABCD":
        return said[0] == answer[0]
    return answer[4:].lower() in said.lower()


def read_finer(text: str) -> str:
    """FINER's letter: the first of a to e, capital or not, in whatever word."""
    found = re.search("[A-Ea-e]", text)
    return found[0].upper() if found is not None else UNPARSED


def letter_of(read: str, options: Mapping[str, str]) -> str:
    """What was read as a letter of the options, "unparsed" where it is none."""
    plain = re.sub(r"[^\w\s]|_", "", read).strip().upper()
    return plain if plain in options else UNPARSED
