"""Groups of command-line options: one frozen dataclass for each group, expanded into a command by :func:`with_options`.

A command takes a few groups in place of many parameters; typer sees one option for every field, in the order of the
fields, with the field's name, help and default.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from mmpref.cli.completion import recipe_keys, recipe_names
from mmpref.errors import ConfigError

if TYPE_CHECKING:
    from mmpref.generation.api_server import Server
    from mmpref.generation.model_source import ModelSource
    from mmpref.judging import Prices

BENCHMARK_OPTIONS = "Options of the benchmark, for example synonyms=FILE prompts=FILE for chair."
QUESTIONS = "Question file of the benchmark; several for its splits."
SERVER_URL = "Address of an OpenAI-compatible API, for example http://127.0.0.1:8000/v1."
KEY_ENV = (
    "Environment variable that holds the API key. OPENAI_API_KEY is used for api.openai.com alone, unless it is named."
)

BenchmarkOptions = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=BENCHMARK_OPTIONS)]
Questions = Annotated[list[Path], typer.Option(help=QUESTIONS)]
Protocol = Annotated[str, typer.Option(help="How answers are read and counted.")]
KeyEnv = Annotated[str | None, typer.Option(help=KEY_ENV)]
JudgeCache = Annotated[
    Path | None, typer.Option(help="Replies by content, to share between runs; default: beside the output.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """How a server is asked."""

    concurrency: Annotated[int, typer.Option(min=1, help="Requests to a server under way at once.")] = 8
    timeout: Annotated[
        float,
        typer.Option(min=0.1, help="Seconds in which a server must have replied, to the last byte; one more try."),
    ] = 120.0

    def server_at(self, url: str, model: str, key_env: str | None) -> Server:
        """A server that is asked so."""
        from mmpref.generation.api_server import Server

        return Server(url=url, model=model, key_env=key_env, concurrency=self.concurrency, timeout=self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How a model in this process is loaded."""

    adapter: Annotated[Path | None, typer.Option(help="A LoRA folder to put on the model.")] = None
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto"
    quantization: Annotated[str | None, typer.Option(help="nf4 or int8, for a model that is too large.")] = None
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Resolution budget of one image (Qwen-VL).")] = None
    template_kwargs: Annotated[
        str | None,
        typer.Option(help="What the chat template reads, as {enable_thinking: false}; default: as a run was trained."),
    ] = None

    def source(self, model: str) -> ModelSource:
        """The model that is to be loaded here."""
        from mmpref.evals.model_facts import source_of

        return source_of(
            model,
            adapter=self.adapter,
            dtype=self.dtype,
            quantization=self.quantization,
            max_pixels=self.max_pixels,
            template_kwargs=self.template_kwargs,
        )

    def refuse_unmet(self) -> None:
        """Refuse what the installed libraries cannot do, before any is loaded.

        Raises:
            ConfigError: with the command that installs what is missing.
        """
        from mmpref.installation import refuse_cpu_torch, refuse_without

        if self.quantization is not None:
            refuse_without("bitsandbytes", f"--quantization {self.quantization}", "leave it out")
        refuse_cpu_torch("set CUDA_VISIBLE_DEVICES= (to nothing)")

    def refuse_beside_server(self, processes: int) -> None:
        """Refuse options that say nothing about a model at a server.

        Raises:
            ConfigError: one of them is given.
        """
        given = (self.adapter, self.quantization, self.template_kwargs)
        if processes > 1 or any(option is not None for option in given):
            raise ConfigError(
                "--adapter, --quantization, --template-kwargs and --processes are for a model in this process"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    """What a judge costs, and may cost."""

    price_in: Annotated[float | None, typer.Option(min=0, help="Judge's price, dollars per million prompt tokens.")] = (
        None
    )
    price_out: Annotated[float | None, typer.Option(min=0, help="Judge's price, dollars per million reply tokens.")] = (
        None
    )
    max_cost: Annotated[float | None, typer.Option(min=0, help="Judge for at most so many dollars.")] = None

    def prices(self) -> Prices | None:
        """The judge's prices, where they are given."""
        from mmpref.judging import Prices

        return Prices.given(self.price_in, self.price_out)


def one_or_many(paths: list[Path]) -> Path | list[Path]:
    """The paths of an option that may be given several times, as the loaders take them."""
    return paths[0] if len(paths) == 1 else paths


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeArguments:
    """A recipe and changes to it."""

    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe.", autocompletion=recipe_names)
    ]
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes by dotted key.", autocompletion=recipe_keys),
    ] = None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of its option groups, as typer shall see it.

    Every parameter whose type is a dataclass is a group; a field whose type is one is a group inside it, expanded where
    it stands. Types must be importable where they are written, since typer reads them.

    Raises:
        TypeError: two groups have a field of the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    expanded: dict[str, inspect.Parameter] = {}

    def add(parameter: inspect.Parameter) -> None:
        if parameter.name in expanded:
            raise TypeError(f"{command.__name__}: two options are called '{parameter.name}'")
        expanded[parameter.name] = parameter

    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            for option in _options_of(hints[name]):
                add(option)
        else:
            add(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{name: _built(hint, given, name) for name, hint in hints.items() if name != "return"})

    annotations = {name: parameter.annotation for name, parameter in expanded.items()}
    run.__annotations__ = {**annotations, "return": None}
    run.__signature__ = inspect.Signature(list(expanded.values()))  # type: ignore[attr-defined]  # read by inspect
    return run


def _options_of(group: type[Any]) -> list[inspect.Parameter]:
    """One keyword parameter for each field of a group and of the groups inside it."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in dataclasses.fields(group):
        if dataclasses.is_dataclass(hints[field.name]):
            found += _options_of(hints[field.name])
            continue
        default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        kind = inspect.Parameter.KEYWORD_ONLY
        found.append(inspect.Parameter(field.name, kind, default=default, annotation=hints[field.name]))
    return found


def _built(hint: Any, given: Mapping[str, Any], name: str) -> Any:
    """The value of one parameter or field: its option's, or the group made of its options' values."""
    if not dataclasses.is_dataclass(hint):
        return given[name]
    hints = get_type_hints(hint, include_extras=True)
    return hint(**{field.name: _built(hints[field.name], given, field.name) for field in dataclasses.fields(hint)})  # type: ignore[operator]  # a class
