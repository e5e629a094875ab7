"""``mmpref sample generate`` and ``merge``: a model writes several answers to every prompt, on one machine or many.

Thin commands, as in ``cli/main.py``: parse, build, call one function, show what it returns.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpref.cli.completion import card_names
from mmpref.cli.options import KEY_ENV, SERVER_URL, ModelOptions, RequestOptions, with_options
from mmpref.errors import ConfigError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from mmpref.data.prompt_source import PromptSource
    from mmpref.generation.api_server import Server
    from mmpref.sampling.generate import GenerateSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompts:
    """What is asked."""

    prompts: Annotated[
        str,
        typer.Option(help="A pair set, a file of questions or conversations, a hub id, or a folder of images."),
    ]
    image_root: Annotated[Path | None, typer.Option(help="Image paths are relative to this folder.")] = None
    question: Annotated[str | None, typer.Option(help="Asked of every image, where --prompts is a folder of them.")] = (
        None
    )
    format: Annotated[str, typer.Option(help="Row format; auto recognises each row.")] = "auto"
    split: Annotated[str | None, typer.Option(help="Split, where the source has several.")] = None
    card: Annotated[
        str | None, typer.Option(help="Data card that describes the source.", autocompletion=card_names)
    ] = None

    def source(self) -> PromptSource:
        """Where the prompts come from."""
        from mmpref.data.prompt_source import prompts_of_images, read_prompts
        from mmpref.sampling.steps import rows_of_step

        if self.question is None:
            rows, root = rows_of_step(self.prompts)
            root, card = self.image_root or root, self.card
            return read_prompts(rows, root=root, format=self.format, split=self.split, card=card)
        if self.split or self.card or self.format != "auto":
            raise ConfigError("--question is for a folder of images, which has no --format, --split or --card")
        if self.image_root is not None and self.image_root.absolute() != Path(self.prompts).absolute():
            raise ConfigError("with --question, the paths of the images start from --prompts: leave --image-root out")
        return prompts_of_images(self.prompts, self.question)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampling:
    """How candidates are drawn."""

    n: Annotated[int, typer.Option("--n", min=1, help="Samples a prompt.")] = 4
    temperature: Annotated[float, typer.Option(min=0, help="Divides the logits; 0 draws nothing.")] = 1.0
    top_p: Annotated[float, typer.Option(help="Draw only from the likeliest tokens with this probability.")] = 1.0
    seed: Annotated[int, typer.Option(help="Of the run; each sample's own follows from it and the prompt's id.")] = 0
    max_new_tokens: Annotated[int, typer.Option(min=1, help="A sample stops here.")] = 256
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only share I of N, by the prompt's id.")] = "1/1"
    max_missing: Annotated[
        float, typer.Option(min=0, max=1, help="Share of samples that may be missing without exit code 8.")
    ] = 0.0
    batch_size: Annotated[int, typer.Option(min=1, help="Samples drawn together, at most.")] = 32
    tokens_per_batch: Annotated[
        int, typer.Option(min=1, help="Tokens of a batch, padding and answers included, at most.")
    ] = 65_536
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the prompts, one GPU each.")] = 1
    cpu_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's own choice.")] = None

    def settings(self) -> GenerateSettings:
        """The same, checked."""
        from mmpref.generation.settings import AnswerSettings, SampleSettings
        from mmpref.sampling.generate import GenerateSettings
        from mmpref.sampling.shards import Shard

        return GenerateSettings(
            n=self.n,
            seed=self.seed,
            sampling=SampleSettings(temperature=self.temperature, top_p=self.top_p),
            answering=AnswerSettings(
                batch_size=self.batch_size,
                tokens_per_batch=self.tokens_per_batch,
                max_new_tokens=self.max_new_tokens,
                cpu_threads=self.cpu_threads,
            ),
            processes=self.processes,
            shard=Shard.parse(self.shard),
            max_missing=self.max_missing,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _AtServers:
    """Servers that answer."""

    server: Annotated[
        list[str] | None, typer.Option(help=f"Let this server answer; several share the prompts. {SERVER_URL}")
    ] = None
    key_env: Annotated[str | None, typer.Option(help=KEY_ENV)] = None
    requests: RequestOptions

    def found(self, model: str) -> list[Server]:
        """The servers, where there are any; ``model`` is its name there."""
        return [self.requests.server_at(url, model, self.key_env) for url in self.server or ()]


@stopped_by_ctrl_c
@with_options
def generate(
    model: Annotated[
        str, typer.Option(help="A model folder, adapter folder, hub id or run folder; its name at --server.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for candidates.jsonl, quarantine.jsonl and step.json.")],
    prompts: _Prompts,
    sampling: _Sampling,
    loading: ModelOptions,
    at: _AtServers,
) -> None:
    """Sample answers to every prompt. A stopped run goes on where it was, and what is missing is asked again."""
    from mmpref.terminal import CountDisplay, print_facts

    if not at.server:
        loading.refuse_unmet()
    settings, source, servers = sampling.settings(), prompts.source(), at.found(model)
    if servers:
        loading.refuse_beside_server(sampling.processes)
    with CountDisplay(f"sampling · {model}") as display:
        from mmpref.sampling.generate import generate as run

        step = run(
            model if servers else loading.source(model),
            source,
            out,
            servers=servers,
            settings=replace(settings, progress=display.update),
        )
    print_facts(str(out), step.rows())
    typer.echo(_next(out) if step.settings["shard"] == "1/1" else "next: mmpref sample merge SHARD_DIR... --out DIR")


@stopped_by_ctrl_c
def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD_DIR...", help="The folders of all shards.")],
    out: Annotated[Path, typer.Option(help="Folder for the whole.")],
) -> None:
    """Put shards of sample generate together, once nothing is missing or double."""
    from mmpref.sampling.merge_shards import merge_shards
    from mmpref.terminal import print_facts

    print_facts(str(out), merge_shards(shards, out).rows())
    typer.echo(_next(out))


def _next(out: Path) -> str:
    return f"next: mmpref sample score {shlex.quote(str(out))} --scorer NAME --out DIR"
