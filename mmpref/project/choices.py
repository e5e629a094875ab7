"""What a project is made of: answers to ``mmpref new``'s questions, each checked as soon as it is given."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from mmpref.data.card import list_cards, load_card
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError
from mmpref.files.reading import home_path, read_json
from mmpref.losses.presets import PRESETS
from mmpref.recipe.shipped import read_recipe_text, shipped_recipes
from mmpref.yaml_text import did_you_mean, parse_yaml

EXAMPLE, DEMO = "example", "demo"
NO_CARD: Final = ("", "none", "as it is")
CPU: Final = "cpu"
METHODS: Final = tuple(name for name in PRESETS if name not in ("hsa", "kto", "ddpo_masked"))
"""Losses that any pairs with images can be trained with; hsa wants weights of tokens in the rows, kto labels."""
READS_SCORES: Final = ("uni_dpo", "uni_adadpo")
WITHOUT_SCORES: Final = "adadpo"
"""The method that is proposed where the data has no scores."""
_ROWS: Final = 50
"""Rows of a file that are looked at for scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model that is trained: a shipped recipe's, or one in a folder.

    Attributes:
        path: hub id, or the folder's absolute path.
        recipe: the shipped recipe that the project's is made from; None where no shipped recipe has this model.
        is_text: whether it takes no images.
    """

    path: str
    recipe: str | None
    is_text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The pairs.

    Attributes:
        kind: ``example`` (a few rows are written into the project), ``demo`` (the drawn world), ``file`` or ``card``.
        source: file or hub id; relative to the project where it is written there.
        root: folder that image paths start from; None where the source says it.
        card: name of the data card.
        has_scores: whether rows have judge scores.
    """

    kind: str
    source: str
    root: str | None
    card: str | None = None
    has_scores: bool = True


@cache
def _models() -> Mapping[str, str]:
    """Shipped recipe -> its model, but for those of the demo, which are for its own small model."""
    names = [name for name in shipped_recipes() if not name.startswith("demo_")]
    trees = {name: parse_yaml(read_recipe_text(name)[0], where=f"recipe {name}") for name in names}
    return {name: str(tree["model"]["path"]) for name, tree in trees.items()}


def find_model(given: str, method: str | None = None) -> Model:
    """A model by the name of a shipped recipe, by the beginning of one (``qwen2_5_vl_3b``), by hub id, or by folder.

    Args:
        given: what was answered.
        method: preferred among several recipes of one model.

    Raises:
        ConfigError: none of these; names the nearest.
    """
    models = _models()
    if given in models:
        return _shipped(given)
    folder = home_path(given)
    if folder.is_dir():
        return _in_folder(folder)
    begin = given.lower().replace("-", "_").replace(".", "_")
    fitting = [name for name, path in models.items() if path.lower() == given.lower() or name.startswith(f"{begin}_")]
    if not fitting:
        known = sorted({*models.values(), *models})
        raise ConfigError(
            f"no model '{given}' is known{did_you_mean(given, known)}; give a shipped recipe (mmpref recipes lists "
            "them), the hub id of one, or the folder of a model"
        )
    wanted = ([f"_{method}_"] if method else []) + ["_uni_dpo_qlora", "_uni_dpo_", ""]
    return _shipped(next(name for part in wanted for name in fitting if part in name))


def _shipped(name: str) -> Model:
    title = read_recipe_text(name)[0].partition("\n")[0]
    return Model(path=_models()[name], recipe=name, is_text="text only" in title)


def _in_folder(folder: Path) -> Model:
    config = read_json(folder / "config.json", ConfigError, "the model's")
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ConfigError(f"{folder / 'config.json'} names no model_type; give the folder of a model")
    sees = any(key in config for key in ("vision_config", "image_token_id", "image_token_index"))
    return Model(path=str(folder.resolve()), recipe=None, is_text=not sees)


def find_data(given: str, root: Path | None = None) -> Data:
    """The pairs by ``example``, ``demo``, a file or folder, or the name of a data card.

    Raises:
        ConfigError: none of these; names the nearest.
        DataError: a file that cannot be read as pairs.
    """
    if given in (EXAMPLE, DEMO):
        if root is not None:
            raise ConfigError(f"--image-root goes with a file of pairs; the {given} data has its own images")
        return Data(kind=given, source="data/pairs.jsonl", root="data")
    path = home_path(given)
    if path.exists():
        rows = open_pairs(path, root=root)
        place = root if root is not None else rows.rows.folder
        return Data(kind="file", source=str(path.resolve()), root=None if place is None else str(Path(place).resolve()),
                    has_scores=_scored(path, root))  # fmt: skip
    cards = {card.name: card for card in list_cards()}
    if given in cards:
        card = load_card(given)
        return Data(kind="card", source=card.source, root=None if root is None else str(root.resolve()), card=given,
                    has_scores=card.scores is not None)  # fmt: skip
    raise ConfigError(
        f"no file and no data card '{given}' (now in {Path.cwd()}){did_you_mean(given, [*cards, EXAMPLE, DEMO])}; "
        "give a file of pairs, a card (mmpref data list), example or demo"
    )


def _scored(path: Path, root: Path | None) -> bool:
    quarantine = Quarantine()
    rows = open_pairs(path, root=root).candidates(quarantine, demonstrations=False)
    pairs = [candidate.pair for candidate in itertools.islice(rows, _ROWS)]
    if not pairs:
        why = f": {quarantine.rows[0].describe()}" if quarantine.rows else ""
        raise ConfigError(f"{path} has no pair that can be read{why}; mmpref data check {path} says more")
    return all(pair.score_chosen is not None and pair.score_rejected is not None for pair in pairs)


def find_method(given: str | None, data: Data) -> str:
    """The loss, one that the data can be trained with; Uni-DPO where nothing is said and rows have scores.

    Raises:
        ConfigError: an unknown name, or a loss that reads scores over data without them.
    """
    if given is None:
        return READS_SCORES[0] if data.has_scores else WITHOUT_SCORES
    if given not in METHODS:
        raise ConfigError(f"no method '{given}'{did_you_mean(given, METHODS)}; known: {', '.join(METHODS)}")
    if given in READS_SCORES and not data.has_scores:
        name = data.card or data.source
        raise ConfigError(
            f"{name} has no judge scores, which {given} reads; write `--method {WITHOUT_SCORES}`, which needs none, or "
            "score the answers first (mmpref sample score)"
        )
    return given


def refuse_unseen(model: Model, data: Data) -> None:
    """Refuse images for a model that takes none.

    Raises:
        ConfigError: names both.
    """
    if model.is_text and data.kind in (EXAMPLE, DEMO):
        raise ConfigError(
            f"{model.path} takes no images, and the {data.kind} pairs have them; give --data FILE of text pairs, or a "
            "model that sees"
        )


def card_name(given: str | None) -> str | None:
    """The card that settings are found for: None leaves the recipe as it is, ``cpu`` is none at all.

    Raises:
        ConfigError: no size of memory and no card that is known.
    """
    text = (given or "").strip()
    if text.lower() in NO_CARD:
        return None
    if text.lower() == CPU:
        return CPU
    from mmpref.planning.gpus import parse_card

    parse_card(text)
    return text


def loss_of(method: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """The ``loss`` section of a method: that of the recipe where it has this method, else the preset's."""
    section = base.get("loss", {})
    if section.get("name") == method:
        found = dict(section)
    else:
        found = {"name": method}
    if method in READS_SCORES:
        found["uni"] = {**found.get("uni", {}), "tau_good": "median"}
    return found
