"""Preference pairs of scored candidates: read twice, first to choose and then to write, so that texts are not kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmpref.data.audit.scores import Scores, ScoreTally
from mmpref.data.pair_writing import json_line
from mmpref.errors import ConfigError, DataError
from mmpref.files.locking import only_writer
from mmpref.files.reading import read_json, refuse_written_over
from mmpref.files.writing import json_text, replacing, write_text
from mmpref.records import Candidate, Candidates, PreferencePair
from mmpref.sampling.candidate_files import read_candidates
from mmpref.sampling.length_balance import Limits, Selection, choose, is_even
from mmpref.sampling.pair_card import CARD, CardFacts, LengthBias, card_text, next_command
from mmpref.sampling.possible_pairs import UNSCORED, Collected, Collector, PairSettings, Sides
from mmpref.sampling.steps import (
    CANDIDATES,
    PAIRS,
    QUARANTINE,
    STEP,
    Step,
    file_of_step,
    read_step,
    refuse_foreign,
    write_step,
)

BALANCE, PER_IMAGE = "balance_length", "max_per_image"
"""Why a prompt with possible pairs gives none."""
_SCORES = "scores.json"
LEAST_KEPT = 0.5
"""A balance that keeps a smaller share of the pairs than this is worth a warning."""
BIASED = 0.05
"""Lengths that differ by a larger share than this are worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Scored candidates to make pairs of.

    Args:
        file: the candidates.
        step: how they were made, where that is known.
        image_root: absolute folder that relative image paths start from.
        range: declared for the scores; None where nobody did.
    """

    file: Path
    step: Step | None
    image_root: Path
    range: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairResult:
    """What was made.

    Args:
        step: what ``step.json`` says.
        lengths: title -> lengths of the two sides.
        next_command: trains on the pairs.
        warnings: what the user should look at, in sentences.
    """

    step: Step
    lengths: Mapping[str, LengthBias]
    next_command: str
    warnings: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """(name, text) for the terminal."""
        counts, facts = self.step.counts, self.step.facts
        rows = [
            ("pairs", f"{counts['pairs']:,}, of {counts['prompts with pairs']:,} of {counts['prompts']:,} prompts"),
            ("prompts without a pair", _said(counts["prompts without"])),
            ("answers", _said(counts["answers"])),
            ("pairs of answers left out", _said(counts["answer pairs left out"])),
        ]
        rows += [(f"lengths {title}", found.describe()) for title, found in self.lengths.items()]
        rows += [(f"{key} of Uni-DPO", f"{facts[key]:.4g}") for key in ("eta", "tau_good") if facts[key] is not None]
        return rows


def open_scored(source: Path, *, image_root: Path | None = None, partial: bool = False) -> Scored:
    """The scored candidates of a step's folder, or in a file.

    Args:
        image_root: default: that of the step, or the file's own folder.
        partial: take a step that is not complete.

    Raises:
        ConfigError: nothing is there, or not what can be made pairs of.
        DataError: a damaged step, or one that is not complete.
    """
    if source.is_dir() and (source / PAIRS).is_file() and not (source / CANDIDATES).is_file():
        raise ConfigError(f"{source} has pairs already ({PAIRS}): train on them, or audit them with mmpref data audit")
    file, step = file_of_step(source, [CANDIDATES])
    if step is not None and step.name in ("generate", "merge"):
        raise ConfigError(f"the candidates in {source} have no scores yet; first: mmpref sample score {source} ...")
    if step is not None and not step.complete and not partial:
        raise DataError(
            f"the scores in {source} are not complete: run that step again, or take what there is with --partial"
        )
    if image_root is not None and not image_root.expanduser().is_dir():
        raise ConfigError(f"--image-root {image_root} is no folder")
    found = image_root if image_root is not None else None if step is None else step.image_root
    root = (file.parent if found is None else found).expanduser().absolute()
    return Scored(file=file, step=step, image_root=root, range=_declared_range(file, step))


def _declared_range(file: Path, step: Step | None) -> tuple[float, float] | None:
    given = None if step is None else step.settings.get("range")
    if given is None and (beside := file.parent / _SCORES).is_file():
        content = read_json(beside, DataError, "the scorers")
        given = content.get("range") if isinstance(content, Mapping) else None
    try:
        low, high = map(float, given or ())
    except (TypeError, ValueError):
        return None
    return (low, high) if low < high else None


def make_pairs(
    scored: Scored, out: Path, settings: PairSettings, *, progress: Callable[[int], None] = lambda _: None
) -> PairResult:
    """Make pairs of scored candidates, with their data card.

    Args:
        out: folder; of an earlier run of this step or a new one.
        progress: gets how many prompts have been read.

    Raises:
        ConfigError: ``out`` is the folder of another step or has a file of somebody else's, or another process writes
            there.
        DataError: the candidates are damaged, or give no pair; ``quarantine.jsonl`` then says why of each prompt.
        CheckpointError: a file cannot be written.
    """
    files = {name: out / name for name in (PAIRS, QUARANTINE, CARD, STEP)}
    refuse_written_over(
        {f"--out {name}": path for name, path in files.items()}, [scored.file, scored.file.parent / STEP]
    )
    if files[STEP].is_file() and (other := read_step(out)).name != "pair":
        raise ConfigError(f"{out} is the folder of another step ({other.name}); choose another --out")
    refuse_foreign(out, (PAIRS, CARD), begun=(QUARANTINE,))
    with only_writer(out, "choose another --out"):
        for name in (STEP, CARD, PAIRS):  # in this order: what an earlier run made is not whole from here on
            files[name].unlink(missing_ok=True)
        return _make(scored, out, settings, progress)


def _make(scored: Scored, out: Path, settings: PairSettings, progress: Callable[[int], None]) -> PairResult:
    collector = Collector(settings)
    scorers: set[str] = set()
    for number, found in enumerate(read_candidates(scored.file), 1):
        collector.add(found)
        progress(number)
        scorers.update(f"{score.scorer} {score.version}" for answer in found.answers for score in answer.scores)
    collected = collector.finish()
    selection = Selection(plain=(empty := np.zeros(0, dtype=np.int64)), kept=empty)
    if collected.pairs.prompt.size:
        limits = Limits(per_prompt=settings.per_prompt, per_image=settings.max_per_image)
        selection = choose(collected.pairs, limits, balance=settings.balance_length)
    without = _without_pair(collected, selection)
    with replacing(out / QUARANTINE) as stream:
        for number, (reason, detail) in sorted(without.items()):
            row = {"id": collected.ids[number], "reason": reason, "detail": detail}
            stream.write((json_text(row) + "\n").encode("utf-8"))
    reasons = Counter(reason for reason, _ in without.values())
    if not selection.kept.size:
        raise DataError(_no_pair(scored, out, collected, reasons))
    written = _Written()
    with replacing(out / PAIRS) as stream:
        for pair in _pairs(scored.file, collected, selection):
            stream.write(json_line(pair))
            written.add(pair)
    scores = written.scores(scored.range, collected.pairs.words[selection.kept])
    eta = scores.proposed_eta
    lengths = {"of these pairs": LengthBias.of(collected.pairs, selection.kept, eta)}
    if settings.balance_length:
        lengths["without the balance"] = LengthBias.of(collected.pairs, selection.plain, eta)
    given = {name: value for name, value in asdict(settings).items() if value is not None}
    image_root = scored.image_root if written.images == "paths" else None
    facts = CardFacts(
        made_from=scored.file,
        scorers=sorted(scorers),
        range=scored.range,
        images=written.images,
        image_root=image_root,
        scores=scores,
        tau_good=float(np.quantile(written.chosen, settings.tau_quantile)),
        tau_quantile=settings.tau_quantile,
        without=reasons,
        lengths=lengths,
        settings=given,
        prompts=len(collected.ids),
        prompts_used=int(np.unique(collected.pairs.prompt[selection.kept]).size),
    )
    write_text(out / CARD, card_text(facts))
    step = Step(
        name="pair",
        complete=True,
        image_root=image_root,
        made_from=(str(scored.file if scored.step is None else scored.file.parent),),
        settings=given,
        counts=_counts(collected, selection, reasons, facts),
        facts={
            "eta": facts.eta,
            "tau_good": facts.tau_good,
            "range": None if scored.range is None else list(scored.range),
            "scorers": sorted(scorers),
            "balance": {"way": selection.way, "price": selection.price},
            "lengths": {title: found.as_json() for title, found in lengths.items()},
        },
    )
    write_step(out, step)
    command = next_command((out / PAIRS).absolute(), image_root, facts.eta, facts.tau_good)
    warnings = tuple(_warnings(collected, selection, facts, settings))
    return PairResult(step=step, lengths=lengths, next_command=command, warnings=warnings)


def _said(counts: Mapping[str, int]) -> str:
    """Counts in words, the highest first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered) or "none"


@dataclass(slots=True)
class _Written:
    """What is known of the pairs that were written."""

    chosen: list[float] = field(default_factory=list)
    images: Literal["none", "paths", "bytes"] = "none"
    tally: ScoreTally = field(default_factory=ScoreTally)

    def add(self, pair: PreferencePair) -> None:
        self.tally.add(pair)
        self.chosen.append(pair.score_chosen or 0.0)
        frames = [frame for video in pair.videos for frame in video.frames]
        paths = [image.path for image in (*pair.images, *frames)] + [video.path for video in pair.videos]
        if any(path is not None for path in paths):
            self.images = "paths"
        elif paths and self.images == "none":
            self.images = "bytes"

    def scores(self, scale: tuple[float, float] | None, words: Any) -> Scores:
        return self.tally.finish(eta=0.7, tau_good=None, scale=scale, words=words)


def _pairs(file: Path, collected: Collected, selection: Selection) -> Iterator[PreferencePair]:
    """The chosen pairs in the order of their prompts; those of one prompt by margin."""
    chosen: dict[int, list[int]] = {}
    for place in selection.kept.tolist():
        chosen.setdefault(int(collected.pairs.prompt[place]), []).append(place)
    taken = {collected.ids[number] for number in chosen}
    margin = collected.pairs.margin
    for number, found in enumerate(read_candidates(file)):
        if number >= len(collected.ids) or found.prompt.id != collected.ids[number]:
            raise DataError(f"{file} has changed while it was read; run this again")
        places = sorted(chosen.get(number, ()), key=lambda place: (-margin[place], place))
        for rank, place in enumerate(places, 1):
            name = found.prompt.id
            if len(places) > 1:
                name = f"{name}#{rank}"
                while name in taken:  # a prompt that is called so
                    name += "_"
                taken.add(name)
            yield _pair(found, collected.sides[place], name)


def _pair(found: Candidates, sides: Sides, name: str) -> PreferencePair:
    prompt, (better, worse) = found.prompt, (found.answers[sides.chosen], found.answers[sides.rejected])
    sampled: dict[str, Any] = {"prompt": prompt.id, "candidates": sum(answer.times for answer in found.answers)}
    sampled |= {"chosen": _facts_of(better), "rejected": _facts_of(worse)}
    return PreferencePair(
        id=name,
        images=prompt.images,
        prompt=prompt.prompt,
        chosen=better.text,
        rejected=worse.text,
        response_prefix=prompt.response_prefix,
        score_chosen=better.score,
        score_rejected=worse.score,
        source=prompt.source,
        meta={**prompt.meta, "sample": sampled},
        template_kwargs=prompt.template_kwargs,
        videos=prompt.videos,
    )


def _facts_of(answer: Candidate) -> dict[str, Any]:
    facts: dict[str, Any] = {"seed": answer.seed, "times": answer.times, "cut": answer.cut or None}
    facts["scores"] = {score.scorer: score.raw for score in answer.scores} or None
    return {key: value for key, value in facts.items() if value is not None}


def _without_pair(collected: Collected, selection: Selection) -> dict[int, tuple[str, str]]:
    """Number of each prompt that gives no pair -> reason and detail."""
    prompt = collected.pairs.prompt
    kept, plain = (set(prompt[places].tolist()) for places in (selection.kept, selection.plain))
    found = dict(collected.unused)
    for number in set(prompt.tolist()) - kept:
        if number in plain:
            found[number] = BALANCE, "its pairs would make one side longer than the other"
        else:
            found[number] = PER_IMAGE, "its image has enough pairs of other prompts, of higher margins"
    return found


def _counts(collected: Collected, selection: Selection, reasons: Mapping[str, int], facts: CardFacts) -> dict[str, Any]:
    """Prompts = prompts with pairs + those without by reason; answer pairs = kept + left out by reason."""
    possible, kept = int(collected.pairs.prompt.size), int(selection.kept.size)
    left_out = {**collected.compared, "not_chosen": possible - kept}
    return {
        "prompts": facts.prompts,
        "prompts with pairs": facts.prompts_used,
        "prompts without": dict(reasons),
        "answers": dict(collected.answers),
        "answer pairs": collected.compared.total() + possible,
        "answer pairs left out": {reason: count for reason, count in left_out.items() if count},
        "pairs": kept,
    }


def _no_pair(scored: Scored, out: Path, collected: Collected, reasons: Mapping[str, int]) -> str:
    if not collected.ids:
        return f"{scored.file} holds no candidates"
    advice = {
        UNSCORED: "score them first with mmpref sample score",
        BALANCE: "all possible pairs have the same side longer: leave --balance-length out, or sample more candidates",
    }.get(max(reasons, key=lambda reason: reasons[reason]), "sample more candidates, or ask for less")
    return (
        f"none of the {len(collected.ids):,} prompts gives a pair ({_said(reasons)}): {advice}; each is listed in "
        f"{out / QUARANTINE}"
    )


def _warnings(collected: Collected, selection: Selection, facts: CardFacts, settings: PairSettings) -> Iterator[str]:
    """What the user should look at, in sentences."""
    now = facts.lengths["of these pairs"]
    share = selection.kept.size / selection.plain.size
    if settings.balance_length and not is_even(collected.pairs, selection.kept):
        yield (
            f"the lengths could not be balanced: a difference of {now.difference:+.1f} words is left; more candidates "
            "of each prompt may help"
        )
    if settings.balance_length and share < LEAST_KEPT:
        yield f"the balance kept {share:.0%} of {selection.plain.size:,} pairs; more candidates a prompt may keep more"
    length = ((now.chosen or 0.0) + (now.rejected or 0.0)) / 2
    if not settings.balance_length and abs(now.difference) > BIASED * length:
        what = "longer" if now.difference > 0 else "shorter"
        yield (
            f"the chosen answers are {what} than the rejected ones ({now.difference:+.1f} words of {length:.0f}): "
            f"training on them teaches {what} answers; --balance-length keeps the most margin without that"
        )
    if facts.image_root is not None and not facts.image_root.is_dir():
        yield f"the images start from {facts.image_root}, which is not there; --image-root says where they are now"
    if facts.range is None:
        yield "nobody declared a range for the scores: eta is taken from the scores themselves"
    if facts.eta is None:
        yield "all scores are equal or unusable, so there is no eta"
