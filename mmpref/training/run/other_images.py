"""The other pictures of a run: what its recipe asks for, and which of its pairs have none."""

from __future__ import annotations

from collections.abc import Sequence

from mmpref.errors import ConfigError, DataError
from mmpref.processing.other_images import OtherImageSettings
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair

_SHOWN = 3


def other_image_of(recipe: Recipe) -> OtherImageSettings | None:
    """The other pictures that a recipe asks for; None where its loss looks at none."""
    if recipe.data.other_image is None:
        return None
    section = recipe.processing.other_image
    given = section.model_dump(exclude={"scale", "ratio"})
    (least, most), (narrowest, widest) = section.scale, section.ratio
    return OtherImageSettings(source=recipe.data.other_image, scale=(least, most), ratio=(narrowest, widest), **given)


def describe_other_images(pairs: Sequence[PreferencePair], settings: OtherImageSettings) -> str | None:
    """One line about pairs without an image, which have no other one either; None where all have one.

    Raises:
        ConfigError: no pair has an image.
        DataError: pairs with images whose rows name no other ones.
    """
    without = {pair.id for pair in pairs if not pair.images}
    count = len({pair.id for pair in pairs})
    if len(without) == count:
        raise ConfigError(
            f"none of the {count} pairs that train has a picture, so the loss could compare no pair with another one; "
            "write `loss={name: dpo} data.other_image=null`"
        )
    if settings.source != "made":
        lacking = list(dict.fromkeys(pair.id for pair in pairs if pair.images and pair.other_images is None))
        if lacking:
            raise DataError(
                f"{len(lacking)} of the {count - len(without)} pairs with images have no other_images "
                f"({_first(lacking)}), and data.other_image is {settings.source}; give each row some, or make them: "
                "write `data.other_image=made processing.other_image.kind=crop`"
            )
    if not without:
        return None
    return f"{len(without)} of {count} pairs have no picture ({_first(sorted(without))}): their image term is 0"


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
