"""Reference log-probs, computed once: of every token of every answer, on disk, under keys that exclude stale ones.

The folder has ``facts.json`` (what the numbers depend on besides prompt and answer) and ``part-*.safetensors``, each
with some hundred answers, written atomically: a run that is killed continues with the next part. The name of a part has
the sha256 of its bytes, and its metadata the hash of the facts, so that one that was damaged, renamed or brought from
another cache is refused; a missing one is computed again. The key of an answer is a hash of the tensors that the model
is given for it, its prompt and images included, so another template, tokenizer, image or pixel budget never finds an
entry, and an answer that stands in several pairs, on either side, is one entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mmpref.errors import CheckpointError, ConfigError, library_errors, one_line
from mmpref.files.hashes import Say, joined
from mmpref.files.locking import Locked, locked
from mmpref.files.temporary import remove_abandoned, shortened
from mmpref.files.writing import replacing, write_json, writing_to
from mmpref.models.loaded import LoadedModel
from mmpref.models.logps.reference import eval_mode
from mmpref.processing.batch import BySide, PairBatch, to_device
from mmpref.processing.collate import PairCollator
from mmpref.processing.encoded import NO_ANSWER
from mmpref.recipe.sections import Recipe
from mmpref.records import PreferencePair
from mmpref.training.parallel.world import SINGLE_PROCESS, World
from mmpref.training.precision import dtype_fact
from mmpref.training.run.reference_entries import entries_of, keep_ranks_in_step, missing_batches, shares_of
from mmpref.training.run.start_adapter import start_facts
from mmpref.training.run.start_model import model_fingerprint, processor_fingerprint
from mmpref.training.trainer.checkpoint import differences
from mmpref.training.trainer.memory_errors import (
    explain_worker_oom,
)

FACTS = "facts.json"
FORMAT = 3
"""1 had parts without a hash, and hashes of the ends of the model's files; 2 an entry for each pair."""
_OF = "facts"
_PART = re.compile(r"part-([0-9a-f]{64})\.safetensors")
ANSWERS_PER_PART = 512
_PATIENCE = 0.5
"""Seconds to wait for a lock before it is said."""


class ReferenceCache:
    """Reference log-probs by answer; a ``models.reference.Reference``.

    Attributes:
        explanation: where the numbers come from, in one sentence.
        is_start: always True: the log-probs are those of the policy before its first step.
    """

    is_start = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.explanation = f"log-probs computed before and kept in {folder}: no second model in memory"
        self._entries: dict[str, Tensor] = {}  # log-probs of the answer's tokens, [L] each, by key
        self._facts_hash = ""

    @classmethod
    def open(cls, folder: Path, facts: Mapping[str, Any]) -> ReferenceCache:
        """Open the cache in a folder, or create it.

        Raises:
            ConfigError: it was computed with another model, adapter, processor, template or precision; names what
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
                raise ConfigError(f"{folder} has other files than a reference cache; give reference.cache another")
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
            write_json(file, facts)
            return cache
        remedy = f"delete {folder} to compute it again, or give reference.cache another folder"
        with library_errors(CheckpointError, f"{file} cannot be read", remedy):
            before = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise CheckpointError(f"{file} cannot be read: it has no JSON object; {remedy}")
        if before.get("format") != FORMAT:
            raise ConfigError(
                f"the reference cache in {folder} is of another version of mmpref, and its entries are of no use to "
                f"this one; {remedy}"
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
            found_faults = "; ".join(f"{part.name} {fault}" for part, fault in faults.items())
            remove = shlex.join(["rm", "-r", *(str(part) for part in faults)])
            raise CheckpointError(
                f"the reference cache in {self.folder} is not what was written: {found_faults}; `{remove}` lets the "
                f"answers in {'it' if len(faults) == 1 else 'them'} be computed again"
            )

    def __len__(self) -> int:
        """Number of answers."""
        return len(self._entries)

    def fill(
        self,
        policy: nn.Module,
        collator: PairCollator,
        pairs: Sequence[PreferencePair],
        *,
        device: torch.device,
        say: Say,
        world: World = SINGLE_PROCESS,
        workers: int = 0,
    ) -> None:
        """Compute what is missing, with the policy before its first step. Ranks share the prompts.

        Each answer is computed once, whatever number of pairs it stands in, and together with others of its prompt.

        Args:
            policy: its log-probs are those of the reference now.
            collator: as training will use it.
            pairs: all that training and evaluation will ask for.
            device: where the policy runs; it is moved there, unless it is sharded.
            say: called with the number of answers that were computed.
            world: all its ranks must call this together.
            workers: processes that open and process images meanwhile; 0 does it in this one, in turn with the model.
                Every image is processed, also where nothing is missing: its pixels are the key.

        Raises:
            CheckpointError: the folder cannot be written.
            DataError: a pair cannot be used, or a worker died.
            OutOfMemoryError: memory ran out on one answer alone.
        """
        both, unique = _answers_of(collator, pairs)
        waiting: dict[str, Tensor] = {}
        have, seen, computed = set(self._entries), set[str](), 0
        if not world.model_is_wrapped_in_train:
            policy.to(device)
        share = shares_of(list(unique.values()), world.size, need_other=both.need_other)[world.rank]
        doing = "computing the reference cache"
        with torch.no_grad(), eval_mode(policy), explain_worker_oom(lambda: doing):
            for batch in keep_ranks_in_step(missing_batches(both, share, have, seen, workers), both, world):
                world.report_progress(0, doing, batch.counted_ids)
                found = entries_of(policy, both, batch, unique, device, may_split=not world.is_sharded)
                waiting.update(found)
                have.update(found)
                computed += len(found)
                if len(waiting) >= ANSWERS_PER_PART:
                    self._keep(waiting)
                    say(f"reference cache: {computed * world.size} answers computed")
                    waiting = {}
        if waiting:
            self._keep(waiting)
        [computed, total] = world.sum_over_ranks([computed, len(seen)])
        if world.size > 1:  # what the others computed
            self._read_parts()
        if computed:
            say(
                f"reference cache: {computed} answers of {len(unique)} pairs computed, {total - computed} were there "
                f"({self.folder})"
            )

    def lacking(
        self, collator: PairCollator, pairs: Sequence[PreferencePair], *, world: World, workers: int = 0
    ) -> tuple[str, ...]:
        """A pair's id for each answer that is not there: what :meth:`fill` would compute. No model is needed.

        Arguments and errors are those of :meth:`fill`. All ranks must call it together; each gets all ids.
        """
        both, unique = _answers_of(collator, pairs)
        share = shares_of(list(unique.values()), world.size, need_other=both.need_other)[world.rank]
        batches = missing_batches(both, share, set(self._entries), set(), workers)
        mine = [name for batch in batches for name in batch.counted_ids]
        return tuple(name for names in world.gather(mine) for name in names)

    def logps(self, batch: PairBatch) -> BySide:
        """Sums of answer log-probs, as the batch weighs them, of each side [B].

        Raises:
            ConfigError: a pair that is not in the cache as the model is given it now.
        """
        if not batch.keys:
            raise ConfigError("the reference cache needs batches with keys: make the collator with keyed=True")
        sides = [
            side for side, there in (("rejected", batch.has_rejected), ("other", batch.has_other is not None)) if there
        ]
        of = [(name, side) for side in ("chosen", *sides) for name in batch.pair_ids]
        weights = [None] * len(of) if batch.answer_weights is None else list(batch.answer_weights.cpu())
        sums = []
        for (name, side), key, weight in zip(of, batch.keys, weights, strict=True):
            if key == NO_ANSWER:
                sums.append(torch.zeros(()))
                continue
            if key not in self._entries:
                answer = "chosen answer under the other image" if side == "other" else f"{side} answer"
                raise ConfigError(
                    f"the {answer} of pair '{name}' is not in the reference cache {self.folder} as the model is "
                    "given it now: its text or image, or how they are processed, has changed since; delete the folder "
                    "or give reference.cache another"
                )
            entry = self._entries[key]
            sums.append((entry if weight is None else entry * weight[: len(entry)]).sum())
        return batch.by_side(to_device(torch.stack(sums), batch.input_ids.device))

    def _keep(self, entries: Mapping[str, Tensor]) -> None:
        content = save(dict(entries), metadata={_OF: self._facts_hash})
        with replacing(self.folder / f"part-{hashlib.sha256(content).hexdigest()}.safetensors") as stream:
            stream.write(content)
        self._entries.update(entries)


@contextlib.contextmanager
def one_fills(folder: Path, world: World, say: Say) -> Iterator[None]:
    """Be the only run that opens and fills a cache, for the length of the block; another is waited for, and what it
    computed is then there. All ranks must enter it together.

    Args:
        folder: of the cache; a lock file lies beside it meanwhile, where the file system has locks.
        world: its first rank has the lock.
        say: called where another run has it.
    """
    lock = folder.absolute().with_name(f".{shortened(folder.name)}.lock")
    with contextlib.ExitStack() as stack:

        def wait() -> None:
            # without locks, or beside a cache that is only read: two runs then compute the same, under the same name
            with contextlib.suppress(CheckpointError):
                try:
                    stack.enter_context(locked(lock, leave=False, patience=_PATIENCE))
                except Locked as err:
                    say(f"reference cache: {err.holder or 'another process'} fills {folder}; it is waited for")
                    stack.enter_context(locked(lock, leave=False, patience=math.inf))

        world.on_first_rank(wait)
        yield


def _answers_of(
    collator: PairCollator, pairs: Sequence[PreferencePair]
) -> tuple[PairCollator, dict[str, PreferencePair]]:
    """The collator, keyed and with rejected answers where every pair has one, and the pairs by id."""
    both = collator.changed(need_rejected=all(pair.rejected is not None for pair in pairs))
    both.keyed = True  # of a copy: an answer without a key would be taken for one that is there
    return both, {pair.id: pair for pair in pairs}  # a weighted source repeats its pairs


def cache_facts(recipe: Recipe, loaded: LoadedModel, collator: PairCollator) -> dict[str, Any]:
    """What reference log-probs depend on besides prompt and answer, by name."""
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
        "entry": "one answer of a prompt",  # before it was a pair: such a cache has other keys
        "family": loaded.family.name,
        **({"processing.template_kwargs": processing.template_kwargs} if processing.template_kwargs else {}),
        **({"processing.video_max_pixels": processing.video_max_pixels} if processing.video_max_pixels else {}),
        **start_facts(recipe),
    }


def _read(part: Path, of: str) -> dict[str, Tensor] | str:
    """The entries of a part, or what is wrong with it.

    Args:
        part: the file.
        of: hash of the cache's facts.
    """
    named = _PART.fullmatch(part.name)
    if named is None or not part.is_file():  # reading a pipe would block
        return "is not of this cache"
    try:
        content = part.read_bytes()
    except OSError as err:
        return f"cannot be read ({one_line(err)})"
    if hashlib.sha256(content).hexdigest() != named[1]:
        return "has other bytes than were written (sha256 differs)"
    with library_errors(CheckpointError, f"{part} cannot be read", "delete it to compute its answers again"):
        tensors: dict[str, Tensor] = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if header.get("__metadata__", {}).get(_OF) != of:
        return "was written for another cache (other model, adapter, processor or precision)"
    return tensors
