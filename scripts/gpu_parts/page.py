"""docs/gpu.md: a section for each part, with its figures or "Not measured."."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gpu_parts.case import Row
from gpu_parts.evidence import Evidence, Measured

INTRO = """\
# On a GPU

*This page is made by `scripts/make_gpu_page.py` from the newest figures in `results/gpu/`; do not edit it.*

```bash
python scripts/gpu_check.py                       # any NVIDIA card; 8 minutes; writes results/gpu/TIME-CARD.json
python scripts/gpu_check.py --minutes 15          # more cases
python scripts/gpu_check.py --parts pair_step     # one part: kernels, pair_step, groups, small_cards, plan, heads,
                                                  # generation
python scripts/make_gpu_page.py                   # this page and the README's status lines from it
```

It needs a checkout and mmpref's own libraries; bitsandbytes, TRL, flash-attn and pytest are used where they are there,
and torchvision never. Models have their real size and random weights that are made on the card, so nothing is
downloaded. `CUDA_VISIBLE_DEVICES` chooses the card. What cannot be run (no library, too small a card, no time left) is
said in one line and stands in the results file. Each part runs in a process of its own: one that breaks does not take
the others along. Ends with 0, with 1 where something failed, with 2 where nothing can be measured.
`--dry-run --out FILE` runs every part at toy size on a CPU.
"""
NOT_MEASURED = "Not measured.\n"
WHO = {"trl": "TRL", "live": "mmpref", "cached": "mmpref, cached"}


def page(evidence: Evidence) -> str:
    """The whole page."""
    return "\n".join([INTRO, *(_section(part, evidence) for part in SECTIONS)])


def _section(part: str, evidence: Evidence) -> str:
    title, about, body = SECTIONS[part]
    lines = [f"## {title}", about, ""]
    measured = evidence.get(part)
    if measured is None:
        return "\n".join([*lines, NOT_MEASURED])
    lines += [f"*{measured.source}*", "", body(measured)]
    if measured.part["status"] != "done":
        lines += ["", f"The part was not finished: {measured.part['why']}."]
    if measured.without:
        lines += ["", "Without figures:", *(f"- {case}: {why}" for case, why in measured.without)]
    return "\n".join([*lines, ""])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; numbers with a fraction are shown with two places."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}".replace("%", " %")


def _kernels(measured: Measured) -> str:
    row = measured.rows[0]
    lines = [f"{row['passed']} passed, {row['num_failed']} failed."]
    lines += [f"- {count} not run: {reason}" for reason, count in row["not_run"].items()]
    return "\n".join(lines)


def _pair_step(measured: Measured) -> str:
    head = ("case", "TRL ms", "live ms", "cached ms", "live", "counted", "cached", "counted", "memory live", "cached",
            "of bf16 rate")  # fmt: skip
    rows = []
    for row in measured.rows:
        ratio, ideal, memory = (row.get(name, {}) for name in ("ratio", "ideal", "memory_ratio"))
        rows.append([
            f"{row['case']}{' (a)' * row.get('profiled_before', False)}",
            row.get("trl", {}).get("ms"), row["live"]["ms"], row["cached"]["ms"],
            _times(ratio.get("live")), _times(ideal.get("live")), _times(ratio.get("cached")),
            _times(ideal.get("cached")), memory.get("live"), memory.get("cached"), _share(row["live"]["share_of_bf16"]),
        ])  # fmt: skip
    parts = []
    for row in measured.rows:
        for who in ("trl", "live", "cached"):
            if who in row:
                found = row[who]
                figures = [found[f"{name}_ms"] for name in ("forward", "backward", "vision", "head")]
                sizes = [found["pairs_per_second"], found["peak_gib"], found["over_rest_gib"]]
                parts.append([row["case"], who, *figures, *sizes])
    second = ("case", "", "forward ms", "backward ms", "of it vision ms", "head ms", "pairs a second", "peak GiB",
              "step GiB")  # fmt: skip
    slowed = [
        "", "(a) After a profiler had been open in the process, which makes both start their kernels more slowly.",
    ] * any(row.get("profiled_before") for row in measured.rows)  # fmt: skip
    return "\n".join([table(head, rows), *slowed, "", table(second, parts), *_profiles(measured.rows)])


def _times(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}x"


def _profiles(rows: Sequence[Row]) -> list[str]:
    """Where a ratio stays more than a tenth behind the count: what the card was doing."""
    lines: list[str] = []
    for row in rows:
        behind = "ratio" in row and any(row["ratio"][way] < 0.9 * row["ideal"][way] for way in row["ratio"])
        if not behind or "profile" not in row:
            continue
        idle = ", ".join(
            f"{share:.0%} of {WHO[who]}'s step".replace("%", " %")
            for who, share in row.get("idle", {}).items()
            if share is not None
        )
        lines += ["", f"{row['case']}: less than its operations would allow."]
        lines += [f"No kernel ran in {idle}."] if idle else []
        lines += ["Kernels of one step, ms (calls):", ""]
        columns: Mapping[str, Sequence[Sequence[object]]] = row["profile"]
        longest = max(len(kernels) for kernels in columns.values())
        body = [
            [f"`{k[0]}` {k[1]:.1f} ({k[2]})" if (k := _at(kernels, number)) else "" for kernels in columns.values()]
            for number in range(longest)
        ]
        lines.append(table([WHO[who] for who in columns], body))
    return lines


def _at(kernels: Sequence[Sequence[object]], number: int) -> Sequence[object] | None:
    return kernels[number] if number < len(kernels) else None


def _yes_or_no(value: object) -> str | None:
    return "yes" if value is True else "no" if value is False else None


def _groups(measured: Measured) -> str:
    head = ("case", "separate ms", "grouped ms", "times as fast", "counted", "step GiB: separate", "grouped",
            "one pair", "of bf16 rate")  # fmt: skip
    return table(head, [
        [row["case"], row["separate"]["ms"], row["grouped"]["ms"], _times(row["ratio"]), _times(row["ideal"]),
         *(row[way]["over_rest_gib"] for way in ("separate", "grouped", "one_pair")),
         _share(row["grouped"]["share_of_bf16"])]
        for row in measured.rows
    ])  # fmt: skip


def _small_cards(measured: Measured) -> str:
    head = ("recipe", "cap GB", "trains", "peak GiB", "held by the allocator", "pairs an hour",
            "longest answers that fit", "by the plan")  # fmt: skip
    return table(head, [
        [f"`{row['recipe']}`", f"{row['cap_gib']:g}", _yes_or_no(row.get("trains")),
         row.get("peak_gib"),
         row.get("reserved_gib"), _whole(row.get("pairs_per_hour")), _whole(row.get("largest_answers")),
         _whole(row.get("planned_largest"))]
        for row in measured.rows
    ])  # fmt: skip


def _whole(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _plan(measured: Measured) -> str:
    peaks = [row for row in measured.rows if "error" in row]
    lines = [table(("run", "peak: measured GiB", "estimated", "error", "held by the allocator"), [
        [row["case"], row["measured_gib"], row["planned_gib"], f"{row['error']:+.1%}", row.get("reserved_gib")]
        for row in peaks
    ])]  # fmt: skip
    for row in measured.rows:
        if row["case"] == "constants":
            found = {name: facts for name, facts in row.items() if isinstance(facts, Mapping)}
            lines += ["", table(("constant", "assumed", "measured"), [
                [name, facts.get("assumed"), ", ".join(f"{key} {_cell(value)}" for key, value in facts.items()
                                                       if key != "assumed")]
                for name, facts in found.items()
            ])]  # fmt: skip
    return "\n".join(lines)


def _heads(measured: Measured) -> str:
    compared = [row for row in measured.rows if "tiled" in row]
    head = ("case", "tiled ms", "full logits ms", "TRL ms", "tiled MiB", "full logits MiB", "TRL MiB")
    columns = ("tiled", "full", "trl")
    lines = [table(head, [
        [row["case"], *(row.get(who, {}).get(what) for what in ("ms", "peak_mib") for who in columns)]
        for row in compared
    ])]  # fmt: skip
    for row in measured.rows:
        if "presets" in row:
            lines += ["", f"{row['case']}, forward and backward, ms: " + ", ".join(
                f"{name} {value:.2f}" for name, value in row["presets"].items())]  # fmt: skip
    return "\n".join(lines)


def _generation(measured: Measured) -> str:
    head = ("case", "batch", "answers a second", "one at a time", "tokens a second", "one at a time", "times as fast")
    ways = ("batched", "one_at_a_time")
    return table(head, [
        [row["case"], row["batch"],
         *(row[way][what] for what in ("answers_per_second", "tokens_per_second") for way in ways), row["ratio"]]
        for row in measured.rows if "ratio" in row
    ])  # fmt: skip


SECTIONS: dict[str, tuple[str, str, Callable[[Measured], str]]] = {
    "kernels": (
        "Are the kernels right",
        "`tests/gpu`: shared prefix against separate rows, log-probs and gradients, in float32 and bfloat16 with SDPA, "
        "FlexAttention and flash-attn; tiles of the output head against full logits; NF4 layers in both layouts; no "
        "wait for the device within a step.",
        _kernels,
    ),
    "pair_step": (
        "A step against TRL's",
        "One training step from a batch on the card to gradients: mmpref's trainer and TRL's `DPOTrainer` over the "
        "same weights and pairs, in one process, taking turns, bfloat16, gradient checkpointing, a question of 40 "
        "tokens. *live*: the reference is run; *cached*: its log-probs are read. *counted* is the ratio of counted "
        "operations: what the ratio of times would be if both ran at one rate. *memory* is what a step takes above "
        "what stood before, ours over TRL's. *of bf16 rate*: the operations of our live step, of what one big product "
        "of bfloat16 matrices reaches on the same card.",
        _pair_step,
    ),
    "groups": (
        "Pairs that share a prompt",
        "4 answers of one prompt in 6 pairs, answers of 100 to 200 tokens, through mmpref's trainer, bfloat16, LoRA, "
        "gradient checkpointing, a live reference. *Grouped*: the row has the prompt once and each answer once. "
        "*Separate*: the row has a prompt and two answers for each pair. *Counted* is the ratio of counted operations. "
        "Step GiB is what a step takes above what stood before it.",
        _groups,
    ),
    "small_cards": (
        "7B QLoRA on small cards",
        "Shipped recipes through `mmpref train`'s own code, start-up checks and all, with the settings that `mmpref "
        "plan --fit` finds for a card and the memory capped to that card's. Longest answers: tokens of each of two "
        "equal answers.",
        _small_cards,
    ),
    "plan": (
        "The plan against measured peaks",
        "*Peak* is what torch's allocator handed out at most, from loading to the written model; CUDA's context and "
        "what the allocator holds beyond it come on top ([memory.md](memory.md)).",
        _plan,
    ),
    "heads": (
        "Output head and loss core",
        "Log-probs of answer tokens and their gradient from bfloat16 hidden states: mmpref's tiled head, full logits, "
        "and TRL's fused head (its Triton kernel).",
        _heads,
    ),
    "generation": (
        "Answers",
        "Greedy answers of the in-process answerer, in batches and one at a time.",
        _generation,
    ),
}
"""Part -> title, what it is, and what makes its figures a text."""
