"""``mmpref plan``: will a recipe fit, and with ``--fit`` its settings for a card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpref.cli.options import RecipeArguments, with_options
from mmpref.errors import ConfigError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from mmpref.planning.plan import Plan
    from mmpref.planning.plan_input import Clip, PlanInput
    from mmpref.recipe.sections import Recipe

USUAL_IMAGE = (640, 480)
USUAL_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOptions:
    """The card, and what to do for it."""

    gpu_memory: Annotated[str | None, typer.Option(help="Memory of the card, for example 24GiB.")] = None
    gpu: Annotated[str | None, typer.Option(help="Name of the card, for its memory and speed: 'RTX 4090'.")] = None
    fit: Annotated[
        str | None, typer.Option(help="Find the recipe's settings for a card: its memory (16GiB) or its name.")
    ] = None
    write: Annotated[Path | None, typer.Option(help="With --fit: a new recipe file with these settings.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOptions:
    """The pair that is planned for."""

    image_size: Annotated[
        str | None, typer.Option(help="Size of a pair's image; by default 640x480, or no image beside a video.")
    ] = None
    video_size: Annotated[
        str | None, typer.Option(help="Size of the frames of a pair's video, for example 1280x720.")
    ] = None
    video_seconds: Annotated[
        float | None, typer.Option(min=0.1, help="With --video-size: how long it is, 10 if not given.")
    ] = None
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt's text.")] = 100
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.")] = 250
    answers_per_prompt: Annotated[
        int, typer.Option(min=2, help="Answers in the pairs of a prompt, which run together: train.group_pairs=prompt.")
    ] = 2
    pairs_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Pairs of a prompt; by default each two of its answers are one.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """How many GPUs there are, and what is between them."""

    gpus: Annotated[int, typer.Option(min=1, help="GPUs on each node.")] = 1
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1
    strategy: Annotated[str | None, typer.Option(help="ddp, fsdp2, zero2 or zero3; without it all four.")] = None
    link: Annotated[
        str | None, typer.Option(help="Slowest link between two GPUs: nvlink4, pcie4, 400g, 8x400g, 25gbe, ...")
    ] = None
    pairs: Annotated[int | None, typer.Option(min=1, help="Pairs that there are to train on.")] = None


@stopped_by_ctrl_c
@with_options
def plan(given: RecipeArguments, card: CardOptions, pair: PairOptions, several: GpuOptions) -> None:
    """Will it fit, and what to change if not, on one GPU or many. No weights are read or downloaded."""
    from mmpref.recipe.loading import load_recipe
    from mmpref.terminal import print_facts, print_table

    loaded = load_recipe(given.recipe, given.overrides or [])
    from mmpref.planning.plan import compare_strategies, make_plan
    from mmpref.planning.text import COMPARED, compared, facts, parts
    from mmpref.training.loss_settings import line_of, loss_written_out
    from mmpref.training.run.start_adapter import with_start_adapter

    def complete(recipe: Recipe) -> Recipe:
        return with_start_adapter(loss_written_out(recipe))

    asked, starting = _asked(card, pair, several), complete(loaded)
    typer.echo(line_of(starting))
    if card.fit is not None:
        found = _fit(given, card, asked, complete)
    elif several.strategy is None and not asked.parallel.is_alone:
        title = f"{given.recipe} on {asked.parallel.world} GPUs"
        print_table(title, COMPARED, *compared(compare_strategies(starting, asked)))
        return
    else:
        found = make_plan(starting, asked)
    print_table(f"memory of one update: {given.recipe}", ["part", "GiB"], parts(found))
    print_facts("plan", *facts(found, gpu=asked.gpu))


def _asked(card: CardOptions, pair: PairOptions, several: GpuOptions) -> PlanInput:
    """What the planner is asked.

    Raises:
        ConfigError: options that contradict each other, or that are no card and no strategy.
    """
    from mmpref.planning.gpus import parse_card, parse_memory
    from mmpref.planning.parallelism import parse_parallelism
    from mmpref.planning.plan_input import PlanInput

    if card.write is not None and card.fit is None:
        raise ConfigError("--write goes with --fit, for example --fit 16GiB")
    memory = None if card.gpu_memory is None else parse_memory(card.gpu_memory)
    gpu = card.gpu
    if card.fit is not None:
        if memory is not None:
            raise ConfigError("--fit says what the card has; leave --gpu-memory out")
        if several.gpus * several.nodes > 1 and several.strategy is None:
            raise ConfigError("--fit on several GPUs finds settings for one strategy; give --strategy as well")
        memory, named = parse_card(card.fit)
        gpu = gpu or named
    image, video = _seen(pair)
    return PlanInput(
        gpu_memory=memory,
        gpu=gpu,
        image_size=image,
        video=video,
        prompt_tokens=pair.prompt_tokens,
        answer_tokens=pair.answer_tokens,
        answers_per_prompt=pair.answers_per_prompt,
        pairs_per_prompt=pair.pairs_per_prompt,
        parallel=parse_parallelism(several.gpus, several.nodes, several.strategy),
        link=several.link,
        pairs=several.pairs,
    )


def _seen(pair: PairOptions) -> tuple[tuple[int, int] | None, Clip | None]:
    """The size of the pair's image, and its video."""
    from mmpref.planning.plan_input import Clip
    from mmpref.yaml_text import parse_size

    image = None if pair.image_size is None else parse_size(pair.image_size)
    if pair.video_size is None:
        if pair.video_seconds is not None:
            raise ConfigError("--video-seconds goes with --video-size, for example --video-size 1280x720")
        return image or USUAL_IMAGE, None
    return image, Clip(size=parse_size(pair.video_size), seconds=pair.video_seconds or USUAL_SECONDS)


def _fit(given: RecipeArguments, card: CardOptions, asked: PlanInput, complete: Callable[[Recipe], Recipe]) -> Plan:
    """Find, print and write the settings for a card; their plan."""
    from mmpref.planning.fit import fit
    from mmpref.planning.fitted_recipe import Fitting, refuse_existing, write_recipe
    from mmpref.recipe.loading import load_recipe

    if card.write is not None:
        refuse_existing(card.write)
    overrides = given.overrides or []
    found = fit(complete(load_recipe(given.recipe, overrides)), asked)
    fitting = Fitting(recipe=given.recipe, given=tuple(overrides), card=str(card.fit), found=found, complete=complete)
    for line in fitting.lines():
        typer.echo(line)
    if card.write is not None:
        write_recipe(fitting, card.write)
        typer.echo(f"wrote {card.write}")
    return found.plan
