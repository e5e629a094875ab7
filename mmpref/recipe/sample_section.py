"""The section ``sample`` of a recipe: how ``mmpref sample round`` makes pairs with the model that trains on them.

Its keys are options of ``mmpref sample generate, score, pair`` and of ``mmpref eval``, under the same names.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from mmpref.recipe.value_types import OF_SECTIONS, PathLike, PathText, Settings

_one_or_many = BeforeValidator(lambda value: value if value is None or isinstance(value, list) else [value])


class _Section(BaseModel):
    model_config = OF_SECTIONS


class ScorerSection(_Section):
    """One scorer of candidates."""

    kind: str | None = None
    """objects, agreement, reward, gain, claims or judge; null: its name is its kind."""
    options: Settings = {}
    """Options of the scorer: {truth: objects.json, measure: f1} for objects."""


class PairSection(_Section):
    """How pairs are chosen from the scored candidates; a null leaves it to the default of mmpref sample pair."""

    choose: Literal["best_worst", "margin", "top_k"] | None = None
    """The best against the worst candidate, all pairs over a margin, or the best k against the worst k."""
    k: int | None = Field(default=None, gt=0)
    """With choose top_k."""
    min_margin: float | None = Field(default=None, ge=0)
    """The least difference of the two scores."""
    min_score: float | None = None
    """The least score of a chosen answer."""
    max_per_image: int | None = Field(default=None, gt=0)
    """The most pairs over one image."""
    max_per_prompt: int | None = Field(default=None, gt=0)
    """The most pairs of one prompt."""
    balance_length: bool = False
    """Chosen answers as long as rejected ones on average: best against worst alone may teach to say less."""
    max_length_gap: float | None = Field(default=None, gt=0, le=1)
    """The most that the two lengths of a pair differ, as a share of the longer."""
    cut: Literal["rejected", "drop", "keep"] | None = None
    """Answers that the limit of tokens ended: rejected ones only, left out, or kept on both sides."""
    tau_quantile: float | None = Field(default=None, ge=0, le=1)
    """tau_good is this quantile of the chosen answers' scores, where the recipe gives none."""


class BenchmarkSection(_Section):
    """One benchmark that the start model and the model of each round answer."""

    benchmark: str
    """Name of the benchmark, for example pope or chair."""
    questions: Annotated[list[PathText], _one_or_many] = Field(min_length=1)
    """Its question files; one may be written without the list."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Folder of its results; null: the benchmark's name."""
    image_root: PathLike | None = None
    """Image paths are relative to this folder; null means data.root."""
    protocol: str | None = None
    """How answers are read and counted; null: mmpref's own."""
    max_new_tokens: int | None = Field(default=None, gt=0)
    """The longest answer in tokens; null: the benchmark's own."""
    batch_size: int | None = Field(default=None, gt=0)
    """Questions answered together at most; null: sample.batch_size in rounds, else the default of mmpref eval."""
    options: Settings = {}
    """Options of the benchmark: {synonyms: FILE, prompts: FILE} for chair."""

    @property
    def folder(self) -> str:
        """Name of the folder of its results."""
        return self.name or self.benchmark


class SampleSection(_Section):
    """Rounds of on-policy pairs (``mmpref sample round``): sample, score, pair, train, evaluate."""

    prompts: PathText | None = None
    """The prompts; any source that mmpref data reads, or rows without answers. null: those of data.train."""
    image_root: PathLike | None = None
    """Image paths of the prompts are relative to this folder; null means data.root."""
    question: str | None = None
    """Where prompts is a folder of images: what is asked of each."""
    n: int = Field(default=4, gt=1)
    """Candidates of a prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Of sampling."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sampling is from the likeliest tokens that have this probability together."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of sampling in the first round; each later round adds 1."""
    max_new_tokens: int = Field(default=256, gt=0)
    """The longest candidate in tokens."""
    max_missing: float = Field(default=0.0, ge=0, lt=1)
    """The share of candidates or scores that may be missing before a round stops."""
    batch_size: int | None = Field(default=None, gt=0)
    """Answers made together at most, candidates and benchmarks; null: the default of the commands."""
    processes: int = Field(default=1, gt=0)
    """Processes that share candidates and benchmark questions, one GPU each."""
    scorers: dict[str, ScorerSection] = Field(min_length=1)
    """Name -> scorer; several are averaged on one range."""
    range: list[float] = Field(default=[0.0, 5.0], min_length=2, max_length=2)
    """Lowest and highest score that all scorers are mapped to; those of round 1 are the mapping of all rounds."""
    weights: dict[str, float] = {}
    """Name of a scorer -> its weight in the mean; 1 where nothing is said."""
    pair: PairSection = PairSection()
    """How pairs are chosen."""
    evals: list[BenchmarkSection] = []
    """What the start model and each round's model answer; where it is empty, the recipe's own evals."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        if self.range[0] >= self.range[1]:
            raise ValueError("range is [lowest, highest]")
        if unknown := sorted(self.weights.keys() - self.scorers.keys()):
            raise ValueError(f"weights names '{unknown[0]}', and scorers are {', '.join(self.scorers)}")
        names = [benchmark.folder for benchmark in self.evals]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two evals are called '{double[0]}'; give one of them a name of its own")
        return self
