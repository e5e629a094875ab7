"""Images under the names of COCO's, with POPE questions about them and annotations for CHAIR, as people have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def lay_out_coco(folder: Path, images: Path, count: int) -> dict[int, str]:
    """Write ``val2014``, ``POPE/output/coco``, ``instances_val2014.json`` and ``captions_val2014.json``.

    Args:
        folder: where.
        images: a folder of images to take the first ``count`` of.
        count: how many.

    Returns:
        COCO's number of each image -> its name.
    """
    names = {number: f"COCO_val2014_{number:012d}.jpg" for number in range(1, count + 1)}
    (folder / "val2014").mkdir()
    for image, name in zip(sorted(images.iterdir()), names.values(), strict=False):
        shutil.copy(image, folder / "val2014" / name)
    for split, thing in (("random", "dog"), ("popular", "cat"), ("adversarial", "cup")):
        asked = f"Is there a {thing} in the image?"
        rows = [
            {"question_id": n, "image": name, "text": asked, "label": ("yes", "no")[n % 2]} for n, name in names.items()
        ]
        write_rows(folder / "POPE" / "output" / "coco" / f"coco_pope_{split}.json", rows)
    listed = [{"id": number, "file_name": name} for number, name in names.items()]
    objects = {"images": listed, "categories": [{"id": 18, "name": "dog"}]}
    objects["annotations"] = [{"image_id": number, "category_id": 18} for number in names]
    said = [{"image_id": number, "caption": "A dog on a chair."} for number in names]
    (folder / "instances_val2014.json").write_text(json.dumps(objects), encoding="utf-8")
    captions = json.dumps({"images": listed, "annotations": said})
    (folder / "captions_val2014.json").write_text(captions, encoding="utf-8")
    return names


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Rows as JSON lines; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
