"""Answer a benchmark and score it, so that a killed run goes on where it stopped.

The folder holds ``settings.json`` (what the answers depend on), ``answers.jsonl`` (written as they come),
``items.jsonl`` (what was read from each answer) and, last, ``results.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals.answerers import BATCH_SIZE, Answerer, TransformersAnswerer
from mmpref.evals.results import ITEMS, RESULTS, other_protocols, write_items, write_result
from mmpref.evals.rows import Source, choose, first_ids, load_answers, refuse_duplicates
from mmpref.evals.task import benchmark_named, score_samples, with_defaults
from mmpref.records import Answer, EvalSample, TaskResult
from mmpref.rundir import write_json, writing_to

if TYPE_CHECKING:
    from mmpref.models.load import LoadedModel

SETTINGS = "settings.json"
ANSWERS = "answers.jsonl"
_WEIGHT_SAMPLES = 16
_SAMPLE_BYTES = 1 << 16
_WHOLE_FILE_BYTES = 1 << 24
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def evaluate(
    model_path: str | Path | LoadedModel,
    benchmark: str,
    *,
    questions: Source,
    images_root: str | Path | None,
    out: str | Path,
    answerer: Answerer | None = None,
    batch_size: int = BATCH_SIZE,
    max_new_tokens: int | None = None,
    cpu_threads: int | None = None,
    protocol: str = "mmpref",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    limit: int | None = None,
    **options: Any,
) -> TaskResult:
    """Answer ``questions`` with a model, score the answers, and write both to the folder ``out``.

    Args:
        model_path: a folder, a hub id or a loaded model; also what ``results.json`` names as the model.
        images_root: relative image paths of the questions start here.
        answerer: who answers; the model in this process when None.
        max_new_tokens: None takes the benchmark's own.
        cpu_threads: threads torch may use on the CPU; None leaves its choice. Sums change in the last digit with it.
        seed: of the bootstrap behind the intervals; answers are greedy and have none.
        progress: called with (answered, all) after every answer.
        limit: only the first so many questions.
        options: of the benchmark, such as CHAIR's ``synonyms``.

    Raises:
        ConfigError: an unknown name, or ``out`` holds answers made with other settings.
        EvalIncompleteError: the answerer left questions without an answer.
    """
    chosen = benchmark_named(benchmark)
    choose(protocol, chosen.protocols, f"protocol of {benchmark}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be >= 1, got {limit}")
    filled = with_defaults(chosen, options)
    samples = chosen.load(questions, filled)
    refuse_duplicates((sample.id for sample in samples), "questions")
    max_new_tokens = chosen.max_new_tokens if max_new_tokens is None else max_new_tokens
    folder = Path(out)
    name = str(model_path if isinstance(model_path, str | Path) else model_path.path)
    settings = {
        "benchmark": benchmark,
        "model": str(Path(name).resolve()) if Path(name).is_dir() else name,
        "model_files": _model_hash(name),
        "questions": _questions_hash(samples),
        "max_new_tokens": max_new_tokens,
        "answerer": type(answerer).__name__ if answerer is not None else TransformersAnswerer.__name__,
    }
    wanted = samples[:limit]
    done = _resume(folder, settings)
    todo = [sample for sample in wanted if sample.id not in done]
    if todo:
        if answerer is None:
            answerer = TransformersAnswerer(
                model_path,
                images_root=images_root,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                cpu_threads=cpu_threads,
            )
        done |= _answer(answerer, todo, folder / ANSWERS, len(wanted), progress)
    answers = [done[sample.id] for sample in wanted]
    result = score_samples(chosen, wanted, answers, protocol, filled, seed=seed)
    beside = {}
    if protocol != "official" and "official" in chosen.protocols:
        beside["official"] = score_samples(chosen, wanted, answers, "official", filled, seed=seed)
    write_items(folder / ITEMS, result)
    write_result(
        folder / RESULTS,
        result,
        model=name,
        settings=settings,
        complete=len(wanted) == len(samples),
        protocols=other_protocols(beside),
    )
    return result


def _resume(folder: Path, settings: Mapping[str, Any]) -> dict[str, Answer]:
    """The answers that the folder holds already, after checking that they were made with the same settings."""
    settings_file, answers_file = folder / SETTINGS, folder / ANSWERS
    has_answers = answers_file.is_file() and answers_file.stat().st_size > 0
    if not settings_file.is_file():
        if has_answers:
            raise ConfigError(
                f"{folder} has answers but no {SETTINGS}; choose another folder, or delete {answers_file}"
            )
        write_json(settings_file, settings)
        return {}
    try:
        before = json.loads(settings_file.read_text(encoding="utf-8"))
        changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
    except (OSError, ValueError, AttributeError, TypeError) as err:
        raise ConfigError(f"{settings_file} cannot be read ({err}); choose another folder") from err
    if changed and has_answers:
        what = ", ".join(
            f"{name} ({_brief(before.get(name))} then, {_brief(settings.get(name))} now)" for name in changed
        )
        raise ConfigError(
            f"{folder} holds answers made with other settings: {what}; choose another folder, or delete {answers_file}"
        )
    write_json(settings_file, settings)
    if not has_answers:
        return {}
    _repair_last_line(answers_file)
    answers = load_answers(answers_file) if answers_file.stat().st_size else []
    refuse_duplicates((answer.id for answer in answers), str(answers_file))
    return {answer.id: answer for answer in answers}


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _repair_last_line(path: Path) -> None:
    """A run killed while writing leaves half a line at the end; that answer is dropped and asked again."""
    content = path.read_bytes()
    if content.endswith(b"\n"):
        return
    whole = content.rfind(b"\n") + 1
    with writing_to(path), path.open("r+b") as stream:
        try:
            json.loads(content[whole:])
        except ValueError:
            stream.truncate(whole)
        else:
            stream.seek(0, 2)
            stream.write(b"\n")


def _answer(
    answerer: Answerer,
    samples: Sequence[EvalSample],
    path: Path,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Answer]:
    """Ask, and write every answer before the next is taken."""
    waiting = {sample.id for sample in samples}
    out: dict[str, Answer] = {}
    with writing_to(path):
        stream = path.open("a", encoding="utf-8")
    with stream:
        for answer in answerer.answer(samples):
            if answer.id not in waiting:
                raise DataError(
                    f"the answerer gave an answer to '{answer.id}', which was not asked or was answered before"
                )
            waiting.discard(answer.id)
            out[answer.id] = answer
            with writing_to(path):
                stream.write(json.dumps({"id": answer.id, "text": answer.text}, ensure_ascii=False) + "\n")
                stream.flush()
            if progress is not None:
                progress(total - len(waiting), total)
    if waiting:
        missing = [sample.id for sample in samples if sample.id in waiting]
        raise EvalIncompleteError(
            f"{len(missing)} of {total} questions have no answer: {first_ids(missing)}; run again to ask only these"
        )
    return out


def _model_hash(name: str) -> str:
    """A hash of the model's files; large ones by size and samples, so a 15 GB model takes no time. "" for a hub id."""
    folder = Path(name)
    if not folder.is_dir():
        return ""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in _MODEL_FILES for file in folder.glob(pattern)}):
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE_FILE_BYTES:
                digest.update(stream.read())
                continue
            for index in range(_WEIGHT_SAMPLES):
                stream.seek(index * (size - _SAMPLE_BYTES) // (_WEIGHT_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _questions_hash(samples: Sequence[EvalSample]) -> str:
    """A hash of what the model is asked; the labels are not part of it."""
    digest = hashlib.sha256()
    for sample in samples:
        turns = [(message.role, [(part.kind, part.text) for part in message.parts]) for message in sample.prompt]
        images = [image.path or hashlib.sha256(image.data or b"").hexdigest() for image in sample.images]
        digest.update(json.dumps([sample.id, images, turns]).encode())
    return digest.hexdigest()
