"""The pairs of one run: read, checked, held out, repeated, and measured against the model's limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.data.accepted import Demonstrations, accepted_for
from mmpref.data.commands.next_steps import (
    advice,
    advice_on_ids,
    check_command,
    fix_name,
    override,
    report_folder,
)
from mmpref.data.image_check import ImageCheck
from mmpref.data.images.loader import ImageLoader
from mmpref.data.loading import Advice, FindBroken, load_each
from mmpref.data.manifest import Listing
from mmpref.data.mixture import RootedImages, RootedVideos, repeat
from mmpref.data.opening import frame_rule, recipe_sources, videos_of, weights
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import Quarantine
from mmpref.data.single_answers import describe_single_answers, single_answers
from mmpref.data.split import split_by_image
from mmpref.data.verification import describes, verify
from mmpref.data.videos.loader import VideoLoader
from mmpref.errors import ConfigError, DataError
from mmpref.files.hashes import Say, content_hashes
from mmpref.losses.objective import Objective
from mmpref.recipe.sections import DataSection, Recipe, SourceSection
from mmpref.records import PreferencePair
from mmpref.training.parallel.world import SINGLE_PROCESS, World
from mmpref.training.run.other_rows import ImagesOfRows


@dataclass(frozen=True, slots=True)
class RunData:
    """What a run trains and is evaluated on."""

    train: list[PreferencePair]
    eval: list[PreferencePair]
    images: ImageLoader | RootedImages
    quarantine: Quarantine
    train_hashes: tuple[str, ...]
    eval_hashes: tuple[str, ...]
    manifest: str | None
    """Hash of the manifest that the data was proved to match."""
    sources: tuple[PairSource, ...]
    """Of the training rows, held-out ones among them."""
    videos: VideoLoader | RootedVideos


def load_data(
    recipe: Recipe,
    objective: Objective,
    quarantine: Quarantine,
    *,
    world: World = SINGLE_PROCESS,
    say: Say | None = None,
) -> RunData:
    """Read, check, hold out and repeat, as the recipe's ``data`` section says.

    Every image is decoded once, unless a manifest says that it was, or ``data.check_images`` asks for headers alone.

    Args:
        recipe: what to read.
        objective: says whether an answer alone is a row, and whether scores are needed.
        quarantine: gets the rows that are not used, and the counts.
        world: the processes that share the decoding; all must call this together.
        say: called with the number of images that were decoded, and of single answers where the loss takes those.

    Raises:
        DataError: rows that cannot be used, beyond what ``data.max_bad_fraction`` allows, and whatever else makes the
            data unfit for the objective.
    """
    section = recipe.data
    train_sources, eval_sources, images = recipe_sources(section, frame_rule(recipe.processing))
    demonstrations = accepted_for(needs_rejected=objective.needs_rejected, needs_labels=objective.needs_labels)
    checked = None
    if section.manifest is not None:
        checked = verify(section.manifest, train_sources, demonstrations=demonstrations)
        quarantine.expected = checked.skip
    look = ImageCheck(rank=world.rank, size=world.size, gather=world.gather, say=say)
    look_deeper = None if section.check_images == "header" else look
    lists = load_each(
        train_sources,
        allow_demonstrations=demonstrations,
        quarantine=quarantine,
        max_bad_fraction=section.max_bad_fraction,
        skip=None if checked is None else checked.skip,
        find_broken=look_deeper if checked is None else None,
        advice=Advice(
            on_bad_rows=lambda: advice(train_sources, quarantine, demonstrations=demonstrations),
            on_ids=lambda: advice_on_ids(train_sources, demonstrations=demonstrations),
        ),
    )
    if checked is not None:
        checked.verify_images(train_sources, lists, full=section.verify == "full")
    train_hashes = _hashes(section.train, train_sources, lists)
    others = ImagesOfRows(mode=section.other_image, seed=recipe.processing.other_image.seed, images=images, say=say)
    eval_lists: list[list[PreferencePair]] = []
    eval_hashes: tuple[str, ...] = ()
    if eval_sources:
        eval_lists = _held_out_pairs(section, eval_sources, demonstrations, look_deeper)
        eval_hashes = _hashes(section.eval, eval_sources, eval_lists)
    elif section.held_out:
        lists, eval_lists = _hold_out(lists, section.held_out, recipe.seed, all_rows=objective.needs_labels)
    trained = [pair for found in lists for pair in found]
    # of each side its own images, so that no image of held-out rows is trained under another answer
    lists = others(lists, train_sources)
    held_out_from = eval_sources or (train_sources if eval_lists else [])
    eval_lists = others(eval_lists, held_out_from, more=[trained for _ in eval_lists])
    evaluated = [pair for found in eval_lists for pair in found]
    pairs = [
        pair
        for found, weight in zip(lists, weights(section), strict=True)
        for pair in (found if weight == 1 else repeat(found, weight, seed=recipe.seed))
    ]
    _refuse_trained_pairs(pairs, evaluated)
    if objective.needs_labels:
        pairs, evaluated = (single_answers(found, seed=recipe.seed) for found in (pairs, evaluated))
        if say is not None:
            say(describe_single_answers(pairs, **objective.settings["kto"]))
    if objective.requires_scores:
        _refuse_missing_scores([*pairs, *evaluated], objective)
    manifest = None if checked is None else checked.hash
    videos = videos_of([*train_sources, *eval_sources])
    sources = tuple(train_sources)
    return RunData(pairs, evaluated, images, quarantine, train_hashes, eval_hashes, manifest, sources, videos)


def _held_out_pairs(
    section: DataSection, sources: Sequence[PairSource], demonstrations: Demonstrations, look: FindBroken | None
) -> list[list[PreferencePair]]:
    """The pairs of ``data.eval``, source by source: every one is used, so that two runs are compared on the same ones;
    except those that the manifest of a data check of these files has quarantined.
    """
    checked = None
    if section.manifest is not None and describes(section.manifest, sources):
        checked = verify(section.manifest, sources, demonstrations=demonstrations)
    quarantine = Quarantine(expected=None if checked is None else checked.skip)

    def advise() -> list[str]:
        clean, folder = fix_name(sources), report_folder(sources)
        more = ["--out", str(folder), "--fix", str(clean)]
        command = check_command(sources, demonstrations=demonstrations, more=more)
        which = "these are rows of data.eval, all of which must be usable"
        if command is None:
            return [f"{which}; mmpref data check SOURCE --fix FILE writes a clean file of one source"]
        return [
            f"{which}: write the good ones to a file of their own with",
            f"  {command}",
            "and start this command again with",
            f"  {override('data.eval', {'path': str(clean), 'root': str(clean.parent)})}",
        ]

    lists = load_each(
        sources,
        allow_demonstrations=demonstrations,
        quarantine=quarantine,
        max_bad_fraction=0.0,
        skip=quarantine.expected,
        find_broken=look if checked is None else None,
        advice=Advice(on_bad_rows=advise, on_ids=lambda: advice_on_ids(sources, demonstrations=demonstrations)),
    )
    if checked is not None:
        checked.verify_images(sources, lists, full=section.verify == "full")
    return lists


def _refuse_trained_pairs(pairs: Sequence[PreferencePair], evaluated: Sequence[PreferencePair]) -> None:
    trained = {(pair.id, pair.chosen, pair.rejected) for pair in pairs}
    twice = [pair.id for pair in evaluated if (pair.id, pair.chosen, pair.rejected) in trained]
    if twice:
        raise DataError(
            f"{len(twice)} of the {len(evaluated)} pairs of data.eval are trained on too (first id {twice[0]!r}), so "
            "an evaluation on them would say nothing; give other pairs, or write `'data.eval=[]' data.held_out=0.05`"
        )


def _refuse_missing_scores(pairs: Sequence[PreferencePair], objective: Objective) -> None:
    missing = [pair.id for pair in pairs if pair.score_chosen is None]
    if missing:
        settings = objective.settings
        plain = "adadpo" if settings["ada"] is not None and settings["base"] == "dpo" else settings["base"]
        neutral = "loss.uni.on_missing_score=neutral" + (" loss.uni.nll_lambda=0" if len(missing) == len(pairs) else "")
        raise DataError(
            f"{len(missing)} of {len(pairs)} pairs have no score_chosen and score_rejected (first id {missing[0]!r}), "
            f"and this loss reads them; write `loss.name={plain} loss.uni=null`, and no key below loss.uni, for the "
            "loss without weights; or switch off what reads them: `loss.uni.eta=null loss.uni.nll_lambda=0`; or take "
            f"pairs without scores as neutral: `{neutral}`"
        )


def _hold_out(
    lists: Sequence[list[PreferencePair]], share: float, seed: int, *, all_rows: bool
) -> tuple[list[list[PreferencePair]], list[list[PreferencePair]]]:
    """The pairs of each source that train, and those that are held out: split by image over all sources together,
    before pairs are repeated by weight."""
    _, evaluated = split_by_image([pair for pairs in lists for pair in pairs], held_out=share, seed=seed)
    taken = {pair.id for pair in evaluated}
    kept = [[pair for pair in pairs if pair.id not in taken] for pairs in lists]
    if not all_rows:  # margins where there are any
        evaluated = [pair for pair in evaluated if pair.rejected is not None] or evaluated
    if not any(kept) or not evaluated:
        raise ConfigError(
            f"data.held_out={share:g} leaves nothing on one side: "
            f"{sum(map(len, lists))} pairs in all; write `data.held_out=0`"
        )
    held_out = {pair.id for pair in evaluated}
    return kept, [[pair for pair in pairs if pair.id in held_out] for pairs in lists]


def _hashes(
    entries: Sequence[str | SourceSection], sources: Sequence[PairSource], lists: Sequence[Sequence[PreferencePair]]
) -> tuple[str, ...]:
    together = zip(entries, sources, lists, strict=True)
    return tuple(_hash(entry, source, pairs) for entry, source, pairs in together)


def _hash(entry: str | SourceSection, source: PairSource, pairs: Sequence[PreferencePair]) -> str:
    """Hash of a source's content and of how it is read; of a plain file, the hash of its bytes.

    Of a source without files (a hub id) the pairs are hashed, with the bytes of embedded images.
    """
    hashes = list(content_hashes(source.rows.files, DataError).values())
    if isinstance(entry, str) and len(hashes) == 1:
        return hashes[0]
    said = {} if isinstance(entry, str) else entry.model_dump(mode="json", exclude={"path", "root"})
    facts: list[Any] = [hashes or source.rows.spec, said]
    if not hashes:
        read = Listing()
        for pair in pairs:
            read.add_pair(pair, source.images)
        facts.append(read.pairs)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
