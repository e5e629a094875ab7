"""What README and docs say about GPUs, each sentence from the newest figures, or that there are none."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from gpu_parts.case import Row
from gpu_parts.evidence import Evidence

NAMES = {"llava-hf/llava-1.5-7b-hf": "LLaVA-1.5-7B", "Qwen/Qwen2.5-VL-7B-Instruct": "Qwen2.5-VL-7B",
         "Qwen/Qwen2.5-VL-3B-Instruct": "Qwen2.5-VL-3B"}  # fmt: skip


def of_step(evidence: Evidence) -> str:
    """The step against TRL's, for LoRA with checkpointing and answers of usual length."""
    compared = [row for row in _steps(evidence) if "ratio" in row]
    if not compared:
        return "speed not yet measured on a GPU"
    shown = ", ".join(
        f"{row['ratio']['live']:.1f} times as fast as TRL's for {name_of(row)} "
        f"({row['ratio']['cached']:.1f} times with a cached reference)"
        for row in compared
    )
    return f"on one {evidence['pair_step'].card} a LoRA step is {shown}"


def of_groups(evidence: Evidence) -> str:
    """4 answers in 6 pairs, the prompt once."""
    rows = _rows(evidence, "groups")
    if not rows:
        return "speed not yet measured on a GPU"
    shown = ", ".join(f"{row['ratio']:.1f} times as fast for {name_of(row)}" for row in rows)
    return f"on one {evidence['groups'].card} the step of 4 answers in 6 pairs is {shown}"


def of_speed(evidence: Evidence) -> str:
    """Pairs a second."""
    steps = _steps(evidence)
    if not steps:
        return "speed not yet measured on a GPU"
    shown = ", ".join(f"{row['live']['pairs_per_second']:.1f} for {name_of(row)}" for row in steps)
    return f"pairs a second with LoRA on one {evidence['pair_step'].card}: {shown}"


def of_qlora(evidence: Evidence) -> str:
    """7B QLoRA under the caps of consumer cards."""
    trained = [row for row in _rows(evidence, "small_cards") if row.get("trains")]
    if not trained:
        return "7B under the memory of a consumer card not yet measured"
    least: dict[str, float] = {}
    for row in trained:
        model = row["recipe"].split("_uni_dpo")[0]
        least[model] = min(least.get(model, row["cap_gib"]), row["cap_gib"])
    shown = ", ".join(f"`{model}` under {cap:g} GB" for model, cap in least.items())
    return f"trained on one {evidence['small_cards'].card} capped to a consumer card's memory: {shown}"


def of_plan(evidence: Evidence) -> str:
    """How far the plan is from measured peaks."""
    errors = [abs(row["error"]) for row in _rows(evidence, "plan") if "error" in row]
    if not errors:
        return "not yet compared with a GPU"
    runs = f"{len(errors)} run{'s' if len(errors) > 1 else ''}"
    return f"within {100 * max(errors):.2g} % of the peaks of {runs} on one {evidence['plan'].card}"


def of_kernels(evidence: Evidence) -> str:
    """The tests that need CUDA."""
    rows = _rows(evidence, "kernels")
    if not rows:
        return "tests on a GPU: not yet run"
    row, card = rows[0], evidence["kernels"].card
    failed = f", {row['num_failed']} failed" if row["num_failed"] else ""
    return f"tests on a GPU: {row['passed']} passed{failed} on one {card}"


def of_heads(evidence: Evidence) -> str:
    """The output head against TRL's and full logits."""
    compared = [row for row in _rows(evidence, "heads") if "ratio" in row]
    if not compared:
        return "not measured on a GPU"
    shown = [
        f"{name} takes {min(ratios):.2f} to {max(ratios):.2f} times as long as the tiled head (median "
        f"{median(ratios):.2f})"
        for name, key in (("a head with full logits", "full"), ("TRL's head", "trl"))
        if (ratios := [row["ratio"][key] for row in compared if key in row["ratio"]])
    ]
    if not shown:
        return "not measured on a GPU"
    return f"on one {evidence['heads'].card} {', and '.join(shown)}"


def of_generation(evidence: Evidence) -> str:
    """Answers in batches."""
    rows = [row for row in _rows(evidence, "generation") if "ratio" in row]
    if not rows:
        return "on a GPU it was not measured"
    shown = ", ".join(
        f"{row['ratio']:.1f} times as fast in batches of {row['batch']} with {row['model'].split('/')[-1]}"
        for row in rows
    )
    return f"on one {evidence['generation'].card} answers come, against one at a time, {shown}"


SENTENCES: dict[str, Callable[[Evidence], str]] = {
    "step": of_step, "groups": of_groups, "speed": of_speed, "qlora": of_qlora, "plan": of_plan, "kernels": of_kernels,
    "heads": of_heads, "generation": of_generation,
}  # fmt: skip
"""Name of a mark -> what stands there."""


def name_of(row: Row) -> str:
    """A model's short name."""
    model = str(row["model"])
    return NAMES.get(model, model)


def _rows(evidence: Evidence, part: str) -> list[Row]:
    return evidence[part].rows if part in evidence else []


def _steps(evidence: Evidence) -> list[Row]:
    """LoRA rows with answers of 60 to 250 tokens, one pair at a time."""
    return [
        row for row in _rows(evidence, "pair_step")
        if row["mode"] == "lora" and row["answers"] == [60, 250] and row.get("batch", 1) == 1
    ]  # fmt: skip
