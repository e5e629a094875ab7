"""One training step of mmpref against one of TRL's DPOTrainer, on the same pairs in one run.

    OMP_NUM_THREADS=1 python scripts/bench_pair_step.py [--models llava qwen2_vl] [--modes lora lora_ckpt full_ckpt]

A step is what happens between a collated batch and the gradients: policy forward, reference forward, backward. Batch
size 1, float32, one thread, answers of 60 to 250 tokens (about 150), a question of 40. The two libraries take turns on
each pair, the first round is discarded, and what is compared is processor time, which other work on the machine does
not change; ratios are totals over all measured pairs. "cached" is the step of a run whose reference log-probs are in
the cache.

TRL is measured as it behaves on a GPU ("compact": its head scores answer tokens only), not with the full head that it
falls back to on a CPU. The ideal is the ratio of counted floating-point operations for the same shapes.

Memory: each library in processes of its own, one pair with answers of 250 tokens; the peak above what stood before the
step.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_models import SCALED, Scaled, make_pairs, picture
from torch import nn

from mmpref.losses import build_objective
from mmpref.losses.contract import PairLogps
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, pair_logps, prepare
from mmpref.processing import PairCollator, PairEncoder, family_of

MODES = {"lora": ("lora", False), "lora_ckpt": ("lora", True), "full": ("full", False), "full_ckpt": ("full", True)}
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Ours:
    """A step as ``PreferenceTrainer`` makes it; returns the chosen answer's log-prob."""

    def __init__(self, scaled: Scaled, tune: str, checkpointing: bool, *, cached: bool = False) -> None:
        family = family_of(scaled.family, has_vision=True)
        loaded = LoadedModel(model=scaled.build(), processor=scaled.processor, family=family, path="random")
        lora = AdapterSettings(rank=16, alpha=32) if tune == "lora" else None
        self.model: Any = prepare(loaded, Tuning(language=tune), lora).model  # type: ignore[arg-type]
        self.reference = None if cached else choose_reference(self.model)
        self.cached = cached
        if checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.collate = PairCollator(PairEncoder(scaled.processor, family), partial(picture, size=scaled.picture))
        self.objective = build_objective({"name": "dpo", "beta": 0.1})

    def batch(self, pairs: list[Any]) -> Any:
        return self.collate(pairs)

    def step(self, batch: Any) -> float:
        logps = pair_logps(self.model, batch, reference=self.reference)
        if self.cached:  # what the cache would hold costs nothing to read; zeros stand in for it
            zero = torch.zeros_like(logps.chosen.detach())
            logps = PairLogps(logps.chosen, logps.rejected, logps.chosen_len, logps.rejected_len, zero, zero)
        self.objective(logps).per_pair.mean().backward()
        return float(logps.chosen.detach())


class Trl:
    """TRL's ``training_step`` as it runs on a GPU; returns the chosen answer's log-prob."""

    def __init__(self, scaled: Scaled, tune: str, checkpointing: bool) -> None:
        import trl.trainer.utils as trl_utils
        from datasets import Dataset, Features, List, Value
        from datasets import Image as ImageFeature
        from peft import LoraConfig
        from trl import DPOConfig, DPOTrainer

        trl_utils._use_triton = lambda device: True
        self.scaled = scaled
        model = scaled.build()
        reference = None if tune == "lora" else copy.deepcopy(model).eval()
        if tune == "full":
            tower = model.model.vision_tower if scaled.family == "llava" else model.model.visual
            tower.requires_grad_(False)
        self.rows = Dataset.from_list(
            [self.row(pair) for pair in make_pairs(1, shortest=60, longest=60, seed=9)],
            features=Features(
                images=List(ImageFeature()), prompt=Value("string"), chosen=Value("string"), rejected=Value("string")
            ),
        )
        arguments = DPOConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=1, gradient_checkpointing=checkpointing,
            bf16=False, use_cpu=True, max_length=None, report_to=[], save_strategy="no", disable_tqdm=True, max_steps=1,
            beta=0.1,
        )  # fmt: skip
        lora = LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS) if tune == "lora" else None
        self.trainer = DPOTrainer(
            model=model, ref_model=reference, args=arguments, train_dataset=self.rows,
            processing_class=scaled.processor, peft_config=lora,
        )  # fmt: skip
        if checkpointing:
            inner = self.trainer.model
            inner = inner.base_model.model if hasattr(inner, "peft_config") else inner
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        self.trainer.model_wrapped = self.trainer.model
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer.optimizer = None
        self.model = self.trainer.model

    def row(self, pair: Any) -> dict[str, Any]:
        eos = self.scaled.processor.tokenizer.eos_token
        return {
            "images": [picture(pair.images[0], self.scaled.picture)],
            "prompt": f"{self.scaled.image_markup} {pair.prompt[0].text}",
            "chosen": f" {pair.chosen} {eos}",
            "rejected": f" {pair.rejected} {eos}",
        }

    def batch(self, pairs: list[Any]) -> Any:
        return self.trainer.data_collator([self.row(pair) for pair in pairs])

    def step(self, batch: Any) -> float:
        self.trainer.model.train()
        self.trainer.training_step(self.trainer.model, dict(batch))
        return float(self.trainer._metrics["train"]["logps/chosen"][-1])


BUILDERS: dict[str, Callable[[Scaled, str, bool], Any]] = {
    "trl": Trl,
    "live": Ours,
    "cached": lambda scaled, tune, checkpointing: Ours(scaled, tune, checkpointing, cached=True),
}


def measure_time(name: str, mode: str, rounds: int) -> dict[str, Any]:
    """Processor seconds per pair of each library, taking turns."""
    scaled = SCALED[name]()
    tune, checkpointing = MODES[mode]
    runners = {}
    for variant, build in BUILDERS.items():
        with contextlib.redirect_stdout(sys.stderr):
            runners[variant] = build(scaled, tune, checkpointing)
    seconds: dict[str, list[float]] = {variant: [] for variant in runners}
    chosen: dict[str, list[float]] = {variant: [] for variant in runners}  # log-probs, to see that all do the same work
    lengths = []
    for number, pair in enumerate(make_pairs(rounds + 1, shortest=60, longest=250, seed=1)):
        for variant, runner in runners.items():
            batch = runner.batch([pair])
            start = time.process_time()
            chosen[variant].append(runner.step(batch))
            if number:  # the first round warms up
                seconds[variant].append(time.process_time() - start)
            runner.model.zero_grad(set_to_none=True)
        if number:
            lengths.append((len(pair.chosen.split()) + 1, len(pair.rejected.split()) + 1))
    total = {variant: sum(values) for variant, values in seconds.items()}
    ideal = ideal_ratios(runners["live"].model, scaled, lengths, tune, checkpointing)
    found: dict[str, Any] = {"model": scaled.name, "mode": mode, "pairs": rounds}
    found["seconds_per_pair"] = {variant: value / rounds for variant, value in total.items()}
    found["difference"] = max(abs(a / b - 1) for a, b in zip(chosen["trl"], chosen["live"], strict=True))
    for variant in ("live", "cached"):
        each = [t / o for t, o in zip(seconds["trl"], seconds[variant], strict=True)]
        ratio = total["trl"] / total[variant]
        found[variant] = {
            "ratio": ratio, "lowest": min(each), "highest": max(each), "median": statistics.median(each),
            "ideal": ideal[variant], "of_ideal": ratio / ideal[variant],
        }  # fmt: skip
    return found


def ideal_ratios(
    model: nn.Module, scaled: Scaled, lengths: list[tuple[int, int]], tune: str, checkpointing: bool
) -> dict[str, float]:
    """Counted operations (a multiply-add is 2) of TRL's way over ours, for the same shapes.

    A backward pass costs one forward where only adapters train (no weight gradients) and two where weights do, plus
    one forward to recompute what checkpointing dropped. TRL runs each image and prompt twice, in policy and reference;
    with checkpointing it also recomputes and differentiates a frozen tower.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    layers = base.model.language_model.layers
    config = base.config.get_text_config()
    linear = sum(m.weight.numel() for m in layers.modules() if type(m) is nn.Linear)
    heads = config.num_attention_heads * layers[0].self_attn.head_dim * len(layers)
    head = base.lm_head.weight.numel()
    tower = base.model.vision_tower if scaled.family == "llava" else base.model.visual
    vision_linear = sum(m.weight.numel() for m in tower.modules() if isinstance(m, nn.Linear))
    blocks = len(tower.encoder.layers) if scaled.family == "llava" else len(tower.blocks)
    width = 192 if scaled.family == "llava" else 256
    vision = 2 * vision_linear * scaled.patches + 4 * blocks * width * scaled.patches**2

    def decoder(tokens: int, attended: float) -> float:
        return 2 * linear * tokens + 4 * heads * attended

    backward = 1 if tune == "lora" else 2
    again = 1 if checkpointing else 0
    trl = live = cached = 0.0
    for chosen, rejected in lengths:
        prompt = scaled.image_tokens + 40 + (2 if scaled.family == "qwen2_vl" else 0)
        rows = [prompt + chosen, prompt + rejected]
        twice = decoder(sum(rows), sum(row**2 / 2 for row in rows))
        once = decoder(prompt + chosen + rejected, rows[0] ** 2 / 2 + rejected * prompt + rejected**2 / 2)
        of_head = 2 * head * (chosen + rejected)
        head_trains = tune == "full"
        # TRL: forward, then recompute + one gradient (two when the head trains); ours: the gradient in the same walk
        trl += (2 + backward + again) * twice + 4 * vision + (4 * vision if checkpointing else 0)
        trl += of_head * (2 + (3 if head_trains else 2))
        ours = of_head * (4 if head_trains else 2)
        live += (2 + backward + again) * once + vision + ours + of_head
        cached += (1 + backward + again) * once + vision + ours
    return {"live": trl / live, "cached": trl / cached}


def measure_memory(name: str, mode: str, variant: str) -> None:
    """Run in a process of its own: prints MiB of the peak above what stood before the step."""
    scaled = SCALED[name]()
    tune, checkpointing = MODES[mode]
    with contextlib.redirect_stdout(sys.stderr):
        runner = BUILDERS[variant](scaled, tune, checkpointing)
    pairs = make_pairs(2, shortest=250, longest=250, seed=2)
    if tune == "full":
        optimizer = torch.optim.AdamW([p for p in runner.model.parameters() if p.requires_grad], fused=True)
    runner.step(runner.batch(pairs[:1]))  # kernels warm, lazy parts built
    runner.model.zero_grad(set_to_none=True)
    batch = runner.batch(pairs[1:])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the first step freed goes back, or it would hide what this one takes
    rest = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    runner.step(batch)
    peak = _status("VmHWM")
    if tune == "full":
        optimizer.step()
        peak = max(peak, _status("VmHWM"))
    print(json.dumps({"peak": peak, "over_rest": peak - rest}))


def _status(key: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key} on this system")


def memory_in_processes(name: str, mode: str) -> dict[str, dict[str, float]]:
    found = {}
    for variant in BUILDERS:
        command = [sys.executable, __file__, "--memory-of", name, mode, variant]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[variant] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(SCALED), choices=list(SCALED))
    parser.add_argument("--modes", nargs="+", default=["lora", "lora_ckpt", "full_ckpt"], choices=list(MODES))
    parser.add_argument("--rounds", type=int, default=4, help="measured pairs for each library")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        measure_memory(*options.memory_of)
        return
    results = []
    for name in options.models:
        for mode in options.modes:
            found = measure_time(name, mode, options.rounds)
            if not options.no_memory:
                found["memory_mib"] = memory_in_processes(name, mode)
            results.append(found)
            print(_line(found), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _line(found: dict[str, Any]) -> str:
    seconds = found["seconds_per_pair"]
    parts = [f"{found['model']:<14} {found['mode']:<10} TRL compact {seconds['trl']:6.2f} s"]
    for variant in ("live", "cached"):
        speed = found[variant]
        parts.append(
            f"{variant} {seconds[variant]:6.2f} s = {speed['ratio']:.2f}x (pairs {speed['lowest']:.2f} to "
            f"{speed['highest']:.2f}; counted {speed['ideal']:.2f}, {speed['of_ideal']:.0%} of it)"
        )
    if "memory_mib" in found:
        memory = found["memory_mib"]
        parts.append("step memory MiB " + ", ".join(f"{k} {v['over_rest']:.0f}" for k, v in memory.items()))
    parts.append(f"log-probs of chosen answers differ by {found['difference']:.1e} of their size")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
