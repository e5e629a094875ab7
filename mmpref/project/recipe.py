"""The recipe of a project: a shipped one with its data and method, and the settings for a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mmpref.losses.presets import PRESETS
from mmpref.project.choices import CPU, Data, Model, loss_of
from mmpref.recipe.loading import build_recipe, dump_tree
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import read_recipe_text
from mmpref.yaml_text import parse_value, parse_yaml

RUN: Final = "runs/first"
QUESTIONS: Final = "data/pope_random.jsonl"
_PATTERN: Final = "qwen2_5_vl_3b_uni_dpo_lora"
"""What the recipe of a model without a shipped one begins from."""
_HELD_OUT: Final = 0.05


def project_tree(model: Model, data: Data, method: str, card: str | None) -> tuple[dict[str, Any], list[str]]:
    """The recipe as a nested mapping, and what was changed for the card."""
    name = model.recipe or _PATTERN
    tree: dict[str, Any] = parse_yaml(read_recipe_text(name)[0], where=f"recipe {name}")
    tree["output"], tree["model"]["path"] = RUN, model.path
    if model.recipe is None:
        tree["processing"].pop("max_pixels")  # it belongs to that model
    keeps_loss = tree["loss"].get("name") == method
    if not keeps_loss and isinstance(tree.get("processing"), dict):
        tree["processing"].pop("other_image", None)
    other = tree["data"].get("other_image") if keeps_loss else "made" if "image" in PRESETS[method] else None
    tree["data"] = _data_section(data) | ({"other_image": other} if other else {})
    tree["loss"] = loss_of(method, tree)
    if data.kind in ("example", "demo"):
        tree["evals"] = [{"benchmark": "pope", "questions": QUESTIONS, "image_root": "data"}]
    if data.kind == "example":  # an update of 32 pairs is all that there are
        tree["train"] |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    if card == CPU:
        return _on_cpu(tree), ["no GPU: LoRA in place of QLoRA, float32, one process that reads"]
    changed = [] if card is None else list(_fitted(tree, card))
    for text in changed:
        key, _, value = text.partition("=")
        _put(tree, key, parse_value(value, where=text))
    return tree, changed


def _data_section(data: Data) -> dict[str, Any]:
    train: Any = data.source if data.card is None else [{"path": data.source, "card": data.card}]
    section: dict[str, Any] = {"train": train}
    if data.kind in ("example", "demo"):
        section["eval"] = "data/pairs_heldout.jsonl"
    else:
        section["held_out"] = _HELD_OUT
    return section | ({} if data.root is None else {"root": data.root})


def _on_cpu(tree: dict[str, Any]) -> dict[str, Any]:
    tree["train"] = {key: value for key, value in tree["train"].items() if key not in ("bf16", "optim")}
    tree["train"] |= {"use_cpu": True, "dataloader_num_workers": 0, "gradient_checkpointing": False}
    tree["model"]["dtype"] = "float32"
    if tree.get("adapter", {}).get("kind") == "qlora":
        of_4_bits = ("quantization", "double_quant", "compute_dtype")
        kept = {key: value for key, value in tree["adapter"].items() if key not in of_4_bits}
        tree["adapter"] = kept | {"kind": "lora"}
    return tree


def _fitted(tree: Mapping[str, Any], card: str) -> tuple[str, ...]:
    """Overrides that ``mmpref plan --fit`` finds for a card."""
    from mmpref.planning.fit import fit
    from mmpref.planning.gpus import parse_card
    from mmpref.planning.plan_input import PlanInput
    from mmpref.training.loss_settings import loss_written_out

    memory, gpu = parse_card(card)
    recipe = build_recipe(tree, where="the recipe")
    return fit(loss_written_out(recipe), PlanInput(gpu_memory=memory, gpu=gpu)).overrides


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    at = tree
    for section in sections:
        at = at.setdefault(section, {})
    at[last] = value


def recipe_text(tree: Mapping[str, Any], head: list[str]) -> str:
    """The recipe as YAML with comments above it.

    Raises:
        ConfigError: it is none.
    """
    build_recipe(tree, where="recipe.yaml")
    ordered = {section: tree[section] for section in Recipe.model_fields if section in tree}
    return "".join(f"# {line}".rstrip() + "\n" for line in head) + "\n" + dump_tree(ordered)
