"""What a plan is about: a recipe's model and the pair it is asked for, and their memory under changed settings."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PretrainedConfig

from mmpref.errors import ConfigError
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
from mmpref.planning.video_shape import frames_shown, video_shape
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
        written: the config as JSON. Writing one takes longer than an estimate, and a fit makes a hundred of them.
    """

    config: PretrainedConfig
    source: str
    layout: LayoutName
    asked: PlanInput
    written: str

    @classmethod
    def of(cls, recipe: Recipe, asked: PlanInput) -> Subject:
        """The model and the pair of a recipe.

        Raises:
            ConfigError: a model whose config cannot be had.
        """
        config, source = find_config(recipe.model.path)
        layout = asked.layout or layout_of(recipe, config)
        return cls(config=config, source=source, layout=layout, asked=asked, written=config.to_json_string())

    def with_precision(self, recipe: Recipe) -> Recipe:
        """The recipe with ``train.bf16`` filled in as a card with bfloat16 would."""
        if recipe.train.bf16 is not None:
            return recipe
        return with_bf16(recipe, not recipe.train.use_cpu and bf16_by_default(recipe, lambda: self.config))

    def shape(self, recipe: Recipe) -> Shape:
        """The pair in tokens, as the recipe's processing makes it: answers are cut to ``processing.max_length``."""
        asked, image, of_image, video, of_video = self.asked, 0, 0, 0, 0
        if asked.image_size is not None:
            image, of_image = image_shape(self.config, recipe, asked.image_size)
        if asked.video is not None:
            video, of_video = video_shape(self.config, recipe, asked.video)
        before, most = asked.prompt_tokens + image + video, recipe.processing.max_length
        answer = asked.answer_tokens if most is None else max(1, min(asked.answer_tokens, most - before))
        objective = objective_of(recipe)
        return Shape(
            prompt=asked.prompt_tokens,
            image=image,
            video=video,
            patches=of_image + of_video,
            chosen=answer,
            rejected=answer if objective.needs_rejected else 0,
            answers=asked.answers_per_prompt,
            pairs=asked.num_pairs,
            other=objective.needs_other and asked.image_size is not None,
        )

    def refuse_groups(self, recipe: Recipe) -> None:
        """Refuse several pairs of a prompt where the recipe would not run them together, or that there cannot be.

        Raises:
            ConfigError: says what to write.
        """
        answers, pairs = self.asked.answers_per_prompt, self.asked.num_pairs
        least, most = -(-answers // 2), answers * (answers - 1) // 2
        if not least <= pairs <= most:
            make = "two answers make one pair" if answers == 2 else f"so many answers make {least} to {most} pairs"
            raise ConfigError(f"--pairs-per-prompt {pairs} does not go with --answers-per-prompt {answers}: {make}")
        if answers == 2:
            return
        if not objective_of(recipe).needs_rejected:
            raise ConfigError(
                "--answers-per-prompt is of pairs, and this loss reads chosen answers alone; leave it out"
            )
        if recipe.train.group_pairs == "off":
            raise ConfigError(
                f"--answers-per-prompt {answers} plans for pairs of one prompt that run together, and "
                "train.group_pairs is off: write train.group_pairs=prompt"
            )

    def refuse_no_room(self, recipe: Recipe) -> None:
        """Refuse a pair whose prompt leaves no room for an answer: training puts it into quarantine.

        Raises:
            ConfigError: with keys that leave room.
        """
        shape, most = self.shape(recipe), recipe.processing.max_length
        if most is None or shape.before < most or recipe.processing.shrink_images:
            return
        less = ["processing.max_pixels"] if shape.image and family_of_config(self.config).has_pixel_budget else []
        if shape.video:
            less += ["processing.video_max_frames"]
            less += ["processing.video_max_pixels"] if family_of_config(self.config).has_pixel_budget else []
        raise ConfigError(
            f"the planned pair has {shape.before:,} tokens before its answers ({shape.prompt_in_words}), and "
            f"processing.max_length is {most:,}: training puts such pairs into quarantine. Write "
            f"processing.max_length={shape.before + self.asked.answer_tokens}"
            + (f", or lower {' or '.join(less)}" if less else "")
        )

    def frames(self, recipe: Recipe) -> int:
        """Frames that the recipe shows of the pair's video; 0 for a pair without."""
        return 0 if self.asked.video is None else frames_shown(self.asked.video, recipe.processing).num_frames

    def architecture(self, recipe: Recipe, parallel: ParallelPlan) -> Architecture:
        """The model's sizes under the recipe's ``tune`` and ``adapter``."""
        return described(self.config, recipe, self.layout, parallel, written=self.written)

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
    config: PretrainedConfig,
    recipe: Recipe,
    layout: LayoutName,
    parallel: ParallelPlan = ALONE,
    *,
    written: str | None = None,
) -> Architecture:
    """:func:`describe`, once for everything that it looks at; ``written`` is the config as JSON if that is at hand."""
    train, adapter = recipe.train, recipe.adapter
    looked_at = [written or config.to_json_string(), layout, train.bf16, train.fp16, adapter.kind != "none"]
    looked_at += [parallel.splits_weights, parallel.is_deepspeed]
    looked_at += [recipe.model.model_dump_json(), recipe.tune.model_dump_json()]
    key = repr([*looked_at, adapter.model_dump_json(exclude=set(_STORAGE))])
    if key not in _KNOWN_SHAPES:
        _KNOWN_SHAPES[key] = describe(config, recipe, layout, parallel)
    return _KNOWN_SHAPES[key]
