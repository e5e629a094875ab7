"""Example pairs of each quadrant, with their texts, scores, rewards and images; never chosen by who wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.report.evaluation import Row, number
from mmpref.report.examples import Album
from mmpref.report.pairs.block import Group, figures, signed
from mmpref.report.pairs.measures import QUADRANTS, SEED, by_hash, quadrants
from mmpref.report.pairs.scores import MARGINS, score_margins

_MOST_CHARACTERS = 900


@dataclass(frozen=True, slots=True)
class PairExample:
    """A pair as it is shown: texts, scores, the reward margin of each run, and its image or why there is none."""

    quadrant: str
    name: str
    prompt: str
    answers: tuple[tuple[str, str, str], ...]  # chosen or rejected, score, text
    margins: tuple[tuple[str, str], ...]  # run, reward margin
    image: str | None
    tiny: bool
    why_no_image: str
    others: int  # further images


def examples_of(group: Group, album: Album, *, each: int = 2) -> tuple[list[PairExample], list[str]]:
    """Pairs of each quadrant of the first run that has scores and texts, and sentences on what is missing."""
    for found in group.runs:
        texts = {str(row["id"]): row for row in found.run.pair_texts if row.get("set", "train") == "train"}
        log = found.train.last_of_each()
        masks = quadrants(score_margins(found, log)[0], log.column(MARGINS)) if len(log) else {}
        if not texts or not any(mask.any() for mask in masks.values()):
            continue
        margins = {run.label: run.train.last_of_each().by_id(MARGINS) for run in group.runs if run.compares}
        compared = {found.label, *(label for label in margins if label not in group.why_not)}
        if found.label in group.why_not:
            compared = {found.label}
        shown = []
        for name, mask in masks.items():
            ids = [key for key in map(str, log.ids[mask]) if key in texts]
            for place in by_hash(ids, each):
                own = [(label, margins[label].get(ids[place])) for label in margins if label in compared]
                images = listed_images(texts[ids[place]])
                picture = (
                    album.embed(images[0], found.run.images_root) if images else (None, False, "the pair has none")
                )
                shown.append(_example(name, texts[ids[place]], own, picture, max(0, len(images) - 1)))
        whose = f"Pairs of {found.label}" if group.several else "Pairs"
        rule = f"{whose}, {each} of each place, those with the least hash of their id (seed {SEED}) among the "
        return shown, [rule + f"{len(texts):,} whose texts were kept."] if shown else []
    if any(found.compares and len(found.train) for found in group.runs):
        return [], [
            "No example pairs: no run has both scores in its pair log and the texts of some pairs "
            "(pair_texts.jsonl, which training writes)."
        ]
    return [], []


def listed_images(row: Row) -> list[Any]:
    """The image paths of a pair; none where the row has no list of them."""
    images = row.get("images")
    return images if isinstance(images, list) else []


def _example(
    quadrant: str,
    row: Row,
    margins: Sequence[tuple[str, float | None]],
    picture: tuple[str | None, bool, str],
    others: int,
) -> PairExample:
    uri, tiny, why = picture
    return PairExample(
        quadrant=QUADRANTS[quadrant],
        name=str(row["id"]),
        prompt=_short(row.get("prompt")),
        answers=tuple(
            (
                side,
                "none" if (score := number(row.get(f"score_{side}"))) is None else figures(score),
                _short(row.get(side)),
            )
            for side in ("chosen", "rejected")
        ),
        margins=tuple((label, "none" if value is None else signed(value, 3)) for label, value in margins),
        image=uri,
        tiny=tiny,
        why_no_image=why,
        others=others,
    )


def _short(text: object) -> str:
    if not isinstance(text, str):
        return "(not recorded)"
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS].rstrip() + " …"
