"""``mmpref sample merge``: the folders of all shards as one, once it is proved that nothing is missing or double.

Proved are: all shards of one number are there, each once; they were made with the same settings from the same prompts
by the same model; each prompt is in the one shard that its id belongs to, and together they are the prompts of the
source (by the digest that every shard keeps); and of every prompt each sample is in a candidate, in an empty answer, or
listed as missing, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over, without_links
from mmpref.files.rows import first_ids, load_rows
from mmpref.files.writing import json_text, replacing
from mmpref.generation.answer_log import served_differently
from mmpref.records import Candidates
from mmpref.sampling.candidate_files import read_candidates, write_candidates
from mmpref.sampling.shards import Shard, digest_of_ids
from mmpref.sampling.steps import CANDIDATES, QUARANTINE, STEP, Step, read_step, refuse_foreign, write_step


@dataclass(frozen=True, slots=True)
class _Part:
    """One shard's folder as it was read."""

    folder: Path
    step: Step
    shard: Shard
    candidates: Sequence[Candidates]
    quarantine: Sequence[Mapping[str, Any]]

    @property
    def ids(self) -> set[str]:
        """The prompts that it says something of."""
        return {found.prompt.id for found in self.candidates} | {row["id"] for row in self.of_samples()}

    def of_samples(self) -> Iterable[Mapping[str, Any]]:
        """What is listed of prompts; the rest is of rows that are none."""
        return (row for row in self.quarantine if "samples" in row)


def merge_shards(folders: Sequence[Path], out: Path) -> Step:
    """Merge the folders of all shards, and write candidates, what is quarantined, and a step of ``generate``.

    The prompts are in the order of the shards, and in each in that of the source.

    Args:
        folders: of ``mmpref sample generate --shard i/n``, in any order.
        out: for the merged folder.

    Raises:
        ConfigError: a folder is given twice, or ``out`` is one of them or holds another step.
        DataError: the shards do not belong together, or something is missing or double; the message says what.
        EvalIncompleteError: shards are there and not complete, or not begun.
    """
    real = [without_links(folder) for folder in folders]
    if twice := [str(folder) for folder, count in Counter(real).items() if count > 1]:
        raise ConfigError(f"{twice[0]} is given twice")
    if without_links(out) in real:
        raise ConfigError(f"--out {out} is one of the shards; choose another folder")
    if (out / STEP).is_file() and (name := read_step(out).name) != "merge":
        raise ConfigError(f"--out {out} is a folder of mmpref sample {name}; choose another folder")
    refuse_foreign(out, (CANDIDATES,), begun=(QUARANTINE,))
    inputs = [folder / name for folder in folders for name in (CANDIDATES, QUARANTINE, STEP)]
    refuse_written_over({f"{name}, a file of --out,": out / name for name in (CANDIDATES, QUARANTINE, STEP)}, inputs)
    _refuse_unfinished(folders)
    parts = sorted((_read(folder) for folder in folders), key=lambda part: part.shard.number)
    _refuse_other_settings(parts)
    _refuse_other_shards(parts)
    _refuse_missing_or_double(parts)
    with only_writer(out, "choose another --out"):
        return _write(parts, out)


def _refuse_unfinished(folders: Sequence[Path]) -> None:
    begun = [folder for folder in folders if folder.is_dir() and not (folder / STEP).is_file()]
    incomplete = [folder for folder in folders if (folder / STEP).is_file() and not read_step(folder).complete]
    if waiting := [*begun, *incomplete]:
        raise EvalIncompleteError(
            f"{len(waiting)} of {len(folders)} shards are not complete: {', '.join(map(str, waiting))}; run each of "
            "them again to its end (or accept what is missing with its --max-missing), and merge then"
        )


def _read(folder: Path) -> _Part:
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist")
    step = read_step(folder)
    if step.name != "generate" or "shard" not in step.settings:
        raise ConfigError(f"{folder} is a folder of mmpref sample {step.name}, and shards are made by generate")
    file = folder / QUARANTINE
    quarantine = load_rows(file, "what is quarantined") if file.is_file() and file.stat().st_size else []
    return _Part(
        folder=folder,
        step=step,
        shard=Shard.parse(str(step.settings["shard"])),
        candidates=list(read_candidates(folder / CANDIDATES)),
        quarantine=quarantine,
    )


def _refuse_other_settings(parts: Sequence[_Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        names = {**first.step.settings, **part.step.settings}.keys() - {"shard"}
        differ = [name for name in sorted(names) if first.step.settings.get(name) != part.step.settings.get(name)]
        if differ:
            then, now = (str(one.step.settings.get(differ[0])) for one in (first, part))
            raise DataError(
                f"{first.folder} and {part.folder} were made with different settings: {', '.join(differ)} "
                f"({differ[0]}: {then} and {now}); make all shards with the same command but for --shard and --out"
            )
        roots = {without_links(root) for root in (first.step.image_root, part.step.image_root) if root is not None}
        if len(roots) > 1:
            raise DataError(
                f"the images of {first.folder} start from {first.step.image_root}, those of {part.folder} from "
                f"{part.step.image_root}: name the same --image-root in all shards"
            )
        names_there = [one.step.facts.get("served_as") for one in (first, part)]
        served = [one.step.facts.get("served") or {} for one in (first, part)]
        changed = served_differently(*served) if all(served) else ""
        if (all(names_there) and names_there[0] != names_there[1]) or changed:
            raise DataError(
                f"{first.folder} and {part.folder} were answered by different models: "
                f"{changed or ' and '.join(map(str, names_there))}; samples of two models do not belong together"
            )


def _refuse_other_shards(parts: Sequence[_Part]) -> None:
    """Refuse shards that are no division of one whole."""
    totals = sorted({part.shard.total for part in parts})
    if len(totals) > 1:
        raise DataError(f"the folders are shards of {' and '.join(map(str, totals))}: merge those of one division")
    by_number: dict[int, list[_Part]] = {}
    for part in parts:
        by_number.setdefault(part.shard.number, []).append(part)
    for number, alike in by_number.items():
        if len(alike) > 1:
            where = " and ".join(str(part.folder) for part in alike)
            raise DataError(f"shard {number}/{totals[0]} is there twice: {where}")
    if missing := [number for number in range(1, totals[0] + 1) if number not in by_number]:
        named = ", ".join(f"{number}/{totals[0]}" for number in missing[:10])
        raise DataError(f"{len(missing)} of {totals[0]} shards are missing: {named}; give all of them")


def _refuse_missing_or_double(parts: Sequence[_Part]) -> None:
    """Refuse shards that do not say of every sample of every prompt once what became of it."""
    known = parts[0].step.settings["source"]
    ids: dict[str, _Part] = {}
    for part in parts:
        for prompt_id in sorted(part.ids):
            if not part.shard.has(prompt_id):
                raise DataError(
                    f"{part.folder} has the prompt '{prompt_id}', which is in another shard than {part.shard}"
                )
            ids[prompt_id] = part
        _refuse_other_counts(part)
    if len(ids) != known["prompts"] or digest_of_ids(ids) != known["ids"]:
        others = ", which are others" if len(ids) == known["prompts"] else ""
        raise DataError(
            f"the shards have {len(ids)} prompts, and the source had {known['prompts']}{others}: a file of a shard was "
            "changed or cut; make that shard again"
        )


def _refuse_other_counts(part: _Part) -> None:
    """Refuse a shard in which a prompt has more or fewer samples than were asked for."""
    wanted = int(part.step.settings["n"])
    counts: Counter[str] = Counter()
    for found in part.candidates:
        counts[found.prompt.id] += sum(answer.times for answer in found.answers)
    for row in part.of_samples():
        counts[row["id"]] += len(row["samples"])
    if wrong := [prompt_id for prompt_id, count in counts.items() if count != wanted]:
        raise DataError(
            f"{part.folder}: {len(wrong)} prompts have more or fewer than {wanted} samples, missing ones counted: "
            f"{first_ids(wrong)}; a file was changed or cut: make this shard again"
        )


def _write(parts: Sequence[_Part], out: Path) -> Step:
    with replacing(out / QUARANTINE) as stream:
        # rows of the source that are no prompts are in every shard
        rows = [row for row in parts[0].quarantine if "samples" not in row]
        for row in (*rows, *(row for part in parts for row in part.of_samples())):
            stream.write((json_text(row) + "\n").encode("utf-8"))
    write_candidates(out / CANDIDATES, (found for part in parts for found in part.candidates))
    step = Step(
        name="merge",
        complete=True,
        image_root=next((part.step.image_root for part in parts if part.step.image_root is not None), None),
        made_from=tuple(str(part.folder) for part in parts),
        settings={name: value for name, value in parts[0].step.settings.items() if name != "shard"},
        counts=_counts(parts),
        facts={"shards": len(parts)} | _facts(parts),
    )
    write_step(out, step)
    return step


def _counts(parts: Sequence[_Part]) -> dict[str, Any]:
    """Sums over the shards; what is said of the rows of the source is the same in all of them."""
    first = parts[0].step.counts
    out: dict[str, Any] = {}
    for name, value in first.items():
        if name.startswith("rows_"):
            out[name] = value
        elif isinstance(value, Mapping):
            total: Counter[str] = Counter()
            for part in parts:
                total.update(part.step.counts[name])
            out[name] = dict(total.most_common())
        else:
            out[name] = sum(part.step.counts[name] for part in parts)
    return out


def _facts(parts: Sequence[_Part]) -> dict[str, Any]:
    """What the shards say of who answered; servers and fields that were left out are those of all of them."""
    facts: dict[str, Any] = {}
    for part in parts:
        for name, value in part.step.facts.items():
            if name in ("servers", "asked_without"):
                facts[name] = sorted({*facts.get(name, ()), *value})
            elif not facts.get(name):
                facts[name] = value
    return facts
