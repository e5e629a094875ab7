"""Scenes: what may stand where, and what usually stands together. No images and no words here.

A scene is a 3x3 grid of cells; two to five of them hold one coloured thing each, and no kind comes twice. Things belong
to themes in which some usually come together (a plate with a fork, a tree with a bench). A scene of two themes has four
to nine things, and so nearly twice as much to say. Lengths are pixels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mmpref.errors import ConfigError

GRID = 3  # cells per side
CELL = 24  # pixels per cell side; also the patch side of the tiny model, so that one patch sees one cell
SIDE = GRID * CELL

# A theme is two strong pairs (anchor, companion): where the anchor stands, the companion usually stands too.
THEMES: dict[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "kitchen": (("plate", "fork"), ("pot", "cup")),
    "park": (("tree", "bench"), ("kite", "ball")),
    "study": (("lamp", "book"), ("clock", "key")),
}
KINDS: tuple[str, ...] = tuple(kind for pairs in THEMES.values() for pair in pairs for kind in pair)
COMPANION: dict[str, str] = {anchor: companion for pairs in THEMES.values() for anchor, companion in pairs}
PARTNER: dict[str, str] = COMPANION | {companion: anchor for anchor, companion in COMPANION.items()}
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 44, 40),
    "green": (44, 150, 62),
    "blue": (44, 84, 206),
    "yellow": (232, 192, 28),
    "purple": (150, 62, 176),
    "black": (34, 34, 38),
}
SYNONYMS: dict[str, tuple[str, ...]] = {
    "cup": ("mug",),
    "plate": ("dish",),
    "pot": ("saucepan",),
    "book": ("notebook",),
}

P_COMPANION = 0.7  # an anchor brings its companion
P_STRANGER = 0.35  # one thing of another theme
MOST_THEMES = 2  # of a scene: the things of three would not all find a cell
FEWEST_PER_THEME = 2  # things of a scene, for each of its themes

Mention = tuple[str, str]  # (colour, kind)


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn thing. `cell` counts in reading order from 0; `box` is (left, top, right, bottom) in pixels."""

    kind: str
    colour: str
    cell: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An image's whole truth; `seed` drives the drawing, so the image can be made again from this record."""

    name: str
    split: str
    seed: int
    theme: str  # `kitchen`; of two, `kitchen and park`
    things: tuple[Thing, ...]  # in reading order
    _by_kind: dict[str, Thing] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._by_kind.update({thing.kind: thing for thing in self.things})

    @property
    def image(self) -> str:
        """Path of the image, relative to the world's root."""
        return f"images/{self.name}.png"

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of things that stand in the scene."""
        return frozenset(self._by_kind)

    @property
    def signature(self) -> frozenset[tuple[int, str, str]]:
        """What stands where in which colour; two scenes with one signature count as the same scene."""
        return frozenset((thing.cell, thing.kind, thing.colour) for thing in self.things)

    def colour_of(self, kind: str) -> str | None:
        """The colour of that kind here, or None when the scene has none of it."""
        thing = self._by_kind.get(kind)
        return None if thing is None else thing.colour

    def mentions(self) -> list[Mention]:
        """The faithful description, as (colour, kind) in reading order."""
        return [(thing.colour, thing.kind) for thing in self.things]

    def missing_companions(self) -> list[str]:
        """Kinds that habit expects here and that are not here."""
        return [COMPANION[t.kind] for t in self.things if t.kind in COMPANION and COMPANION[t.kind] not in self.kinds]

    def missing_partners(self) -> list[str]:
        """Kinds whose other half, anchor or companion, is here while they are not."""
        return [PARTNER[thing.kind] for thing in self.things if PARTNER[thing.kind] not in self.kinds]


def _sample_kinds(rng: Random, themes: int) -> tuple[str, list[str]]:
    """A theme and two to five different kinds that stand together; of two themes, four to nine kinds."""
    while True:
        chosen = [rng.choice(sorted(THEMES))] if themes == 1 else sorted(rng.sample(sorted(THEMES), themes))
        kinds: list[str] = []
        for anchor, companion in (pair for theme in chosen for pair in THEMES[theme]):
            if rng.random() < 0.6:
                kinds.append(anchor)
                if rng.random() < P_COMPANION:
                    kinds.append(companion)
            elif rng.random() < 0.1:
                kinds.append(companion)
        if rng.random() < P_STRANGER:
            kinds.append(
                rng.choice([k for t, pairs in THEMES.items() if t not in chosen for pair in pairs for k in pair])
            )
        if len(kinds) >= FEWEST_PER_THEME * themes:
            return " and ".join(chosen), kinds


def _sample_scene(rng: Random, name: str, split: str, themes: int) -> Scene:
    theme, kinds = _sample_kinds(rng, themes)
    cells = sorted(rng.sample(range(GRID * GRID), len(kinds)))
    rng.shuffle(kinds)
    things = []
    for kind, cell in zip(kinds, cells, strict=True):
        size = rng.randint(17, 21)
        slack = CELL - size
        left = cell % GRID * CELL + rng.randint(0, slack)
        top = cell // GRID * CELL + rng.randint(0, slack)
        things.append(Thing(kind, rng.choice(list(COLOURS)), cell, (left, top, left + size, top + size)))
    return Scene(name=name, split=split, seed=rng.getrandbits(32), theme=theme, things=tuple(things))


def make_scenes(seed: int, counts: dict[str, int], *, themes: int = 1) -> dict[str, list[Scene]]:
    """Scenes of every split; no signature comes twice, neither within a split nor across splits.

    Args:
        counts: split -> scenes.
        themes: of each scene, 1 or 2. Two give 5.5 things a scene on average where one gives 3.1.

    Raises:
        ConfigError: `themes` is not 1 or 2.
    """
    refuse_themes(themes)
    taken: set[frozenset[tuple[int, str, str]]] = set()
    made: dict[str, list[Scene]] = {}
    for split, count in counts.items():
        rng = Random(f"{seed}/{split}/scenes")
        made[split] = []
        while len(made[split]) < count:
            scene = _sample_scene(rng, f"{split}_{len(made[split]) + 1:06d}", split, themes)
            if scene.signature not in taken:
                taken.add(scene.signature)
                made[split].append(scene)
    return made


def refuse_themes(themes: int) -> None:
    """Refuse a number of themes that no scene can have.

    Raises:
        ConfigError: `themes` is not 1 or 2.
    """
    if not 1 <= themes <= MOST_THEMES:
        raise ConfigError(f"--themes {themes}: a scene has 1 theme or {MOST_THEMES}; write `--themes={MOST_THEMES}`")


def load_scenes(path: Path) -> dict[str, Scene]:
    """`scenes.json` read back: image name -> scene."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: Scene(
            name=name,
            split=row["split"],
            seed=row["seed"],
            theme=row["theme"],
            things=tuple(Thing(t["kind"], t["colour"], t["cell"], tuple(t["box"])) for t in row["things"]),
        )
        for name, row in stored.items()
    }


def scene_record(scene: Scene) -> dict[str, Any]:
    """A scene as JSON values."""
    things = [{**asdict(thing), "box": list(thing.box)} for thing in scene.things]
    return {"image": scene.image, "split": scene.split, "seed": scene.seed, "theme": scene.theme, "things": things}
