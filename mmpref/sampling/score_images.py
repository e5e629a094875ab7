"""What was in the images that scores were made from: a path says nothing about that, and a run that goes on must not
mix the scores of two images."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.reading import read_json
from mmpref.files.rows import first_ids
from mmpref.files.writing import write_json
from mmpref.generation.fingerprint import of_file
from mmpref.records import Candidates

IMAGES = "images.json"


def refuse_other_images(asked: Iterable[Candidates], folder: Path, root: Path | None) -> None:
    """Check that the images are those that the scores in a folder were made from, and write down what is in them.

    Args:
        folder: of the step.
        root: image paths start here; nothing is looked at without one.

    Raises:
        ConfigError: an image has another content than it had then.
        CheckpointError: the folder cannot be written.
    """
    if root is None:
        return
    paths = {image.path for item in asked for image in item.prompt.images if image.path is not None}
    found: dict[str, str] = {}
    for path in sorted(paths):
        try:
            if (file := root / path).is_file():
                found[path] = of_file(file)
        except (OSError, ValueError, ConfigError):  # whoever opens the image says what is wrong with it
            continue
    file = folder / IMAGES
    before = read_json(file, ConfigError) if file.is_file() else {}
    if not isinstance(before, dict):
        raise ConfigError(f"{file} is damaged: it holds no JSON object; choose another --out")
    if changed := [path for path, digest in found.items() if path in before and before[path] != digest]:
        raise ConfigError(
            f"{folder} has scores made from other images: {len(changed):,} of {len(paths):,} files differ "
            f"({first_ids(changed)}); choose another --out, or delete {file} and the logs of scores beside it"
        )
    if found and found.items() - before.items():
        write_json(file, {**before, **found})
