"""From the arguments of ``mmpref report --table paper`` to its files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over
from mmpref.report.paper.files import refuse_other_endings, write_paper
from mmpref.report.paper.inputs import load_models
from mmpref.report.paper.table import paper_table


def refuse_other_options(table: str, *, image_root: Path | None = None) -> None:
    """Refuse a table that is not known, and options that it does not use.

    Raises:
        ConfigError: says which.
    """
    if table != "paper":
        raise ConfigError(f"--table {table}: write --table paper or --table runs")
    if image_root is not None:
        raise ConfigError("--image-root is for the page of --table runs; --table paper shows no images, leave it out")


def write_papers(
    arguments: Sequence[str], out: Sequence[Path], *, columns: str | None = None, title: str | None = None
) -> Iterator[Path]:
    """Write the table of several models into each file of ``out``, and give its name when it is there.

    Args:
        arguments: ``PATH`` or ``NAME=PATH`` (``load_models``).
        out: files that end in ``.html``, ``.csv``, ``.md`` or ``.tex``.
        columns: ``BENCHMARK/METRIC`` with commas between; None: what each benchmark's paper prints.
        title: heading of a page, caption of a LaTeX table.

    Raises:
        ConfigError: an ending, a column or an input that is none, or an output that is an input.
        CheckpointError: a file cannot be written.
    """
    for file in out:  # all endings are known before the first file is written
        refuse_other_endings(file)
    chosen = [name.strip() for name in (columns or "").split(",")]
    if columns is not None and not all(chosen):
        raise ConfigError(
            f"--columns {columns}: write names with commas between, as in --columns pope/f1,chair/chair_s"
        )
    models, problems = load_models(arguments)
    read = [entry.file for model in models for entry in model.evaluations if entry.file is not None]
    beside = [other for file in read for other in file.parent.glob("*.jsonl")]
    outputs: dict[str, Path | None] = {f"--out ({number})" if number else "--out": f for number, f in enumerate(out)}
    refuse_written_over(outputs, [*read, *beside])
    table = paper_table(models, chosen if columns is not None else (), problems=problems)
    for file in out:
        words = ["mmpref", "report", *arguments, "--table", "paper", "--out", str(file)]
        words += ["--columns", columns] if columns is not None else []
        words += ["--title", title] if title is not None else []
        with only_writer(file, "choose another --out"):
            write_paper(table, file, title=title, command=shlex.join(words))
        yield file
