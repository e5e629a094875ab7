"""Which objects are in an image: COCO annotations, or object lists of one's own, gathered per image.

The ground truth of CHAIR and of Object HalBench: instances of COCO by their category, and what the five reference
captions mention, which is found later with the benchmark's own words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.files.image_names import filled
from mmpref.evals.files.question_rows import question_rows
from mmpref.files.rows import Source, is_path, load_json, row_id, short

_KEYS = ("image_id", "id", "image", "question_id")


class Truth:
    """Objects, reference captions and file names by image id, gathered from one or several sources."""

    def __init__(self) -> None:
        self.objects: dict[str, list[str]] = {}
        self.captions: dict[str, list[str]] = {}
        self.files: dict[str, str] = {}
        self.places: dict[str, str] = {}  # where the objects of an image stand, for messages
        self.from_coco = False


def ground_truth(source: Source) -> Truth:
    """Gather one source, or a list of them: COCO files, ``{image_id: [objects]}``, or rows with image_id and objects.

    Raises:
        DataError: a source is none of these, or no image is named.
    """
    truth = Truth()
    if not isinstance(source, str | Path | Mapping):
        parts: list[Any] = list(source)
        several = bool(parts) and all(is_path(part) or _is_coco(part) for part in parts)
        for part in parts if several else [parts]:
            _gather(truth, part)
    else:
        _gather(truth, source)
    if not truth.objects:
        raise DataError("the ground truth names no image")
    return truth


def image_file(pattern: str, image: str) -> str:
    """The file of an image whose annotations do not name it, such as ``COCO_val2014_{id:012d}.jpg`` of its id.

    Raises:
        ConfigError: the pattern does not fit the id.
    """
    number = int(image) if image.isdecimal() else image
    advice = "pass `image_name={id}.jpg`, or for numbers filled up with zeros `image_name={id:012d}.jpg`"
    return filled(pattern, f"the image id {image!r}", advice, id=number)


def _is_coco(content: object) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get("annotations"), Sequence)


def _gather(truth: Truth, source: Any) -> None:
    where = str(source) if is_path(source) else "questions"
    content = load_json(source) if is_path(source) else source
    if _is_coco(content):
        _gather_coco(truth, content, where)
        return
    if isinstance(content, Mapping) and "objects" not in content:
        content = [
            {**entry, "image_id": image} if isinstance(entry, Mapping) else {"image_id": image, "objects": entry}
            for image, entry in content.items()
        ]
    for here, row in question_rows(content, where):
        image, objects = row_id(row, here, _KEYS), row.get("objects")
        if (
            isinstance(objects, str)
            or not isinstance(objects, Iterable)
            or not all(isinstance(o, str) for o in objects)
        ):
            said = short(objects) if "objects" in row else "missing"
            raise DataError(f"{here}, image {image!r}: objects is {said}; expected a list of object names")
        if image in truth.objects:
            raise DataError(f"{here}: image {image!r} appears more than once, first in {truth.places[image]}")
        truth.objects[image] = list(objects)
        truth.places[image] = here
        if isinstance(row.get("image"), str):
            truth.files[image] = row["image"]


def _gather_coco(truth: Truth, content: Mapping[str, Any], where: str) -> None:
    truth.from_coco = True
    at = ""
    try:
        names = {category["id"]: category["name"] for category in content.get("categories", ())}
        for image in content.get("images", ()):
            truth.objects.setdefault(str(image["id"]), [])
            truth.places.setdefault(str(image["id"]), f"{where}, images")
            if "file_name" in image:
                truth.files[str(image["id"])] = image["file_name"]
        for number, row in enumerate(content["annotations"], 1):
            at = f", row {number} of annotations"
            image_id = str(row["image_id"])
            objects = truth.objects.setdefault(image_id, [])
            truth.places.setdefault(image_id, f"{where}{at}")
            if "caption" in row:
                truth.captions.setdefault(image_id, []).append(row["caption"])
            else:
                objects.append(names[row["category_id"]])
    except (KeyError, TypeError) as err:
        raise DataError(f"{where}{at}: not COCO annotations as expected (problem at {err})") from err
