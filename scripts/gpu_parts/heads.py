"""The output head in tiles against full logits and TRL's head, and the loss core, on the card.

A head makes the log-probs of N answer tokens from their hidden states and hands back the gradients that are wanted: of
the hidden states where it is frozen, of the weight as well where it trains. All of them work on the same tensors and
take turns; log-probs and gradients are compared with full logits in float32. Several sizes of a tile are tried, since
the one that mmpref uses was chosen on a CPU.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from bench_losses import HEADS, NUM_PAIRS, Head, HeadInputs, core_steps, head_inputs
from torch import Tensor
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # not in its __all__
from torch.utils._python_dispatch import TorchDispatchMode

from gpu_parts.case import GIB, Case, Context, Row, first_line, free_memory, ran_out_of_memory
from gpu_parts.clock import Clock, Peak
from mmpref.losses import fused_logps
from mmpref.losses.logps import TILE_BYTES

TITLE = "output head and loss core"
MIB = 2**20
SIZES = {"LLaVA-1.5-7B": (32_064, 4096), "Qwen2.5-VL-7B": (152_064, 3584)}
"""Vocabulary and hidden size of the heads that are measured."""
TOKENS = (310, 1000)
TOY_SIZES = {"LLaVA-1.5-7B": (1002, 64), "Qwen2.5-VL-7B": (2376, 56)}
TOY_TOKENS = (31,)
TILE = TILE_BYTES // MIB
"""MiB of a tile as mmpref uses it."""
TILES = tuple(sorted({8, 32, 128, 256, TILE}))
OURS = "tiled"
PEERS = {"full": "full logits", "full_selected": "full, selected_logps", "trl": "TRL fused"}
"""Names in a row -> names in ``bench_losses.HEADS``."""
PRODUCTS = {OURS: (2, 4), "full": (2, 3), "full_selected": (2, 3), "trl": (3, 4)}
"""Products of N V H that a head cannot do without, where it is frozen and where it trains."""


@dataclass(frozen=True, kw_only=True)
class HeadCase:
    """One head that is measured: its sizes, and whether it trains."""

    model: str
    vocabulary: int
    hidden_size: int
    tokens: int
    trains: bool

    @property
    def name(self) -> str:
        state = "trained" if self.trains else "frozen"
        return f"head of {self.model}, {state}, V = {self.vocabulary:,}, {self.tokens:,} tokens"

    @property
    def gib(self) -> float:
        """Memory for all of it: weights and their gradients in several dtypes, full logits likewise, and 1 GiB."""
        weights = self.vocabulary * self.hidden_size * (14 if self.trains else 6)
        return (weights + self.tokens * self.vocabulary * 16) / GIB + 1


def cases(context: Context) -> list[Case]:
    """Frozen heads first: they are what LoRA has."""
    sizes, tokens = (TOY_SIZES, TOY_TOKENS) if context.dry_run else (SIZES, TOKENS)
    heads = [
        HeadCase(model=model, vocabulary=vocabulary, hidden_size=hidden_size, tokens=count, trains=trains)
        for trains in (False, True)
        for model, (vocabulary, hidden_size) in sizes.items()
        for count in tokens
    ]
    tried: list[Mapping[str, float]] = []
    return [
        # the first one loads TRL and has its kernels compiled
        *(
            Case(
                name=one.name,
                run=partial(measure_head, one, context, tried),
                seconds=2.0 if number else 10.0,
                needs_gib=one.gib,
            )
            for number, one in enumerate(heads)
        ),
        Case(name="size of a tile", run=lambda: best_tile(tried), seconds=0.0),
        Case(name=f"loss core, {NUM_PAIRS:,} pairs", run=lambda: measure_core(context), seconds=1.0),
        # last: a profiler that was once open slows down what comes after it
        Case(name="kernels", run=lambda: count_kernels(heads[0], context), seconds=4.0, needs_gib=heads[0].gib),
    ]


def measure_head(case: HeadCase, context: Context, tried: list[Mapping[str, float]]) -> Iterator[Row]:
    """One row: time, peak and error of every head; ``tried`` gets the times of all sizes of a tile."""
    dtype = torch.bfloat16 if context.device == "cuda" else torch.float32
    inputs = head_inputs(
        case.vocabulary, case.hidden_size, case.tokens, trains=case.trains, device=context.device, dtype=dtype
    )
    unit = 2**10 if context.dry_run else MIB  # toy heads have several tiles too
    heads = {OURS: partial(fused_logps, tile_bytes=TILE * unit)} | {name: HEADS[one] for name, one in PEERS.items()}
    heads |= {tile_name(mib): partial(fused_logps, tile_bytes=mib * unit) for mib in TILES if mib != TILE}
    without: dict[str, str] = {}
    if why := trl_missing(inputs):
        without["trl"] = why
        del heads["trl"]
    truth = in_float32(inputs)
    figures: dict[str, dict[str, Any]] = {}
    for name, head in heads.items():
        if (one := accuracy(inputs, head, truth, context.device)) is not None:
            figures[name] = one
        elif name in PEERS:
            without[name] = "out of memory"
    del truth
    free_memory(context.device)
    steps = {name: partial(inputs.step, heads[name]) for name in figures}
    for name, milliseconds in take_turns(steps, context).items():
        figures[name] |= {"ms": milliseconds, "peak_mib": peak_mib(steps[name], context.device)}
    flop = 2 * case.tokens * case.vocabulary * case.hidden_size
    for name in PRODUCTS.keys() & figures.keys():
        figures[name]["tflops"] = flop * PRODUCTS[name][case.trains] / figures[name]["ms"] / 1e9
    tiles = {str(mib): figures.get(OURS if mib == TILE else tile_name(mib)) for mib in TILES}
    if not case.trains and all(tiles.values()):
        tried.append({mib: one["ms"] for mib, one in tiles.items() if one})
    yield {
        "case": case.name, "tokens": case.tokens, "vocabulary": case.vocabulary, "hidden_size": case.hidden_size,
        "trains": case.trains, "dtype": str(dtype).removeprefix("torch."),
        **{name: figures[name] for name in (OURS, *PEERS) if name in figures},
        "ratio": {name: figures[name]["ms"] / figures[OURS]["ms"] for name in PEERS if name in figures},
        "memory_ratio": {
            name: figures[OURS]["peak_mib"] / figures[name]["peak_mib"]
            for name in PEERS if name in figures and figures[name]["peak_mib"] > 0
        },
        "tiles": {mib: {"ms": one["ms"], "peak_mib": one["peak_mib"]} for mib, one in tiles.items() if one},
        "without": without,
    }  # fmt: skip


def tile_name(mib: int) -> str:
    return f"tiled {mib}"


def trl_missing(inputs: HeadInputs) -> str:
    """Why TRL's head cannot be measured, tried with two tokens; empty where it can."""
    if importlib.util.find_spec("trl") is None:
        return "trl is not installed"
    few = replace(inputs, hidden=inputs.hidden.detach()[:2].requires_grad_(), targets=inputs.targets[:2],
                  upstream=inputs.upstream[:2])  # fmt: skip
    try:
        few.step(HEADS[PEERS["trl"]])
    except Exception as err:  # private names of another library: any release may have others
        if ran_out_of_memory(err):
            return "out of memory"
        return f"TRL's head could not be run: {type(err).__name__}: {first_line(err)}"
    return ""


def in_float32(inputs: HeadInputs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Log-probs and gradients by full logits of the same values in float32."""
    wide = replace(
        inputs,
        hidden=inputs.hidden.detach().float().requires_grad_(),
        weight=inputs.weight.detach().float().requires_grad_(inputs.weight.requires_grad),
    )
    return wide.step(HEADS[PEERS["full"]])


def accuracy(
    inputs: HeadInputs, head: Head, truth: tuple[Tensor, tuple[Tensor, ...]], device: str
) -> dict[str, Any] | None:
    """How far a head is from the truth; None where it does not fit on the card."""
    try:
        logps, gradients = inputs.step(head)
    except RuntimeError as err:
        if not ran_out_of_memory(err):
            raise
        logps = None
    if logps is None:  # outside the handler, whose traceback holds the tensors
        free_memory(device)
        return None
    names = ("hidden", "weight")
    return {
        "logp_difference": float((logps - truth[0]).abs().max()),
        "gradient_error": {
            of: relative_error(got, want) for of, got, want in zip(names, gradients, truth[1], strict=False)
        },
    }


def relative_error(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want| over all of two matrices; without a copy of them."""
    rows = max(1, 2**24 // want.shape[1])
    off = sum(float((a.float() - b).square().sum()) for a, b in zip(got.split(rows), want.split(rows), strict=True))
    size = sum(float(b.square().sum()) for b in want.split(rows))
    return math.sqrt(off / size)


def take_turns(steps: Mapping[str, Callable[[], Any]], context: Context) -> dict[str, float]:
    """Median milliseconds of each step; all are run in turn, round after round."""
    clock = Clock(context.device)
    warm, rounds = (0, 2) if context.dry_run else (2, 12)
    spans: dict[str, list[tuple[Any, Any]]] = {name: [] for name in steps}
    for number in range(warm + rounds):
        for name, step in steps.items():
            start = clock.mark()
            step()
            if number >= warm:
                spans[name].append((start, clock.mark()))
    return {name: statistics.median(clock.between(*span) for span in one) for name, one in spans.items()}


def peak_mib(step: Callable[[], Any], device: str) -> float:
    """MiB of one call over what stood before, its results counted: a head has to hand them over."""
    with Peak(device) as peak:
        kept = step()
    del kept
    return peak.over_rest / MIB


def best_tile(tried: Sequence[Mapping[str, float]]) -> Iterable[Row]:
    """The size of a tile that is the fastest over all frozen heads, and how much it gains over mmpref's own."""
    if not tried:
        return []
    gain = {
        mib: math.exp(statistics.fmean(math.log(one[str(TILE)] / one[mib]) for one in tried)) for mib in map(str, TILES)
    }
    best = max(gain, key=lambda mib: gain[mib])
    return [{"tile_mib": TILE, "best_mib": int(best), "gain": gain[best], "gains": gain, "over_heads": len(tried)}]


def measure_core(context: Context) -> Iterator[Row]:
    """Milliseconds of every preset."""
    yield {"pairs": NUM_PAIRS, "presets": take_turns(core_steps(context.device), context)}


def count_kernels(case: HeadCase, context: Context) -> Iterator[Row]:
    """What one forward and backward starts on the card: a head, and every preset of the loss core."""
    inputs = head_inputs(
        case.vocabulary, case.hidden_size, case.tokens, trains=case.trains, device=context.device, dtype=torch.bfloat16
    )
    heads = {OURS: fused_logps} | {name: HEADS[known] for name, known in PEERS.items()}
    if trl_missing(inputs):
        del heads["trl"]
    yield {
        "head": case.name,
        "heads": {name: kernels(partial(inputs.step, head), context.device) for name, head in heads.items()},
        "core": {name: kernels(step, context.device) for name, step in core_steps(context.device).items()},
    }


def kernels(step: Callable[[], Any], device: str) -> int:
    """Kernels that one call starts on the card; on a CPU, operators that are no mere view."""
    step()  # first-call work
    if device != "cuda":
        with Operators() as operators:
            step()
        return int(operators.count)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    started = [event for event in profile.events() if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in started)


class Operators(TorchDispatchMode):
    """Counts the operators that are run while it is open."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def line_of(row: Row) -> str:
    if "presets" in row:
        slowest = max(row["presets"], key=lambda name: row["presets"][name])
        return (
            f"{row['case']}: {statistics.median(row['presets'].values()):.2f} ms (median preset), "
            f"{row['presets'][slowest]:.2f} ms ({slowest})"
        )
    if "best_mib" in row:
        return f"{row['case']}: {row['best_mib']} MiB is the fastest, x{row['gain']:.2f} over {row['tile_mib']} MiB"
    if "heads" in row and "core" in row:
        heads = ", ".join(f"{name} {count}" for name, count in row["heads"].items())
        core = row["core"].values()
        return f"{row['case']}: {row['head']}: {heads}; loss core: {min(core)} to {max(core)}"
    ours = row[OURS]
    parts = [f"{ours['ms']:.2f} ms, +{ours['peak_mib']:.0f} MiB"]
    for name, ratio in row["ratio"].items():
        memory = row["memory_ratio"].get(name)
        parts.append(f"{name} takes x{ratio:.2f}" + (f" and x{1 / memory:.1f} of the memory" if memory else ""))
    parts += [f"{name} not measured ({why})" for name, why in row["without"].items()]
    return f"{row['case']}: {'; '.join(parts)}"
