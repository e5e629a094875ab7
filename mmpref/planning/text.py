"""A plan in words and rows."""

from __future__ import annotations

from collections.abc import Sequence

from mmpref.models.part_counts import in_words
from mmpref.planning.gpus import FIXED, GIB, SLACK, UTILISATION
from mmpref.planning.kept_features import KeptFeatures
from mmpref.planning.memory import with_changes
from mmpref.planning.network import EFFICIENCY, GB
from mmpref.planning.pair_shape import at_once
from mmpref.planning.parallelism import precision_of
from mmpref.planning.plan import Plan
from mmpref.training.parallel.strategy import SharedStrategy
from mmpref.training.precision import autocast_dtype

Rows = list[tuple[str, str]]
COMPARED = ["strategy", "GiB on each", "fits", "GB sent an update", "network, s", "pairs an hour"]


def parts(plan: Plan) -> Rows:
    """Every part of the peak that is not nothing, and the sums."""
    memory = plan.memory
    named = [(f"{name} (always there)", size) for name, size in memory.before.items()]
    named += list(memory.step.items())
    rows = [(name, f"{size / GIB:.2f}") for name, size in named if size >= GIB / 200]
    rows.append(("peak: what is always there and the largest moment of a step", f"{memory.peak / GIB:.2f}"))
    rows.append((f"on a card: with {FIXED / GIB:.0f} GiB for CUDA and {SLACK:.0%} slack", f"{plan.needed / GIB:.2f}"))
    return rows


def facts(plan: Plan, *, gpu: str | None) -> tuple[Rows, list[str]]:
    """Labels with what is to be said of each, and notes."""
    memory, shape, train = plan.memory, plan.shape, plan.recipe.train
    found = [
        ("one pair" if shape.pairs == 1 else "one prompt", shape.in_words),
        ("layout", f"{memory.layout}: {memory.tokens:,} tokens {_at_once(plan)}"),
    ]
    found.append(("parts", in_words(plan.model.parts)))
    found.append(("precision", _precision(plan)))
    now, other = memory.peak / GIB, plan.other_checkpointing.peak / GIB
    on, off = (now, other) if train.gradient_checkpointing else (other, now)
    found.append(("peak by checkpointing", f"{on:.2f} GiB with gradient checkpointing, {off:.2f} GiB without"))
    if plan.features is not None:
        found.append(("feature cache", _kept(plan.features)))
    card = plan.on_card
    if card is not None:
        found.append(("fits", "yes" if plan.fits else "no"))
        found.append(
            ("largest that fits", f"answers of {card.longest:,} tokens each, or {card.most_pairs:,} pairs at once")
        )
    found += _together(plan)
    if plan.speed is not None:
        found.append(("speed", f"about {_between(plan.speed.pairs_per_hour)} pairs an hour{_on(plan, gpu)}"))
        found.append(("tokens", f"about {_between(plan.speed.tokens_per_second)} a second, in all"))
    if card is not None:
        found += [("change", f"{words}: then {needed:.1f} GiB are needed") for words, needed in card.changes]
    return found, _notes(plan)


def _at_once(plan: Plan) -> str:
    """What the tokens of the largest batch are of."""
    recipe, batch = plan.recipe, plan.recipe.train.per_device_train_batch_size
    free = with_changes(recipe, processing={"row_tokens": None})
    pairs, freely = (at_once(one, plan.shape, plan.memory.layout).pairs for one in (recipe, free))
    if pairs < freely:
        by = f"processing.row_tokens={recipe.processing.row_tokens}"
        return f"in {pairs} pair{'s' if pairs > 1 else ''} at once, by {by}"
    if plan.shape.pairs > 1:
        return f"in {pairs} pairs at once: those of a prompt come together"
    return f"in a micro-batch of {batch}"


def compared(plans: Sequence[tuple[SharedStrategy, Plan | str]]) -> tuple[list[tuple[str, ...]], list[str]]:
    """A row of :data:`COMPARED` for each strategy that can be, and for the others why not."""
    rows: list[tuple[str, ...]] = []
    notes = []
    for strategy, plan in plans:
        if isinstance(plan, str):
            notes.append(f"{strategy}: {plan}")
            continue
        fits = {None: "", True: "yes", False: "no"}[plan.fits]
        speed = "" if plan.speed is None else _between(plan.speed.pairs_per_hour)
        sent = f"{plan.network.traffic.total / GB:,.1f}"
        rows.append((strategy, f"{plan.needed / GIB:.1f}", fits, sent, f"{plan.network.seconds:,.2f}", speed))
    notes.append("Choose one with --strategy for its parts and what to change.")
    return rows, notes


def _kept(features: KeptFeatures) -> str:
    """What features take on disk and what they save."""
    each, images = features.image_bytes, features.images
    share = f"{features.share:.0%}" if features.share >= 0.01 else "less than 1%"
    in_all = "" if images is None else f", {each * images / GIB:,.1f} GiB for {images:,} of them"
    return (
        f"{each / 2**20:,.2f} MiB on disk an image{in_all}; a pair whose images are there has {share} fewer operations"
    )


def _together(plan: Plan) -> Rows:
    parallel, train = plan.parallel, plan.recipe.train
    if parallel.is_alone:
        return []
    nodes = f" on {parallel.nodes} nodes" if parallel.nodes > 1 else ""
    sent = plan.network.traffic
    kinds = [f"{sent.gradients / GB:,.2f} GB of gradients"]
    kinds += [f"{sent.weights / GB:,.2f} GB of weights"] if sent.weights else []
    found = [
        ("parallelism", f"{parallel.strategy} over {parallel.world} GPUs{nodes}"),
        (
            "global batch",
            f"{plan.global_batch:,} pairs: {parallel.world} GPUs x {train.per_device_train_batch_size} x "
            f"{train.gradient_accumulation_steps} micro-batches",
        ),
        ("sent by a GPU", f"{' and '.join(kinds)} in an update"),
        ("network", f"{plan.network.seconds:,.2f} s of an update on {plan.network.link}"),
    ]
    if plan.speed is not None:
        computing = plan.speed.computing
        wanted = sent.total / computing / EFFICIENCY / GB
        found.append(("computing", f"{computing:,.2f} s of an update; a link of {wanted:,.1f} GB/s keeps up with it"))
    return found


def _notes(plan: Plan) -> list[str]:
    notes = [f"The architecture comes from {plan.source}."]
    if plan.speed is not None:
        notes.append(
            f"The speed is counted, not measured: {plan.flops_per_pair / 1e12:.1f} TFLOP a pair at {UTILISATION:.0%} "
            "of the data sheet's rate."
        )
    recipe, parallel = plan.recipe, plan.parallel
    if recipe.train.group_pairs == "prompt" and plan.shape.pairs == 1:
        notes.append(
            "Each prompt is planned with one pair; --answers-per-prompt 4 plans for the pairs of four answers, which "
            "train.group_pairs=prompt runs together."
        )
    batches = recipe.train.gradient_accumulation_steps
    if not parallel.is_alone and batches > 1:
        fewer = max(1, batches // parallel.world)
        notes.append(
            f"An update takes {parallel.world} times the pairs of one GPU's; train.gradient_accumulation_steps={fewer} "
            f"makes it {plan.global_batch * fewer // batches:,}."
        )
    if plan.network.seconds:
        hidden = "" if plan.speed is None else " The first number has nothing sent while something is computed."
        notes.append(f"The network is counted at {EFFICIENCY:.0%} of the link's rate, as rings.{hidden}")
    if plan.reference.kind != "none":
        notes.append(f"The reference: {plan.reference.explanation}.")
    if plan.reference.kind == "cache":
        notes.append("The cache costs one forward pass of every pair before training; it is not in the speed.")
    if not parallel.is_alone and parallel.state_parts > 1 and recipe.adapter.stored_as is not None:
        notes.append("FSDP2 splits the 4-bit base as well; the scales of its blocks are whole on every GPU.")
    return notes + _on_experts(plan) + _on_precision(plan)


def _on_experts(plan: Plan) -> list[str]:
    """What becomes of experts, which work on linear layers passes over."""
    experts, adapter = plan.model.experts, plan.recipe.adapter
    if not experts:
        return []
    found = []
    size = plan.model.dtypes["language"].itemsize
    if adapter.stored_as is not None:
        found.append(
            f"{experts / 1e9:.2f}B of {plan.model.parameters['language'] / 1e9:.2f}B weights of the language model are "
            f"experts, which are no linear layers: they are not quantised, and take {experts * size / GIB:.1f} GiB."
        )
    if adapter.kind != "none" and adapter.path is None and not adapter.experts:
        found.append(
            f"The experts ({experts / 1e9:.2f}B weights) get no LoRA and stay as they are; adapter.experts=true adapts "
            "them."
        )
    return found


def _precision(plan: Plan) -> str:
    """What weights are loaded in and what layers compute in."""
    shown = plan.model.dtypes if plan.shape.patches else {"language": plan.model.dtypes["language"]}
    weights = ", ".join(f"{part} {str(dtype).removeprefix('torch.')}" for part, dtype in shown.items())
    half = autocast_dtype(plan.recipe)
    computed = "no autocast" if half is None else f"autocast to {str(half).removeprefix('torch.')}"
    return f"weights {weights}; {computed}"


def _on_precision(plan: Plan) -> list[str]:
    """What is updated in half precision, which not everybody expects."""
    recipe = plan.recipe
    trains = any(part == "full" for part in (recipe.tune.vision, recipe.tune.projector, recipe.tune.language))
    kept = precision_of(recipe, {part: dtype.itemsize for part, dtype in plan.model.dtypes.items()}, plan.parallel)
    if not trains or kept.trained == 4 or kept.master:
        return []
    return [
        "The weights that train are kept and updated in half precision, as model.dtype asks: small updates are rounded "
        "away. model.dtype=auto keeps them in float32, at about twice the memory of weights and optimizer."
    ]


def _between(values: tuple[float, float]) -> str:
    low, high = (f"{value:,.0f}" for value in values)
    return low if low == high else f"{low} to {high}"


def _on(plan: Plan, gpu: str | None) -> str:
    return f" on one {gpu}" if plan.parallel.is_alone else f" on {plan.parallel.world} x {gpu}"
