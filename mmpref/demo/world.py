"""The embedded world: drawn images, what annotators say about them, and the benchmarks that ask about them.

Everything follows from one seed: same seed, same bytes. Images are 72x72 pixels and drawn here with Pillow; no other
file of the demo touches pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from mmpref.demo.annotate import CAPTION_PROMPT, Row, pair_rows, supervised_rows
from mmpref.demo.questions import Companionship, pope_rows
from mmpref.demo.scenes import COLOURS, KINDS, SIDE, SYNONYMS, Scene, make_scenes, scene_record
from mmpref.version import __version__

WORLD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldSizes:
    """How much of everything to make. Counts of rows and images; a training row takes one of its file's images."""

    see_images: int = 1200
    see_captions: int = 2400
    see_questions: int = 3600
    see_inventories: int = 1200
    habit_images: int = 1000
    habit_captions: int = 2000
    habit_questions: int = 2000
    pairs: int = 1560
    validation: int = 200
    heldout: int = 400
    pairs_heldout: int = 200
    pope_per_label: int = 2  # yes-questions and no-questions per image in each POPE file


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionFiles:
    """The benchmark files of one split (validation or held out)."""

    pope_random: Path
    pope_popular: Path
    pope_adversarial: Path
    chair_objects: Path
    chair_prompts: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldFiles:
    """Where `make_world` put everything; image paths inside the files are relative to `root`."""

    root: Path
    see: Path
    habit: Path
    pairs: Path
    pairs_heldout: Path
    prompts: Path
    prompts_objects: Path
    scenes: Path
    synonyms: Path
    world: Path
    validation: QuestionFiles
    heldout: QuestionFiles

    @classmethod
    def under(cls, root: Path) -> WorldFiles:
        """The same names under any root, whether or not the files are there yet."""

        def questions(folder: Path) -> QuestionFiles:
            return QuestionFiles(
                pope_random=folder / "pope_random.jsonl",
                pope_popular=folder / "pope_popular.jsonl",
                pope_adversarial=folder / "pope_adversarial.jsonl",
                chair_objects=folder / "chair_objects.json",
                chair_prompts=folder / "chair_prompts.jsonl",
            )

        return cls(
            root=root,
            see=root / "see.jsonl",
            habit=root / "habit.jsonl",
            pairs=root / "pairs.jsonl",
            pairs_heldout=root / "pairs_heldout.jsonl",
            prompts=root / "prompts.jsonl",
            prompts_objects=root / "prompts_objects.json",
            scenes=root / "scenes.json",
            synonyms=root / "synonyms.txt",
            world=root / "world.json",
            validation=questions(root / "validation"),
            heldout=questions(root),
        )


def _paint(kind: str, draw: ImageDraw.ImageDraw, u: float) -> None:
    """Draw one kind in white on a canvas of side 12*u."""

    def at(*points: float) -> list[float]:
        return [p * u for p in points]

    thick = max(1, round(1.4 * u))
    match kind:
        case "plate":
            draw.ellipse(at(0, 2, 12, 10), fill=255)
            draw.ellipse(at(3, 4, 9, 8), fill=110)
        case "fork":
            for x in (3, 5.3, 7.6):
                draw.rectangle(at(x, 0, x + 1.2, 5), fill=255)
            draw.rectangle(at(3, 4.2, 8.8, 5.8), fill=255)
            draw.rectangle(at(5.1, 5, 6.9, 12), fill=255)
        case "pot":
            draw.rectangle(at(2, 4, 10, 11), fill=255)
            draw.rectangle(at(0, 5, 12, 6.6), fill=255)
            draw.rectangle(at(5, 1.5, 7, 4), fill=255)
        case "cup":
            draw.polygon(at(1, 2, 8, 2, 7, 11, 2, 11), fill=255)
            draw.arc(at(6, 3, 11.5, 8.5), -90, 110, fill=255, width=thick)
        case "tree":
            draw.polygon(at(6, 0, 11.5, 8.5, 0.5, 8.5), fill=255)
            draw.rectangle(at(5, 8, 7, 12), fill=255)
        case "bench":
            draw.rectangle(at(0, 5, 12, 7.2), fill=255)
            for x in (1, 9.2):
                draw.rectangle(at(x, 7, x + 1.8, 11), fill=255)
            draw.rectangle(at(0, 1.6, 12, 3.2), fill=255)
        case "kite":
            draw.polygon(at(6, 0, 10.5, 4.5, 6, 9, 1.5, 4.5), fill=255)
            draw.line(at(6, 9, 3.5, 10.5, 6.5, 12), fill=255, width=thick)
        case "ball":
            draw.ellipse(at(1, 1, 11, 11), fill=255)
            draw.line(at(1, 6, 11, 6), fill=90, width=thick)
            draw.line(at(6, 1, 6, 11), fill=90, width=thick)
        case "lamp":
            draw.polygon(at(4, 0, 8, 0, 11, 5.5, 1, 5.5), fill=255)
            draw.rectangle(at(5.2, 5, 6.8, 10.5), fill=255)
            draw.rectangle(at(2.5, 10, 9.5, 12), fill=255)
        case "book":
            draw.polygon(at(0, 2.5, 5.4, 4, 5.4, 11, 0, 9.5), fill=255)
            draw.polygon(at(12, 2.5, 6.6, 4, 6.6, 11, 12, 9.5), fill=255)
        case "clock":
            draw.ellipse(at(0.5, 0.5, 11.5, 11.5), outline=255, width=thick)
            draw.line(at(6, 6, 6, 2.4), fill=255, width=thick)
            draw.line(at(6, 6, 8.8, 6), fill=255, width=thick)
        case "key":
            draw.ellipse(at(0, 3.2, 5.6, 8.8), outline=255, width=round(1.6 * u))
            draw.rectangle(at(5, 5.2, 12, 6.8), fill=255)
            for x in (8.4, 10.6):
                draw.rectangle(at(x, 6, x + 1.2, 9.2), fill=255)
        case _:
            raise ValueError(f"no drawing for kind {kind!r}; kinds are {', '.join(KINDS)}")


@cache
def _stamp(kind: str, size: int) -> Image.Image:
    """The kind's mask at `size` x `size`, drawn four times larger and shrunk so that its edges are smooth."""
    large = Image.new("L", (4 * size, 4 * size), 0)
    _paint(kind, ImageDraw.Draw(large), 4 * size / 12)
    return large.resize((size, size), Image.Resampling.BOX)


def draw_scene(scene: Scene) -> Image.Image:
    """The scene's RGB image, `SIDE` x `SIDE`: things on a grey ground of random level and light grain."""
    rng = Random(scene.seed)
    level = rng.randint(205, 245)
    grain = np.random.default_rng(scene.seed).integers(-4, 5, (SIDE, SIDE, 1))
    image = Image.fromarray(np.broadcast_to(level + grain, (SIDE, SIDE, 3)).astype(np.uint8))
    for thing in scene.things:
        shade = tuple(min(255, max(0, channel + rng.randint(-14, 14))) for channel in COLOURS[thing.colour])
        image.paste(shade, thing.box, _stamp(thing.kind, thing.box[2] - thing.box[0]))
    return image


def _write_jsonl(path: Path, rows: Iterable[Row]) -> int:
    lines = [json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)


def _write_prompts(files: WorldFiles, scenes: Sequence[Scene]) -> int:
    """Images to be described without a description, and what is on them: of these pairs are made by sampling."""
    truth = {scene.name: sorted(scene.kinds) for scene in scenes}
    files.prompts_objects.write_text(json.dumps(truth) + "\n", encoding="utf-8")
    rows = ({"id": scene.name, "image": scene.image, "question": CAPTION_PROMPT} for scene in scenes)
    return _write_jsonl(files.prompts, rows)


def _write_benchmarks(
    files: QuestionFiles, seed: int, scenes: Sequence[Scene], seen: Companionship, per_label: int
) -> None:
    rows = pope_rows(scenes, seen, seed=seed, per_label=per_label)
    _write_jsonl(files.pope_random, rows["random"])
    _write_jsonl(files.pope_popular, rows["popular"])
    _write_jsonl(files.pope_adversarial, rows["adversarial"])
    truth = {scene.name: sorted(scene.kinds) for scene in scenes}
    files.chair_objects.write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    prompts = [{"image_id": scene.name, "image": scene.image, "text": CAPTION_PROMPT} for scene in scenes]
    _write_jsonl(files.chair_prompts, prompts)


def make_world(out: Path, *, seed: int, sizes: WorldSizes | None = None, themes: int = 1) -> WorldFiles:
    """Write the whole world under `out`: images, supervised rows, preference pairs and benchmarks.

    The same seed, sizes and themes give byte-identical text files and pixel-identical images.

    Args:
        themes: of each scene; two make scenes, and so captions, nearly twice as long.

    Raises:
        ConfigError: `themes` is not 1 or 2.
    """
    sizes = sizes or WorldSizes()
    files = WorldFiles.under(out)
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "validation").mkdir(exist_ok=True)

    training = sizes.see_images + sizes.habit_images + sizes.pairs
    counts_of_scenes = {"train": training, "validation": sizes.validation, "heldout": sizes.heldout}
    scenes = make_scenes(seed, counts_of_scenes, themes=themes)
    everything = [scene for split in scenes.values() for scene in split]
    for scene in everything:
        draw_scene(scene).save(out / scene.image, compress_level=1)

    train = scenes["train"]
    see, rest = train[: sizes.see_images], train[sizes.see_images :]
    habit, paired = rest[: sizes.habit_images], rest[sizes.habit_images :]
    see_rows = supervised_rows(
        Random(f"{seed}/see"),
        see,
        captions=sizes.see_captions,
        questions=sizes.see_questions,
        inventories=sizes.see_inventories,
        habit_in_replies=False,
    )
    habit_rows = supervised_rows(
        Random(f"{seed}/habit"),
        habit,
        captions=sizes.habit_captions,
        questions=sizes.habit_questions,
        habit_in_replies=True,
    )
    heldout_pairs = scenes["validation"][: sizes.pairs_heldout]
    counts = {
        "see": _write_jsonl(files.see, see_rows),
        "habit": _write_jsonl(files.habit, habit_rows),
        "pairs": _write_jsonl(files.pairs, pair_rows(Random(f"{seed}/pairs"), paired, "pair")),
        "pairs_heldout": _write_jsonl(
            files.pairs_heldout,
            pair_rows(Random(f"{seed}/pairs_heldout"), heldout_pairs, "pair-heldout", only_clean=True),
        ),
        "prompts": _write_prompts(files, paired),
        "images": len(everything),
    }

    seen = Companionship.of(train)
    for split, where in (("validation", files.validation), ("heldout", files.heldout)):
        _write_benchmarks(where, seed, scenes[split], seen, sizes.pope_per_label)

    files.synonyms.write_text(
        "".join(f"{', '.join([kind, *SYNONYMS.get(kind, ())])}\n" for kind in KINDS), encoding="utf-8"
    )
    records = {scene.name: scene_record(scene) for scene in everything}
    files.scenes.write_text(json.dumps(records) + "\n", encoding="utf-8")
    about = {
        "seed": seed,
        "world_version": WORLD_VERSION,
        "mmpref": __version__,
        "sizes": asdict(sizes),
        "rows": counts,
        **({} if themes == 1 else {"themes": themes}),
    }
    files.world.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return files
