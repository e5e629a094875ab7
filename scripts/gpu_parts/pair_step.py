"""A training step of mmpref against one of TRL's DPOTrainer, on the same pairs in the same process, taking turns.

Real architectures at their real size with random weights; both libraries train LoRA of the same rank on the same layers
over one set of frozen weights, under autocast to bfloat16, with gradient checkpointing, and start from the same
adapter. A step is what happens between a batch on the device and the gradients (``gpu_parts.steps``). ``live`` is
mmpref with the adapter-off reference that TRL uses too, ``cached`` with the reference's log-probs computed before.

What is compared: ratios are total times over all measured pairs; the ideal is the ratio of the floating-point
operations that both dispatch (``gpu_parts.counted``) for the pair that is nearest to the mean length. Memory is that of
a pair whose answers are both as long as they get, after the allocator gave everything else back.
"""

from __future__ import annotations

import gc
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_models import make_pairs

from gpu_parts.case import GIB, Case, Context, Row, first_line, free_memory, ran_out_of_memory
from gpu_parts.clock import Peak
from gpu_parts.counted import count_flops
from gpu_parts.phases import Phases
from gpu_parts.profiled import profile_step, was_open
from gpu_parts.random_models import LLAVA_7B, QWEN_3B, QWEN_7B, RandomModel, random_model
from gpu_parts.shared_weights import in_nf4, separate_bytes, twin
from gpu_parts.steps import Ours, Trl, nearest_to_mean, recipe_tree, runners, same_adapters
from mmpref.processing import family_of
from mmpref.records import PreferencePair

TITLE = "a training step against TRL's DPOTrainer"
SHORT, LONG = (60, 250), (500, 500)
"""Tokens of an answer without its end, from and to."""
NAMES = {LLAVA_7B: "LLaVA-1.5-7B", QWEN_7B: "Qwen2.5-VL-7B", QWEN_3B: "Qwen2.5-VL-3B"}
TWICE = 2**24
"""Bytes of constants that a library may make anew in its tree."""
PHASES = ("ms", "forward_ms", "backward_ms", "vision_ms", "decoder_ms", "head_ms")


@dataclass(frozen=True)
class Setting:
    """What both libraries are run with, and the room and time that takes.

    ``gib`` is the peak of the whole process: weights in bfloat16 (13.2 and 15.4 GiB for the 7B models, 7 for 3B; with
    ``qlora`` only while they are packed, which is its peak), adapters, gradients and Adam's state of both (1.2 GiB),
    and TRL's step over two rows a pair (2 to 4 GiB).
    """

    hub: str
    mode: str
    answers: tuple[tuple[int, int], ...]
    gib: float
    batch: int = 1

    @property
    def name(self) -> str:
        batch = f", {self.batch} pairs a batch" if self.batch > 1 else ""
        return f"{NAMES[self.hub]} {self.mode}{batch}"


SETTINGS = (
    Setting(LLAVA_7B, "lora", (SHORT, LONG), 18),
    Setting(QWEN_7B, "lora", (SHORT, LONG), 21.5),
    Setting(LLAVA_7B, "qlora", (SHORT, LONG), 15),
    Setting(QWEN_7B, "qlora", (SHORT, LONG), 17.5),
    Setting(QWEN_3B, "lora", (SHORT, LONG), 11),
    Setting(QWEN_3B, "qlora", (SHORT, LONG), 9),
    Setting(LLAVA_7B, "lora", (SHORT,), 23, batch=4),
)
FIRST, EACH = 30.0, 12.0
"""Seconds on a fast card of making a model with both trainers and its first row, and of each further row."""


def cases(context: Context) -> list[Case]:
    """The most telling first. Longer answers are left out where the time for the 7B models behind would not be left."""
    made = []
    settings = list(SETTINGS)
    if context.dry_run:  # at toy size both Qwen models are the same, and longer answers are nothing new
        settings = [replace(one, answers=one.answers[: 2 if one is SETTINGS[0] else 1]) for one in SETTINGS]
        settings = [one for one in settings if one.hub != QWEN_3B]
    for number, setting in enumerate(settings):
        behind = FIRST * sum(later.batch == 1 and later.hub != QWEN_3B for later in settings[number + 1 :])
        made.append(
            Case(
                name=setting.name,
                run=partial(run, context, setting, behind),
                seconds=FIRST,
                needs_gib=setting.gib,
                libraries=("bitsandbytes",) if setting.mode == "qlora" else (),
            )
        )
    return made


def run(context: Context, setting: Setting, behind: float) -> Iterator[Row]:
    """One row for each length of answers.

    Args:
        behind: seconds that are wanted for the first rows of what comes after this.
    """
    _quiet()
    return rows_of(context, setting, behind, _Sides(context, setting).measure)


def rows_of(
    context: Context, setting: Setting, behind: float, measure: Callable[[tuple[int, int]], Row]
) -> Iterator[Row]:
    """A row for each length of answers that there is time for."""
    for answers in setting.answers:
        case = f"{setting.name}, answers {_words(answers)}"
        late = not context.dry_run and context.left < EACH + behind
        if answers != setting.answers[0] and late:
            yield {"case": case, "skipped": f"{context.left:.0f} s are left, and other models are not measured yet"}
            continue
        yield {"case": case, **measure(answers)}


def line_of(row: Row) -> str:
    """One row for the terminal."""
    live, cached = row["live"], row["cached"]
    ours = f"live {live['ms']:.0f} ms ({live['share_of_bf16']:.0%} of bf16), cached {cached['ms']:.0f} ms"
    if "trl" not in row:
        return f"{row['case']}: {ours}; {row['note']}"
    ratio, ideal, memory = row["ratio"], row["ideal"], row["memory_ratio"]["live"]
    room = "" if memory is None else f", step memory {memory:.2f}x"
    return (
        f"{row['case']}: TRL {row['trl']['ms']:.0f} ms, {ours}: {ratio['live']:.2f}x and {ratio['cached']:.2f}x "
        f"(counted {ideal['live']:.2f}, {ideal['cached']:.2f}){room}; log-probs differ by {row['difference']:.1e}"
    )


class _Sides:
    """Both libraries over one set of weights, with everything that is measured of them."""

    def __init__(self, context: Context, setting: Setting) -> None:
        self.context, self.setting = context, setting
        self.device = context.device
        self.subject: RandomModel = random_model(setting.hub, tiny=context.dry_run)
        self.work: Path = context.work / setting.name.replace(" ", "_").replace(",", "")
        on_cpu = self.device == "cpu"
        model = self.subject.build(self.device)
        path = setting.hub
        if self.subject.tiny:  # a size that no hub id stands for: the estimate reads it from here
            path = str(self.work / "model")
            model.config.save_pretrained(path)
        if setting.mode == "qlora":
            model = in_nf4(model, family_of(self.subject.family, has_vision=True))
            free_memory(self.device)
        self.tree = recipe_tree(
            path,
            self.work / "run",
            kind=setting.mode,
            bf16=True,
            checkpointing=True,
            batch=setting.batch,
            use_cpu=on_cpu,
        )
        first = self.pairs(setting.batch, SHORT, seed=9)
        other = None if _has_no_trl() else twin(model)
        self.ours = Ours(self.subject, model, self.tree, first)
        self.trl: Trl | None = None
        self.without = "TRL is not installed: pip install trl"
        self.of_trl = 0  # bytes of adapter, gradients' place and optimizer that stand beside ours for TRL alone
        if other is not None:
            before = _allocated(self.device)
            self.trl, self.without = self.theirs(other, first)
            free_memory(self.device)  # what a failure left
            self.of_trl = _allocated(self.device) - before
        if self.trl is not None:
            if (twice := separate_bytes(self.ours.model, self.trl.model)) > TWICE:
                raise RuntimeError(f"{twice} bytes of frozen weights are there twice: the card would hold two models")
            same_adapters(self.ours.model, self.trl.model)
        self.runners = runners(self.ours, self.trl)
        self.phases = {
            id(library): Phases(library, self.subject.family, self.device) for library, _ in self.runners.values()
        }

    def theirs(self, model: Any, first: list[PreferencePair]) -> tuple[Trl | None, str]:
        """TRL's trainer, or why there is none: another release may not take what this one does; ours is measured."""
        on_cpu = self.device == "cpu"
        try:
            return Trl(self.subject, model, self.work / "trl", first, bf16=True, checkpointing=True, use_cpu=on_cpu), ""
        except Exception as err:
            if ran_out_of_memory(err):
                raise
            return None, f"TRL could not be run: {type(err).__name__}: {first_line(err)}"

    def pairs(self, count: int, answers: tuple[int, int], seed: int) -> list[PreferencePair]:
        """Pairs of random words that the tokenizer knows."""
        if self.context.dry_run:
            answers = (answers[0] // 10, answers[1] // 10)
        words = len(self.subject.processor.tokenizer) - 16  # its other tokens
        return make_pairs(count, shortest=answers[0], longest=answers[1], seed=seed, vocabulary=words)

    def measure(self, answers: tuple[int, int]) -> Row:
        """A row for pairs with answers of these lengths."""
        batch, is_slowed = self.setting.batch, self.device in was_open
        rounds = 1 if self.context.dry_run else 3 if answers == LONG or batch > 1 else 6
        drawn = self.pairs(rounds * batch, answers, seed=1)
        groups = [drawn[at : at + batch] for at in range(0, len(drawn), batch)]
        longest = self.pairs(batch, (answers[1], answers[1]), seed=2)
        middle = nearest_to_mean(groups)
        for pairs in (drawn, longest):  # their ids are the same
            self.ours.fill(self.work / "cache", pairs)
        times, logps = self.timed([longest, *groups])  # the allocator then has room for all that follows
        memory = {name: self.peak_of(name, longest) for name in self.runners}
        flops = {name: self.once(name, middle, count_flops) for name in self.runners}
        found: Row = {
            "model": self.setting.hub,
            "mode": self.setting.mode,
            "answers": list(answers),
            "image_tokens": self.subject.image_tokens,
            "pairs": rounds * batch,
            "batch": batch,
            "profiled_before": is_slowed,
        }
        for name in self.runners:
            found[name] = self.figures(times[name], memory[name], flops[name])
        found |= self.compared(found, logps)
        found |= self.profiles(middle, times, groups.index(middle))
        found["planned"] = self.planned(longest, memory["live"])
        return found

    def timed(self, groups: Sequence[list[PreferencePair]]) -> tuple[dict[str, list[dict[str, float]]], Any]:
        """Milliseconds of each step but the first, which warms up; and the log-probs of chosen answers."""
        times: dict[str, list[dict[str, float]]] = {name: [] for name in self.runners}
        logps: dict[str, list[float]] = {name: [] for name in self.runners}
        for number, group in enumerate(groups):
            for name, (library, step) in self.runners.items():
                batch = library.batch(group)
                if self.device == "cuda":
                    torch.cuda.synchronize()
                spent = self.phases[id(library)].measure(partial(step, batch))
                logps[name].append(library.logps()[0])
                library.model.zero_grad(set_to_none=True)
                if number:
                    times[name].append(spent)
        return times, logps

    def once(self, name: str, group: list[PreferencePair], measure: Callable[[Callable[[], None]], Any]) -> Any:
        """What ``measure`` finds of one step."""
        library, step = self.runners[name]
        batch = library.batch(group)
        found = measure(lambda: step(batch))
        library.logps()
        library.model.zero_grad(set_to_none=True)
        return found

    def peak_of(self, name: str, group: list[PreferencePair]) -> Peak:
        """Memory of one step that begins with an allocator that holds nothing free; nothing on a CPU."""

        def measure(step: Callable[[], None]) -> Peak:
            free_memory(self.device)
            with Peak(self.device) as peak:
                step()
            return peak

        found: Peak = self.once(name, group, measure) if self.device == "cuda" else Peak(self.device)
        return found

    def figures(self, times: list[dict[str, float]], memory: Peak, flops: int) -> Row:
        mean = {phase: sum(spent[phase] for spent in times) / len(times) for phase in PHASES}
        rate = float(self.context.environment["bf16_tflops"])
        return {
            **{phase: round(value, 3) for phase, value in mean.items()},
            "ms_of_pairs": [round(spent["ms"], 3) for spent in times],
            "pairs_per_second": self.setting.batch * 1000 / mean["ms"],
            "peak_gib": memory.peak / GIB,
            "reserved_gib": memory.reserved / GIB,
            "over_rest_gib": memory.over_rest / GIB,
            "counted_tflop": flops / 1e12,
            "share_of_bf16": flops / 1e12 / (mean["ms"] / 1000) / rate if rate else 0.0,
        }

    def compared(self, found: Row, logps: dict[str, list[float]]) -> Row:
        """Ratios to TRL's figures; a note where there are none."""
        if self.trl is None:
            return {"note": self.without}
        theirs = found["trl"]
        ratio, ideal, memory = {}, {}, {}
        for name in ("live", "cached"):
            mine = found[name]
            ratio[name] = theirs["ms"] / mine["ms"]
            ideal[name] = theirs["counted_tflop"] / mine["counted_tflop"]
            room = theirs["over_rest_gib"]  # nothing is measured on a CPU
            memory[name] = mine["over_rest_gib"] / room if room else None
        difference = max(
            abs(mine / other - 1)
            for name in ("live", "cached")
            for mine, other in zip(logps[name], logps["trl"], strict=True)
        )
        return {"ratio": ratio, "ideal": ideal, "memory_ratio": memory, "difference": difference}

    def profiles(self, group: list[PreferencePair], times: dict[str, list[dict[str, float]]], number: int) -> Row:
        """The longest kernels, and the share of the step's time in which none ran.

        The time is that of the same pairs without a profiler, which slows the host down and not the kernels.
        """
        top: dict[str, Any] = {}
        idle: dict[str, float | None] = {}
        for name in (name for name in ("trl", "live") if name in self.runners):
            seen = self.once(name, group, lambda step: profile_step(step, self.device))
            top[name] = [list(entry) for entry in seen.top]
            took = times[name][number]["ms"]
            idle[name] = None if seen.busy is None else round(max(0.0, 1 - seen.busy / took), 4)
        return {"profile": top, "idle": idle}

    def planned(self, group: list[PreferencePair], memory: Peak) -> Row:
        """Our live step at its longest, and what `mmpref plan` wants to know about it.

        The peak is that of a run from its second update on: adapter, Adam's state of it and gradients are there, as
        they are in a run, and what TRL alone holds is taken off. The optimizer's own moment needs less than backward.
        ``flop`` and ``ms`` are of one micro-batch to its gradients, without the optimizer.
        """
        phases = self.phases[id(self.ours)]
        times = [self.once("live", group, phases.measure)["ms"] for _ in range(1 if self.context.dry_run else 3)]
        batch = self.ours.collator(group)
        answers = [int(length) for length in batch.answer_lens]
        text = batch.num_tokens - sum(answers) - len(group) * self.subject.image_tokens
        return {
            "recipe": self.tree,
            "prompt_tokens": text // len(group),
            "answer_tokens": max(answers),
            "image": list(self.subject.image),
            "peak_bytes": max(0, memory.peak - self.of_trl),
            "reserved_bytes": max(0, memory.reserved - self.of_trl),
            "flop": self.once("live", group, count_flops),
            "ms": statistics.median(times),
        }


def _words(answers: tuple[int, int]) -> str:
    return str(answers[0]) if answers[0] == answers[1] else f"{answers[0]} to {answers[1]}"


def _allocated(device: str) -> int:
    """Bytes that are in use on the card."""
    if device != "cuda":
        return 0
    gc.collect()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def _has_no_trl() -> bool:
    import importlib.util

    return importlib.util.find_spec("trl") is None


def _quiet() -> None:
    """No words of the libraries between the rows."""
    warnings.filterwarnings("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
