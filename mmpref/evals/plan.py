"""What an evaluation is: the questions, who answers them and how, what the answers depend on. Nothing is asked yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.evals.benchmarks.contract import Benchmark
from mmpref.evals.files.asked import asked_as
from mmpref.evals.image_check import UNANSWERED
from mmpref.evals.judge import JudgeSettings
from mmpref.evals.model_facts import model_facts, name_of, served_facts
from mmpref.evals.named_setting import images_of_setting, setting_facts, with_setting
from mmpref.evals.results import RESULTS
from mmpref.evals.scoring import benchmark_named, refuse_without_needed, with_defaults
from mmpref.files.reading import refuse_written_over
from mmpref.files.rows import Source, choose, refuse_duplicates
from mmpref.files.writing import real_path, refuse_special
from mmpref.generation import (
    BATCH_SIZE,
    TOKENS_PER_BATCH,
    Answerer,
    AnswerSettings,
    LikelihoodAnswerer,
    ProcessesAnswerer,
    ServerAnswerer,
    TransformersAnswerer,
    fingerprint,
)
from mmpref.generation.answer_log import ANSWERS, IMAGES, ITEMS, SETTINGS
from mmpref.generation.api_server import Server
from mmpref.generation.model_source import Model, ModelSource
from mmpref.generation.ranks import Ranks, ranks
from mmpref.records import EvalSample

VERDICTS = "verdicts.jsonl"
JUDGE_CACHE = "verdicts.cache.jsonl"

Progress = Callable[[int, int], None]
Kind = type[TransformersAnswerer] | type[LikelihoodAnswerer]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """How a benchmark is answered and scored, beside the benchmark's own options.

    Args:
        protocol: whose rules read and count the answers.
        limit: only the first so many questions; more of them can be answered into the same folder later, not fewer.
        seed: of the bootstrap behind the intervals; answers are greedy and have none.
        max_new_tokens: None takes the benchmark's own, or the setting's.
        setting: a way to ask the benchmark that a paper reports, by its name (``Benchmark.settings``).
        batch_size, tokens_per_batch: questions, and tokens with those to come, that are answered together at most.
        processes: how many of this machine answer together, each with a model of its own.
        cpu_threads: threads torch may use on the CPU; None leaves its choice. Sums change in the last digit with it.
        judge: judges the answers before they are scored; the verdicts are written beside the answers.
        progress: called with (answered, all) after every answer.
    """

    protocol: str = "mmpref"
    limit: int | None = None
    seed: int = 0
    max_new_tokens: int | None = None
    setting: str | None = None
    batch_size: int = BATCH_SIZE
    tokens_per_batch: int = TOKENS_PER_BATCH
    processes: int = 1
    cpu_threads: int | None = None
    judge: JudgeSettings | None = None
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFiles:
    """What an evaluation reads beside the model, and where it writes.

    Args:
        questions: of the benchmark: paths, or rows.
        images_root: relative image paths of the questions start here.
        out: the folder of the evaluation.
    """

    questions: Source
    images_root: str | Path | None
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPlan:
    """One evaluation.

    Args:
        benchmark, options: what is asked and scored, with all its options.
        samples: the questions, and ``wanted`` those within the limit.
        model: a path or hub id, a source, or a loaded model; with another ``answerer``, its name.
        answerer: who answers in place of the model in this process; ``server`` is the same where it is a server.
        files: questions, images and the folder.
        depends_on: what the answers depend on, for ``settings.json``.
        asked: what was asked, as the command line would give it.
        setting: what ``results.json`` says of the named setting; None where there is none.
        ranks: the processes that answer together.
    """

    benchmark: Benchmark[Any]
    options: Mapping[str, Any]
    samples: tuple[EvalSample, ...]
    wanted: Sequence[EvalSample]
    model: Model
    answerer: Answerer | None
    server: ServerAnswerer | None
    files: EvalFiles
    depends_on: Mapping[str, Any]
    asked: Mapping[str, Any]
    setting: Mapping[str, Any] | None
    settings: EvalSettings
    ranks: Ranks

    @property
    def opens_images(self) -> bool:
        """Whether images are opened as we do it; an answerer of the caller's opens them in its own way, if at all."""
        return self.answerer is None or self.server is not None

    @property
    def model_name(self) -> str:
        """What ``results.json`` names as the model."""
        return self.server.model if self.server is not None else name_of(self.model)

    def own_answerer(self) -> Answerer:
        """The model, in this process or in several."""
        settings = AnswerSettings(
            batch_size=self.settings.batch_size,
            tokens_per_batch=self.settings.tokens_per_batch,
            device=self.ranks.device,
            cpu_threads=self.settings.cpu_threads,
            **_decoding(self.benchmark, self.settings),
        )
        source = ModelSource(path=str(self.model)) if isinstance(self.model, str | Path) else self.model
        kind, root, num = _kind(self.benchmark), self.files.images_root, self.settings.processes
        if num == 1:
            return kind(source, settings, images_root=root)
        if not isinstance(source, ModelSource):
            raise ConfigError("a model that is loaded already cannot be shared by processes; give its folder")
        root = Path(root) if root is not None else None
        return ProcessesAnswerer(source=source, num=num, images_root=root, settings=settings, kind=kind)


def plan_evaluation(
    model: Model,
    benchmark: str,
    options: Mapping[str, Any],
    *,
    files: EvalFiles,
    answerer: Answerer | Server | None,
    settings: EvalSettings,
) -> EvalPlan:
    """The plan of :func:`mmpref.evals.evaluate`, whose arguments these are; raises what is wrong with them."""
    chosen = benchmark_named(benchmark)
    given = with_setting(chosen, settings.setting, options, settings.max_new_tokens)
    settings = replace(settings, max_new_tokens=given.max_new_tokens)
    complete = _checked_options(chosen, given.options, settings)
    samples = images_of_setting(chosen.load(files.questions, complete), given.setting, complete)
    refuse_duplicates((sample.id for sample in samples), "questions")
    decoding = _decoding(chosen, settings)
    server: ServerAnswerer | None = None
    if isinstance(answerer, Server):
        if chosen.by_likelihood:
            raise ConfigError(f"{benchmark} needs log-probs of given answers, which a chat API does not give")
        answerer = server = ServerAnswerer(answerer, images_root=files.images_root, **decoding)
    kind = _kind(chosen)
    if answerer is not None:
        _refuse_other_kind(answerer, kind, benchmark)
    about = served_facts(server.model) if server is not None else model_facts(model, fetch=answerer is None)
    depends_on = {
        "benchmark": benchmark,
        **about,
        "questions": fingerprint.of_questions(samples, with_targets=chosen.by_likelihood),
        **decoding,
        "answerer": type(answerer).__name__ if answerer is not None else kind.__name__,
        **({"setting": given.setting.name} if given.setting is not None else {}),
    }
    found = ranks()
    if not found.is_alone and (settings.processes > 1 or answerer is not None):
        raise ConfigError("torchrun is for a model that is loaded here, one in each process, with --processes 1")
    return EvalPlan(
        benchmark=chosen,
        options=complete,
        samples=samples,
        wanted=samples[: settings.limit],
        model=model,
        answerer=answerer,
        server=server,
        files=files,
        depends_on=depends_on,
        asked=asked_as(files.questions, options, settings.limit),
        setting=None if given.setting is None else setting_facts(given.setting, complete, settings.limit),
        settings=settings,
        ranks=found,
    )


def refuse_outputs(out: Path, inputs: Iterable[Path], *, judged: bool = False, judge_cache: Path | None = None) -> None:
    """Refuse a folder whose files would be written over inputs, or over each other.

    Args:
        judged: the verdicts of a judge are written there too.
        judge_cache: the cache of its replies, where it is not that of the folder.

    Raises:
        ConfigError: so it is.
        CheckpointError: the cache can be no file.
    """
    if judge_cache is not None:  # which is opened after the last answer
        refuse_special(real_path(judge_cache))
    names = [ANSWERS, SETTINGS, IMAGES, ITEMS, RESULTS, UNANSWERED, *([VERDICTS, JUDGE_CACHE] if judged else [])]
    outputs: dict[str, Path | None] = {f"{name}, a file of --out,": out / name for name in names}
    if judged and judge_cache is not None:  # which may be the one that would be there anyway
        del outputs[f"{JUDGE_CACHE}, a file of --out,"]
    refuse_written_over(outputs | {"--judge-cache": judge_cache if judged else None}, inputs)


def _checked_options(benchmark: Benchmark[Any], options: Mapping[str, Any], settings: EvalSettings) -> dict[str, Any]:
    """The benchmark's options with defaults filled in, when they and the settings fit it."""
    choose(settings.protocol, benchmark.protocols, f"protocol of {benchmark.name}")
    if settings.limit is not None and settings.limit < 1:
        raise ConfigError(f"limit must be >= 1, got {settings.limit}")
    if settings.judge is not None and "verdicts" not in benchmark.options:
        raise ConfigError(f"{benchmark.name} is scored by rules; it has no judge")
    names = {field.name for field in fields(EvalSettings)}
    if ours := [name for name in options if name in names and name not in benchmark.options]:
        raise ConfigError(
            f"{ours[0]} is a setting and no option of {benchmark.name}: give settings=EvalSettings({ours[0]}=...)"
        )
    complete = with_defaults(benchmark, options)
    refuse_without_needed(benchmark, settings.protocol, complete)
    return complete


def _kind(benchmark: Benchmark[Any]) -> Kind:
    return LikelihoodAnswerer if benchmark.by_likelihood else TransformersAnswerer


def _decoding(benchmark: Benchmark[Any], settings: EvalSettings) -> dict[str, int]:
    given = settings.max_new_tokens
    return {
        "max_new_tokens": benchmark.max_new_tokens if given is None else given,
        "num_beams": benchmark.num_beams,
    }


def _refuse_other_kind(answerer: Answerer, wanted: Kind, benchmark: str) -> None:
    """Our answerers either write text or measure log-probs; the wrong one is refused before it answers anything."""
    found = answerer.kind if isinstance(answerer, ProcessesAnswerer) else type(answerer)
    if not isinstance(found, type):
        return
    writes, measures = issubclass(found, TransformersAnswerer | ServerAnswerer), issubclass(found, LikelihoodAnswerer)
    if (writes and wanted is LikelihoodAnswerer) or (measures and wanted is not LikelihoodAnswerer):
        needs = "log-probs of given answers" if wanted is LikelihoodAnswerer else "answers as text"
        raise ConfigError(f"{benchmark} needs {needs}, which {found.__name__} does not give; use {wanted.__name__}")
