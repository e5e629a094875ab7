"""What a plan is about: a recipe's model and the pair it is asked for, and their memory under changed settings."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig

from mmpref.models.find_config import find_config
from mmpref.models.load import family_of_config
from mmpref.models.logps.layout_choice import config_obstacle
from mmpref.planning.architecture import Architecture, describe
from mmpref.planning.gpus import on_card
from mmpref.planning.image_shape import image_shape
from mmpref.planning.memory import Memory, estimate
from mmpref.planning.pair_shape import Shape
from mmpref.planning.parallelism import ALONE, ParallelPlan
from mmpref.planning.plan_input import PlanInput
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of
from mmpref.training.precision import bf16_by_default, with_bf16


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What stays the same whatever is changed in the recipe: the model and the pair.

    Attributes:
        config: of the model.
        source: where the config was found, in words.
        layout: both answers behind one prompt, or a row for each answer.
        asked: the pair's sizes.
    """

    config: PretrainedConfig
    source: str
    layout: LayoutName
    asked: PlanInput

    @classmethod
    def of(cls, recipe: Recipe, asked: PlanInput) -> Subject:
        """The model and the pair of a recipe.

        Raises:
            ConfigError: a model whose config cannot be had.
        """
        config, source = find_config(recipe.model.path)
        return cls(config=config, source=source, layout=asked.layout or layout_of(recipe, config), asked=asked)

    def with_precision(self, recipe: Recipe) -> Recipe:
        """The recipe with ``train.bf16`` filled in as a card with bfloat16 would."""
        if recipe.train.bf16 is not None:
            return recipe
        return with_bf16(recipe, not recipe.train.use_cpu and bf16_by_default(recipe, lambda: self.config))

    def shape(self, recipe: Recipe) -> Shape:
        """The pair in tokens, as the recipe's processing makes it: answers are cut to ``processing.max_length``."""
        image, patches = image_shape(self.config, recipe, self.asked.image_size)
        before, most = self.asked.prompt_tokens + image, recipe.processing.max_length
        answer = self.asked.answer_tokens if most is None else max(1, min(self.asked.answer_tokens, most - before))
        rejected = answer if objective_of(recipe).needs_rejected else 0
        return Shape(prompt=self.asked.prompt_tokens, image=image, patches=patches, chosen=answer, rejected=rejected)

    def architecture(self, recipe: Recipe, parallel: ParallelPlan) -> Architecture:
        """The model's sizes under the recipe's ``tune`` and ``adapter``."""
        return described(self.config, recipe, self.layout, parallel)

    def memory(self, recipe: Recipe, parallel: ParallelPlan, shape: Shape | None = None) -> Memory:
        """Of one update on one GPU; ``shape`` in place of the pair that was asked for."""
        model = self.architecture(recipe, parallel)
        return estimate(model, recipe, shape or self.shape(recipe), layout=self.layout, parallel=parallel)

    def needed(self, recipe: Recipe, parallel: ParallelPlan) -> int:
        """Bytes that a card must have."""
        return on_card(self.memory(recipe, parallel).peak)


def layout_of(recipe: Recipe, config: PretrainedConfig) -> LayoutName:
    """The layout that training would take, but for what only a trial on the loaded model shows."""
    if recipe.model.attention != "auto":
        return recipe.model.attention
    attention = recipe.model.attn_implementation or "sdpa"
    obstacle = config_obstacle(config.get_text_config(), family_of_config(config), attention)
    return "shared_prefix" if obstacle is None else "plain"


_KNOWN_SHAPES: dict[str, Architecture] = {}
_STORAGE = frozenset({"kind", "quantization", "double_quant", "compute_dtype"})  # no sizes depend on it


def described(
    config: PretrainedConfig, recipe: Recipe, layout: LayoutName, parallel: ParallelPlan = ALONE
) -> Architecture:
    """:func:`describe`, once for everything that it looks at."""
    train, adapter = recipe.train, recipe.adapter
    looked_at = [config.to_json_string(), layout, train.bf16, train.fp16, adapter.kind != "none"]
    looked_at += [parallel.splits_weights, parallel.is_deepspeed]
    looked_at += [recipe.model.model_dump_json(), recipe.tune.model_dump_json()]
    key = repr([*looked_at, adapter.model_dump_json(exclude=set(_STORAGE))])
    if key not in _KNOWN_SHAPES:
        _KNOWN_SHAPES[key] = describe(config, recipe, layout, parallel)
    return _KNOWN_SHAPES[key]
