"""Every benchmark with its protocols, metrics, directions and options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.evals.benchmarks.contract import Benchmark, NamedSetting
from mmpref.statistics import Metric, Ratio
from site_pages.markdown import code, label, page, prose, table


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {"reference/benchmark_table.md": benchmarks()}


def anchor(name: str) -> str:
    """The anchor of a benchmark on the page."""
    return f"benchmark-{name.replace('_', '-')}"


def benchmarks() -> str:
    """The page of all benchmarks."""
    rows = [
        [
            f"[{code(found.name)}](#{anchor(found.name)})",
            prose(found.title),
            ", ".join(map(code, found.protocols)),
            "a model" if found.needs_judge else "log-probs" if found.by_likelihood else "rules",
            ", ".join(f"{code(name)} {arrow(found, name)}" for name in headline(found)),
        ]
        for found in BENCHMARKS.values()
    ]
    return page(
        "Benchmark table",
        f"The {len(BENCHMARKS)} benchmarks of `mmpref eval` and `mmpref score`. How each is read and counted, and "
        "where a protocol differs from the official script: [benchmarks](../benchmarks.md); every number of a "
        "training run: [metrics](metrics.md).",
        "↑ more is better, ↓ less is better, · neither. Shares are fractions from 0 to 1 in every file; pages and "
        "tables print them in percent.",
        table(["name", "benchmark", "protocols", "graded by", "what a table of a paper prints"], rows),
        *(_section(found) for found in BENCHMARKS.values()),
    )


def headline(benchmark: Benchmark[Any]) -> tuple[str, ...]:
    """The metrics that the table of a paper prints."""
    return benchmark.headline or tuple(metrics(benchmark))


def arrow(benchmark: Benchmark[Any], metric: str) -> str:
    """Which way a metric is better."""
    return "·" if metric in benchmark.undirected else "↓" if metric in benchmark.lower_is_better else "↑"


def metrics(benchmark: Benchmark[Any]) -> dict[str, tuple[Metric, list[str]]]:
    """Every metric of all questions with the protocols that have it."""
    found: dict[str, tuple[Metric, list[str]]] = {}
    for name, protocol in benchmark.protocols.items():
        for metric, made in benchmark.metrics(protocol, "", ()).items():
            found.setdefault(metric, (made, []))[1].append(name)
    return found


def _section(benchmark: Benchmark[Any]) -> str:
    facts = [
        ["paper", prose(benchmark.paper)],
        ["official script", prose(benchmark.official)],
        ["protocols", ", ".join(map(code, benchmark.protocols)) + " (the first is the default)"],
        ["answers", _answers(benchmark)],
        *([["also called", ", ".join(map(code, benchmark.aliases))]] if benchmark.aliases else []),
        *_needs(benchmark),
    ]
    every = list(benchmark.protocols)
    rows = [
        [
            code(name),
            arrow(benchmark, name),
            "share" if metric.proportion else "number",
            _made_of(metric),
            "all" if protocols == every else ", ".join(map(code, protocols)),
        ]
        for name, (metric, protocols) in metrics(benchmark).items()
    ]
    parts = [
        f"{label(anchor(benchmark.name))}## {code(benchmark.name)}: {prose(benchmark.title)}\n",
        table(["fact", "value"], facts),
        table(["metric", "better", "unit", "counts it is made of", "protocols"], rows),
    ]
    if benchmark.together:
        parts.append(
            f"{', '.join(map(code, benchmark.together))} mislead alone: a table that shows one of them shows all.\n"
        )
    if benchmark.options:
        parts.append(_options(benchmark.options))
    if benchmark.settings:
        parts.append(_settings(benchmark.settings))
    return "\n".join(parts)


def _answers(benchmark: Benchmark[Any]) -> str:
    if benchmark.by_likelihood:
        return "none is written: the model's log-probs of two given answers are compared"
    search = "greedy" if benchmark.num_beams == 1 else f"{benchmark.num_beams} beams"
    judged = "; judged by a model (`mmpref judge`)" if benchmark.needs_judge else ""
    return f"up to {benchmark.max_new_tokens:,} new tokens, {search}{judged}"


def _needs(benchmark: Benchmark[Any]) -> list[list[str]]:
    needed = {rules.needs: name for name, rules in benchmark.protocols.items() if rules.needs}
    return [
        [f"needed for {code(protocol)}", f"{code(option)}: {prose(benchmark.how_to_get)}"]
        for option, protocol in needed.items()
    ]


def _made_of(metric: Metric) -> str:
    if not isinstance(metric, Ratio):
        return ", ".join(map(code, sorted(metric.terms)))
    return f"{code(_sum(metric.top))} / {code(_sum(metric.bottom))}"


def _sum(terms: Mapping[str, float]) -> str:
    parts = [name if weight == 1 else f"{weight:g} {name}" for name, weight in terms.items()]
    return " + ".join(parts).replace("+ -", "− ") if parts else "1"


def _options(options: Mapping[str, Any]) -> str:
    rows = [[code(name), code(json.dumps(value, ensure_ascii=False))] for name, value in options.items()]
    return "Options (`NAME=VALUE` behind the command):\n\n" + table(["option", "default"], rows)


def _settings(settings: tuple[NamedSetting, ...]) -> str:
    rows = [
        [
            code(one.name),
            prose(one.source),
            "not said" if one.max_new_tokens is None else f"{one.max_new_tokens:,}",
            prose(one.draw.rule) if one.draw is not None else f"{one.num:,}, from `{one.file_option}`",
            prose(one.left_open),
        ]
        for one in settings
    ]
    head = ["setting", "read in", "new tokens", "images", "what is left open"]
    return "Ways to ask it that papers report (`mmpref eval --setting NAME`):\n\n" + table(head, rows)
