"""The sections of the page that any benchmark gets: its metrics, who turned right or wrong, and examples of those."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mmpref.report.benchmarks import BenchmarkTable, MetricRow
from mmpref.report.cells import NOT_MEASURED, Cell
from mmpref.report.examples import Album
from mmpref.report.flips import CASES, FlipPlan, Turns, choose_flips
from mmpref.report.markup import Html, join, tag, void
from mmpref.report.runs import Row

FLIP_SEED = 0
_SHORT = {"fixed": "fixed", "broken": "newly broken", "stayed": "still wrong"}
_LONGEST_TEXT = 700
_OPEN_ROWS = 24  # the parts of a benchmark that has more are folded away
_ARROWS = {"lower": " ↓", "higher": " ↑"}


def benchmark_sections(tables: Sequence[BenchmarkTable], album: Album, *, examples: int) -> list[Html]:
    """One section per benchmark and protocol that has something to say."""
    return [section for table in tables if (section := _section(table, album, examples))]


def _section(table: BenchmarkTable, album: Album, examples: int) -> Html | None:
    several = len(table.labels) > 1
    flips = _flips(table, album, examples) if several and table.benchmark != "chair" else ""
    turns = _turns(table) if table.turns else ""
    if not table.rows and not turns:
        return None
    notes = [tag("li", note) for note in table.notes]
    name = "-".join(part for part in (table.benchmark, table.protocol, table.asked) if part)
    return tag(
        "section",
        tag("h2", table.title, " ", tag("small", f"protocol {table.protocol}")),
        _metrics(table) if table.rows else "",
        tag("ul", *notes, class_="notes") if notes else "",
        turns,
        flips,
        id=f"benchmark-{''.join(c if c.isalnum() else '-' for c in name)}",
    )


def _metrics(table: BenchmarkTable) -> Html:
    whole = [row for row in table.rows if not row.part]
    parts = [row for row in table.rows if row.part]
    out = [_grid(table, whole, "All questions")] if whole else []
    if parts:
        bodies = [_grid(table, list(rows), part) for part, rows in groupby(parts, key=lambda row: row.part)]
        folded = len(table.rows) > _OPEN_ROWS
        inner = tag("div", *bodies)
        out.append(tag("details", tag("summary", f"By part ({len(bodies)})"), inner) if folded else inner)
    words = (
        "Under each value its 95 % interval, then the paired difference from the first run with its interval. Beside "
        "the metrics stand length, empty answers and yes-answers: who says less is wrong less often."
    )
    return tag("div", tag("p", words), *out)


def _grid(table: BenchmarkTable, rows: Sequence[MetricRow], title: str) -> Html:
    heads = [tag("th", label, scope="col") for label in table.labels]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", title),
            tag("thead", tag("tr", tag("th", "metric", scope="col", class_="corner"), *heads)),
            tag("tbody", join(_row(row) for row in rows)),
            class_="results by-metric",
        ),
        class_="scroll",
        role="region",
        aria_label=f"{table.title}: {title}",
        tabindex=0,
    )


def _row(row: MetricRow) -> Html:
    unit = {"percent": "%", "words": "words"}.get(row.cells[0].unit, "")
    name = tag(
        "th",
        row.name,
        tag("span", _ARROWS[row.better], aria_hidden="true") if row.better else "",
        tag("span", f", {row.better} is better", class_="hidden") if row.better else "",
        tag("small", unit) if unit else "",
        scope="row",
        title=row.explanation or None,
    )
    return tag("tr", name, *(_cell(cell) for cell in row.cells))


def _cell(cell: Cell) -> Html:
    parts = [tag("span", cell.text, class_="value" if cell.value is not None else "absent")]
    if cell.value is not None and cell.interval is not None:
        parts.append(tag("span", cell.interval_text, class_="interval"))
    if cell.difference is not None:
        parts.append(
            tag("span", cell.difference_text, " ", tag("i", cell.verdict), class_=f"difference {cell.verdict}")
        )
        parts.append(tag("span", cell.difference_interval_text or "no interval", class_="interval"))
        if cell.caution:
            parts.append(tag("span", cell.caution, class_="interval why"))
    parts += [
        tag("span", f"{flag.sign} {flag.words}", class_=f"flag {flag.kind}", title=flag.why) for flag in cell.flags
    ]
    return tag("td", *parts, class_=f"flagged {cell.flags[0].kind}" if cell.flags else None)


def _turns(table: BenchmarkTable) -> Html:
    words = (
        f"Against {table.labels[0]}: how many questions turned right and wrong, and McNemar's exact p that both are "
        "equally likely. It takes questions as independent and is not corrected for the number of parts; where several "
        "are about one image, trust the interval of the difference."
    )
    shown = join(_turn_table(table, turns) for turns in table.turns)
    return tag("div", tag("h3", "Turned right, turned wrong"), tag("p", words), shown)


def _turn_table(table: BenchmarkTable, turns: Turns) -> Html:
    heads = ("", "both right", "turned right", "turned wrong", "both wrong", "McNemar p")
    rows = [
        tag(
            "tr",
            tag("th", part, scope="row"),
            *(tag("td", n) for n in (turn.both_right, turn.turned_right, turn.turned_wrong, turn.both_wrong)),
            tag("td", _p(turn.p)),
        )
        for part, turn in turns.counts.items()
    ]
    made = tag(
        "table",
        tag("caption", f"{turns.label} against {table.labels[0]}"),
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *rows),
        class_="plain",
    )
    return tag("div", made, class_="scroll", role="region", aria_label=f"Turns of {turns.label}", tabindex=0)


def _p(value: float | None) -> str:
    if value is None:
        return "nothing turned"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _flips(table: BenchmarkTable, album: Album, count: int) -> Html | str:
    answered = [(label, found) for label, found in zip(table.labels, table.evaluations, strict=True) if found]
    if len(answered) < 2 or answered[0][0] != table.labels[0]:
        return ""
    plan = choose_flips([found.items for _, found in answered], count=count, seed=FLIP_SEED)
    if not plan.chosen:
        return ""
    items = [(label, {str(item.get("id")): item for item in found.items}) for label, found in answered]
    shown = [_example(case, name, items, album) for case, name in plan.chosen]
    return tag(
        "details",
        tag("summary", f"Examples ({len(shown)} of {plan.num_questions} questions)"),
        tag("ul", *_counts(plan), class_="cases"),
        tag(
            "p",
            f"The rule: the questions of each case are shuffled by a hash of their id (seed {FLIP_SEED}), and the "
            "cases take turns; it never looks at who wins.",
        ),
        tag("div", join(shown), class_="gallery"),
        open=table.benchmark != "pope",
    )


def _counts(plan: FlipPlan) -> list[Html]:
    return [tag("li", tag("strong", str(plan.counts[case])), f" {words}") for case, words in CASES.items()]


def _example(case: str, name: str, items: Sequence[tuple[str, dict[str, Row]]], album: Album) -> Html:
    item = items[0][1][name]
    uri, tiny, why = album.embed(item.get("image"))
    question, truth = _text(item.get("question")), _truth(item)
    if uri is None:
        image = tag("p", f"No image: {why}.", class_="no-image")
    else:
        alt = f"Image of question {name}"
        image = void("img", src=Html(uri), alt=alt, class_="tiny" if tiny else None, loading="lazy")
    said = []
    for label, table in items:
        answer = table[name]
        text = _text(answer.get("text"))
        said.append(tag("dt", label))
        said.append(
            tag(
                "dd",
                tag("q", text) if text else tag("em", "(an empty answer)"),
                tag("p", _verdict(answer), class_="facts"),
            )
        )
    return tag(
        "article",
        tag("div", image, tag("p", tag("b", "Truth: "), truth, class_="truth") if truth else "", class_="image"),
        tag(
            "div",
            tag("h3", tag("span", _SHORT[case], class_=f"case {case}"), " ", tag("code", name)),
            tag("p", question) if question else "",
            tag("dl", *said),
        ),
        class_="example",
    )


def _truth(item: Row) -> str:
    for key in ("label", "reference"):
        if isinstance(item.get(key), str) and item[key]:
            return _text(item[key])
    objects = item.get("objects")
    return ", ".join(map(str, objects)) if isinstance(objects, list) else ""


def _verdict(item: Row) -> Html:
    """How the answer was judged, in a few words."""
    facts = []
    if item.get("read") is not None:
        facts.append(tag("span", f"read as {item['read']}"))
    if item.get("score") is not None:
        facts.append(tag("span", f"rated {item['score']}"))
    if isinstance(item.get("hallucinated"), list) and item["hallucinated"]:
        facts.append(tag("span", f"made up: {', '.join(map(str, item['hallucinated']))}", class_="made-up"))
    if isinstance(item.get("correct"), bool):
        facts.append(tag("span", "right" if item["correct"] else "wrong", class_="" if item["correct"] else "made-up"))
    return join(facts or [NOT_MEASURED], " ")


def _text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
