"""What ``processing.feature_cache`` takes on disk for the planned image, and what it saves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from mmpref.errors import ConfigError
from mmpref.models.load import family_of_config
from mmpref.models.tower_features import FAMILIES
from mmpref.planning.architecture import Architecture
from mmpref.recipe.sections import Recipe
from mmpref.training.precision import autocast_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFeatures:
    """Features of the planned image on disk.

    Attributes:
        image_bytes: of one image. InternVL's class token of each tile is not counted: 1 of 1,025.
        images: that there are to keep, one for each pair; None where the number of pairs is not known.
        share: of a pair's operations that are the tower's, and are left out where its images were met before.
    """

    image_bytes: int
    images: int | None
    share: float


def kept_features(
    model: Architecture,
    config: PretrainedConfig,
    recipe: Recipe,
    *,
    image: tuple[int, int],
    flops: float,
    pairs: int | None = None,
) -> KeptFeatures:
    """What is kept of one image: the tensors that the model reads of its tower (``models.tower_features``).

    Args:
        model: under the recipe.
        image: its tokens and patches.
        flops: of one pair, its tower counted once.
        pairs: that there are to train on.

    Raises:
        ConfigError: a model that training would refuse to keep features of.
    """
    family, (tokens, patches) = family_of_config(config), image
    if family.name not in FAMILIES:
        raise ConfigError(
            f"processing.feature_cache is known to be right for {', '.join(sorted(FAMILIES))}, and this model is of "
            f"the family '{family.name}'; leave it out"
        )
    width, size = model.tower[1], model.dtypes["vision"].itemsize
    vision: Any = getattr(config, "vision_config", None)
    deepstack = len(getattr(vision, "deepstack_visual_indexes", None) or ())
    if not family.mrope:  # the states of one layer, or of several
        layers = getattr(config, "vision_feature_layer", -1)
        numbers = patches * width * (len(layers) if isinstance(layers, list | tuple) else 1)
    elif recipe.tune.projector == "freeze":  # what the merger inside the tower makes of them
        numbers = tokens * model.hidden * (1 + deepstack)
        size = size if (half := autocast_dtype(recipe)) is None else half.itemsize
    else:  # what the mergers are given, and the patches as embedded where places are changed or added behind that
        numbers = patches * width * (1 + deepstack + (family.name != "qwen2_vl"))
    tower = 2.0 * model.parameters["vision"] * patches
    return KeptFeatures(image_bytes=int(numbers * size), images=pairs, share=tower / flops)
