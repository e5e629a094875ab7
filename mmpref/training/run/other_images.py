"""The other images of a run: what its recipe asks for, and which of its pairs have none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmpref.errors import ConfigError, DataError
from mmpref.processing.other_images import OtherImageSettings
from mmpref.recipe.sections import Recipe
from mmpref.records import ImageRef, PreferencePair

_SHOWN = 3


def other_image_of(recipe: Recipe) -> OtherImageSettings | None:
    """The other images that a recipe asks for; None where its loss looks at none."""
    if recipe.data.other_image is None:
        return None
    section = recipe.processing.other_image
    given = section.model_dump(exclude={"scale", "ratio"})
    (least, most), (narrowest, widest) = section.scale, section.ratio
    return OtherImageSettings(source=recipe.data.other_image, scale=(least, most), ratio=(narrowest, widest), **given)


def eval_other_image_of(recipe: Recipe) -> OtherImageSettings | None:
    """The other images that held-out pairs are looked at under in evaluations (``train.eval_image_lift``). They are
    made with the same settings and the same seed in every run, so that runs compare.
    """
    kind = recipe.train.eval_image_lift
    return None if kind is None else OtherImageSettings(source="made", kind=kind)


def refuse_held_out_without_images(pairs: Sequence[PreferencePair]) -> None:
    """Refuse held-out pairs of which none has an image, where evaluations are to measure what images are worth.

    Raises:
        ConfigError: ``train.eval_image_lift`` would do nothing.
    """
    if not any(pair.images for pair in pairs):
        raise ConfigError(
            f"none of the {len(pairs)} held-out pairs has an image, so that train.eval_image_lift would do nothing; "
            "write `train.eval_image_lift=null`"
        )


def describe_without_lift(
    pairs: Sequence[PreferencePair], settings: OtherImageSettings, one_colour: Callable[[ImageRef], bool]
) -> str:
    """One line on held-out pairs that ``train.eval_image_lift`` cannot look at; empty where there are none.

    Args:
        settings: of the images that it makes.
        one_colour: whether every pixel of an image is the same.
    """
    without = [pair.id for pair in pairs if not pair.images]
    same: list[str] = []
    if settings.repeats_one_colour:
        known = {image: one_colour(image) for image in {image for pair in pairs for image in pair.images}}
        same = [pair.id for pair in pairs if any(known[image] for image in pair.images)]
    told = [f"{len(without)} have no image ({_first(without)})"] if without else []
    told += [f"{len(same)} have one of one colour ({_first(same)})"] if same else []
    count = f"{len(without) + len(same)} of {len(pairs)} pairs"
    return f"{count} are not in train.eval_image_lift: {', '.join(told)}" if told else ""


def refuse_without_images(pairs: Sequence[PreferencePair]) -> None:
    """Refuse training pairs of which none has an image.

    Raises:
        ConfigError: no pair could be compared with itself under another image.
    """
    if not any(pair.images for pair in pairs):
        raise ConfigError(
            f"none of the {len(pairs)} pairs that train has an image, so that the loss could look at no other one; "
            "write `loss.name=dpo data.other_image=null`"
        )


def notes_on_other_images(pairs: Sequence[PreferencePair], settings: OtherImageSettings) -> list[str]:
    """What is to be said of pairs that have no image, and so no other one, and of images that are not used.

    Raises:
        DataError: pairs with images whose rows name no other ones, where they are to come from there.
    """
    once = {pair.id: pair for pair in pairs}
    without = [name for name, pair in once.items() if not pair.images]
    notes = []
    if without:
        notes.append(f"{len(without)} of {len(once)} pairs have no image ({_first(without)}): their image term is 0")
    if settings.source == "made":
        if unused := [name for name, pair in once.items() if pair.other_images is not None]:
            notes.append(f"{len(unused)} rows have other_images ({_first(unused)}), which data.other_image=made leaves")
        return notes
    lacking = [name for name, pair in once.items() if pair.images and pair.other_images is None]
    if lacking:
        raise DataError(
            f"{len(lacking)} of the {len(once) - len(without)} pairs with images have no other_images "
            f"({_first(lacking)}), and data.other_image is {settings.source}; give each row some, or make them: "
            "write `data.other_image=made processing.other_image.kind=crop`"
        )
    return notes


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
