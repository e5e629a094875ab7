"""Every image of a benchmark decoded before the model is loaded: the broken ones are known at once, and all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.files.writing import json_text, replacing
from mmpref.records import EvalSample, ImageRef

if TYPE_CHECKING:
    from mmpref.data.quarantine import RowError

UNANSWERED = "unanswered.jsonl"
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Unasked:
    """A question that cannot be asked, as one of its images cannot be opened; one line of ``unanswered.jsonl``."""

    id: str
    image: str
    reason: str
    detail: str


def unasked(samples: Sequence[EvalSample], root: str | Path | None) -> dict[str, Unasked]:
    """Question id -> why, of the questions with an image that cannot be opened. Each image is decoded once.

    Args:
        samples: the questions that are to be asked.
        root: relative image paths start here.

    Raises:
        ConfigError: the root is no folder.
        DataError: none of the images can be used, as under a wrong root.
    """
    from mmpref.data.image_check import decode_all
    from mmpref.data.images.loader import ImageLoader

    shown = {sample.id: images for sample in samples if (images := _images(sample))}
    if not shown:
        return {}
    loader = ImageLoader(root)
    refs = list(dict.fromkeys(ref for images in shown.values() for ref in images))
    faults = {refs[place]: fault for place, fault in decode_all([(loader, ref) for ref in refs]).items()}
    found = {}
    for name, images in shown.items():
        if bad := next((ref for ref in images if ref in faults), None):
            fault = faults[bad]
            found[name] = Unasked(id=name, image=bad.describe()[:300], reason=fault.reason, detail=fault.detail)
    if len(faults) == len(refs):
        where = "no image root was given" if loader.root is None else f"image paths start from {loader.root}"
        raise DataError(
            f"none of the {len(refs)} images can be used ({_reasons(faults.values())}), the first: "
            f"{next(iter(found.values())).detail}; {where}: give the folder that they start from with --image-root "
            "(images_root in Python)"
        )
    return found


def write_unanswered(folder: Path, found: Mapping[str, Unasked]) -> None:
    """Write the list to the folder of an evaluation; an old list is removed where no question is left out any more."""
    file = folder / UNANSWERED
    if not found:
        file.unlink(missing_ok=True)
        return
    with replacing(file) as stream:
        for entry in found.values():
            stream.write((json_text(asdict(entry)) + "\n").encode("utf-8"))


def note(found: Mapping[str, Unasked]) -> str:
    """What a result says of the questions that it leaves out."""
    return f"{len(found)} questions were not asked and are in no number: their images cannot be opened ({UNANSWERED})"


def incomplete(found: Mapping[str, Unasked], folder: Path, num_answered: int) -> EvalIncompleteError:
    """The error to end with: the first few, where all are listed, and what to do."""
    lines = [f"question '{entry.id}': {entry.reason}: {entry.detail}" for entry in list(found.values())[:_SHOWN]]
    more = [f"... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    head = (
        f"{len(found)} of {len(found) + num_answered} questions were not asked, as their images cannot be opened "
        f"({_reasons(found.values())}):"
    )
    listed = f"all of them: {folder / UNANSWERED}"
    what = (
        f"the other {num_answered} are scored in {folder}; put the images right and give this command once more, and "
        "only these are asked"
    )
    return EvalIncompleteError("\n".join(["\n  ".join([head, *lines, *more, listed]), what]))


def _images(sample: EvalSample) -> tuple[ImageRef, ...]:
    return (*sample.images, *(sample.meta.get("rejected_images") or ()))


def _reasons(found: Iterable[Unasked | RowError]) -> str:
    counts = Counter(entry.reason for entry in found)
    return ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
