"""The words that name objects: a list in CHAIR's format, mmpref's own list for COCO, or the names themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmpref.errors import DataError
from mmpref.evals.text.singular import singular
from mmpref.files.reading import read_text


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that name objects: ``exact`` as the list spells them, ``clean`` with spacing and case put right."""

    exact: Mapping[str, str]
    clean: Mapping[str, str]

    @staticmethod
    def read(source: str | Path | Iterable[str]) -> Vocabulary:
        """A list in CHAIR's format, as a path or as its lines.

        Raises:
            DataError: the file cannot be read or names no object.
        """
        where = str(source) if isinstance(source, str | Path) else "synonyms"
        lines = read_text(source, DataError, "synonyms:").splitlines() if isinstance(source, str | Path) else [*source]
        if odd := [line for line in lines if not isinstance(line, str)]:
            raise DataError(f"synonyms: {odd[0]!r:.60} is no line of text, its words separated by commas")
        groups = [line.strip().split(", ") for line in lines if line.strip() and not line.startswith("#")]
        if not groups:
            raise DataError(f"synonyms: {where} is empty; expected one object per line, its words separated by commas")
        exact = {word: group[0] for group in groups for word in group}
        names = {word: group[0] for group in groups for word in ",".join(group).split(",") if word.strip()}
        return Vocabulary(exact, _clean(names))

    @staticmethod
    def of_names(names: Iterable[str]) -> Vocabulary:
        """Each name means only itself."""
        known = {name: name for name in names}
        return Vocabulary(known, _clean(known))

    def __contains__(self, name: str) -> bool:
        return name in self.exact or _tidy(name) in self.clean

    def canonical(self, name: str) -> str:
        """The object that a ground-truth name means; a name outside the list stays as it is."""
        return self.exact.get(name) or self.clean.get(_tidy(name), _tidy(name))


NAMES_ONLY = "names"
"""In the place of a list of words: only the names of the ground truth."""


COCO = "coco"
"""In the place of a list of words: mmpref's own for COCO's categories."""


NO_LIST = "no synonym list: only the object names of the ground truth are looked for"


OWN_LIST = (
    "objects are looked for with mmpref's own list of words for COCO's categories, not with CHAIR's authors' list"
)


_OWN_FILE = Path(__file__).with_name("coco_words.txt")


_MOST_CATEGORIES = 40
"""Categories of COCO that a ground truth of nothing else names where it is COCO's: half of them."""


def vocabulary_of(
    synonyms: str | Path | Iterable[str] | None, names: Iterable[str], *, from_coco: bool
) -> tuple[Vocabulary, str]:
    """The words that name objects, and a note on where they are from; "" where they were given.

    Args:
        synonyms: a list, "coco" for our own, "names" for none, or None: our own where the ground truth is COCO's.
        names: the objects of the ground truth.
        from_coco: whether they come from annotation files of COCO.

    Raises:
        DataError: the list cannot be read.
    """
    known = set(names)
    if synonyms is None:
        own = Vocabulary.read(_OWN_FILE)
        categories = set(own.exact.values())
        like_coco = known <= categories and len(known) >= _MOST_CATEGORIES
        synonyms = COCO if from_coco or like_coco else NAMES_ONLY
    if synonyms == COCO:
        return Vocabulary.read(_OWN_FILE), OWN_LIST
    if synonyms == NAMES_ONLY:
        return Vocabulary.of_names(known), NO_LIST
    return Vocabulary.read(synonyms), ""


def _clean(names: Mapping[str, str]) -> dict[str, str]:
    """Tidy words to tidy names; the singular of a word that the list has in the plural ("skis") means the same."""
    tidy = {_tidy(word): _tidy(name) for word, name in names.items()}
    one = {" ".join([*word.split()[:-1], singular(word.split()[-1])]): name for word, name in tidy.items() if word}
    return one | tidy


def _tidy(word: str) -> str:
    return " ".join(word.lower().split())
