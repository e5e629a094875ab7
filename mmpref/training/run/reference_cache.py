"""Reference log-probs, computed once: token by token for every pair, on disk, under a key that refuses what is stale.

The folder holds ``facts.json`` (what the numbers depend on besides the pair itself) and ``part-*.safetensors``, each
with some hundred pairs, written atomically: a run that is killed goes on with the next part. A part has the
sha256 of its bytes for a name and says in itself which facts it belongs to, so that one that was damaged, renamed or
brought from another cache is refused; one that is gone is computed anew. A pair is found by a hash of the very tensors
that the model is given, so another template, tokenizer, image or pixel budget cannot be taken for the one that was
computed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmpref.errors import CheckpointError, ConfigError, MMPrefError, library_errors, one_line
from mmpref.files.hashes import Say, joined
from mmpref.files.temporary import remove_abandoned
from mmpref.files.writing import replacing, write_json, writing_to
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.reference import eval_mode
from mmpref.process.children import begin_loader_worker
from mmpref.processing.batch import PairBatch, to_device
from mmpref.processing.collate import PairCollator
from mmpref.processing.pixels import num_pixels
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.training.parallel.world import ALONE, World
from mmpref.training.precision import dtype_fact
from mmpref.training.run.start_adapter import start_facts
from mmpref.training.run.start_model import model_fingerprint, processor_fingerprint
from mmpref.training.trainer.checkpoint import differences
from mmpref.training.trainer.update_watch import (
    describe_batch,
    explain_oom,
    explain_worker_oom,
    is_out_of_memory,
    remedies_for,
)

FACTS = "facts.json"
FORMAT = 2
"""1 had parts without a hash, and hashes of the ends of the model's files."""
_OF = "facts"
_PART = re.compile(r"part-([0-9a-f]{64})\.safetensors")
PAIRS_PER_PART = 256
_BATCH = 4
_Entry = tuple[Tensor, Tensor | None]  # log-probs of the chosen answer's tokens and of the rejected one's


class ReferenceCache:
    """Reference log-probs by pair; a ``models.reference.Reference``.

    Attributes:
        explanation: where the numbers come from, in one sentence.
    """

    is_start = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.explanation = f"log-probs computed before and kept in {folder}: no second model in memory"
        self._entries: dict[str, _Entry] = {}
        self._facts_hash = ""

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any]) -> ReferenceCache:
        """The cache in a folder, new or as it was left.

        Raises:
            ConfigError: it was computed with another model, adapter, processor, template or precision; says what
                changed.
            CheckpointError: it cannot be read or written.
        """
        cache = cls(folder)
        facts = json.loads(json.dumps({**facts, "format": FORMAT}))
        cache._facts_hash = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        file = folder / FACTS
        remove_abandoned(folder, FACTS)
        remove_abandoned(folder, "part-*.safetensors")
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise ConfigError(f"{folder} holds something else than a reference cache; give reference.cache another")
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(file, facts)
            return cache
        remedy = f"delete {folder} to compute it anew, or give reference.cache another folder"
        with library_errors(CheckpointError, f"{file} cannot be read", remedy):
            before = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise CheckpointError(f"{file} cannot be read: it holds no JSON object; {remedy}")
        if before.get("format") != FORMAT:
            raise ConfigError(
                f"the reference cache in {folder} is of another version of mmpref, whose parts cannot be proved; "
                f"{remedy}"
            )
        if changes := differences(before, facts):
            raise ConfigError(
                f"the reference cache in {folder} is stale: {'; '.join(changes)}. Give reference.cache another folder, "
                "or delete this one"
            )
        cache._read_parts()
        return cache

    def _read_parts(self) -> None:
        faults: dict[Path, str] = {}
        for part in sorted(self.folder.glob("part-*")):
            found = _read(part, self._facts_hash)
            if isinstance(found, str):
                faults[part] = found
            else:
                self._entries.update(found)
        if faults:
            told = "; ".join(f"{part.name} {fault}" for part, fault in faults.items())
            remove = shlex.join(["rm", "-r", *(str(part) for part in faults)])
            raise CheckpointError(
                f"the reference cache in {self.folder} is not what was written: {told}; `{remove}` lets the pairs in "
                f"{'it' if len(faults) == 1 else 'them'} be computed anew"
            )

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._entries)

    def fill(
        self,
        policy: nn.Module,
        collator: PairCollator,
        pairs: Sequence[PreferencePair],
        *,
        device: torch.device,
        say: Say,
        world: World = ALONE,
        workers: int = 0,
    ) -> None:
        """Compute what is missing, with the policy as it stands before its first step. Ranks share the pairs.

        Args:
            policy: the reference is what it says now.
            collator: as training will use it, ``keyed``.
            pairs: all that training and evaluation will ask for.
            device: where the policy runs; it is moved there, unless it is sharded.
            world: all its ranks must call this together.
            workers: processes that open and process images meanwhile; 0 does it in this one, in turn with the model.
                Every image is processed, also where nothing is missing: its pixels are the key.

        Raises:
            CheckpointError: the folder cannot be written.
            DataError: a pair cannot be used, or a worker died.
            OutOfMemoryError: memory ran out on one pair alone.
        """
        both = collator.changed(need_rejected=all(pair.rejected is not None for pair in pairs))
        unique = {pair.id: pair for pair in pairs}  # a weighted source repeats its pairs
        waiting: dict[str, _Entry] = {}
        computed = 0
        if not world.model_is_wrapped_in_train:
            policy.to(device)
        share = list(unique.values())[world.rank :: world.size]
        doing = "filling the reference cache"
        with torch.no_grad(), eval_mode(policy), explain_worker_oom(lambda: doing):
            for batch in _in_step(_missing(both, share, self._entries, workers), both, world):
                world.report_progress(0, doing, batch.counted_ids)
                waiting.update(_in_parts(policy, both, batch, unique, device, may_split=not world.is_sharded))
                computed += batch.counted
                if len(waiting) >= PAIRS_PER_PART:
                    self._keep(waiting)
                    say(f"reference cache: {computed * world.size} pairs computed")
                    waiting = {}
        if waiting:
            self._keep(waiting)
        [computed] = world.total([computed])
        if world.size > 1:  # what the others computed
            self._read_parts()
        if computed:
            say(f"reference cache: {computed} pairs computed, {len(unique) - computed} were there ({self.folder})")

    def logps(self, batch: PairBatch) -> tuple[Tensor, Tensor | None]:
        """Sums of answer log-probs, (chosen [B], rejected [B] or None).

        Raises:
            ConfigError: a pair that is not in the cache as the model is given it now.
        """
        if not batch.keys:
            raise ConfigError("the reference cache needs batches with keys: make the collator with keyed=True")
        found = []
        for name, key in zip(batch.pair_ids, batch.keys, strict=True):
            if key not in self._entries:
                raise ConfigError(
                    f"pair '{name}' is not in the reference cache {self.folder} as the model is given it now: its text "
                    "or image, or how they are processed, has changed since; delete the folder or give "
                    "reference.cache another"
                )
            found.append(self._entries[key])
        sides: list[Tensor] = [chosen for chosen, _ in found]
        if batch.has_rejected:
            sides += [rejected for _, rejected in found if rejected is not None]
        width = batch.answers.shape[1]
        rows = torch.zeros(len(sides), width)
        for row, side in zip(rows, sides, strict=True):
            row[: len(side)] = side
        return batch.halves(to_device(rows.sum(dim=1), batch.input_ids.device))

    def _keep(self, entries: Mapping[str, _Entry]) -> None:
        tensors = {}
        for key, (chosen, rejected) in entries.items():
            tensors[f"{key}.chosen"] = chosen
            if rejected is not None:
                tensors[f"{key}.rejected"] = rejected
        content = save(tensors, metadata={_OF: self._facts_hash})
        with replacing(self.folder / f"part-{hashlib.sha256(content).hexdigest()}.safetensors") as stream:
            stream.write(content)
        self._entries.update(entries)


def cache_facts(recipe: Recipe, loaded: LoadedModel, collator: PairCollator) -> dict[str, Any]:
    """What reference log-probs depend on besides the pair, by name."""
    processing, adapter = recipe.processing, recipe.adapter
    return {
        "model": model_fingerprint(recipe.model.path),
        "model.dtype": dtype_fact(recipe),
        "model.stored_as": adapter.stored_as,
        "processor and template": joined(processor_fingerprint(recipe.model.path)),
        "processing.max_length": processing.max_length,
        "processing.min_pixels": processing.min_pixels,
        "processing.max_pixels": processing.max_pixels,
        "processing.shrink_images": processing.shrink_images,
        "train.bf16": recipe.train.bf16,
        "train.fp16": recipe.train.fp16,
        "layout": collator.layout,
        "pair key": "each prompt once",  # before it was twice: such a cache has other keys
        "family": loaded.family.name,
        **({"processing.template_kwargs": processing.template_kwargs} if processing.template_kwargs else {}),
        **start_facts(recipe),
    }


def _missing(
    collator: PairCollator, pairs: Sequence[PreferencePair], have: Mapping[str, _Entry], workers: int
) -> Iterator[PairBatch]:
    """Batches in which a pair is not there yet."""
    chunks = [pairs[begin : begin + _BATCH] for begin in range(0, len(pairs), _BATCH)]
    loader: DataLoader[Any] = DataLoader(
        chunks,  # type: ignore[arg-type]  # torch takes any sequence for a dataset; its types do not say so
        batch_size=None,
        collate_fn=_MissingRows(collator, frozenset(have)),
        num_workers=workers,
        generator=torch.Generator(),  # the run's own random state is not touched
        worker_init_fn=begin_loader_worker,
    )
    for chunk, batches in zip(chunks, loader, strict=True):
        yield from collator.rows(chunk) if batches is None else batches


@dataclass(frozen=True, slots=True)
class _MissingRows:
    """What a worker makes of some pairs: only what is missing travels to the process with the model."""

    collator: PairCollator
    have: frozenset[str]

    def __call__(self, pairs: Sequence[PreferencePair]) -> tuple[PairBatch, ...] | None:
        try:
            return tuple(batch for batch in self.collator.rows(pairs) if not self.have.issuperset(batch.keys))
        except MMPrefError:  # raised once more where it is no traceback of a worker but one sentence
            return None


def _in_step(batches: Iterator[PairBatch], collator: PairCollator, world: World) -> Iterator[PairBatch]:
    """The batches; where weights are sharded, with num_dummy_pairs until every rank is through with its own."""
    if not world.is_sharded:
        yield from batches
        return
    while True:
        batch = next(batches, None)
        [more] = world.highest([batch is not None])
        if not more:
            return
        if batch is not None:
            yield batch
        else:
            yield from collator.rows([])


def _in_parts(
    policy: nn.Module,
    collator: PairCollator,
    batch: PairBatch,
    pairs: Mapping[str, PreferencePair],
    device: torch.device,
    *,
    may_split: bool,
) -> dict[str, _Entry]:
    """The entries of a batch; pair by pair where they do not fit together, as training may well run them.

    Not where weights are sharded (``may_split``): every rank must then run as many batches.
    """
    may_split = may_split and len(batch) > 1
    if may_split:
        try:
            return _entries(policy, batch.to(device))
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
    singles = [part for name in batch.pair_ids for part in collator.rows([pairs[name]])] if may_split else [batch]
    return {
        key: entry for one in singles for key, entry in _entries_or_explained(policy, collator, one, device).items()
    }


def _entries_or_explained(
    policy: nn.Module, collator: PairCollator, batch: PairBatch, device: torch.device
) -> dict[str, _Entry]:
    def helps() -> list[str]:
        return remedies_for(policy, None, collator.encoder, num_pixels(batch.vision), forward_only=True)

    with explain_oom(lambda: f"computing reference log-probs of {describe_batch(batch)}", helps):
        return _entries(policy, batch.to(device))


def _entries(policy: nn.Module, batch: PairBatch) -> dict[str, _Entry]:
    rows = batch.by_answer(answer_logps(policy, batch)).float().cpu()
    lengths = batch.answer_lens.tolist()
    answers = [row[:length].clone() for row, length in zip(rows, lengths, strict=True)]
    count = len(batch)
    rejected: list[Tensor | None] = [*answers[count:]] if batch.has_rejected else [None] * count
    entries = zip(batch.keys, zip(answers[:count], rejected, strict=True), strict=True)
    return dict(list(entries)[: batch.counted])


def _read(part: Path, of: str) -> dict[str, _Entry] | str:
    """The entries of a part, or what is wrong with it.

    Args:
        of: hash of the cache's facts.
    """
    named = _PART.fullmatch(part.name)
    if named is None or not part.is_file():  # a pipe would be waited for
        return "is not of this cache"
    try:
        content = part.read_bytes()
    except OSError as err:
        return f"cannot be read ({one_line(err)})"
    if hashlib.sha256(content).hexdigest() != named[1]:
        return "has other bytes than were written (sha256 differs)"
    with library_errors(CheckpointError, f"{part} cannot be read", "delete it to compute its pairs anew"):
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if header.get("__metadata__", {}).get(_OF) != of:
        return "was written for another cache (other model, adapter, processor or precision)"
    keys = {name.partition(".")[0] for name in tensors}
    return {key: (tensors[f"{key}.chosen"], tensors.get(f"{key}.rejected")) for key in keys}
