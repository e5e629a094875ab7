"""What has no groups, beside another commit: the step of pairs with two answers, and a whole run of one pair a prompt.

    git worktree add ../before COMMIT
    OMP_NUM_THREADS=1 python scripts/bench_commits.py ../before [--models llava qwen2_vl] [--rounds 4] [--layers 4]

*step*: both commits' trainers stand in a process each and take turns on the same pairs (``gpu_parts.steps`` and
``bench_models`` of either commit): LoRA, a live reference, answers of 100 to 200 tokens; processor seconds between a
collated batch and the gradients, the first pair discarded.

*run*: ``mmpref train`` from the command to the written model over one epoch of pairs like RLAIF-V's, each with an image
and a prompt of its own, start-up checks included; processor seconds of the process and of those it started, in turns.

Ratios are of totals, the other commit's over this one's: 1.02 is 2 % faster than it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_models import SCALED, Scaled, make_pairs
from gpu_parts.pairs_file import write_pairs
from gpu_parts.steps import Ours, recipe_tree

HERE = Path(__file__).resolve().parent
SHORTEST, LONGEST = 100, 200


def build(scaled: Scaled, layers: int | None) -> Any:
    """The model; with ``layers``, so many of the 12 of its language model and the same share of its tower's."""
    model = scaled.build()
    if layers is not None:
        inner: Any = model.model
        tower = inner.vision_tower.encoder.layers if scaled.family == "llava" else inner.visual.blocks
        language = inner.language_model.layers
        kept = max(1, round(len(tower) * layers / len(language)))
        del language[layers:], tower[kept:]
        model.config.get_text_config().num_hidden_layers = len(language)
        if scaled.family == "llava":  # it reads the features of one of its tower's last layers
            model.config.vision_config.num_hidden_layers = len(tower)
        else:
            model.config.vision_config.depth = len(tower)
    return model


# ---- the step ----------------------------------------------------------------------------------------------------


class Worker:
    """A commit's trainer in a process of its own.

    Args:
        checkout: a folder with that commit.
    """

    def __init__(self, checkout: Path, name: str, layers: int | None, rounds: int) -> None:
        command = [sys.executable, "-P", __file__, str(checkout), "--models", name, "--rounds", str(rounds), "--worker"]
        command += [] if layers is None else ["--layers", str(layers)]
        self.process = subprocess.Popen(
            command, env=environment_of(checkout), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()  # it is ready

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        raise RuntimeError(f"a worker ended with {self.process.wait()}; its error is above")

    def step(self, number: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.communicate()


def environment_of(checkout: Path) -> dict[str, str]:
    """Of a process that runs that commit: its library, its scripts, and behind them what only this commit has."""
    path = os.pathsep.join(map(str, (checkout, checkout / "scripts", HERE)))
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}


def work(name: str, layers: int | None, rounds: int) -> None:
    """Make the step of the pair whose number is read, until there are no more; seconds and log-probs as JSON."""
    scaled = SCALED[name]()
    pairs = make_pairs(rounds + 1, shortest=SHORTEST, longest=LONGEST, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        tree = recipe_tree(
            "random", Path(folder), kind="lora", bf16=False, checkpointing=False, optim="sgd", use_cpu=True
        )
        with contextlib.redirect_stdout(sys.stderr):
            ours = Ours(scaled, build(scaled, layers), tree, make_pairs(1, shortest=60, longest=60, seed=9))
        print("{}", flush=True)
        for line in sys.stdin:
            batch = ours.batch([pairs[int(line)]])
            start = time.process_time()
            ours.step(batch)
            seconds = time.process_time() - start
            print(json.dumps({"seconds": seconds, "logps": ours.logps()}), flush=True)
            ours.model.zero_grad(set_to_none=True)


def compare_steps(before: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    workers = {
        "before": Worker(before, name, options.layers, options.rounds),
        "now": Worker(HERE.parent, name, options.layers, options.rounds),
    }
    seconds: dict[str, list[float]] = {who: [] for who in workers}
    differ = 0.0
    for number in range(options.rounds + 1):
        found = {who: workers[who].step(number) for who in (workers if number % 2 else reversed(workers))}
        differ = max(
            differ, *(abs(a / b - 1) for a, b in zip(found["now"]["logps"], found["before"]["logps"], strict=True))
        )
        for who, one in found.items() if number else ():
            seconds[who].append(one["seconds"])
    for worker in workers.values():
        worker.close()
    return {**compared("step, 2 answers", name, options, seconds), "logps_differ": differ}


# ---- the run -----------------------------------------------------------------------------------------------------


def compare_runs(before: Path, name: str, options: argparse.Namespace) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scaled = SCALED[name]()
        build(scaled, options.layers).save_pretrained(folder / "model")
        scaled.processor.save_pretrained(folder / "model")
        write_pairs(folder / "data", options.pairs, size=scaled.image, prompt_words=40, answer_tokens=(100, 200))
        for number, who in turns(options.runs):
            checkout = before if who == "before" else HERE.parent
            tree = recipe_tree(
                str(folder / "model"), folder / f"{who}{number}", kind="lora", bf16=False, checkpointing=False,
                use_cpu=True,
            )  # fmt: skip
            tree["data"] = {"train": str(folder / "data" / "pairs.jsonl"), "root": str(folder / "data")}
            recipe = folder / "recipe.yaml"
            recipe.write_text(json.dumps(tree), encoding="utf-8")  # every JSON is YAML
            seconds[who].append(processor_seconds(["train", str(recipe)], checkout))
    return compared(f"run, {options.pairs} pairs", name, options, seconds)


def turns(count: int) -> Iterator[tuple[int, str]]:
    for number in range(count):
        order = ("before", "now") if number % 2 else ("now", "before")
        yield from ((number, who) for who in order)


def processor_seconds(arguments: Sequence[str], checkout: Path) -> float:
    """Of one command of mmpref and the processes it started.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mmpref", *arguments], env=environment_of(checkout), stdout=said, stderr=said
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{checkout}: mmpref {' '.join(arguments)} failed:\n{said.read()[-3000:]}")
    return used.ru_utime + used.ru_stime


# ---- the command -------------------------------------------------------------------------------------------------


def compared(
    what: str, name: str, options: argparse.Namespace, seconds: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    each = [a / b for a, b in zip(seconds["before"], seconds["now"], strict=True)]
    return {
        "what": what, "model": name, "layers": options.layers, "seconds": dict(seconds),
        "ratio": sum(seconds["before"]) / sum(seconds["now"]), "lowest": min(each), "highest": max(each),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout of the other commit")
    parser.add_argument("--models", nargs="+", default=list(SCALED), choices=list(SCALED))
    parser.add_argument("--what", nargs="+", default=["step", "run"], choices=["step", "run"])
    parser.add_argument("--rounds", type=int, default=4, help="measured pairs of the step")
    parser.add_argument("--runs", type=int, default=2, help="whole runs of each commit")
    parser.add_argument("--pairs", type=int, default=24, help="of a whole run")
    parser.add_argument("--layers", type=int, help="of the language model (default: all 12)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        work(options.models[0], options.layers, options.rounds)
        return
    results = []
    for name in options.models:
        for what in options.what:
            compare = compare_steps if what == "step" else compare_runs
            results.append(compare(options.before.resolve(), name, options))
            print(_line(results[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def _line(found: Mapping[str, Any]) -> str:
    before, now = (sum(found["seconds"][who]) for who in ("before", "now"))
    layers = "" if found["layers"] is None else f" ({found['layers']} layers)"
    differ = f"; log-probs differ by {found['logps_differ']:.1e} of their size" if "logps_differ" in found else ""
    return (
        f"{found['model']}{layers}, {found['what']}: before {before:.2f} s, now {now:.2f} s = {found['ratio']:.3f}x "
        f"({found['lowest']:.3f} to {found['highest']:.3f}){differ}"
    )


if __name__ == "__main__":
    main()
