"""``mmpref demo``: the whole story on the embedded world, told by the public commands.

world -> a tiny model (LLaVA or Qwen2-VL) -> it learns to see -> it learns to talk -> it takes on the habit of its
annotators and makes things up -> it is preference-trained in four ways from that same start -> every model answers the
benchmarks -> report. Training is ``training.run.train`` on the shipped ``demo_*`` recipes, answering and scoring is
``evals``, the page is ``report``: nothing here trains or scores by a way of its own.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from mmpref.demo.scenes import refuse_themes
from mmpref.demo.seeing import GATE, learn_to_see
from mmpref.demo.tiny_models import LONGEST_ANSWER, build_tiny_llava
from mmpref.demo.tiny_qwen2_vl import build_tiny_qwen2_vl
from mmpref.demo.world import QuestionFiles, WorldFiles, WorldSizes, make_world
from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.evals import EvalSettings, evaluate
from mmpref.files.writing import real_path, write_json, writing_to
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.records import TaskResult
from mmpref.report.compare import as_json, comparison_table, load_runs
from mmpref.report.page import build_report
from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir, versions
from mmpref.rundir.locking import writing_alone
from mmpref.terminal import DemoDisplay, print_table
from mmpref.training.run.callbacks import RunCallbacks
from mmpref.training.run.run import train
from mmpref.yaml_text import did_you_mean

MARKER = "demo.json"
START = "SFT (start)"
MODELS = {"llava": build_tiny_llava, "qwen2_vl": build_tiny_qwen2_vl}
ENDS = ("world", "start", "report")  # what the demo can end with
METHODS = {"sft_chosen": "SFT on chosen", "dpo": "DPO", "uni_dpo": "Uni-DPO", "adadpo": "AdaDPO"}

# Gates on validation scenes, as fractions. A model that cannot talk about what it sees must not take on the habit, and
# methods are compared only on a start model that sees well and makes things up: on a blind or a faultless one the
# comparison would be empty.
TALKS = {"pope accuracy": 0.80, "recall": 0.75}
SEES_WELL = {"pope accuracy": 0.80, "recall": 0.90}
MAKES_THINGS_UP = {"chair_s": 0.25}
MAX_SEE_ROUNDS = 4
_BATCH_SIZE = 64  # questions answered together; the figures of the demo were made with it

# Stages and their usual share of the time, for the estimate of what is left.
STAGES = (
    ("drawing the world", 3.0),
    ("learning to see", 20.0),
    ("learning to talk", 70.0),
    ("taking on the habit", 25.0),
    *((f"training {label}", 14.0) for label in METHODS.values()),
    *((f"asking {label}", 4.0) for label in (START, *METHODS.values())),
    ("writing the report", 5.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """Which demo it is.

    Attributes:
        seed: changes the world, the model and the pairs.
        scale: share of the full size; below 1 the gates are not applied, because so little training cannot pass them.
        threads: CPU threads, of every stage: the last digits of a sum change with their number.
        model: which tiny model, a name of `MODELS`.
        themes: of each scene, 1 or 2; two make scenes and captions nearly twice as long.
        until: what it ends with, a name of `ENDS`: the world; the start model, which is what sweeps need; the report.

    Raises:
        ConfigError: a name is not one of those, or a scene cannot have so many themes.
    """

    seed: int
    scale: float = 1.0
    threads: int = 1
    model: str = "llava"
    themes: int = 1
    until: str = "report"

    def __post_init__(self) -> None:
        _refuse_unknown("--model", self.model, tuple(MODELS))
        _refuse_unknown("--until", self.until, ENDS)
        refuse_themes(self.themes)


class Demo:
    """One demo in one folder: its world, its models, its runs."""

    def __init__(self, out: Path, settings: DemoSettings, display: DemoDisplay) -> None:
        self.out = out
        self.seed = settings.seed
        self.scale = settings.scale
        self.threads = settings.threads
        self.settings = settings
        self.display = display
        self.gated = settings.scale >= 1
        self.files = WorldFiles.under(out / "world")

    # ---- the stages -------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """All stages up to the last one asked for; returns what that one made: world, start model or report."""
        self.display.begin("drawing the world")
        make_world(self.files.root, seed=self.seed, sizes=self._sizes(), themes=self.settings.themes)
        if self.settings.until == "world":
            return self.files.root
        start = self._make_start_model()
        return start.model if self.settings.until == "start" else self._compare_methods(start)

    def _make_start_model(self) -> RunDir:
        """From random weights to the model that the methods start from."""
        MODELS[self.settings.model](self.out / "models" / "untrained", seed=self.seed)
        self.display.begin("learning to see")
        learn_to_see(
            self.out / "models" / "untrained",
            self.files.root,
            self.out / "models" / "seeing",
            seed=self.seed,
            progress=self.display.within,
            gate=GATE if self.gated else 0.0,
        )
        return self._take_on_the_habit(self._learn_to_talk(self.out / "models" / "seeing"))

    def _compare_methods(self, start: RunDir) -> Path:
        """Preference-train the start model, ask every model on held-out scenes, and report."""
        runs = {START: start}
        for name, label in METHODS.items():
            self.display.begin(f"training {label}")
            runs[label] = self._train(f"demo_{name}", self.out / "runs" / name, start.model)
        for label, run in runs.items():
            self.display.begin(f"asking {label}")
            self._ask(run, self.files.heldout)
        self.display.begin("writing the report")
        return self._report(runs)

    def _learn_to_talk(self, model: Path) -> RunDir:
        """Rounds of the ``demo_see`` recipe until the model passes the gate: skill decides, not a number of steps."""
        self.display.begin("learning to talk")
        seen: dict[str, float] = {}
        for number in range(1, MAX_SEE_ROUNDS + 1):
            run = self._train("demo_see", self.out / "runs" / f"see_{number}", model)
            seen = self._skills(run)
            self.display.say(f"  round {number}: " + _shown(seen))
            if not self.gated or not _below(seen, TALKS):
                return run
            model = run.model
        raise EvalIncompleteError(
            f"the model did not learn to talk about what it sees in {MAX_SEE_ROUNDS} rounds: {_below(seen, TALKS)} on "
            "validation scenes; comparing methods on it would mean nothing. Try another --seed"
        )

    def _take_on_the_habit(self, talking: RunDir) -> RunDir:
        self.display.begin("taking on the habit")
        run = self._train("demo_habit", self.out / "runs" / "habit", talking.model)
        skills = self._skills(run)
        self.display.say("  start model: " + _shown(skills))
        if self.gated and (problem := _below(skills, SEES_WELL | MAKES_THINGS_UP)):
            raise EvalIncompleteError(
                f"the start model is not fit for the comparison: {problem} on validation scenes. Try another --seed"
            )
        return run

    # ---- the public commands, with the demo's paths ---------------------------------------------------------

    def _train(self, recipe: str, output: Path, model: Path) -> RunDir:
        return train(self._recipe(recipe, output, model), callbacks=RunCallbacks(progress=self.display.within))

    def _recipe(self, name: str, output: Path, model: Path) -> Recipe:
        """A shipped recipe with this demo's folders, seed and size put in."""
        shipped = load_recipe(name)
        changes: dict[str, Any] = {
            "output": str(output),
            "seed": self.seed,
            "cpu_threads": self.threads,
            "model.path": str(model),
            "data.root": str(self.files.root),
            "data.train": [str(self.files.root / Path(file).name) for file in shipped.data.train_paths],
            "data.eval": [str(self.files.root / Path(file).name) for file in shipped.data.eval_paths],
        }
        if shipped.data.eval:  # measured at evaluations; training is the same to the last bit
            changes["train.eval_image_lift"] = "blank"
        if self.scale < 1 and shipped.train.max_steps > 0:
            changes["train.max_steps"] = max(2, round(shipped.train.max_steps * self.scale))
        return load_recipe(name, [f"{key}={json.dumps(value)}" for key, value in changes.items()])

    def _ask(self, run: RunDir, questions: QuestionFiles, *, folder: str = "evals") -> dict[str, TaskResult]:
        """Let the model of a run answer POPE and CHAIR; answers and results go into the run's folder."""
        settings = EvalSettings(max_new_tokens=LONGEST_ANSWER, batch_size=_BATCH_SIZE)
        common: dict[str, Any] = {"images_root": self.files.root, "settings": settings}
        chair = evaluate(
            run.model,
            "chair",
            questions=questions.chair_objects,
            out=run.path / folder / "chair",
            synonyms=self.files.synonyms,
            prompts=questions.chair_prompts,
            **common,
        )
        splits = [questions.pope_random, questions.pope_popular, questions.pope_adversarial]
        pope = evaluate(run.model, "pope", questions=splits, out=run.path / folder / "pope", **common)
        return {"chair": chair, "pope": pope}

    def _skills(self, run: RunDir) -> dict[str, float]:
        """What the gates look at, on validation scenes, as fractions."""
        results = self._ask(run, self.files.validation, folder="validation")
        chair, pope = results["chair"].metrics, results["pope"].metrics
        return {
            "pope accuracy": pope["random/accuracy"] or 0.0,
            "recall": chair["recall"] or 0.0,
            "chair_s": chair["chair_s"] or 0.0,
        }

    def _report(self, runs: dict[str, RunDir]) -> Path:
        labels = {run.path.name: label for label, run in runs.items()}
        paths = [run.path for run in runs.values()]
        table = comparison_table(load_runs(paths, labels=labels))
        write_json(self.out / "results.json", {"seed": self.seed, "scale": self.scale, **as_json(table)})
        page = build_report(
            paths, self.out / "report.html", title="mmpref demo", images_root=self.files.root, labels=labels
        )
        self.display.stop()
        header, *rows = zip(table.header(), *table.text_rows(), strict=True)  # a line for each metric fits a terminal
        print_table("held-out scenes: value [95 % interval], change from the start model", header, rows, table.notes)
        return page

    def _sizes(self) -> WorldSizes:
        full = WorldSizes()
        counts = {field.name: getattr(full, field.name) for field in fields(full) if field.name != "pope_per_label"}
        return replace(full, **{name: max(12, round(count * self.scale)) for name, count in counts.items()})


def run_demo(out: Path, settings: DemoSettings) -> Path:
    """Run the demo into a folder, made anew; returns what it ends with: the report, or a folder.

    Args:
        out: an empty or missing folder, or one that holds an earlier demo.
        settings: which demo.

    Raises:
        ConfigError: the folder holds something else.
        CheckpointError: the folder cannot be written.
        EvalIncompleteError: the model failed a gate, so that comparing methods on it would mean nothing.
    """
    begun = time.monotonic()
    torch.set_num_threads(settings.threads)
    disable_progress_bar()  # of transformers, one for each of a dozen small models; the demo has its own
    out = real_path(out)
    chosen = {name: getattr(settings, name) for name in ("seed", "scale", "model", "themes", "until")}
    facts = {**chosen, "versions": versions()}
    _refuse_other_content(out)
    with DemoDisplay(_stages(settings.until)) as display, writing_alone(out, display.say, "--out"):
        _clear(out)
        write_json(out / MARKER, {"state": "running", **facts})
        made = Demo(out, settings, display).run()
        seconds = time.monotonic() - begun
        write_json(out / MARKER, {"state": "complete", "seconds": round(seconds, 1), **facts})
        what = {"world": "world", "start": "start model", "report": "report"}[settings.until]
        display.say(
            f"\n{what}: {made}\nmade in {seconds:.0f} seconds; every step can be run again by hand, see docs/demo.md"
        )
    return made


def _stages(until: str) -> Sequence[tuple[str, float]]:
    return STAGES[: {"world": 1, "start": 4}.get(until)]


def _refuse_unknown(option: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        near = did_you_mean(given, known)
        raise ConfigError(
            f"{option} {given}: unknown{near}; it is one of {', '.join(known)}: write `{option}={known[-1]}`"
        )


def _refuse_other_content(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder")
    if _content(out) and not (out / MARKER).is_file():
        raise ConfigError(f"--out {out} is not empty and holds no demo; give another folder")


def _clear(out: Path) -> None:
    """Empty the folder of an earlier demo, its marker last, so that a kill in the middle leaves what is one still."""
    _refuse_other_content(out)
    with writing_to(out):
        for entry in sorted(_content(out), key=lambda entry: entry.name == MARKER):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _content(out: Path) -> list[Path]:
    """What is in the folder, but for its lock."""
    with writing_to(out):
        return [entry for entry in out.iterdir() if entry.name != LOCK] if out.is_dir() else []


def _below(values: dict[str, float], wanted: dict[str, float]) -> str:
    """The values that miss their bound, as words; empty when none does."""
    return ", ".join(f"{k} {values[k]:.2f} (wants {bound:.2f})" for k, bound in wanted.items() if values[k] < bound)


def _shown(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in values.items())
