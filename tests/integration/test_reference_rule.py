"""Who the reference is: the recipe's word, the model's set-up, the plan and the launcher say the same of every case."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from mmpref.errors import ConfigError, DistributedError, MMPrefError
from mmpref.losses import build_objective
from mmpref.models import AdapterSettings, Tuning, choose_reference, load, prepare, save_model
from mmpref.models.adapters.switch import COPY
from mmpref.models.logps.reference import ReferencePolicy
from mmpref.models.reference_rule import AskedKind, ReferenceChoice, Start, choose, reference_of
from mmpref.models.unwrap import unwrap
from mmpref.planning.parallelism import ALONE, ParallelPlan
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel.strategy import STRATEGIES, refuse_what_cannot_shard
from mmpref.training.run.setup import _load_model
from mmpref.training.run.start_adapter import with_start_adapter
from tests.tiers import checkerboard, corners
from tests.tiny_vlms import build

KINDS: tuple[AskedKind, ...] = get_args(AskedKind)


def tune(vision: str, projector: str, language: str) -> str:
    return f"tune={{vision: {vision}, projector: {projector}, language: {language}}}"


LANGUAGE, WITH_PROJECTOR = tune("freeze", "freeze", "lora"), tune("freeze", "full", "lora")
LORA, PISSA = "adapter={kind: lora, rank: 4}", "adapter={kind: lora, rank: 4, init: pissa}"
FULL = {"auto": "frozen_copy", "frozen_copy": "frozen_copy", "cache": "cache"}
ZERO = {"auto": "adapter_off", "adapter_off": "adapter_off", "copied_adapter": "copied_adapter", **{
    kind: kind for kind in ("frozen_copy", "cache")
}}  # fmt: skip
STARTED = {**ZERO, "auto": "copied_adapter"}
# how training starts -> what reference.kind leads to; what is missing is refused
STARTS: dict[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
    "language whole": ((tune("freeze", "freeze", "full"),), FULL),
    "projector whole, nothing else": ((tune("freeze", "full", "freeze"),), FULL),
    "LoRA": ((LORA, LANGUAGE), ZERO),
    "LoRA beside a whole projector": ((LORA, WITH_PROJECTOR), ZERO),
    "LoRA on the tower too": ((LORA, tune("lora", "freeze", "lora")), ZERO),
    "DoRA": (("adapter={kind: lora, rank: 4, use_dora: true}", LANGUAGE), ZERO),
    "PiSSA": ((PISSA, LANGUAGE), {name: kind for name, kind in STARTED.items() if name != "adapter_off"}),
    "PiSSA beside a whole projector": (
        (PISSA, WITH_PROJECTOR), {name: kind for name, kind in STARTED.items() if name != "adapter_off"},
    ),
    "an adapter trained further": (("adapter.path=lora", LANGUAGE), STARTED),
    "an adapter with a whole projector trained further": (("adapter.path=with_projector", WITH_PROJECTOR), STARTED),
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and two adapters that were trained on it."""
    root = tmp_path_factory.mktemp("models")
    model = build("llava", root / "model")
    for name, projector in (("lora", "freeze"), ("with_projector", "full")):
        tuning: Any = Tuning(language="lora", projector=projector)  # type: ignore[arg-type]
        loaded = prepare(load(model, trainable=True), tuning, AdapterSettings(rank=4))
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.02)
        save_model(loaded.model, model, root / name)
    return root


def recipe_of(root: Path, start: str, *changes: str) -> Recipe:
    of_start = [change.replace("path=", f"path={root}/") for change in STARTS[start][0]]
    base = [f"model.path={root / 'model'}", "train.use_cpu=false"]
    return with_start_adapter(load_recipe("demo_dpo", [*base, *of_start, *changes]))


def by_rule(recipe: Recipe, strategy: str = "single") -> ReferenceChoice | str:
    objective = build_objective(recipe.loss.as_mapping())
    try:
        return reference_of(recipe, needs_reference=objective.needs_reference, strategy=strategy)
    except MMPrefError as err:
        return str(err)


def in_training(recipe: Recipe) -> ReferencePolicy | str:
    try:
        loaded = _load_model(recipe)
        found = choose_reference(loaded.model, kind=recipe.reference.kind)  # type: ignore[arg-type]
    except MMPrefError as err:
        return str(err)
    assert found is not None
    return found


def bytes_of_copy(reference: ReferencePolicy, policy: nn.Module) -> int:
    """Of the weights that the reference has for itself."""
    if reference.kind == "frozen_copy":
        shared = {id(parameter) for parameter in policy.parameters()}
        own = [parameter for parameter in reference._model.parameters() if id(parameter) not in shared]
    else:
        named = policy.named_parameters() if reference.kind == "copied_adapter" else ()
        own = [parameter for name, parameter in named if COPY in name.split(".")]
    return sum(parameter.numel() * parameter.element_size() for parameter in own)


@pytest.mark.parametrize("start", checkerboard(STARTS))
def test_the_recipe_says_what_the_model_s_set_up_does(root: Path, start: str) -> None:
    for asked in KINDS:
        recipe, expected = recipe_of(root, start, f"reference.kind={asked}"), STARTS[start][1].get(asked)
        said = by_rule(recipe)
        assert (said.kind if isinstance(said, ReferenceChoice) else None) == expected, asked
        if asked == "cache":
            continue
        loaded = _load_model(recipe)
        if expected is None:
            with pytest.raises(ConfigError, match=re.escape(str(said))):
                choose_reference(loaded.model, kind=asked)
            continue
        done = choose_reference(loaded.model, kind=asked)
        assert done is not None
        assert isinstance(said, ReferenceChoice)
        assert (said.kind, said.explanation, said.is_start) == (done.kind, done.explanation, done.is_start)
        planned = make_plan(recipe).memory.before["reference"]
        assert planned == bytes_of_copy(done, unwrap(loaded.model)), asked


QUICK = (
    "projector whole, nothing else", "LoRA beside a whole projector", "PiSSA",
    "an adapter with a whole projector trained further",
)  # fmt: skip


@pytest.mark.parametrize("start", corners(STARTS, *QUICK))
def test_plan_and_launcher_refuse_what_training_refuses_and_their_advice_works(root: Path, start: str) -> None:
    for asked, strategy, loss in product(KINDS, STRATEGIES, ("dpo", "simpo")):
        given = (f"reference.kind={asked}", f"loss={{name: {loss}}}")
        recipe = recipe_of(root, start, *given)
        said = by_rule(recipe, strategy)
        if loss == "simpo" and asked != "auto":  # a reference that nothing would read
            assert "the loss (simpo) has no reference" in plan_says(recipe, strategy)
            continue
        launched, planned = launcher_says(recipe, strategy), plan_says(recipe, strategy)
        if isinstance(said, ReferenceChoice):
            assert (launched, planned) == ("", ""), (asked, strategy)
            assert (said.kind == "none") == (loss == "simpo")
            assert strategy != "zero3" or not said.is_second_model
            continue
        assert (launched, planned) == (said, said), (asked, strategy)
        advice = [*(f"reference.kind={kind}" for kind in kinds_in(said)), *re.findall(r"--launch (\w+)", said)]
        assert advice, said
        for way in advice:
            if "=" in way:
                changed = recipe_of(root, start, *given, way)
                assert launcher_says(changed, strategy) == plan_says(changed, strategy) == "", (said, way)
            else:
                assert launcher_says(recipe, way) == plan_says(recipe, way) == "", (said, way)


def kinds_in(refusal: str) -> list[str]:
    """The kinds of reference that the end of a refusal names."""
    advice = refusal.rpartition("; use ")[2].partition(",")[0]
    return [word for word in re.findall(r"\w+", advice) if word in KINDS]


def launcher_says(recipe: Recipe, strategy: Any) -> str:
    try:
        refuse_what_cannot_shard(recipe, strategy)
    except MMPrefError as err:
        return str(err)
    return ""


def plan_says(recipe: Recipe, strategy: Any) -> str:
    try:
        make_plan(recipe, PlanInput(parallel=ParallelPlan(gpus=2, strategy=strategy)))
    except MMPrefError as err:
        return str(err)
    return ""


def test_one_gpu_is_told_the_same(root: Path) -> None:
    recipe = recipe_of(root, "language whole", "reference.kind=copied_adapter")
    with pytest.raises(ConfigError, match="copied_adapter is not possible: the weights themselves are trained"):
        make_plan(recipe, PlanInput(parallel=ALONE))
    with pytest.raises(ConfigError, match="copied_adapter is not possible: the weights themselves are trained"):
        refuse_what_cannot_shard(recipe, "single")


def test_a_weight_that_trains_outside_the_adapter_forbids_to_switch_it_off() -> None:
    start = Start(has_adapter=True, adds_nothing=True, outside="lm_head.weight")
    assert choose("auto", start).kind == "frozen_copy"
    assert "lm_head.weight" in choose("auto", start).explanation
    with pytest.raises(ConfigError, match=r"lm_head\.weight"):
        choose("adapter_off", start)
    with pytest.raises(DistributedError, match=r"reference.kind=cache"):
        choose("auto", start, strategy="zero3")


def test_a_copied_adapter_is_split_with_the_weights_it_belongs_to(root: Path) -> None:
    recipe = recipe_of(root, "PiSSA", "train.bf16=false")  # in bf16 DeepSpeed halves the copy as well
    alone = make_plan(recipe).memory.before["reference"]
    assert alone > 0
    for strategy, parts in (("ddp", 1), ("zero2", 1), ("zero3", 4), ("fsdp2", 4)):
        split = make_plan(recipe, PlanInput(parallel=ParallelPlan(gpus=4, strategy=strategy))).memory.before[
            "reference"
        ]  # type: ignore[arg-type]
        assert split == alone // parts
