"""A plan in words and rows."""

from __future__ import annotations

from mmpref.training.plan import FIXED, GIB, SLACK, UTILISATION, Plan


def parts(plan: Plan) -> list[tuple[str, str]]:
    """Every part of the peak that is not nothing, and the sums."""
    memory = plan.memory
    named = [(f"{name} (always there)", size) for name, size in memory.before.items()]
    named += list(memory.step.items())
    rows = [(name, f"{size / GIB:.2f}") for name, size in named if size >= GIB / 200]
    rows.append(("peak: what is always there and the largest moment of a step", f"{memory.peak / GIB:.2f}"))
    rows.append((f"on a card: with {FIXED / GIB:.0f} GiB for CUDA and {SLACK:.0%} slack", f"{plan.needed / GIB:.2f}"))
    return rows


def facts(plan: Plan, *, gpu: str | None, room: int | None) -> tuple[list[tuple[str, str]], list[str]]:
    """Labels with what is to be said of each, and notes."""
    memory, shape, train = plan.memory, plan.shape, plan.recipe.train
    image = f"{shape.image} image + " if shape.image else ""
    found = [
        ("one pair", f"{image}{shape.prompt} prompt + {shape.chosen} + {shape.rejected} answer tokens"),
        (
            "layout",
            f"{memory.layout}: {memory.tokens:,} tokens in a micro-batch of {train.per_device_train_batch_size}",
        ),
    ]
    now, other = memory.peak / GIB, plan.other_checkpointing.peak / GIB
    on, off = (now, other) if train.gradient_checkpointing else (other, now)
    found.append(("peak by checkpointing", f"{on:.2f} GiB with gradient checkpointing, {off:.2f} GiB without"))
    if room is not None or gpu is not None:
        found.append(("fits", "yes" if plan.fits else "no"))
        found.append(
            ("largest that fits", f"answers of {plan.longest:,} tokens each, or {plan.most_pairs:,} pairs at once")
        )
    if plan.pairs_per_hour is not None:
        found.append(("speed", f"about {plan.pairs_per_hour:,.0f} pairs an hour on one {gpu}"))
    found += [("change", f"{words}: then {needed:.1f} GiB are needed") for words, needed in plan.changes]
    notes = [f"The architecture comes from {plan.source}."]
    if plan.pairs_per_hour is not None:
        notes.append(
            f"The speed is counted, not measured: {plan.flops_per_pair / 1e12:.1f} TFLOP a pair at {UTILISATION:.0%} "
            "of the data sheet's rate."
        )
    return found, notes
