"""What the losses of docs/image_losses.md do on the embedded world, several seeds: its tables and its figure.

    python scripts/image_term_experiment.py --seeds 0 1 2 --work image-terms [--write-docs]

Every seed changes the world, the start model and the pairs; all methods of a seed start from the same model and see the
same pairs in the same order, one epoch at the learning rate of ``mmpref demo``. What is finished in the work folder is
not run again; the start model is that of ``mmpref demo``, whose own trainings are not used here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
import torch
from demo_seeds import mean_and_interval
from image_lift import OTHERS, Sides, kinds_of_answers, measure
from make_loss_figures import STYLE
from transformers.utils.logging import disable_progress_bar

from mmpref.demo.world import WorldFiles
from mmpref.evals import EvalSettings, evaluate
from mmpref.recipe.loading import load_recipe
from mmpref.report.compare import comparison_table, load_runs
from mmpref.rundir.folder import RunDir
from mmpref.training.run.run import train

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table made by scripts/image_term_experiment.py -->", "<!-- end of table -->"
FIGURE = ROOT / "docs" / "figures" / "image_lift.svg"
CROP = ("data.other_image=made", "processing.other_image.kind=crop")
NOISE = ("data.other_image=made", "processing.other_image.kind=noise")
MDPO_TERMS = ("loss.image={weight: 1}", "loss.anchor={chosen: 1}", *CROP)
EVERY = 13  # steps between checkpoints; an epoch has 65


@dataclass(frozen=True, slots=True)
class Method:
    """A shipped recipe of the demo and changes to it."""

    label: str
    recipe: str
    changes: Sequence[str] = ()


METHODS: Mapping[str, Method] = {
    "dpo": Method("DPO", "demo_dpo"),
    "uni_dpo": Method("Uni-DPO", "demo_uni_dpo"),
    "adadpo": Method("AdaDPO", "demo_adadpo"),
    "mdpo": Method("mDPO", "demo_dpo", ("loss.name=mdpo", *CROP)),
    "mdpo_uni": Method("mDPO + Uni-DPO", "demo_uni_dpo", MDPO_TERMS),
    "mdpo_ada": Method("mDPO + AdaDPO", "demo_adadpo", MDPO_TERMS),
    "ddpo": Method("DDPO", "demo_dpo", ("loss.name=ddpo",)),
    "image_only": Method("DPO + image term alone", "demo_dpo", ("loss.image={weight: 1}", *CROP)),
    "mdpo_detach": Method("mDPO, detached", "demo_dpo", ("loss.name=mdpo", "loss.image.detach=true", *CROP)),
    "anchor_only": Method("DPO + anchor alone", "demo_dpo", ("loss.anchor={chosen: 1}",)),
    "mpo": Method("MPO", "demo_dpo", ("loss.name=mpo",)),
    "chip": Method("CHiP (without its token KL)", "demo_dpo", ("loss.name=chip", *NOISE)),
    # a pair is two single answers: twice the batch makes as many updates
    "kto": Method("KTO", "demo_dpo", ("loss.name=kto", "train.per_device_train_batch_size=48")),
    "sft_chosen": Method("SFT on chosen", "demo_sft_chosen"),
}
SHOWN = ("dpo", "uni_dpo", "adadpo", "mdpo", "mdpo_uni", "mdpo_ada", "ddpo", "sft_chosen")
"""The lines of the figure."""
COLOURS = ("#1f5fa8", "#2f7d4f", "#7a4fa3", "#c2571a", "#d9a400", "#a3324f", "#5a5a5a", "#9aa7b5")

METRICS = {
    "chair_s": "CHAIR_s",
    "chair_i": "CHAIR_i",
    "recall": "recall",
    "mean_length": "words",
    "pope/random/accuracy": "POPE random",
    "pope/popular/accuracy": "popular",
    "pope/adversarial/accuracy": "adversarial",
    "pope/adversarial/yes_ratio": "says yes (adv.)",
}
Value = Callable[[dict[int, Sides]], float]
LIFTS: Mapping[str, tuple[Value, float, int]] = {
    "lift over crop": (lambda found: _last(found).lift("crop"), 1, 3),
    "over blank": (lambda found: _last(found).lift("blank"), 1, 3),
    "helps (crop) %": (lambda found: _last(found).helps("crop"), 100, 1),
    "chosen log-prob": (lambda found: _last(found).chosen_change(found[0]), 1, 2),
    "under the crop": (lambda found: _last(found).other_change(found[0], "crop"), 1, 2),
    "margin": (lambda found: _last(found).margin(found[0]), 1, 2),
    "accuracy %": (lambda found: _last(found).accuracy(found[0]), 100, 1),
}
"""What is said of the held-out pairs: column -> (value, scale, digits)."""
CHANGES = ("chosen log-prob", "under the crop", "margin")


def _last(found: dict[int, Sides]) -> Sides:
    return found[max(found)]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one method on one seed: benchmarks, and the held-out pairs at every checkpoint."""

    metrics: Mapping[str, float]
    sides: dict[int, Sides]
    kinds: Mapping[str, Sequence[int]]
    """Places of the held-out pairs with each kind of answer."""


def start_of(seed: int, work: Path) -> tuple[RunDir, WorldFiles]:
    """The start model of a seed and its world, from ``mmpref demo`` unless they are there."""
    demo = work / f"seed_{seed}" / "mmpref-demo"
    start = RunDir(demo / "runs" / "habit")
    if not start.model.is_dir():
        subprocess.run([sys.executable, "-m", "mmpref", "demo", "--seed", str(seed), "--out", str(demo)], check=True)
    return start, WorldFiles.under(demo / "world")


def run_method(name: str, seed: int, work: Path) -> Found:
    """Train, ask and measure, whatever of it is not there yet."""
    method = METHODS[name]
    start, world = start_of(seed, work)
    run = RunDir(work / f"seed_{seed}" / "runs" / name)
    if not run.model.is_dir():
        changes = {
            "output": run.path,
            "seed": seed,
            "cpu_threads": 1,
            "model.path": start.model,
            "data.root": world.root,
            "data.train": world.pairs,
            "data.eval": world.pairs_heldout,
            "train.save_steps": EVERY,
            "train.save_total_limit": "null",
        }
        recipe = load_recipe(method.recipe, [*(f"{key}={value}" for key, value in changes.items()), *method.changes])
        train(recipe, overwrite=True)
    for model in (start, run):
        ask(model, world)
    table = comparison_table(load_runs([start.path, run.path]))
    cells = table.lines[1].cells
    sides = measure(start.model, run.path, world.pairs_heldout, run.path / "lift.json")
    return Found({key: _known(cells[key].value) for key in METRICS}, sides, kinds_of_answers(world.pairs_heldout))


def start_metrics(seed: int, work: Path) -> dict[str, float]:
    """The benchmarks of the start model."""
    start, _ = start_of(seed, work)
    cells = comparison_table(load_runs([start.path])).lines[0].cells
    return {key: _known(cells[key].value) for key in METRICS}


def _known(value: float | None) -> float:
    if value is None:
        raise SystemExit("an evaluation has no value: delete its folder and run again")
    return value


def ask(run: RunDir, world: WorldFiles) -> None:
    """CHAIR and POPE on the held-out scenes, as the demo asks; complete answers are kept."""
    questions = world.heldout
    common: dict[str, Any] = {
        "images_root": world.root,
        "settings": EvalSettings(max_new_tokens=48, batch_size=64),
    }
    if not (run.path / "evals" / "chair" / "results.json").is_file():
        evaluate(
            run.model, "chair", questions=questions.chair_objects, out=run.path / "evals" / "chair",
            synonyms=world.synonyms, prompts=questions.chair_prompts, **common,
        )  # fmt: skip
    if not (run.path / "evals" / "pope" / "results.json").is_file():
        splits = [questions.pope_random, questions.pope_popular, questions.pope_adversarial]
        evaluate(run.model, "pope", questions=splits, out=run.path / "evals" / "pope", **common)


def written(values: Sequence[float], *, scale: float = 1.0, digits: int = 1, signed: bool = False) -> str:
    """Mean over seeds and half a 95 % t-interval."""
    middle, half = mean_and_interval([scale * value for value in values])
    return f"{middle:{'+' if signed else ''}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def _scale(metric: str) -> float:
    return 1.0 if metric == "mean_length" else 100.0


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"


def _head(names: Sequence[str]) -> list[str]:
    return [_row("", list(names)), "|---" * (len(names) + 1) + "|"]


def text(found: Mapping[str, Sequence[Found]], starts: Sequence[Mapping[str, float]], seeds: Sequence[int]) -> str:
    """All tables."""
    parts = [
        [
            f"Mean over seeds {', '.join(map(str, seeds))} ± half a 95 % t-interval over seeds, after one epoch. "
            "Benchmarks on 400 held-out scenes; percent and words:"
        ],
        benchmark_table(found, starts),
        [
            "On 200 held-out pairs: what the image is worth for the chosen answer (nats a token, over the other "
            "image), in how many pairs it helps, how far the chosen answer's log-prob went from the start under its "
            "own image and under the crop, and the margin `h_w - h_l` (nats an answer, without beta):"
        ],
        pairs_table(found),
        [
            "The lift over the crop by kind of answer, and for captions what it is made of: the change of their "
            "log-prob under their own image and under the crop, nats an answer:"
        ],
        kinds_table(found),
        ["Differences from DPO, seed by seed:"],
        differences_table(found),
        ["CHAIR_s / recall / lift over the crop of each seed:"],
        seeds_table(found, seeds),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def benchmark_table(found: Mapping[str, Sequence[Found]], starts: Sequence[Mapping[str, float]]) -> list[str]:
    """Markdown: what was asked on held-out scenes."""
    rows = {"start": starts} | {METHODS[name].label: [one.metrics for one in ones] for name, ones in found.items()}
    lines = _head(list(METRICS.values()))
    for label, ones in rows.items():
        lines.append(_row(label, [written([one[key] for one in ones], scale=_scale(key)) for key in METRICS]))
    return lines


def pairs_table(found: Mapping[str, Sequence[Found]]) -> list[str]:
    """Markdown: the held-out pairs after training, and at the start."""
    begin = [one.sides[0] for one in next(iter(found.values()))]
    at_start = [written([side.lift(kind) for side in begin], digits=3) for kind in OTHERS]
    at_start.append(written([side.helps("crop") for side in begin], scale=100))
    lines = [*_head(list(LIFTS)), _row("start", [*at_start, *[""] * (len(LIFTS) - len(at_start))])]
    for name, ones in found.items():
        cells = [
            written([value(one.sides) for one in ones], scale=scale, digits=digits, signed=head in CHANGES)
            for head, (value, scale, digits) in LIFTS.items()
        ]
        lines.append(_row(METHODS[name].label, cells))
    return lines


def kinds_table(found: Mapping[str, Sequence[Found]]) -> list[str]:
    """Markdown: the lift of captions, of answers that say yes and of those that say no."""
    lines = _head(["captions", "yes", "no", "captions, own image", "captions, crop"])
    first = next(iter(found.values()))
    names = ("captions", "yes", "no")
    at_start = [written([one.sides[0].only(one.kinds[kind]).lift("crop") for one in first], digits=2) for kind in names]
    lines.append(_row("start", [*at_start, "", ""]))
    for name, ones in found.items():
        cells = [written([_last(x.sides).only(x.kinds[kind]).lift("crop") for x in ones], digits=2) for kind in names]
        both = [(x.sides[0].only(x.kinds["captions"]), _last(x.sides).only(x.kinds["captions"])) for x in ones]
        cells.append(written([end.chosen_change(begin) for begin, end in both], digits=2, signed=True))
        cells.append(written([end.other_change(begin, "crop") for begin, end in both], digits=2, signed=True))
        lines.append(_row(METHODS[name].label, cells))
    return lines


def differences_table(found: Mapping[str, Sequence[Found]]) -> list[str]:
    """Markdown: every method less DPO, paired by seed."""
    lines = _head([*METRICS.values(), "lift over crop", "over blank"])
    for name, ones in found.items():
        if name == "dpo" or "dpo" not in found:
            continue
        both = list(zip(ones, found["dpo"], strict=True))
        cells = [
            written([a.metrics[key] - b.metrics[key] for a, b in both], scale=_scale(key), signed=True)
            for key in METRICS
        ]
        cells += [
            written([_last(a.sides).lift(kind) - _last(b.sides).lift(kind) for a, b in both], digits=3, signed=True)
            for kind in OTHERS
        ]
        lines.append(_row(METHODS[name].label, cells))
    return lines


def seeds_table(found: Mapping[str, Sequence[Found]], seeds: Sequence[int]) -> list[str]:
    """Markdown: what the means hide."""
    lines = _head([f"seed {seed}" for seed in seeds])
    for name, ones in found.items():
        shown = [
            (100 * one.metrics["chair_s"], 100 * one.metrics["recall"], _last(one.sides).lift("crop")) for one in ones
        ]
        lines.append(_row(METHODS[name].label, [f"{a:.1f} / {b:.1f} / {c:.3f}" for a, b, c in shown]))
    return lines


def draw(found: Mapping[str, Sequence[Found]], file: Path) -> None:
    """Over training, mean over seeds: the lift, and the two log-probs that it is the difference of."""
    with mpl.rc_context(STYLE):
        figure, (lift, parts) = plt.subplots(1, 2, figsize=(8.6, 3.6), sharex=True)
        for colour, name in zip(COLOURS, SHOWN, strict=True):
            if name in found:
                _line(lift, found[name], lambda one, step: one.sides[step].lift("crop"), colour, METHODS[name].label)
                _line(parts, found[name], lambda one, step: one.sides[step].chosen_change(one.sides[0]), colour)
                crop = _line(
                    parts, found[name], lambda one, step: one.sides[step].other_change(one.sides[0], "crop"), colour
                )
                crop.set_linestyle("--")
        lift.set(xlabel="step", ylabel="nats a token", title="Worth of the image, over a crop")
        parts.set(xlabel="step", ylabel="nats an answer", title="Chosen answer: its image (—), the crop (- -)")
        lift.legend(fontsize=7)
        figure.tight_layout()
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def _line(
    ax: Any, ones: Sequence[Found], value: Callable[[Found, int], float], colour: str, label: str | None = None
) -> Any:
    steps = sorted(ones[0].sides)
    means = [mean_and_interval([value(one, step) for one in ones])[0] for step in steps]
    return ax.plot(steps, means, colour, label=label, marker="o", markersize=3)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--work", type=Path, default=Path("image-terms"))
    parser.add_argument("--write-docs", action="store_true", help="update docs/image_losses.md and its figure")
    known = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    found: dict[str, list[Found]] = {name: [] for name in known.methods}
    for seed in known.seeds:
        for name in known.methods:
            found[name].append(run_method(name, seed, known.work.resolve()))
            print(
                f"seed {seed}, {METHODS[name].label}: {json.dumps(found[name][-1].metrics)}",
                file=sys.stderr,
                flush=True,
            )
    made = text(found, [start_metrics(seed, known.work.resolve()) for seed in known.seeds], known.seeds)
    print(made)
    if known.write_docs:
        page = ROOT / "docs" / "image_losses.md"
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")
        draw(found, FIGURE)


if __name__ == "__main__":
    main()
