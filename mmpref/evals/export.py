"""Answers in the formats of other tools, so that one can move there and back.

``jsonl`` is mmpref's own. ``llava`` is what LLaVA's and LLaVA-lineage scripts write, ``lmms_eval`` a sample log,
``vlmevalkit`` the table (.xlsx or .tsv) that its ``evaluate`` reads, ``official`` the layout of the benchmark's own
script. ``alpaca_eval``, ``arena_hard`` and ``ifeval`` are for open instructions (benchmark ``win_rate``): AlpacaEval
2's ``model_outputs``, Arena-Hard-Auto v2's ``model_answer`` (without token counts: its ``add_markdown_info.py`` adds
them) and the response file of IFEval. A tool that does not ask some of the questions gets only the others;
``Exported`` says which were left out and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.mme import COGNITION, PERCEPTION
from mmpref.evals.files.export_endings import FOLDER, JSON_ARRAY, TABLE, kind_of, refuse_ending
from mmpref.evals.files.export_rows import FORMATS, Row, asks, row_maker
from mmpref.evals.files.files_read import files_read
from mmpref.evals.files.rows import pair_by_id
from mmpref.evals.scoring import benchmark_named, with_defaults
from mmpref.files.reading import refuse_written_over
from mmpref.files.rows import Source, choose
from mmpref.files.tables import write_table
from mmpref.files.writing import json_text, write_text, writing_to
from mmpref.records import EvalSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export wrote: rows, the ids of the answers that the other tool has no place for, and the ids of those
    that are not in the file as they were, each with the reason."""

    num_rows: int
    left_out: tuple[str, ...] = ()
    why: str = ""
    changed: tuple[str, ...] = ()
    why_changed: str = ""


def export_answers(
    benchmark: str,
    questions: Source,
    answers: Source,
    to: str,
    out: str | Path,
    *,
    model: str = "mmpref",
    **options: Any,
) -> Exported:
    """Write answers as ``to`` to the file (for MME's ``official`` the folder) ``out``.

    Args:
        model: the name of the model in formats that have a place for it.
        options: of the benchmark, as in scoring.

    Raises:
        ConfigError: the format is unknown, the benchmark has no such layout, or ``out`` ends as another format does or
            is a file that is read.
        DataError: questions and answers do not fit together.
    """
    chosen = benchmark_named(benchmark)
    choose(to, FORMATS, "format")
    row_of = row_maker(chosen.name, to, model)
    filled = with_defaults(chosen, options)
    path = Path(out)
    is_folder = kind_of(chosen.name, to) == FOLDER
    names = (*PERCEPTION, *COGNITION) if is_folder else ()
    outputs = {f"{name}, a file of --out,": path / f"{name}.txt" for name in names} or {"--out": path}
    refuse_written_over(outputs, files_read(chosen.name, questions, answers, options=options))
    refuse_ending(path, chosen.name, to)
    samples = chosen.load(questions, filled)
    pairs = pair_by_id(samples, chosen.load_answers(answers, samples, filled).answers, may_cover_part=True)
    has_place, why = asks(chosen.name, to)
    rows = [(sample, row_of(sample, text)) for sample, text in pairs if has_place(sample)]
    left_out = tuple(sample.id for sample, _ in pairs if not has_place(sample))
    if left_out and not rows:
        raise DataError(f"nothing to write for {to}: {why}, and none of the {len(pairs)} answers is to one of these")
    exported = Exported(num_rows=len(rows), left_out=left_out, why=why if left_out else "")
    if is_folder:
        changed = _write_mme(path, rows)
        return replace(exported, changed=changed, why_changed=_WHY_CHANGED if changed else "")
    _write(path, kind_of(chosen.name, to), [row for _, row in rows], numbered=to == "lmms_eval")
    return exported


def _write(path: Path, kind: str, content: list[Row], *, numbered: bool) -> None:
    """Write rows to one file; ``numbered`` gives each its number, as lmms-eval's logs have it."""
    if numbered:
        content = [{"doc_id": number, **row} for number, row in enumerate(content)]
    if kind == TABLE:
        with writing_to(path):
            write_table(path, content)
    elif kind == JSON_ARRAY:
        write_text(path, json_text(content, indent=1) + "\n")
    else:
        write_text(path, "".join(json_text(row) + "\n" for row in content))


_WHY_CHANGED = "MME's file has one line for an answer, so that line breaks and tabs became spaces"


def _write_mme(folder: Path, rows: Sequence[tuple[EvalSample, Row]]) -> tuple[str, ...]:
    """One file per subtask; a line break or tab in an answer becomes a space, because the script knows only lines, and
    half of an emoji a mark. Returns the ids of the answers that were changed by it."""
    lines: dict[str, list[str]] = {}
    changed: list[str] = []
    for sample, row in rows:
        subtask, image = sample.meta["image"].split("/", 1)
        answer = " ".join(row["text"].split("\n")).replace("\t", " ").replace("\r", " ")
        answer = answer.encode("utf-8", "replace").decode("utf-8")
        changed += [sample.id] if answer != row["text"] else []
        cells = (image, sample.prompt[-1].text, sample.target.capitalize(), answer)
        lines.setdefault(subtask, []).append("\t".join(cells) + "\n")
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for subtask, text in lines.items():
        write_text(folder / f"{subtask}.txt", "".join(text))
    return tuple(changed)
