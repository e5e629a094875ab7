"""The generative half of AMBER: which nouns of a description the image has (Wang et al. 2023, section 3.3; official
script junyangwang0410/AMBER ``inference.py``).

Only nouns of AMBER's own vocabulary count. A noun is, in this order: ignored (a word of many meanings, like "light"),
true (it means an annotated object), else hallucinated. A word means an object when it is its name, one of its
associates, or similar to one of these. The official script tags and lemmatises with nltk and compares with spaCy's
``en_core_web_lg`` vectors, neither of which is needed here: the option ``noun_extractor`` takes a function (answer ->
nouns) and ``nouns`` a file of what one has found, ``similarity`` a function or a table. Without them a reader of our
own finds the nouns, and words are alike only when they are equal; a note in the result says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmpref.errors import ConfigError, DataError
from mmpref.evals.text.singular import singular
from mmpref.files.rows import load_json, read_text, texts_of

Nouns: TypeAlias = Callable[[str, str], Sequence[str]]  # question id and answer -> nouns in order, with repeats
Similarity: TypeAlias = Callable[[str, str], float]
SIMILAR_ABOVE = 0.8


@dataclass(frozen=True, slots=True)
class Lexicon:
    """AMBER's word lists: associates of each object word, words to ignore, and all words that count."""

    associates: Mapping[str, Sequence[str]]
    ignored: frozenset[str]
    known: frozenset[str]

    @staticmethod
    def read(folder: Path) -> Lexicon:
        """From AMBER's data folder."""
        relation = load_json(folder / "relation.json")
        if not isinstance(relation, Mapping):
            raise DataError(f"{folder / 'relation.json'}: expected a mapping of words to lists of words")
        for word in relation:
            texts_of(relation, word, str(folder / "relation.json"))
        lines = read_text(folder / "safe_words.txt").split("\n")
        known = frozenset({*relation, *(word for words in relation.values() for word in words)})
        return Lexicon(relation, frozenset(line.strip() for line in lines if line.strip()), known)


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image has and what models like to add, in the order of the annotation, which decides first matches."""

    truth: tuple[str, ...]
    tempting: tuple[str, ...]
    lexicon: Lexicon

    def owners(self, objects: Sequence[str]) -> list[tuple[str, int]]:
        """Every word with the object it means: the associates of all objects first, then the objects."""
        words = [(word, index) for index, name in enumerate(objects) for word in self.lexicon.associates.get(name, ())]
        return words + [(name, index) for index, name in enumerate(objects)]


@dataclass(frozen=True, slots=True)
class Reading:
    """The nouns of one answer with what each is (``ignored | true | similar | hallucinated``), and what they cover."""

    nouns: tuple[tuple[str, str], ...]
    covered: frozenset[int]
    tempted: frozenset[int]


def read_description(nouns: Iterable[str], scene: Scene, similarity: Similarity, threshold: float) -> Reading:
    """Grade nouns against the scene by the script's rules; only the first match of a noun counts."""
    true_words, tempting_words = scene.owners(scene.truth), scene.owners(scene.tempting)
    graded: list[tuple[str, str]] = []
    covered: set[int] = set()
    tempted: set[int] = set()
    for noun in nouns:
        if noun not in scene.lexicon.known:
            continue
        if noun in scene.lexicon.ignored:
            graded.append((noun, "ignored"))
            continue
        if (owner := _equal(noun, true_words)) is not None:
            covered.add(owner)
            graded.append((noun, "true"))
            continue
        # a word can be tempting and similar to a true one at once; the script counts both
        for owner in (_equal(noun, tempting_words), _alike(noun, tempting_words, similarity, threshold)):
            if owner is not None:
                tempted.add(owner)
        if (owner := _alike(noun, true_words, similarity, threshold)) is not None:
            covered.add(owner)
            graded.append((noun, "similar"))
        else:
            graded.append((noun, "hallucinated"))
    return Reading(tuple(graded), frozenset(covered), frozenset(tempted))


def _equal(noun: str, words: Sequence[tuple[str, int]]) -> int | None:
    return next((owner for word, owner in words if word == noun), None)


def _alike(noun: str, words: Sequence[tuple[str, int]], similarity: Similarity, threshold: float) -> int | None:
    return next((owner for word, owner in words if similarity(noun, word) > threshold), None)


_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


# in captions a verb and an adjective ("can be seen", "hot dog"): the tagger never calls them nouns
_NO_NOUNS = frozenset({"can", "hot"})


def own_nouns(answer: str, known: frozenset[str], *, fold_case: bool) -> list[str]:
    """The words of the vocabulary in an answer, in the singular. Without ``fold_case`` a capitalised word is another
    word, as in the script. No tagger looks whether a word is a noun in its sentence."""
    found = []
    for word in _WORD.findall(answer):
        lower = word.lower() if fold_case else word
        form = next((form for form in (lower, word, singular(lower)) if form in known), None)
        if form is not None and lower not in _NO_NOUNS:
            found.append(form)
    return found


def nouns_from(given: Any, lexicon: Lexicon, *, fold_case: bool) -> Nouns:
    """Nouns that were found before, ``{question id: [nouns]}`` or its path; our own reader where nothing is given."""
    if given is None:
        return lambda name, answer: own_nouns(answer, lexicon.known, fold_case=fold_case)
    table = load_json(given) if isinstance(given, str | Path) else given
    if not isinstance(table, Mapping):
        raise ConfigError("nouns: expected a mapping {question id: [nouns]} or its path")
    by_id = {str(name): words for name, words in table.items()}

    def look_up(name: str, answer: str) -> Sequence[str]:
        if name not in by_id:
            raise DataError(f"nouns: there are none for question '{name}'; an answer without nouns has an empty list")
        return list(by_id[name])

    return look_up


def similarity_from(given: Any) -> Similarity:
    """The similarity of an option: None (1 for equal words, else 0), a function, or ``{word: {word: value}}`` or its
    path, where a pair that is not in the table has 1 if the words are equal and 0 if not."""
    if given is None:
        return _same
    if callable(given):
        return given  # type: ignore[no-any-return]
    table = load_json(given) if isinstance(given, str | Path) else given
    if not isinstance(table, Mapping) or not all(isinstance(row, Mapping) for row in table.values()):
        raise ConfigError("similarity: expected a function, or a table {word: {word: value}} or its path")

    def look_up(first: str, second: str) -> float:
        value = table.get(first, {}).get(second, table.get(second, {}).get(first))
        return _same(first, second) if value is None else float(value)

    return look_up


def _same(first: str, second: str) -> float:
    return float(first == second)
