"""Answer a benchmark and score it, so that a killed run goes on where it stopped.

The folder holds what ``journal`` keeps (settings, images, answers), ``items.jsonl`` (what was read from each answer)
and, last, ``results.json``. Questions whose images cannot be opened are found before the model is loaded, listed in
``unanswered.jsonl`` and left out of every number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError, MMPrefError
from mmpref.evals.files.asked import asked_as
from mmpref.evals.image_check import incomplete, note, unasked, write_unanswered
from mmpref.evals.results import RESULTS, other_protocols, write_items, write_result
from mmpref.evals.scoring import (
    benchmark_named,
    official_beside,
    refuse_without_needed,
    score_samples,
    with_defaults,
)
from mmpref.files.locking import only_writer
from mmpref.files.reading import read_json, without_links
from mmpref.files.rows import Source, choose, first_ids, refuse_duplicates
from mmpref.files.writing import writing_to
from mmpref.generation import (
    BATCH_SIZE,
    TOKENS_PER_BATCH,
    Answerer,
    LikelihoodAnswerer,
    ProcessesAnswerer,
    ServerAnswerer,
    TransformersAnswerer,
    fingerprint,
)
from mmpref.generation.answer_log import ANSWERS, ITEMS, AnswerLog, as_line, served_differently
from mmpref.generation.contract import facts_of, failures_of
from mmpref.generation.in_process import ModelSource, generation_note
from mmpref.generation.processes import deal
from mmpref.generation.ranks import Ranks, ranks, together
from mmpref.records import Answer, EvalSample, TaskResult

if TYPE_CHECKING:
    from mmpref.generation.chat_api import Server
    from mmpref.models.loaded import LoadedModel

Progress = Callable[[int, int], None]


def evaluate(
    model_path: str | Path | LoadedModel | ModelSource,
    benchmark: str,
    *,
    questions: Source,
    images_root: str | Path | None,
    out: str | Path,
    answerer: Answerer | None = None,
    server: Server | None = None,
    batch_size: int = BATCH_SIZE,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    max_new_tokens: int | None = None,
    processes: int = 1,
    cpu_threads: int | None = None,
    protocol: str = "mmpref",
    seed: int = 0,
    progress: Progress | None = None,
    limit: int | None = None,
    judging: Callable[[Sequence[EvalSample], Sequence[Answer]], Path] | None = None,
    **options: Any,
) -> TaskResult:
    """Answer ``questions`` with a model, score the answers, and write both to the folder ``out``.

    Started by torchrun, every process answers a share, and all return the result that the first one writes.

    Args:
        model_path: a folder (of a model or an adapter), a hub id, a ``ModelSource`` or a loaded model; also what
            ``results.json`` names as the model.
        images_root: relative image paths of the questions start here.
        answerer: who answers; the model in this process when None.
        server: a server that answers instead.
        batch_size, tokens_per_batch: questions, and tokens with those to come, that are answered together at most.
        max_new_tokens: None takes the benchmark's own.
        processes: how many of this machine answer together, each with a model of its own.
        cpu_threads: threads torch may use on the CPU; None leaves its choice. Sums change in the last digit with it.
        seed: of the bootstrap behind the intervals; answers are greedy and have none.
        progress: called with (answered, all) after every answer.
        limit: only the first so many questions; more of them can be answered into the same folder later, not fewer.
        judging: judges the answers before they are scored, and gives the file of the verdicts.
        options: of the benchmark, such as CHAIR's ``synonyms``.

    Raises:
        ConfigError: an unknown name, or ``out`` holds answers made with other settings or from other images, or to
            more questions than ``limit`` asks for.
        DataError: none of the images can be used, as where ``images_root`` is the wrong folder.
        EvalIncompleteError: the answerer left questions without an answer; or some were not asked, as their images
            cannot be opened, and the result of the others is written and stands in the error's ``result``.
    """
    chosen = benchmark_named(benchmark)
    choose(protocol, chosen.protocols, f"protocol of {benchmark}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be >= 1, got {limit}")
    if judging is not None and "verdicts" not in chosen.options:
        raise ConfigError(f"{benchmark} is scored by rules; it has no judge")
    filled = with_defaults(chosen, options)
    refuse_without_needed(chosen, protocol, filled)
    samples = chosen.load(questions, filled)
    refuse_duplicates((sample.id for sample in samples), "questions")
    decoding = {
        "max_new_tokens": chosen.max_new_tokens if max_new_tokens is None else max_new_tokens,
        "num_beams": chosen.num_beams,
    }
    kind = LikelihoodAnswerer if chosen.by_likelihood else TransformersAnswerer
    at_server: ServerAnswerer | None = None
    if server is not None:
        if chosen.by_likelihood:
            raise ConfigError(f"{benchmark} needs log-probs of given answers, which a chat API does not give")
        at_server = answerer = ServerAnswerer(server, images_root=images_root, **decoding)
    if answerer is not None:
        _refuse_other_kind(answerer, kind, benchmark)
    settings = {
        "benchmark": benchmark,
        **_model_facts(server.model if server is not None else model_path, here=server is None, fetch=answerer is None),
        "questions": fingerprint.of_questions(samples, with_targets=chosen.by_likelihood),
        **decoding,
        "answerer": type(answerer).__name__ if answerer is not None else kind.__name__,
    }
    writes_here = answerer is None and not chosen.by_likelihood
    wanted = samples[:limit]
    group = ranks()
    if group is not None and (processes > 1 or answerer is not None):
        raise ConfigError("torchrun is for a model that is loaded here, one in each process, with --processes 1")
    first = group is None or group.rank == 0
    with together(group) if group is not None else nullcontext(), _only_run(Path(out), first):
        served = at_server.served() if at_server is not None else None
        if at_server is not None:
            settings["served"] = served
        journal = AnswerLog(Path(out), group.rank if group else None)
        if first:
            journal.prepare(settings, fingerprint.of_images(wanted, images_root), samples)
        _meet(group)
        done = journal.read()
        _refuse_smaller_part(done, wanted, Path(out))
        todo = [sample for sample in wanted if sample.id not in done]
        # an answerer of the caller's opens images in its own way, if it opens any
        broken = _first_does(group, lambda: unasked(todo, images_root)) if answerer is None or server else {}
        if first:
            write_unanswered(journal.folder, broken)
        todo = [sample for sample in todo if sample.id not in broken]
        mine = deal(todo, group.total)[group.rank] if group is not None else todo
        if mine:
            if at_server is not None:
                at_server.named = next((answer.served_as for answer in done.values() if answer.served_as), None)
            if answerer is None:
                sizes = {"batch_size": batch_size, "tokens_per_batch": tokens_per_batch, "cpu_threads": cpu_threads}
                answerer = _own_answerer(kind, model_path, group, processes, images_root, sizes | decoding)
            _answer(answerer, mine, journal, len(mine if group is not None else wanted) - len(broken), progress)
            if at_server is not None and served is not None:
                _refuse_changed(journal, served, at_server.served())
        done = _all_answers(journal, group)
        asked = [sample for sample in wanted if sample.id not in broken]
        answers = [done[sample.id] for sample in asked]
        if judging is not None:
            verdicts = judging(asked, answers) if first else None
            filled["verdicts"] = group.share(verdicts) if group is not None else verdicts
        result = score_samples(chosen, asked, answers, protocol, filled, seed=seed)
        if broken:
            result = replace(result, notes=(*result.notes, note(broken)))
        if writes_here and (left_out := generation_note(model_path)) is not None:
            result = replace(result, notes=(*result.notes, left_out))
        if len(states := _reported_by_server(answers).get("system_fingerprints", [])) > 1:
            changed = f"the server changed its state while it answered (system_fingerprint {', '.join(states)})"
            result = replace(result, notes=(*result.notes, changed))
        if first:
            beside = {}
            if official_beside(chosen, protocol, filled):
                beside["official"] = score_samples(chosen, asked, answers, "official", filled, seed=seed)
            write_items(journal.folder / ITEMS, result)
            write_result(
                journal.folder / RESULTS,
                result,
                model=server.model if server is not None else _name(model_path),
                settings=settings,
                asked=asked_as(questions, options, limit),
                images=str(without_links(images_root)) if images_root is not None else None,
                complete=len(asked) == len(samples),
                n_unanswered=len(broken),
                protocols=other_protocols(beside),
                answered_by=_answered_by(answerer, journal.folder / RESULTS) | _reported_by_server(answers),
            )
        _meet(group)
    if broken:
        error = incomplete(broken, journal.folder, len(asked))
        error.result, error.reported_by_other_rank = result, not first
        raise error
    return result


@contextmanager
def _only_run(out: Path, first: bool) -> Iterator[None]:
    """Of all processes, those of this run alone write the folder."""
    with only_writer(out, "choose another --out") if first else nullcontext():
        yield


def _refuse_changed(journal: AnswerLog, before: Mapping[str, Any], now: Mapping[str, Any] | None) -> None:
    """Which of the answers are of which model cannot be told any more.

    Raises:
        EvalIncompleteError: the server has another model under the same name than at the beginning.
    """
    if now is None or not (changed := served_differently(before, now)):
        return
    journal.refuse_from_now_on(before)
    raise EvalIncompleteError(
        f"the server changed its model while it answered: {changed}; the answers of both are mixed in "
        f"{journal.folder / ANSWERS}: delete it, or choose another folder"
    )


def _reported_by_server(answers: Sequence[Answer]) -> dict[str, Any]:
    """The names and states of the model that the replies told, over all answers of the folder."""
    named = sorted({answer.served_as for answer in answers} - {""})
    states = sorted({answer.server_state for answer in answers} - {""})
    return ({"served_as": named} if named else {}) | ({"system_fingerprints": states} if states else {})


def _first_does(group: Ranks | None, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the first process gets from doing it, in all; an error of ours ends all of them."""
    if group is None:
        return work()
    found: dict[str, Any] = {}
    error: MMPrefError | None = None
    if group.rank == 0:
        try:
            found = work()
        except MMPrefError as err:
            error = err
    found, error = group.share((found, error)) or ({}, None)
    if error is not None:
        error.reported_by_other_rank = group.rank != 0
        raise error
    return found


def _refuse_smaller_part(done: Mapping[str, Answer], wanted: Sequence[EvalSample], out: Path) -> None:
    """The results of a part would stand where those of more questions stand, or are to come."""
    if beyond := len(done.keys() - {sample.id for sample in wanted}):
        raise ConfigError(
            f"{out} holds answers to {beyond} questions beyond the first {len(wanted)}, which are all that the limit "
            "asks for, and its results would become those of this part; leave the limit out, or choose another folder"
        )


def _refuse_other_kind(answerer: Answerer, wanted: type[Answerer], benchmark: str) -> None:
    """Our answerers either write text or tell log-probs; the wrong one is known before it has answered everything."""
    found = answerer.kind if isinstance(answerer, ProcessesAnswerer) else type(answerer)
    writes, measures = issubclass(found, TransformersAnswerer | ServerAnswerer), issubclass(found, LikelihoodAnswerer)
    if (writes and wanted is LikelihoodAnswerer) or (measures and wanted is not LikelihoodAnswerer):
        needs = "log-probs of given answers" if wanted is LikelihoodAnswerer else "answers as text"
        raise ConfigError(f"{benchmark} needs {needs}, which {found.__name__} does not give; use {wanted.__name__}")


def _answered_by(answerer: Answerer | None, results: Path) -> dict[str, Any]:
    """What the answerer told about itself; of answers that were there already, what it told then."""
    if answerer is not None and (facts := facts_of(answerer)).get("served_as") != []:
        return dict(facts)
    try:
        content = read_json(results, DataError)
    except DataError:
        return {}
    told = content.get("answered_by") if isinstance(content, dict) else None
    return told if isinstance(told, dict) else {}


def _meet(group: Ranks | None) -> None:
    if group is not None:
        group.wait()


def _name(model: str | Path | LoadedModel | ModelSource) -> str:
    return str(model if isinstance(model, str | Path) else model.path)


def _model_facts(model: str | Path | LoadedModel | ModelSource, *, here: bool, fetch: bool) -> dict[str, Any]:
    """What the answers depend on, of the model; of one that is served elsewhere, only its name is known."""
    name = _name(model)
    if not here:
        return {"model": name, "model_files": ""}
    if fetch and isinstance(model, str | Path | ModelSource):  # another answerer reads what it wants
        _check_files(model if isinstance(model, ModelSource) else ModelSource(path=name))
    facts: dict[str, Any] = {
        "model": str(without_links(name)) if Path(name).is_dir() else name,
        "model_files": fingerprint.of_model(name, fetch=fetch),
    }
    source = model if isinstance(model, ModelSource) else ModelSource(path=name)
    resolved = source.resolved()
    if resolved.adapter is not None:
        adapter = resolved.adapter
        facts["model_files"] = f"{fingerprint.of_model(resolved.path, fetch=fetch)} + {fingerprint.of_model(adapter)}"
        if source.adapter is not None:
            facts["adapter"] = str(without_links(adapter))
    for field in ("dtype", "quantization", "max_pixels"):
        if (value := getattr(source, field)) not in (None, "auto"):
            facts[field] = value
    if source.template_kwargs:
        facts["template_kwargs"] = dict(source.template_kwargs)
    return facts


def _check_files(source: ModelSource) -> None:
    """Refuse a folder with something in it that cannot be read, before all of it is hashed."""
    name = source.path
    if not Path(name).is_dir():
        return
    from mmpref.models.load import check_model

    found = source.resolved()
    if found.adapter is not None and found.adapter != Path(name):
        from mmpref.models.adapters.saved import adapter_settings

        adapter_settings(found.adapter)
    if Path(found.path).is_dir():
        check_model(found.path)


def _own_answerer(
    kind: type[TransformersAnswerer | LikelihoodAnswerer],
    model: str | Path | LoadedModel | ModelSource,
    group: Ranks | None,
    processes: int,
    images_root: str | Path | None,
    settings: dict[str, Any],
) -> Answerer:
    """The model, in this process or in several."""
    source = ModelSource(path=str(model)) if isinstance(model, str | Path) else model
    if processes > 1:
        if not isinstance(source, ModelSource):
            raise ConfigError("a model that is loaded already cannot be shared by processes; give its folder")
        root = Path(images_root) if images_root is not None else None
        return ProcessesAnswerer(source=source, num=processes, images_root=root, settings=settings, kind=kind)
    device = group.device if group is not None else None
    return kind(source, images_root=images_root, device=device, **settings)


def _all_answers(journal: AnswerLog, group: Ranks | None) -> dict[str, Answer]:
    """What all processes wrote, when all have ended."""
    _meet(group)
    if group is not None and group.rank == 0:
        journal.finish()
    _meet(group)
    return journal.read()


def _answer(
    answerer: Answerer, samples: Sequence[EvalSample], journal: AnswerLog, total: int, progress: Progress | None
) -> None:
    """Ask, and write every answer before the next is taken."""
    waiting = {sample.id for sample in samples}
    with journal.appending() as stream:
        for answer in answerer.answer(samples):
            if answer.id not in waiting:
                raise DataError(
                    f"the answerer gave an answer to '{answer.id}', which was not asked or was answered before"
                )
            waiting.discard(answer.id)
            with writing_to(journal.file):
                stream.write(as_line(answer))
                stream.flush()
            if progress is not None:
                progress(total - len(waiting), total)
    if waiting:
        missing = [sample.id for sample in samples if sample.id in waiting]
        reasons = list(dict.fromkeys(failures_of(answerer).values()))
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise EvalIncompleteError(
            f"{len(missing)} of {total} questions have no answer: {first_ids(missing)}{why}; "
            "run again to ask only these"
        )
