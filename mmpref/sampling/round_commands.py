"""The commands of rounds of on-policy pairs, as they are typed by hand, and the folders that they write.

DIR/recipe.yaml, DIR/round-0/evals/NAME (the start model) and, for every round k from 1 on,
DIR/round-k/{candidates,scored,pairs,run} with the evaluations in DIR/round-k/run/evals/NAME, where ``mmpref report``
looks for those of a run.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.recipe.sample_section import BenchmarkSection, SampleSection
from mmpref.recipe.sections import Recipe, SourceSection
from mmpref.sampling.scorers import check_options
from mmpref.yaml_text import parse_value

RECIPE = "recipe.yaml"
SCORES = "scores.json"
"""Of the folder that ``mmpref sample score`` writes: the mapping of raw scores to the range, among others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One step of a round.

    Args:
        step: its name within the round.
        arguments: of ``mmpref``.
        folder: that it writes.
    """

    step: str
    arguments: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What the scores of a round's pairs say of Uni-DPO's ``eta`` and ``tau_good``, where the recipe does not."""

    eta: float | None = None
    tau_good: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCommands:
    """The commands of all rounds of one recipe.

    Args:
        recipe: with a section ``sample``.
        out: absolute.
        weighs_scores: whether the loss reads scores (Uni-DPO's weights).
        train_options: of ``mmpref train``, as ``--launch ddp``.
    """

    recipe: Recipe
    out: Path
    weighs_scores: bool
    train_options: tuple[str, ...] = ()

    @property
    def sample(self) -> SampleSection:
        """The recipe's section.

        Raises:
            ConfigError: it has none.
        """
        if self.recipe.sample is None:
            raise ConfigError(
                "the recipe has no section sample; say at least how candidates are scored: "
                "`'sample.scorers={objects: {options: {truth: objects.json}}}'` (mmpref config --keys sample)"
            )
        return self.recipe.sample

    @property
    def evals(self) -> list[BenchmarkSection]:
        """What every model is asked: ``sample.evals``, or the recipe's own ``evals`` where that is empty."""
        return self.sample.evals or self.recipe.evals

    def check(self) -> None:
        """Look at what a later step would be refused for, before the first one runs.

        Raises:
            ConfigError: no section ``sample``, no single source of prompts, a scorer that there is not, or its options.
        """
        self.generate(1)
        names = [benchmark.folder for benchmark in self.evals]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two evals are called '{double[0]}'; give one of them a name of its own")
        for name, scorer in self.sample.scorers.items():
            check_options(name, scorer.kind or name, scorer.options)

    def of_round(self, number: int) -> Path:
        """The folder of one round."""
        return self.out / f"round-{number}"

    def run_of(self, number: int) -> Path:
        """What a report reads of one round: its run, and the folder of evaluations of the start model."""
        return self.of_round(number) / "run" if number else self.of_round(0)

    def evaluations(self, number: int) -> Iterator[Command]:
        """The benchmarks, answered by the model that a round trained (0: by the start model)."""
        for benchmark in self.evals:
            folder = self.run_of(number) / "evals" / benchmark.folder
            yield Command(
                step=f"eval {benchmark.folder}",
                arguments=("eval", *self._model(number, benchmark.batch_size is None), *self._benchmark(benchmark),
                           "--out", str(folder),
                           *_options(benchmark.options)),
                folder=folder,
            )  # fmt: skip

    def generate(self, number: int) -> Command:
        """Candidates of the model that the round before trained."""
        recipe, sample, folder = self.recipe, self.sample, self.of_round(number) / "candidates"
        given = {
            "--prompts": self._prompts().path,
            "--image-root": None if sample.question else sample.image_root or self._prompts().root or recipe.data.root,
            "--format": None if self._prompts().format == "auto" else self._prompts().format,
            "--split": self._prompts().split,
            "--card": self._prompts().card,
            "--question": sample.question,
            "--n": sample.n,
            "--temperature": sample.temperature,
            "--top-p": sample.top_p,
            "--seed": sample.seed + number - 1,
            "--max-new-tokens": sample.max_new_tokens,
            "--max-missing": sample.max_missing,
            "--out": folder,
        }
        arguments = ("sample", "generate", *self._model(number - 1), *_flags(given))
        return Command(step="generate", arguments=arguments, folder=folder)

    def score(self, number: int) -> Command:
        """Their scores, on the range to which round 1 mapped them."""
        sample, folder = self.sample, self.of_round(number) / "scored"
        scorers: list[str] = []
        options: list[str] = []
        for name, scorer in sample.scorers.items():
            kind = scorer.kind or name
            scorers += ["--scorer", name if kind == name else f"{name}={kind}"]
            options += _options({f"{name}.{key}": value for key, value in scorer.options.items()})
        low, high = sample.range
        given = {
            "--range": f"{_number(low)}..{_number(high)}",
            "--mapping": self.of_round(1) / "scored" / SCORES if number > 1 else None,
            "--max-missing": sample.max_missing,
            "--out": folder,
        }
        weighted = [
            word for name, weight in sample.weights.items() for word in ("--weights", f"{name}={_number(weight)}")
        ]
        source = str(self.generate(number).folder)
        arguments = ("sample", "score", source, *scorers, *weighted, *_flags(given), *options)
        return Command(step="score", arguments=arguments, folder=folder)

    def pair(self, number: int) -> Command:
        """Pairs of the scored candidates."""
        folder, pair = self.of_round(number) / "pairs", self.sample.pair
        given = {f"--{name.replace('_', '-')}": getattr(pair, name) for name in type(pair).model_fields}
        given["--partial"] = self.sample.max_missing > 0
        arguments = ("sample", "pair", str(self.score(number).folder), *_flags(given), "--out", str(folder))
        return Command(step="pair", arguments=arguments, folder=folder)

    def train(self, number: int, *, image_root: Path | None, threshold: Threshold) -> Command:
        """Training on the pairs of the round, from the model that the round before trained.

        Args:
            image_root: of the pairs.
            threshold: used for keys that the recipe does not give.
        """
        folder, recipe = self.run_of(number), self.recipe
        changes: dict[str, Any] = {
            "output": str(folder),
            "data.train": [str(self.pair(number).folder / "pairs.jsonl")],
            "data.root": None if image_root is None else str(image_root),
            "sample": None,
        }
        if recipe.data.manifest is not None:  # it is of the prompts' file
            changes |= {"data.manifest": None, **({"data.verify": "quick"} if recipe.data.verify != "quick" else {})}
        changes |= self._caches(number)
        if number > 1:
            changes |= self._start(number)
        given = set() if recipe.loss.uni is None else recipe.loss.uni.model_fields_set
        if self.weighs_scores:
            found = {"eta": threshold.eta, "tau_good": threshold.tau_good}
            changes |= {
                f"loss.uni.{key}": value for key, value in found.items() if value is not None and key not in given
            }
        arguments = ("train", str(self.out / RECIPE), *_options(changes), *self.train_options)
        return Command(step="train", arguments=arguments, folder=folder)

    def _caches(self, number: int) -> dict[str, Any]:
        """Folders of a round's own for what is kept of the model that it starts from, which is another in each."""
        recipe, found = self.recipe, {}
        if recipe.reference.cache is not None:
            found["reference.cache"] = str(Path(recipe.reference.cache) / f"round-{number}")
        if recipe.processing.feature_cache is not None and recipe.adapter.kind == "none":
            found["processing.feature_cache"] = str(Path(recipe.processing.feature_cache) / f"round-{number}")
        return found

    def _start(self, number: int) -> dict[str, Any]:
        before = str(self.run_of(number - 1))
        adapter = self.recipe.adapter
        if adapter.kind == "none":
            return {"model.path": str(self.run_of(number - 1) / "model")}
        fresh = {"adapter.init": "zero"} if adapter.init != "zero" else {}  # that is how a new adapter begins
        return {"adapter.path": before, **fresh}

    def _model(self, number: int, batched: bool = True) -> tuple[str, ...]:
        """The model that a round trained, as an option, and how it answers.

        Args:
            batched: in batches of ``sample.batch_size``; a benchmark's own size is said elsewhere.
        """
        recipe = self.recipe
        stored = recipe.adapter.stored_as if recipe.adapter.kind != "none" else None
        kwargs = recipe.processing.template_kwargs
        given = {
            "--model": self.run_of(number) if number else recipe.model.path,
            "--adapter": None if number else recipe.adapter.path,
            "--quantization": "nf4" if stored == "fp4" else stored,
            "--max-pixels": recipe.processing.max_pixels,
            "--template-kwargs": json.dumps(kwargs) if kwargs and not number else None,
            "--batch-size": self.sample.batch_size if batched else None,
            "--processes": self.sample.processes if self.sample.processes > 1 else None,
            "--cpu-threads": recipe.cpu_threads,
        }
        return tuple(_flags(given))

    def _benchmark(self, benchmark: BenchmarkSection) -> list[str]:
        questions = [word for file in benchmark.questions for word in ("--questions", file)]
        given = {
            "--image-root": benchmark.image_root or self.recipe.data.root,
            "--protocol": benchmark.protocol,
            "--max-new-tokens": benchmark.max_new_tokens,
            "--batch-size": benchmark.batch_size,
        }
        return ["--benchmark", benchmark.benchmark, *questions, *_flags(given)]

    def _prompts(self) -> SourceSection:
        """Where the prompts are.

        Raises:
            ConfigError: data.train has several sources, and sample.prompts names none.
        """
        if self.sample.prompts is not None:
            return SourceSection(path=self.sample.prompts)
        first, *others = self.recipe.data.train
        if others:
            raise ConfigError(
                f"data.train has {len(others) + 1} sources; say which has the prompts: `sample.prompts={_path(first)}`"
            )
        return SourceSection(path=first) if isinstance(first, str) else first


def _path(source: str | SourceSection) -> str:
    return source if isinstance(source, str) else source.path


def _flags(given: Mapping[str, Any]) -> list[str]:
    """Options of a command line; None and false are left out."""
    found: list[str] = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        found += [name] if value is True else [name, _number(value) if isinstance(value, float) else str(value)]
    return found


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _options(given: Mapping[str, Any]) -> list[str]:
    """``key=value`` words, which a command reads as YAML."""
    return [f"{key}={_in_yaml(value)}" for key, value in given.items()]


def _in_yaml(value: Any) -> str:
    """A value as YAML of one line that reads back as the same; a text as it stands where it can."""
    if isinstance(value, str):
        with contextlib.suppress(ConfigError):
            if parse_value(value, where="a value") == value:
                return value
    return json.dumps(value)
