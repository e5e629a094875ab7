"""``mmpref sample generate``: several sampled answers to every prompt, so that a killed run goes on where it stopped.

The folder has the log of ``generation/answer_log.py`` (settings, images, ``answers.jsonl``, one line a sample as it
comes), and at the end ``candidates.jsonl``, ``quarantine.jsonl`` and, last, ``step.json``. A sample's id is
``PROMPT#NUMBER``, and its seed follows from the run's seed and that id.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmpref.data.prompt_source import PromptSource
from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals.image_check import unasked
from mmpref.evals.model_facts import model_facts, served_facts
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over, without_links
from mmpref.files.rows import first_ids, refuse_duplicates
from mmpref.files.writing import json_text, replacing, writing_to
from mmpref.generation import (
    Answerer,
    AnswerSettings,
    ProcessesAnswerer,
    SampleSettings,
    SamplingAnswerer,
    fingerprint,
)
from mmpref.generation.answer_log import ANSWERS, IMAGES, SETTINGS, AnswerLog, as_line
from mmpref.generation.api_server import Server
from mmpref.generation.contract import facts_of, failure_codes_of, failures_of
from mmpref.generation.model_source import Model, ModelSource
from mmpref.generation.ranks import ranks
from mmpref.generation.sampling_server import ServerSampler
from mmpref.records import Answer, Candidate, Candidates, EvalSample, Prompt
from mmpref.sampling.candidate_files import write_candidates
from mmpref.sampling.shards import Shard, digest_of_ids, seed_of
from mmpref.sampling.steps import CANDIDATES, QUARANTINE, STEP, Step, read_step, refuse_foreign, write_step

MAX_NEW_TOKENS = 256
EMPTY = "empty_answer"
NOT_ASKED = "not_asked"
NOTHING_DRAWN = (
    "all samples of each prompt are equal: nothing seems to be drawn. A server may not follow the temperature of a "
    "request (transformers serve does only where the model's generation_config.json says do_sample: true); look at its "
    "settings"
)
_TELLING = 4
"""Prompts whose samples must all be equal before that is said."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """How answers are sampled.

    Args:
        n: samples a prompt.
        seed: of the whole run; each sample has its own, which follows from it.
        sampling: temperature and ``top_p``.
        answering: batches and device of a model in this process, and ``max_new_tokens``.
        processes: how many of this machine answer together, each with a model of its own.
        shard: only this share of the prompts.
        max_missing: the share of samples that may be missing at the end without an error.
        progress: called with (answered, all) after every sample.

    Raises:
        ConfigError: a number out of its range, or several samples where nothing is drawn.
    """

    n: int = 4
    seed: int = 0
    sampling: SampleSettings = field(default_factory=SampleSettings)
    answering: AnswerSettings = field(default_factory=lambda: AnswerSettings(max_new_tokens=MAX_NEW_TOKENS))
    processes: int = 1
    shard: Shard = field(default_factory=Shard)
    max_missing: float = 0.0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.processes < 1:
            raise ConfigError(f"n and processes must be >= 1, got {self.n} and {self.processes}")
        if not 0 <= self.max_missing <= 1:
            raise ConfigError(f"max_missing is a share from 0 to 1, got {self.max_missing}")
        if self.n > 1 and self.sampling.is_greedy:
            raise ConfigError(
                f"temperature 0 draws nothing: {self.n} samples would be one answer; take n 1, or raise it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The prompts of this shard and what is known of them before anything is asked."""

    prompts: Sequence[Prompt]
    rows: Quarantine
    row_counts: Mapping[str, int]
    source: Mapping[str, Any]
    """How many prompts all shards have together, and digests of them."""
    image_root: Path | None
    made_from: str

    def samples(self, prompt: Prompt, settings: GenerateSettings) -> list[EvalSample]:
        """The samples of one prompt."""
        shown = {**_shown(prompt).meta, "prompt_id": prompt.id}
        return [
            EvalSample(
                id=sample_id(prompt.id, number),
                images=prompt.images,
                prompt=prompt.prompt,
                meta=shown
                if settings.sampling.is_greedy
                else {**shown, "seed": seed_of(settings.seed, prompt.id, number)},
            )
            for number in range(settings.n)
        ]


@dataclass(slots=True)
class _Missing:
    """Why samples have no answer: prompt id -> (reason, detail) -> numbers of samples."""

    of_prompt: dict[str, dict[tuple[str, str], list[int]]] = field(default_factory=dict)

    def add(self, prompt_id: str, number: int, reason: str, detail: str) -> None:
        self.of_prompt.setdefault(prompt_id, {}).setdefault((reason, detail), []).append(number)

    def rows(self) -> Iterator[dict[str, Any]]:
        for prompt_id, reasons in self.of_prompt.items():
            for (reason, detail), numbers in reasons.items():
                yield {"id": prompt_id, "samples": numbers, "reason": reason, "detail": detail[:500]}

    def counts(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for row in self.rows():
            found[row["reason"]] += len(row["samples"])
        return dict(found.most_common())


def sample_id(prompt_id: str, number: int) -> str:
    """The id of one sample. The last ``#`` ends the prompt's id, which may have others in it."""
    return f"{prompt_id}#{number}"


def generate(
    model: Model,
    source: PromptSource,
    out: Path,
    *,
    servers: Sequence[Server] = (),
    settings: GenerateSettings | None = None,
) -> Step:
    """Sample answers to the prompts of ``source``, and write them to the folder ``out``.

    What is there already is not asked again; a folder that is complete is left as it is.

    Args:
        model: a folder (of a model or an adapter), a hub id, a ``ModelSource`` or a loaded model; with servers, its
            name there.
        servers: who answers in place of the model in this process; several share the prompts.

    Raises:
        ConfigError: ``out`` holds something else, or samples made with other settings or from other images.
        DataError: no prompt, or none of the images can be used.
        EvalIncompleteError: more samples are missing than ``max_missing``; what there is has been written.
    """
    settings = settings or GenerateSettings()
    if not ranks().is_alone:
        raise ConfigError("torchrun is not for sampling: take --processes on one machine, and --shard on several")
    _refuse_outputs(out, source)
    with only_writer(out, "choose another --out"):
        return _generate(model, source, out, servers, settings)


def _generate(
    model: Model, source: PromptSource, out: Path, servers: Sequence[Server], settings: GenerateSettings
) -> Step:
    asked = _read(source, settings.shard)
    sampler = _at_servers(servers, asked, settings) if servers else None
    served = {"served": sampler.served()} if sampler is not None else {}
    depends_on = _depends_on(model, asked, settings, sampler)
    log = AnswerLog(out)
    shown = [_shown(prompt) for prompt in asked.prompts]
    everything = [sample for prompt in asked.prompts for sample in asked.samples(prompt, settings)]
    log.prepare(depends_on | served, fingerprint.of_images(shown, asked.image_root), everything)
    done = log.read()
    before = read_step(out) if (out / STEP).is_file() else None
    if before is not None and _is_done(before, depends_on, done, len(everything), settings):
        return _with_image_root(out, before, asked.image_root)
    missing = _refused(asked, done, settings, at_server=sampler is not None)
    todo = [
        sample for sample in everything if sample.id not in done and sample.meta["prompt_id"] not in missing.of_prompt
    ]
    stopped: EvalIncompleteError | None = None
    answerer: Answerer | None = None
    if todo:
        if sampler is not None:
            sampler.named = next((found.served_as for found in done.values() if found.served_as), None)
        answerer = sampler or _in_process(model, asked, settings)
        try:
            _write_samples(answerer, todo, log, len(everything), settings.progress)
        except EvalIncompleteError as err:
            stopped = err
        if sampler is not None and served["served"] is not None:
            log.refuse_changed(served["served"], sampler.served())
    done = log.read()
    _add_failures(missing, todo, done, answerer, stopped)
    facts = _facts(answerer, before) | {name: found for name, found in served.items() if found}
    step = _write(out, asked, done, missing, depends_on=depends_on, facts=facts, settings=settings)
    if stopped is not None or not step.complete:
        raise _incomplete(out, step, missing, stopped)
    return step


def _read(source: PromptSource, shard: Shard) -> _Asked:
    """The prompts of a shard.

    Raises:
        DataError: there are none.
    """
    rows, counts = Quarantine(), Counter[str]()
    everything = list(source.prompts(rows, counts))
    if not everything:
        raise DataError(f"{source.rows.spec} has no prompt: {rows.summary()}")
    refuse_duplicates((prompt.id for prompt in everything), "prompts")
    known = {
        "prompts": len(everything),
        "ids": digest_of_ids(prompt.id for prompt in everything),
        "content": fingerprint.of_questions([_shown(prompt) for prompt in everything]),
    }
    prompts = [prompt for prompt in everything if shard.has(prompt.id)]
    return _Asked(
        prompts=prompts,
        rows=rows,
        row_counts=counts,
        source=known,
        image_root=source.image_root,
        made_from=str(source.rows.spec),
    )


def _shown(prompt: Prompt) -> EvalSample:
    """What a model is shown of a prompt."""
    meta: dict[str, Any] = {"response_prefix": prompt.response_prefix} if prompt.response_prefix else {}
    meta |= {"template_kwargs": dict(prompt.template_kwargs)} if prompt.template_kwargs else {}
    return EvalSample(id=prompt.id, images=prompt.images, prompt=prompt.prompt, meta=meta)


def _depends_on(
    model: Model, asked: _Asked, settings: GenerateSettings, sampler: ServerSampler | None
) -> dict[str, Any]:
    """What the samples depend on, for ``settings.json`` and ``step.json``."""
    about = served_facts(str(model)) if sampler is not None else model_facts(model, fetch=True)
    return {
        "step": "generate",
        **about,
        "answerer": "ServerSampler" if sampler is not None else "SamplingAnswerer",
        "n": settings.n,
        "seed": settings.seed,
        "temperature": settings.sampling.temperature,
        "top_p": settings.sampling.top_p,
        "max_new_tokens": settings.answering.max_new_tokens,
        "shard": str(settings.shard),
        "source": dict(asked.source),
    }


def _at_servers(servers: Sequence[Server], asked: _Asked, settings: GenerateSettings) -> ServerSampler:
    return ServerSampler(
        servers,
        sampling=settings.sampling,
        images_root=asked.image_root,
        max_new_tokens=settings.answering.max_new_tokens,
    )


def _in_process(model: Model, asked: _Asked, settings: GenerateSettings) -> Answerer:
    """The model, in this process or in several."""
    source = ModelSource(path=str(model)) if isinstance(model, str | Path) else model
    if settings.processes == 1:
        return SamplingAnswerer(source, settings.answering, sampling=settings.sampling, images_root=asked.image_root)
    if not isinstance(source, ModelSource):
        raise ConfigError("a model that is loaded already cannot be shared by processes; give its folder")
    return ProcessesAnswerer(
        source=source,
        num=settings.processes,
        images_root=asked.image_root,
        settings=settings.answering,
        kind=functools.partial(SamplingAnswerer, sampling=settings.sampling),
    )


def _is_done(
    before: Step, depends_on: Mapping[str, Any], done: Mapping[str, Answer], total: int, settings: GenerateSettings
) -> bool:
    """Whether the step was complete and is what is wanted."""
    few_enough = total - len(done) <= settings.max_missing * total
    return before.complete and few_enough and dict(before.settings) == dict(depends_on)


def _with_image_root(out: Path, before: Step, root: Path | None) -> Step:
    """A step that is complete; where its images have been moved since, the next step is to look for them there."""
    if before.image_root is None or before.image_root == root:
        return before
    write_step(out, moved := replace(before, image_root=root))
    return moved


def _refused(asked: _Asked, done: Mapping[str, Answer], settings: GenerateSettings, *, at_server: bool) -> _Missing:
    """Prompts that are not asked at all, for what is known of them."""
    missing = _Missing()

    def refuse(prompt: Prompt, reason: str, detail: str) -> None:
        for number in range(settings.n):
            if sample_id(prompt.id, number) not in done:
                missing.add(prompt.id, number, reason, detail)

    todo = [
        prompt
        for prompt in asked.prompts
        if any(sample_id(prompt.id, number) not in done for number in range(settings.n))
    ]
    for prompt in todo:
        if prompt.videos:
            refuse(prompt, "video", "samples are of images and text; videos are not sampled for yet")
        elif at_server and prompt.response_prefix:
            refuse(prompt, "response_prefix", "a chat API begins answers itself; sample such prompts in this process")
        elif at_server and prompt.template_kwargs:
            refuse(prompt, "template_kwargs", "a chat API takes none of the row's own; sample them in this process")
    looked_at = [prompt for prompt in todo if prompt.id not in missing.of_prompt]
    # what was answered before shows that the root is right, where all that is left is broken
    answered = (prompt for prompt in asked.prompts if prompt.images and sample_id(prompt.id, 0) in done)
    witness = [prompt for prompt in (next(answered, None),) if prompt is not None and prompt not in looked_at]
    broken = unasked([_shown(prompt) for prompt in (*looked_at, *witness)], asked.image_root)
    for prompt in looked_at:
        if prompt.id in broken:
            refuse(prompt, broken[prompt.id].reason, broken[prompt.id].detail)
    return missing


def _write_samples(
    answerer: Answerer, samples: Sequence[EvalSample], log: AnswerLog, total: int, progress: Progress | None
) -> None:
    """Ask, and write every sample before the next is taken."""
    waiting = {sample.id: sample for sample in samples}
    own_seeds = not isinstance(answerer, ServerSampler)
    answered = total - len(waiting)
    with log.appending() as stream:
        for found in answerer.answer(samples):
            if found.id not in waiting:
                raise DataError(f"a sample '{found.id}' came that was not asked for, or came before")
            sample = waiting.pop(found.id)
            seed = sample.meta.get("seed") if own_seeds else found.seed
            with writing_to(log.file):
                stream.write(as_line(_with_seed(found, seed)))
                stream.flush()
            answered += 1
            if progress is not None:
                progress(answered, total)


def _with_seed(answer: Answer, seed: int | None) -> Answer:
    return Answer(
        id=answer.id,
        text=answer.text,
        cut=answer.cut,
        served_as=answer.served_as,
        server_state=answer.server_state,
        seed=seed,
    )


def _add_failures(
    missing: _Missing,
    todo: Sequence[EvalSample],
    done: Mapping[str, Answer],
    answerer: Answerer | None,
    stopped: EvalIncompleteError | None,
) -> None:
    if answerer is None:
        return
    reasons, codes = failures_of(answerer), failure_codes_of(answerer)
    not_asked = "the run ended before" if stopped is None else f"the run ended before: {stopped}"
    for sample in todo:
        if sample.id not in done:
            number = int(sample.id.rpartition("#")[2])
            code = codes.get(sample.id, "failed" if sample.id in reasons else NOT_ASKED)
            missing.add(sample.meta["prompt_id"], number, code, reasons.get(sample.id, not_asked))


def _facts(answerer: Answerer | None, before: Step | None) -> dict[str, Any]:
    """What is known of who answered; of answers that were there already, what was known then."""
    then = {} if before is None else dict(before.facts)
    return then if answerer is None else then | dict(facts_of(answerer))


def candidates_of(prompt: Prompt, found: Sequence[Answer | None]) -> Candidates:
    """The answers to one prompt, equal texts merged and empty ones left out; ``found`` is in the order of samples.

    The blank between a given beginning and an answer that goes on with it stays.
    """
    texts: dict[str, list[Answer]] = {}
    for answer in found:
        if answer is not None and answer.text.strip():
            text = answer.text.rstrip() if prompt.response_prefix else answer.text.strip()
            texts.setdefault(text, []).append(answer)
    answers = tuple(
        Candidate(text=text, seed=alike[0].seed, times=len(alike), cut=alike[0].cut) for text, alike in texts.items()
    )
    return Candidates(prompt=prompt, answers=answers)


def _write(
    out: Path,
    asked: _Asked,
    done: Mapping[str, Answer],
    missing: _Missing,
    *,
    depends_on: Mapping[str, Any],
    facts: Mapping[str, Any],
    settings: GenerateSettings,
) -> Step:
    """Write what the step made, ``step.json`` last."""
    empty, found, drawn = _Missing(), [], []
    for prompt in asked.prompts:
        answers = [done.get(sample_id(prompt.id, number)) for number in range(settings.n)]
        drawn.append([answer.text.strip() for answer in answers if answer is not None])
        for number, answer in enumerate(answers):
            if answer is not None and not answer.text.strip():
                empty.add(prompt.id, number, EMPTY, "the model ended without a word")
        if (of_prompt := candidates_of(prompt, answers)).answers:
            found.append(of_prompt)
    write_candidates(out / CANDIDATES, found)
    with replacing(out / QUARANTINE) as stream:
        for row in (*(row.as_json() for row in asked.rows.rows), *missing.rows(), *empty.rows()):
            stream.write((json_text(row) + "\n").encode("utf-8"))
    total = len(asked.prompts) * settings.n
    num_missing = sum(missing.counts().values())
    every = [candidate for of_prompt in found for candidate in of_prompt.answers]
    counts = {
        "prompts": len(asked.prompts),
        "prompts_with_candidates": len(found),
        "samples": total,
        "answered": total - num_missing,
        "missing": num_missing,
        "missing_by_reason": missing.counts(),
        "empty": sum(empty.counts().values()),
        "candidates": len(every),
        "merged": sum(candidate.times - 1 for candidate in every),
        "cut": sum(candidate.times for candidate in every if candidate.cut),
        "without_seed": sum(answer.seed is None for answer in done.values()),
        "rows_read": asked.rows.num_read,
        "rows_quarantined": dict(asked.rows.counts),
        **{f"rows_{name}": count for name, count in asked.row_counts.items()},
    }
    step = Step(
        name="generate",
        complete=num_missing <= settings.max_missing * total,
        image_root=asked.image_root if any(image.path for prompt in asked.prompts for image in prompt.images) else None,
        made_from=(asked.made_from,),
        settings=depends_on,
        counts=counts,
        facts={**facts, "note": NOTHING_DRAWN} if _all_equal(drawn) else facts,
    )
    write_step(out, step)
    return step


def _all_equal(drawn: Sequence[Sequence[str]]) -> bool:
    """Whether several prompts have several samples each, and no two samples of a prompt differ."""
    several = [texts for texts in drawn if len(texts) > 1]
    return len(several) >= _TELLING and all(len(set(texts)) == 1 for texts in several)


def _incomplete(out: Path, step: Step, missing: _Missing, stopped: EvalIncompleteError | None) -> EvalIncompleteError:
    """The error to end with: how many, why, the first few, where all are listed, and what to do."""
    counts = step.counts
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts["missing_by_reason"].items())
    ids = [sample_id(row["id"], number) for row in missing.rows() for number in row["samples"]]
    details = list(dict.fromkeys(row["detail"] for row in missing.rows()))[:3]
    lines = [] if stopped is None else [str(stopped)]
    lines += [
        f"{counts['missing']} of {counts['samples']} samples are missing ({reasons}): {first_ids(ids)}",
        *(f"  {detail}" for detail in details if stopped is None),
        f"all of them: {out / QUARANTINE}; the others are in {out / CANDIDATES}. Give this command once more, and only "
        "what is missing is asked; --max-missing 0.05 accepts up to 5 of 100 missing ones",
    ]
    return EvalIncompleteError("\n".join(lines))


def _refuse_outputs(out: Path, source: PromptSource) -> None:
    """Refuse a folder whose files are read here, or that another step made.

    Raises:
        ConfigError: so it is.
    """
    names = [ANSWERS, SETTINGS, IMAGES, CANDIDATES, QUARANTINE, STEP]
    refuse_written_over({f"{name}, a file of --out,": out / name for name in names}, source.rows.files)
    if (out / STEP).is_file() and (name := read_step(out).name) != "generate":
        raise ConfigError(f"--out {out} is a folder of mmpref sample {name}; choose another folder")
    refuse_foreign(out, (CANDIDATES, QUARANTINE), begun=(SETTINGS, ANSWERS))
    folder = Path(str(source.rows.spec)).expanduser()
    if source.rows.files and folder.is_dir() and without_links(folder) == without_links(out):
        raise ConfigError(
            f"--out {out} is the folder that the prompts are read from, and what is written there would be read as "
            "prompts the next time; choose another folder, or name the file with the prompts"
        )
