"""``mmpref sample score``: candidates or pairs in, the same with scores out.

The folder of the step gets ``candidates.jsonl`` (or ``pairs.jsonl``: the pairs whose answers both have a score),
``quarantine.jsonl`` with everything that has none and why, ``scores.json`` with the scorers, their mappings and their
agreement, and at last ``step.json``. ``scores.NAME.jsonl`` is the log of a scorer, from which a run that was stopped
goes on.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmpref.data.quarantine import Quarantine
from mmpref.errors import (
    ConfigError,
    DataError,
)
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over
from mmpref.files.writing import writing_to
from mmpref.sampling.score_files import write_scored
from mmpref.sampling.score_outcome import ScoreOutcome, outcome_of
from mmpref.sampling.score_results import (
    SCORES,
    Earlier,
    earlier_scores,
    mappings_taken,
    put_together,
    weights_of,
)
from mmpref.sampling.score_run import Progress, run_scorer
from mmpref.sampling.score_settings import ScoreSettings
from mmpref.sampling.score_source import Asked, ScoreSource
from mmpref.sampling.scorers import build_scorer
from mmpref.sampling.scorers.contract import PaidScorer, ScoreContext
from mmpref.sampling.steps import CANDIDATES, PAIRS, QUARANTINE, STEP, read_step, write_step

Say = Callable[[str], None]


def score_source(
    source: ScoreSource,
    out: Path,
    settings: ScoreSettings,
    *,
    progress: Progress = lambda done, total: None,
    say: Say = lambda text: None,
) -> ScoreOutcome:
    """Score a source; what was scored before in this folder is taken up.

    A scorer that fails loses nothing of the others: they score all the same, and the outcome has its failure.

    Raises:
        ConfigError: settings that cannot be, or a folder with something else in it.
        DataError: the source cannot be read, or has nothing to score.
        CheckpointError: the folder cannot be written.
    """
    _refuse_outputs(source, out, settings)
    with only_writer(out, "choose another --out"):
        _refuse_other_step(out, source)
        with writing_to(out):
            out.mkdir(parents=True, exist_ok=True)
        asked, quarantine = read_asked(source, out)
        if len(quarantine):
            say(quarantine.summary())
        with contextlib.closing(asked):
            return _score(source, asked, out, settings, progress, say)


def _score(
    source: ScoreSource, asked: Asked, out: Path, settings: ScoreSettings, progress: Progress, say: Say
) -> ScoreOutcome:
    earlier = earlier_scores(source, asked)
    _refuse_unfit(earlier, settings)
    context = ScoreContext(image_root=source.image_root, answering=settings.answering, folder=out)
    results = []
    for wanted in settings.scorers:
        results.append(result := run_scorer(asked, wanted, out, context, progress))
        if result.failure is not None:
            say(f"scorer '{result.name}' could not go on: {result.failure}")
        if result.ignored:
            say(f"scorer '{result.name}': {result.ignored:,} scores of answers that are there no more are left out")
    scored = put_together(asked, results, earlier, settings)
    with writing_to(out):
        (out / STEP).unlink(missing_ok=True)  # it would say of the new files what was true of the old ones
    written = write_scored(out, source, asked, scored)
    outcome = outcome_of(source, asked, scored, settings, written, out)
    write_step(out, outcome.step)
    return outcome


def read_asked(source: ScoreSource, folder: Path) -> tuple[Asked, Quarantine]:
    """All answers of a source, and the rows of it that cannot be used.

    Raises:
        DataError: it has no answer, or cannot be read.
    """
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    asked, quarantine = Asked(folder), Quarantine()
    if source.has_pairs:
        for pair in source.pairs(quarantine):
            asked.add_pair(pair)
    else:
        for item in source.candidates():
            asked.add(item)
    if not asked.num_answers:
        first = f"; the first: {quarantine.rows[0].describe()}" if len(quarantine) else ""
        raise DataError(f"{source.spec} has no answer to score ({quarantine.summary()}){first}")
    return asked, quarantine


def estimates(source: ScoreSource, settings: ScoreSettings, folder: Path) -> list[tuple[str, str]]:
    """What scoring would take, as far as the scorers say it: labels and texts; nothing is scored or written.

    Raises:
        ConfigError: a scorer cannot be built.
        DataError: the source has nothing to score.
    """
    with tempfile.TemporaryDirectory() as temporary:  # nothing is written into the folder of the step
        return _estimates(source, settings, folder, Path(temporary))


def _estimates(source: ScoreSource, settings: ScoreSettings, folder: Path, temporary: Path) -> list[tuple[str, str]]:
    asked, _ = read_asked(source, temporary)
    with contextlib.closing(asked):
        return _estimated(source, asked, settings, folder)


def _estimated(source: ScoreSource, asked: Asked, settings: ScoreSettings, folder: Path) -> list[tuple[str, str]]:
    rows = [("prompts", f"{len(asked):,}"), ("answers", f"{asked.num_answers:,}")]
    context = ScoreContext(image_root=source.image_root, answering=settings.answering, folder=folder)
    for wanted in settings.scorers:
        scorer = build_scorer(wanted.name, wanted.kind, wanted.options, context)
        found = [("estimate", "none: it costs time only")]
        if isinstance(scorer, PaidScorer):
            found = scorer.estimate(asked)
        rows += [(f"{wanted.name}: {label}", text) for label, text in found]
    return rows


def _refuse_outputs(source: ScoreSource, out: Path, settings: ScoreSettings) -> None:
    written = [PAIRS if source.has_pairs else CANDIDATES, QUARANTINE, SCORES, STEP]
    logs = [f"scores.{scorer.name}.jsonl" for scorer in settings.scorers]
    mapping = settings.mapping
    read = None if mapping is None else mapping / SCORES if mapping.is_dir() else mapping
    refuse_written_over({f"--out ({name})": out / name for name in (*written, *logs)}, [*source.files, read])


def _refuse_other_step(out: Path, source: ScoreSource) -> None:
    """Refuse a folder in which something lies that scoring this source did not make."""
    if (out / STEP).is_file():
        step = read_step(out)
        if step.name != "score":
            raise ConfigError(f"{out} has a finished step '{step.name}' in it; choose another --out")
        if step.made_from != (source.made_from,):
            raise ConfigError(f"{out} has the scores of {', '.join(step.made_from)} in it; choose another --out")
        return
    found = [name for name in (CANDIDATES, PAIRS, QUARANTINE, SCORES) if (out / name).exists()]
    if found and not any(out.glob("scores.*.jsonl")):
        raise ConfigError(f"{out} has a {found[0]} that no scoring has written; choose another --out")


def _refuse_unfit(earlier: Earlier, settings: ScoreSettings) -> None:
    """Refuse what could not be put together in the end, before a scorer works for hours."""
    names = [result.name for result in earlier.results]
    for scorer in settings.scorers:
        if scorer.name in names:
            raise ConfigError(
                f"the candidates have scores of a scorer '{scorer.name}' already; give this one another name "
                f"(--scorer NAME={scorer.kind}), or score the candidates from before that step"
            )
    everything = [*names, *(scorer.name for scorer in settings.scorers)]
    weights_of(everything, earlier, settings)
    mappings_taken(everything, settings)
