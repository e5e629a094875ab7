"""Folders as ``mmpref sweep`` leaves them, with numbers of a test's choosing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path


def make_sweep(folder: Path, arms, axes, metrics, *, questions=lambda names: "q", states=None) -> Path:
    """Write a sweep.

    Args:
        metrics: names of a cell (its axes, and ``arm``) -> metrics of its CHAIR result; None: no evaluation.
        questions: names of a cell -> what stands for the digest of its questions.
        states: name of a cell -> what its outcome says beside; None as value: it has not run.
    """
    states = states or {}
    sweep = {"recipe": "r.yaml", "changes": [], "arms": {arm: [] for arm in arms}, "axes": axes}
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"sweep": sweep}))
    for arm in arms or [""]:
        for values in itertools.product(*axes.values()):
            own = dict(zip(axes, values, strict=True))
            name = "_".join(filter(None, [arm.replace(" ", "-"), *(f"{k}={v}" for k, v in own.items())]))
            if states.get(name, ()) is None:
                continue
            outcome = {"name": name, "arm": arm, "values": own, "state": "complete", "seconds": 2.0}
            run = folder / "cells" / name
            run.mkdir(parents=True)
            run.with_name(f"{name}.json").write_text(json.dumps(outcome | states.get(name, {})))
            names = own | {"arm": arm}
            if (numbers := metrics(names)) is not None:
                held_out = numbers.pop("held_out", None)
                write_result(run / "evals" / "chair", numbers, questions(names))
                (run / "recipe.yaml").write_text("data:\n  train: [t.jsonl]\n  eval: [h.jsonl]\n")
                line = {"step": 3, "eval_rewards/accuracies": held_out, "eval_rewards/margins": 1.5}
                (run / "metrics.jsonl").write_text(json.dumps(line) + "\n" if held_out is not None else "")
    return folder


def write_result(folder: Path, metrics, questions="q", **more) -> None:
    folder.mkdir(parents=True)
    result = {"benchmark": "chair", "protocol": "mmpref", "n": 10, "metrics": metrics}
    result |= {"settings": {"questions": questions, "max_new_tokens": 48}, "complete": True} | more
    (folder / "results.json").write_text(json.dumps(result))
