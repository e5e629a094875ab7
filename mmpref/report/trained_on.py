"""What was trained on what: model, data, tuned parts, update and loss of every run, with what differs marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from markupsafe import Markup

from mmpref.report.evaluation import number
from mmpref.report.facts import FactRow, fact_rows
from mmpref.report.html import render
from mmpref.report.runs import Run

NOT_RECORDED = "not recorded"
_NO_SETTING = ("output", "data.root", "data.train", "data.eval", "model.path", "loss.name", "reference.cache")
"""Keys whose differences are no difference of the training, or have a row of their own."""


def trained_on_section(runs: Sequence[Run]) -> Markup | None:
    """The first section of the page; None where no run was trained here."""
    trained = [run for run in runs if run.manifest]
    if not trained:
        return None
    facts = [dict(_facts(run)) for run in trained]
    settings = _different_settings(trained)
    return render(
        "trained_on",
        labels=[run.label for run in trained],
        rows=fact_rows(facts),
        settings=settings,
        without=[run.label for run in runs if not run.manifest],
        several=len(trained) > 1,
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    manifest = run.manifest
    yield "model", _said(run.recipe_value("model.path"))
    yield "parameters", _parameters(manifest)
    yield "training pairs", _count(manifest.get("pairs"))
    yield "training files", _files(run, "data.train", manifest.get("data"))
    yield "held-out pairs", _held_out(run)
    yield "rows in quarantine", _count(manifest.get("quarantined"))
    yield "lengths", _lengths(manifest.get("fit"))
    yield "parts", _parts(run)
    yield "adapter", _adapter(run)
    yield "loss", str(manifest.get("loss_line") or NOT_RECORDED).removeprefix("loss: ")
    yield "reference", _said(manifest.get("reference"))
    yield "update", _update(run)
    yield "learning rate", _learning_rate(run)
    yield "steps", _steps(run)
    yield "precision", _said(manifest.get("precision")).removeprefix("precision: ")
    yield "seed", _said(manifest.get("seed"))


def _said(value: Any) -> str:
    return NOT_RECORDED if value is None or value == "" else str(value)


def _count(value: Any) -> str:
    found = number(value)
    return NOT_RECORDED if found is None else f"{found:,.0f}"


def _parameters(manifest: Mapping[str, Any]) -> str:
    total, trained = number(manifest.get("parameters")), number(manifest.get("trained_parameters"))
    if not total or trained is None:
        return NOT_RECORDED
    return f"{_short(total)}, {_short(trained)} of them trained ({100 * trained / total:.3g} %)"


def _short(count: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {letter}"
    return f"{count:.0f}"


def _listed(value: Any) -> list[str]:
    entries = value if isinstance(value, list) else [value]
    paths = [entry.get("path") if isinstance(entry, Mapping) else entry for entry in entries]
    return [str(path) for path in paths if path]


def _files(run: Run, key: str, hashes: Any) -> str:
    """The files of a key by name, each with the first digits of its hash."""
    known: dict[str, Any] = dict(hashes) if isinstance(hashes, Mapping) else {}
    files = list(known) or _listed(run.recipe_value(key))
    shown = [
        f"{PurePath(file).name} (sha256 {str(known[file])[:8]})" if file in known else PurePath(file).name
        for file in map(str, files)
    ]
    return ", ".join(shown) or NOT_RECORDED


def _held_out(run: Run) -> str:
    count = len(set(run.eval_pairs.get("pair_id", ())))
    files = _listed(run.recipe_value("data.eval") or [])
    share = number(run.recipe_value("data.held_out"))
    source = ", ".join(PurePath(file).name for file in files)
    if not source and share:
        source = f"{share:g} of the training files" if share < 1 else f"{share:g} pairs of the training files"
    if not source:
        return "none"
    return f"{count:,} ({source})" if count else source


def _lengths(fit: Any) -> str:
    if not isinstance(fit, Mapping):
        return NOT_RECORDED
    said = [f"longest {_count(fit.get('longest'))} tokens"]
    for key, words in (
        ("answers_cut", "answers cut"),
        ("images_shrunk", "images made smaller"),
        ("set_aside", "pairs too long, set aside"),
    ):
        entry = fit.get(key)
        if isinstance(entry, Mapping) and (count := number(entry.get("pairs"))):
            said.append(f"{count:,.0f} {words}")
    return ", ".join(said)


def _parts(run: Run) -> str:
    tuned = run.recipe_value("tune")
    return ", ".join(f"{part} {how}" for part, how in tuned.items()) if isinstance(tuned, Mapping) else NOT_RECORDED


def _adapter(run: Run) -> str:
    adapter = run.recipe_value("adapter")
    if not isinstance(adapter, Mapping) or adapter.get("kind") in (None, "none"):
        return "none" if isinstance(adapter, Mapping) else NOT_RECORDED
    named = [f"{key} {adapter[key]}" for key in ("r", "alpha", "path") if adapter.get(key) is not None]
    return ", ".join([str(adapter["kind"]), *named])


def _update(run: Run) -> str:
    size = number(run.recipe_value("train.per_device_train_batch_size"))
    times = number(run.recipe_value("train.gradient_accumulation_steps")) or 1
    processes = number(run.manifest.get("processes"))
    if size is None:
        return NOT_RECORDED
    whole = size * times * (processes or 1)
    parts = f"{size:g} x {times:g} accumulated" + (f" x {processes:g} processes" if processes else "")
    return f"{whole:g} pairs ({parts})"


def _learning_rate(run: Run) -> str:
    rate = number(run.recipe_value("train.learning_rate"))
    if rate is None:
        return NOT_RECORDED
    words = [f"{rate:g}", _said(run.recipe_value("train.lr_scheduler_type"))]
    warmup = number(run.recipe_value("train.warmup_steps"))
    if warmup:
        words.append(f"warmup {warmup:g}")
    own = run.recipe_value("train.learning_rates")
    words += [f"{part} {own[part]:g}" for part in own if number(own[part])] if isinstance(own, Mapping) else []
    words.append(_said(run.recipe_value("train.optim")))
    return ", ".join(words)


def _steps(run: Run) -> str:
    planned, epochs = run.planned_steps, number(run.recipe_value("train.num_train_epochs"))
    done = number(run.manifest.get("steps")) if run.state == "complete" else None
    words = f"{done if done is not None else run.last_step:,.0f}"
    if planned and planned != (done or run.last_step):
        words += f" of {planned:,}"
    limited = (number(run.recipe_value("train.max_steps")) or -1) > 0
    if epochs and not limited:
        words += f" ({epochs:g} epoch{'s' if epochs != 1 else ''})"
    return words if run.state == "complete" else f"{words}, {run.state or 'state not recorded'}"


def _different_settings(runs: Sequence[Run]) -> list[FactRow]:
    """Keys of the recipes in which the runs differ, and that no other row shows."""
    flat = [_flat(run.recipe) for run in runs]
    keys = sorted({key for tree in flat for key in tree})
    shown = [key for key in keys if key not in _NO_SETTING and len({str(tree.get(key)) for tree in flat}) > 1]
    return [FactRow(key, tuple(_setting(tree, key) for tree in flat), differs=True) for key in shown]


def _setting(tree: Mapping[str, Any], key: str) -> str:
    return "not set" if tree.get(key) is None else str(tree[key])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
