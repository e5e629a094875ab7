"""Keys about the other image: what does nothing or contradicts itself is refused, with advice that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.recipe.loading import dump_recipe, load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of
from mmpref.training.run.other_images import other_image_of
from tests.advice import alternatives, followed

MADE = "data.other_image=made"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "recipe.yaml"
    found.write_text(
        "output: out\nmodel: {path: m}\ndata: {train: [pairs.jsonl]}\nloss: {name: mdpo}\n"
        "train: {learning_rate: 1e-6}\n"
    )
    return found


def read(file: Path, overrides: list[str]) -> Recipe:
    recipe = load_recipe(file, overrides=overrides)
    objective_of(recipe)
    return recipe


def refusal(file: Path, overrides: list[str]) -> str | None:
    try:
        read(file, overrides)
    except ConfigError as err:
        return str(err)
    return None


REFUSED = {
    "looks at the chosen answer under another image, and data.other_image is null": [],
    "(chip) looks at the chosen answer": ["loss.name=chip"],
    "does nothing: the loss (dpo) looks at one image only": ["loss.name=dpo", MADE],
    "looks at one image only": ["loss.name=dpo", MADE, "processing.other_image.kind=noise"],
    "step would do nothing: it belongs to processing.other_image.kind noise": [MADE, "processing.other_image.step=300"],
    "they belong to data.other_image made": ["processing.other_image.kind=mask", "processing.other_image.share=0.5"],
    "sigma would do nothing: it belongs to processing.other_image.kind blur": [MADE, "processing.other_image.sigma=3"],
    "fill would do nothing: it belongs to processing.other_image.kind mask or blank": [
        MADE, "processing.other_image.fill=black",
    ],
    "resize would do nothing: it belongs to data.other_image column": [MADE, "processing.other_image.resize=true"],
    "seed would do nothing: it belongs to images that are drawn": [
        "data.other_image=column", "processing.other_image.seed=3",
    ],
    "per would do nothing: it belongs to processing.other_image.kind crop": [
        MADE, "processing.other_image.kind=blank", "processing.other_image.per=epoch",
    ],
    "reference.kind cache keeps log-probs of one for each pair": [
        MADE, "processing.other_image.per=epoch", "reference.kind=cache",
    ],
    "processing.feature_cache would keep the features of each": [
        MADE, "processing.other_image.per=epoch", "processing.feature_cache=features",
    ],
}  # fmt: skip


@pytest.mark.parametrize("says", REFUSED)
def test_what_does_nothing_is_refused_and_every_advice_helps(file: Path, says: str) -> None:
    given = REFUSED[says]
    with pytest.raises(ConfigError) as caught:
        read(file, given)
    assert says in str(caught.value)
    for words in alternatives(str(caught.value)):
        changed = followed(given, words)
        if (left := refusal(file, changed)) is not None:  # then the other half of it
            assert says not in left
            read(file, followed(changed, alternatives(left)[0]))


@pytest.mark.parametrize("given", ["scale=[0.3, 0.2]", "ratio=[0.5]", "share=0", "step=1000", "block=0", "kind=rotate"])
def test_values_that_cannot_be_are_refused_by_key(file: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=r"processing\.other_image"):
        read(file, [MADE, f"processing.other_image.{given}"])


def test_the_chip_preset_is_advised_its_own_noise(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(file, ["loss.name=chip"])
    recipe = read(file, ["loss.name=chip", *alternatives(str(caught.value))[0]])
    settings = other_image_of(recipe)
    assert settings is not None
    assert (settings.kind, settings.step) == ("noise", 500)


@pytest.mark.parametrize(
    "given",
    [
        [MADE],
        [MADE, "processing.other_image.kind=noise", "processing.other_image.step=200", "processing.other_image.seed=7"],
        ["data.other_image=random_row", "processing.other_image.seed=3"],
        ["data.other_image=column", "processing.other_image.resize=true"],
    ],
)
def test_a_recipe_that_is_written_out_reads_back_equal(file: Path, given: list[str]) -> None:
    recipe = read(file, given)
    file.write_text(dump_recipe(recipe))
    again = read(file, [])
    assert again == recipe
    assert other_image_of(again) == other_image_of(recipe)
