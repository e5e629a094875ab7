"""What an image is worth to a model: nats a token of the chosen answers, at every checkpoint of a training.

The held-out pairs of ``mmpref demo`` are read under their own image and under another one, the same for every model:
``crop``, 1 to 20 % of the area, at most two of the nine cells of a scene, or ``blank``, its mean colour. No training is
looked at, so that methods which have no image term are measured like those which have one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import load_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.files.writing import write_json
from mmpref.models.load import load
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.processing.encode import PairEncoder
from mmpref.processing.other_images import OtherImageSettings
from mmpref.records import PreferencePair

SEED = 20260101  # of the crops; no training draws with it
OTHERS: Mapping[str, OtherImageSettings] = {
    "crop": OtherImageSettings(kind="crop", seed=SEED),
    "blank": OtherImageSettings(kind="blank"),
}
BATCH = 100
WEIGHTS = "trained.safetensors"


@dataclass(frozen=True, slots=True)
class Sides:
    """Sums of log-probs of every held-out pair, in nats, and the tokens of its chosen answer."""

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    tokens: tuple[float, ...]
    others: Mapping[str, tuple[float, ...]]
    """Of the chosen answer under each other image."""

    def only(self, places: Sequence[int]) -> Sides:
        """Of some pairs."""

        def of(values: Sequence[float]) -> tuple[float, ...]:
            return tuple(values[place] for place in places)

        others = {kind: of(values) for kind, values in self.others.items()}
        return Sides(of(self.chosen), of(self.rejected), of(self.tokens), others)

    def lift(self, kind: str) -> float:
        """Nats a token that the image is worth for the chosen answers, over the other image; mean over pairs."""
        return _mean(
            (own - other) / n for own, other, n in zip(self.chosen, self.others[kind], self.tokens, strict=True)
        )

    def helps(self, kind: str) -> float:
        """Share of the pairs whose chosen answer is likelier under its own image."""
        return _mean(float(own > other) for own, other in zip(self.chosen, self.others[kind], strict=True))

    def other_change(self, start: Sides, kind: str) -> float:
        """How far the chosen answers' log-probs under the other image went from the start, nats an answer."""
        return _mean(now - then for now, then in zip(self.others[kind], start.others[kind], strict=True))

    def chosen_change(self, start: Sides) -> float:
        """How far the chosen answers' log-probs went from those of the start, nats an answer."""
        return _mean(now - then for now, then in zip(self.chosen, start.chosen, strict=True))

    def margin(self, start: Sides) -> float:
        """h_w - h_l, without beta: nats an answer."""
        rejected = _mean(now - then for now, then in zip(self.rejected, start.rejected, strict=True))
        return self.chosen_change(start) - rejected

    def accuracy(self, start: Sides) -> float:
        """Share of the pairs with h_w > h_l."""
        gains = (
            (now - then for now, then in zip(mine, theirs, strict=True))
            for mine, theirs in ((self.chosen, start.chosen), (self.rejected, start.rejected))
        )
        return _mean(float(chosen > rejected) for chosen, rejected in zip(*gains, strict=True))


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def measure(start: Path, run: Path, pairs_file: Path, out: Path) -> dict[int, Sides]:
    """Every checkpoint of a run, by its step, and the model it started from as step 0; kept in a file.

    Args:
        start: the model that training started from.
        run: a run folder with ``checkpoints/step-N``.
        pairs_file: held-out pairs, whose images lie relative to its folder.
        out: where the numbers are kept; a file that is there is read.
    """
    if not out.is_file():
        loaded = load(start)
        batches = Batches(loaded, pairs_file)
        found = {0: batches.sides(loaded)}
        for folder in sorted((run / "checkpoints").iterdir(), key=_step):
            unknown = loaded.model.load_state_dict(load_file(folder / WEIGHTS), strict=False).unexpected_keys
            if unknown:
                raise SystemExit(f"{folder / WEIGHTS} has weights that the model has not: {unknown[:3]}")
            found[_step(folder)] = batches.sides(loaded)
        write_json(out, {str(step): _as_json(sides) for step, sides in found.items()})
    return {int(step): Sides(**sides) for step, sides in _read(out).items()}


def kinds_of_answers(pairs_file: Path) -> dict[str, list[int]]:
    """Places of the pairs whose chosen answer is a caption, says yes, or says no."""
    found: dict[str, list[int]] = {"captions": [], "yes": [], "no": []}
    for place, line in enumerate(pairs_file.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        found["captions" if row["meta"]["task"] == "caption" else row["chosen"].split()[0]].append(place)
    return found


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _as_json(sides: Sides) -> dict[str, Any]:
    return {name: getattr(sides, name) for name in ("chosen", "rejected", "tokens")} | {"others": dict(sides.others)}


def _read(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return found


class Batches:
    """The held-out pairs as tensors, once for each other image."""

    def __init__(self, loaded: LoadedModel, pairs_file: Path) -> None:
        images = ImageLoader(pairs_file.parent)
        pairs = load_pairs([pairs_file], allow_demonstrations=False, quarantine=Quarantine(), images=images)
        self.of = {kind: self._made(loaded, pairs, images, other) for kind, other in OTHERS.items()}

    @staticmethod
    def _made(
        loaded: LoadedModel, pairs: Sequence[PreferencePair], images: ImageLoader, other: OtherImageSettings
    ) -> list[PairBatch]:
        encoder = PairEncoder(loaded.processor, loaded.family, other_image=other)
        collate = PairCollator(encoder, images.open, need_other=True)
        return [collate(pairs[begin : begin + BATCH]) for begin in range(0, len(pairs), BATCH)]

    def sides(self, loaded: LoadedModel) -> Sides:
        """What the model, as it is now, makes of them."""
        sides: dict[str, list[float]] = {}
        others: dict[str, tuple[float, ...]] = {}
        for kind, batches in self.of.items():
            with torch.inference_mode():
                found = [pair_logps(loaded.model, batch) for batch in batches]
            columns = {name: [value for one in found for value in getattr(one, name).tolist()] for name in _NAMES}
            others[kind] = tuple(columns.pop("other"))
            sides = sides or columns
        return Sides(tuple(sides["chosen"]), tuple(sides["rejected"]), tuple(sides["chosen_len"]), others)


_NAMES = ("chosen", "rejected", "chosen_len", "other")
