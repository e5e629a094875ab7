"""Object faithfulness: the objects that an answer mentions, against those that its images are known to show. No model.

Objects are found as by CHAIR (Rohrbach et al. 2018, arXiv:1809.02156) under the protocol ``mmpref``, so that an answer
mentions and makes up here what ``mmpref score --benchmark chair`` says of it.

``f1`` is the harmonic mean of precision (mentioned objects that are there / mentioned objects) and recall (mentioned
objects that are there / objects that are there); an object counts once, however often it is mentioned. ``faithfulness``
is 1 - made-up mentions / mentions, repeats counted, which is 1 - CHAIR_i of the one answer. It rewards saying little:
an answer that names one object and is right has 1. Preference pairs made with it teach brevity, and that is why ``f1``
is the default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.data.formats.canonical import IMAGE_NAMES
from mmpref.errors import ConfigError
from mmpref.evals.files.coco import ground_truth
from mmpref.evals.files.image_names import ImageIndex, image_of
from mmpref.evals.text.objects import Extractor, extract_mmpref, true_objects
from mmpref.evals.text.vocabulary import COCO, NAMES_ONLY, vocabulary_of
from mmpref.files.hashes import sha256
from mmpref.records import Candidates, Prompt
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore, ScoreContext, options_of

VERSION = "2"
MEASURES = ("f1", "faithfulness")
NO_TRUTH = "no_truth"
"""The reason of an answer about an image of which nothing is known, or about none."""
NAMES_NO_OBJECT = "names_no_object"
"""The reason of an answer that mentions no object, where that says nothing of its faithfulness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the scorer.

    Args:
        truth: what ``mmpref score --benchmark chair`` takes as questions: COCO annotations (a file, or a list of
            several) or ``{image: [objects]}``.
        synonyms: words that name objects: a list in CHAIR's format, ``coco``, or ``names`` for the object names of the
            ground truth alone; default: ``coco`` where the ground truth is COCO's.
        measure: ``f1`` or ``faithfulness``.

    Raises:
        ConfigError: an option of the wrong kind.
    """

    truth: str | list[str]
    synonyms: str | None = None
    measure: str = "f1"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigError(f"measure must be {' or '.join(MEASURES)}, got '{self.measure!s:.40}'")
        if (
            not isinstance(self.truth, str | list)
            or not self.files
            or not all(isinstance(file, str) and file for file in self.files)
        ):
            raise ConfigError("truth must be the path of a file, or a list of several: truth=[one.json, two.json]")
        if self.synonyms is not None and not isinstance(self.synonyms, str):
            raise ConfigError(f"synonyms must be a file, {COCO} or {NAMES_ONLY}, got '{self.synonyms!s:.40}'")

    @property
    def files(self) -> list[str]:
        """The files of the ground truth."""
        return [self.truth] if isinstance(self.truth, str) else list(self.truth)


class ObjectScorer:
    """Scores answers by the objects that they mention."""

    version = VERSION
    scale = (0.0, 1.0)
    looks_at_images = False  # their names are enough

    def __init__(self, options: Options) -> None:
        truth = ground_truth(options.files if len(options.files) > 1 else options.files[0])
        names = (name for objects in truth.objects.values() for name in objects)
        self._vocabulary, _ = vocabulary_of(options.synonyms, names, from_coco=truth.from_coco)
        self._extract = extract_mmpref(self._vocabulary)
        self._truth = truth
        self._index = ImageIndex(
            [*((name, image) for image, name in truth.files.items()), *((name, name) for name in truth.objects)]
        )
        self._of_image: dict[str, frozenset[str]] = {}
        self._measure = options.measure
        self._words = _digest_of_words(options.synonyms)

    @property
    def depends_on(self) -> Mapping[str, Any]:
        """The measure, and hashes of what is known of the images and of the words that name objects."""
        known = [sorted(self._truth.objects.items()), sorted(self._truth.captions.items())]
        truth = hashlib.sha256(json.dumps(known).encode("ascii")).hexdigest()[:32]
        return {"measure": self._measure, "truth": truth, "synonyms": self._words}

    def score(self, items: Sequence[Candidates]) -> Iterator[RawScore]:
        """One score for each answer."""
        for item in items:
            truth, unknown = self._objects_of(item.prompt)
            for at, answer in enumerate(item.answers):
                place = AnswerPlace(item.prompt.id, at)
                if unknown:
                    said = f"the truth has nothing of {', '.join(map(str, unknown))}"
                    yield RawScore(place=place, value=None, why=NO_TRUTH, detail={"images": unknown, "why": said})
                else:
                    yield score_text(
                        item.prompt.response_prefix + answer.text, truth, self._extract, place, self._measure
                    )

    def _objects_of(self, prompt: Prompt) -> tuple[frozenset[str], list[str]]:
        """The objects of all images of a prompt, and the images that nothing is known of."""
        names = _names_of_images(prompt)
        ids = [(name, self._find(name)) for name in names]
        unknown = [name for name, image in ids if image is None]
        if not ids or prompt.videos:
            unknown = [*unknown, "a prompt with videos" if prompt.videos else "a prompt without images"]
        return frozenset().union(*(self._known(image) for _, image in ids if image is not None)), unknown

    def _find(self, name: str) -> str | None:
        return name if name in self._truth.objects else self._index.find(name)

    def _known(self, image: str) -> frozenset[str]:
        if image not in self._of_image:
            captions = self._truth.captions.get(image, ())
            found = true_objects(self._truth.objects[image], captions, self._extract, self._vocabulary)
            self._of_image[image] = frozenset(found)
        return self._of_image[image]


def score_text(text: str, truth: frozenset[str], extract: Extractor, place: AnswerPlace, measure: str) -> RawScore:
    """The score of one answer against the objects that are there.

    Returns:
        a score in [0, 1]; None where it is undefined: without a mention, but for ``f1`` of images that have objects.
    """
    mentions = extract(text)
    said = {mention.object for mention in mentions}
    detail = {
        "mentioned": sorted(said),
        "hallucinated": sorted(said - truth),
        "missing": sorted(truth - said),
    }
    value: float | None
    if measure == "f1":
        value = 2 * len(said & truth) / (len(said) + len(truth)) if said or truth else None
    else:
        made_up = sum(mention.object not in truth for mention in mentions)
        value = 1 - made_up / len(mentions) if mentions else None
    return RawScore(place=place, value=value, why="" if value is not None else NAMES_NO_OBJECT, detail=detail)


def _names_of_images(prompt: Prompt) -> list[str]:
    """How the images of a prompt are called: by their paths, or, of one that is embedded, as its row called it."""
    embedded = sum(image.path is None for image in prompt.images)
    if len(prompt.images) == 1 and embedded and (said := [*image_of(prompt.meta).values()]):
        return said[:1]
    names = prompt.meta.get(IMAGE_NAMES)
    if not isinstance(names, list | tuple) or len(names) != embedded:
        return [image.describe() for image in prompt.images]
    own = iter(map(str, names))
    return [next(own) if image.path is None else image.path for image in prompt.images]


def _digest_of_words(synonyms: str | None) -> str:
    if synonyms is None or synonyms in (COCO, NAMES_ONLY):
        return synonyms or "default"
    return sha256(Path(synonyms))[:32]


def build(name: str, options: Mapping[str, Any], context: ScoreContext) -> ObjectScorer:
    """The scorer of these options.

    Raises:
        ConfigError: an option is wrong.
        DataError: the ground truth or the list of words cannot be read.
    """
    return ObjectScorer(options_of(Options, options, name))
