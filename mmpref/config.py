"""The recipe: typed sections, read from YAML, changed by dotted ``key=value`` overrides, refused when a key is unknown.

YAML is read by the rules of YAML 1.2: ``5e-7`` is a number, and ``yes``, ``no``, ``on``, ``None`` are plain text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from mmpref.errors import ConfigError

TunedPart = Literal["freeze", "full", "lora"]
PathLike = Annotated[Path, Field(strict=False)]


def _steps_or_none(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("must be a number of steps, at least 1, or -1 for as many as the epochs have")
    return value


MaxSteps = Annotated[int, AfterValidator(_steps_or_none)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are not coerced, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False)


class ModelSection(Section):
    """Which model is trained, and how it is loaded."""

    path: str
    """A local folder or a hub id of an image-text-to-text (or text-only causal) model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; half precision rounds small updates away. auto: float32 where whole parts train, or as saved."""
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the whole model that is written at the end; auto: what it was trained in, so that nothing is rounded."""
    attn_implementation: str | None = None
    """Passed to transformers; null lets it choose."""
    attention: Literal["auto", "shared_prefix", "plain"] = "auto"
    """Whether both answers of a pair read one copy of their prompt; auto does that where the model can."""


class SourceSection(Section):
    """One source of pairs, where its path alone does not say enough."""

    path: str
    """A file (JSONL, JSON, parquet, arrow), a folder of them, a saved data set, or a hub id."""
    format: str = "auto"
    """The shape of its rows; auto tells it from their keys."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often each pair appears in an epoch: 2 is twice, 0.25 takes a seeded quarter of them."""
    root: PathLike | None = None
    """Image paths of this source are relative to this folder; null means data.root."""
    split: str | None = None
    card: str | None = None
    """The data card that says how rows are read and what their scores mean."""


def _source_tag(value: Any) -> str:
    return "path" if isinstance(value, str) else "section"


Source = Annotated[Annotated[str, Tag("path")] | Annotated[SourceSection, Tag("section")], Discriminator(_source_tag)]
Sources = Annotated[list[Source], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


class DataSection(Section):
    """Where the pairs are."""

    train: Sources = Field(min_length=1)
    """Files of pairs, or sections that say more about each; one may be written without the list."""
    eval: Sources = []
    """Held-out pairs: accuracy and margin are measured on them at the end of training."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Without eval: this share of the training pairs is held out, by image, so that no picture is on both sides."""
    root: PathLike | None = None
    """Image paths are relative to this folder; null means the folder that all files lie in."""
    manifest: PathLike | None = None
    """data_report.json of mmpref data check: the run is refused when the data is not what was checked."""
    verify: Literal["quick", "full"] = "quick"
    """How images are compared with the manifest: quick by name, size and time of change (and by their bytes where only
    times differ), full always by their bytes."""
    max_bad_fraction: float = Field(default=0.001, ge=0, le=1)
    """More bad rows than this share stop the run; fewer go to quarantine.jsonl."""

    @property
    def train_paths(self) -> list[str]:
        """The paths of ``train``, whichever way they are written."""
        return [entry if isinstance(entry, str) else entry.path for entry in self.train]

    @property
    def eval_paths(self) -> list[str]:
        """The paths of ``eval``, whichever way they are written."""
        return [entry if isinstance(entry, str) else entry.path for entry in self.eval]


class ProcessingSection(Section):
    """How prompts, answers and images become tensors."""

    max_length: int | None = Field(default=None, gt=0)
    """Tokens in prompt + answer, image tokens counted. Answers are cut to fit; images and prompts never are."""
    min_pixels: int | None = Field(default=None, gt=0)
    max_pixels: int | None = Field(default=None, gt=0)
    """Resolution budget of one image, for processors that resize to one (Qwen-VL)."""
    shrink_images: bool = False
    """A pair that is too long for max_length gets smaller images, down to min_pixels, before answers are cut."""
    row_tokens: int | None = Field(default=None, gt=0)
    """The most tokens the model runs over at once: a batch with more is run in parts, with the same update."""
    pixel_cache_mib: int = Field(default=0, ge=0)
    """Keep processed images in memory up to this size: worth it when a small set is read for several epochs."""


class UniSection(Section):
    """Uni-DPO's weights (arXiv 2506.10054). Keys not given take the preset's value; see docs/losses.md."""

    eta: float | None = None
    tau_ref: float | None = None
    gamma: float | None = None
    nll_lambda: float | None = None
    tau_good: float | None = None
    perf_mode: Literal["stabilized", "focal", "none"] | None = None
    perf_detach: bool | None = None
    nll_margin: float | None = None
    on_missing_score: Literal["error", "neutral"] | None = None


class AdaSection(Section):
    """AdaDPO's coefficients (arXiv 2605.28440). Keys not given take the preset's value; see docs/losses.md."""

    granularity: Literal["token", "sequence", "geomean"] | None = None
    form: Literal["split", "sum", "own"] | None = None
    use_reference: bool | None = None
    alpha_w: float | None = None
    alpha_l: float | None = None
    clip: float | None = None
    value_mode: Literal["auto", "scaled", "value_preserving"] | None = None
    balance_perf: bool | None = None


_SWITCH = BeforeValidator(lambda value: {True: {}, False: None}[value] if isinstance(value, bool) else value)


class LossSection(Section):
    """The objective: a preset by ``name``, changed key by key. The rules about values live with the loss core."""

    name: str | None = None
    base: str | None = None
    beta: float | None = None
    length_normalize: bool | None = None
    label_smoothing: float | None = None
    gamma_beta_ratio: float | None = None
    length_weight: float | None = None
    nll_weight: float | None = None
    uni: Annotated[UniSection | None, _SWITCH] = None
    """A mapping or true switches it on, null or false off; not given leaves it to the preset."""
    ada: Annotated[AdaSection | None, _SWITCH] = None

    def as_mapping(self) -> dict[str, Any]:
        """Only the keys that were given: what ``mmpref.losses.build_objective`` takes."""
        return self.model_dump(exclude_unset=True)


class AdapterSection(Section):
    """LoRA or QLoRA. ``kind: none`` trains the parts named in ``tune`` themselves."""

    kind: Literal["none", "lora", "qlora"] = "none"
    """``qlora`` is LoRA on a language model in 4 bits."""
    path: PathLike | None = None
    """Train this LoRA adapter further (its folder, or a run): rank, alpha, dropout and tune are its own."""
    rank: int = Field(default=16, gt=0)
    alpha: int | float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    use_rslora: bool = False
    use_dora: bool = False
    init: str = Field(default="zero", pattern=r"^(zero|pissa|pissa_niter_[1-9][0-9]*)$")
    """zero, or pissa (pissa_niter_N for large layers): start from the weights' principal directions (2404.02948)."""
    quantization: Literal["nf4", "fp4", "int8"] | None = None
    """How the language model is stored under LoRA; qlora means nf4 where this is null."""
    double_quant: bool = True
    """4 bits only: the blocks' scales are quantised as well."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """4 bits only: what the layers compute in; auto takes model.dtype."""

    @model_validator(mode="before")
    @classmethod
    def _path_means_lora(cls, given: Any) -> Any:
        is_start = isinstance(given, Mapping) and given.get("path") is not None
        return {"kind": "lora", **given} if is_start else given

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.path is not None and self.kind == "none":
            raise ValueError("path is the LoRA adapter that training starts from; set kind: lora or qlora")
        if self.path is not None and self.init != "zero":
            raise ValueError(f"init: {self.init} is how a new adapter starts, and path gives one; take one of them out")
        if self.quantization is not None and self.kind == "none":
            raise ValueError("quantization is for LoRA: weights in 4 or 8 bits do not train; set kind: lora")
        if self.kind == "qlora" and self.quantization == "int8":
            raise ValueError("kind: qlora is 4 bits; for 8 bits write kind: lora with quantization: int8")
        return self

    @property
    def stored_as(self) -> Literal["nf4", "fp4", "int8"] | None:
        """The quantisation, with what ``qlora`` means filled in."""
        return self.quantization or ("nf4" if self.kind == "qlora" else None)


class TuneSection(Section):
    """What is trained, per part: ``freeze``, ``full`` (the weights) or ``lora`` (an adapter on them)."""

    vision: TunedPart = "freeze"
    projector: TunedPart = "freeze"
    language: TunedPart = "full"


class LearningRates(Section):
    """Learning rates of parts that have one of their own; null takes ``train.learning_rate``."""

    vision: float | None = Field(default=None, gt=0)
    projector: float | None = Field(default=None, gt=0)
    language: float | None = Field(default=None, gt=0)


class ReferenceSection(Section):
    """Where the reference log-probs come from, for losses that need them."""

    kind: Literal["auto", "adapter_off", "copied_adapter", "frozen_copy", "cache"] = "auto"
    """cache computes them once and keeps them on disk: no second model, and nothing to compute from the second epoch on
    or in a second run over the same pairs."""
    cache: PathLike | None = None
    """Folder of the cache; null means beside the run folder, with .reference added to its name."""


class TrainSection(Section):
    """Optimisation. Names and meanings are those of ``transformers.TrainingArguments``."""

    learning_rate: float = Field(gt=0)
    learning_rates: LearningRates = LearningRates()
    per_device_train_batch_size: int = Field(default=1, gt=0)
    """Pairs, not rows."""
    per_device_eval_batch_size: int = Field(default=8, gt=0)
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    num_train_epochs: float = Field(default=1.0, gt=0)
    max_steps: MaxSteps = -1
    """Optimizer steps; -1 trains for num_train_epochs."""
    lr_scheduler_type: str = "cosine"
    lr_scheduler_kwargs: dict[str, Any] = {}
    warmup_steps: float = Field(default=0, ge=0)
    """A number of steps, or a share of all steps when below 1."""
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    max_grad_norm: float = Field(default=1.0, ge=0)
    optim: str = "adamw_torch"
    """Any name that transformers knows; adamw_8bit and paged_adamw_8bit need bitsandbytes."""
    bf16: bool | None = None
    """Autocast to bfloat16. null: on a GPU that has it, unless weights are float16; never on a CPU."""
    fp16: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    dataloader_num_workers: int = Field(default=0, ge=0)
    logging_steps: int = Field(default=10, gt=0)
    save_steps: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; null saves none, except when a signal stops the run."""
    eval_steps: int | None = Field(default=None, gt=0)
    """Steps between evaluations on the held-out pairs; null evaluates before the first step and after the last."""
    save_total_limit: int | None = Field(default=2, gt=0)
    """Older checkpoints are deleted; null keeps all."""
    report_to: list[str] = []
    """Trackers by the names transformers has for them: tensorboard, wandb, mlflow, ..."""
    skip_nonfinite_steps: int = Field(default=0, ge=0)
    """So many updates whose loss or gradient is not finite are left out before the run stops."""
    use_cpu: bool = False
    extra: dict[str, Any] = {}
    """Any other TrainingArguments name; refused when transformers does not know it."""


class Recipe(Section):
    """One training run, whole."""

    output: PathLike
    """The run folder; it must not hold a run already."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    cpu_threads: int | None = Field(default=None, gt=0)
    """Threads torch may use on the CPU; null leaves torch's own choice. Sums change in the last digit with it."""
    model: ModelSection
    data: DataSection
    processing: ProcessingSection = ProcessingSection()
    loss: LossSection
    tune: TuneSection = TuneSection()
    adapter: AdapterSection = AdapterSection()
    reference: ReferenceSection = ReferenceSection()
    train: TrainSection
    preflight: bool = True
    """Check on the first pairs that the model sees its images and that both ways of running a pair agree."""


_NOT_KEYS = ("list[str]", "float", "int", "section")  # what pydantic adds to the place of a problem


class _Loader(yaml.SafeLoader):
    """Safe YAML with YAML 1.2 scalars, and with duplicate keys refused."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"key '{key}' is given twice (lines {seen[key]} and {line}); keep one of them")
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _decimal(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # YAML 1.1 would read 012 as an octal number


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)
_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def parse_yaml(text: str, *, where: str) -> Any:
    """Read YAML text with this module's rules; ``where`` names it in the error."""
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
    except yaml.YAMLError as err:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(err).split())}") from err
    except ConfigError as err:
        raise ConfigError(f"{where}: {err}") from None


def _recipe_folder() -> Traversable:
    return resources.files("mmpref").joinpath("recipes")


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with mmpref."""
    names = (entry.name for entry in _recipe_folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_recipe_text(recipe: str | Path) -> tuple[str, str]:
    """The text of a recipe and the name to use in messages: a file's path, or a shipped recipe's name."""
    path = Path(recipe)
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as err:
            raise ConfigError(f"recipe {path} cannot be read: {err}") from err
    name = str(recipe).removesuffix(".yaml")
    shipped = shipped_recipes()
    if name in shipped:
        return _recipe_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"recipe {name}"
    hint = _did_you_mean(path.name.removesuffix(".yaml"), shipped)
    raise ConfigError(
        f"no recipe file '{recipe}', and no shipped recipe of that name{hint}; shipped: {', '.join(shipped)}"
    )


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe (a file, or the name of a shipped one) and apply ``key.sub=value`` overrides.

    Raises:
        ConfigError: unknown or mistyped keys (all of them, each by its dotted name), missing files, broken YAML.
    """
    text, where = read_recipe_text(recipe)
    tree = parse_yaml(text, where=where)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping of sections, got {type(tree).__name__}")
    for override in overrides:
        _apply_override(tree, override)
    return build_recipe(tree, where=where)


def build_recipe(tree: Mapping[str, Any], *, where: str) -> Recipe:
    """A nested mapping as a checked recipe; every problem is listed by its dotted key."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as err:
        problems = [_explain(problem) for problem in err.errors()]
        raise ConfigError(f"{where}: " + "; ".join(problems)) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML, every key written out, that :func:`load_recipe` reads back as an equal recipe."""
    tree = recipe.model_dump(mode="json")
    tree["loss"] = recipe.loss.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def parse_size(text: str) -> tuple[int, int]:
    """``640x480`` as (width, height)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ConfigError(f"'{text}' is not the size of a picture; write 640x480")
    return int(width), int(height)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """``key=value`` texts as a mapping, values read by this module's YAML rules."""
    given: dict[str, Any] = {}
    for option in options:
        key, separator, text = option.partition("=")
        if not separator or not key.isidentifier():
            raise ConfigError(f"'{option}' must be written key=value")
        given[key] = parse_yaml(text, where=f"option '{option}'")
    return given


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}' must be written key=value, for example train.learning_rate=1e-6")
    *sections, last = key.split(".")
    node = tree
    for depth, name in enumerate(sections):
        child = node.setdefault(name, {})
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{'.'.join(sections[: depth + 1])}' is a value, not a section")
        node = child
    node[last] = parse_yaml(text, where=f"override '{override}'")


def _explain(problem: Mapping[str, Any]) -> str:
    """One pydantic problem as a sentence with the dotted key, and the nearest known key where one was mistyped."""
    location = [part for part in problem["loc"] if part not in _NOT_KEYS]
    dotted = ".".join(str(part) for part in location)
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = _did_you_mean(str(location[-1]), known, prefix=location[:-1])
        return f"unknown key '{dotted}'" + (near or f" (known here: {', '.join(known)})")
    if kind == "missing":
        return f"missing key '{dotted}'"
    got = problem.get("input")
    message = problem["msg"][0].lower() + problem["msg"][1:]
    hint = " (write null for no value)" if got in ("None", "none", "NULL") else ""
    wants_bool = "boolean" in message
    hint = hint or (" (write true or false)" if wants_bool else "")
    return f"'{dotted}': {message}, got {got!r}{hint}"


def _known_keys(sections: Sequence[Any]) -> list[str]:
    model: type[BaseModel] = Recipe
    for name in sections:
        if isinstance(name, int):  # a place in a list
            continue
        nested = _section_in(model.model_fields[str(name)].annotation)
        if nested is None:
            return []
        model = nested
    return list(model.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key takes, alone, in a list or beside other types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)


def _did_you_mean(name: str, known: Sequence[str], *, prefix: Sequence[Any] = ()) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f", did you mean '{'.'.join([*map(str, prefix), near[0]])}'?" if near else ""
