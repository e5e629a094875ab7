"""Two real processes on the CPU, talking over gloo, and one process to compare them with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.demo.world import WorldFiles, WorldSizes, make_world
from mmpref.training.trainer.pair_log import read_pair_log

ROOT = Path(__file__).parents[2]
LIMIT = 170  # seconds; on two idle cores a session of runs takes a fifth of that
SIZES = WorldSizes(
    see_images=4, see_captions=4, see_questions=4, habit_images=4, habit_captions=4, habit_questions=4,
    pairs=23, validation=4, heldout=4, pairs_heldout=7,
)  # fmt: skip
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
}


def zero(stage: int) -> dict[str, str]:
    """What the launcher says for our profiles, and that DeepSpeed may use CPUs."""
    return {
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage),
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": str(stage == 3).lower(),
        "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": str(stage == 3).lower(),
        "ACCELERATE_GRADIENT_CLIPPING": "auto",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    }


@dataclass(frozen=True)
class Place:
    """A small drawn world, an untrained model, pairs of which every third has no image, and several pairs a prompt."""

    root: Path
    model: Path

    def train(self, output: Path, *changes: str, pairs: str = "pairs") -> list[str]:
        """Arguments of a short ``mmpref train``."""
        return [
            "train", "demo_dpo", f"output={output}", f"model.path={self.model}",
            f"data.train={self.root / f'{pairs}.jsonl'}", f"data.root={self.root}", "data.eval=[]",
            "train.learning_rate=1e-3", "train.warmup_steps=0", "train.logging_steps=1", "train.use_cpu=true",
            "train.num_train_epochs=1", "cpu_threads=1", *changes,
        ]  # fmt: skip


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("several") / "world"
    make_world(root, seed=0, sizes=SIZES)
    build_tiny_llava(root.parent / "model", seed=0)
    rows = [json.loads(line) for line in WorldFiles.under(root).pairs.read_text(encoding="utf-8").splitlines()]
    (root / "mixed.jsonl").write_text(_lines(_without_image(row) if i % 3 else row for i, row in enumerate(rows)))
    (root / "several.jsonl").write_text(_lines(_several_a_prompt(rows[:11])))
    (root / "text.jsonl").write_text(_lines(map(_without_image, rows)))
    return Place(root, root.parent / "model")


def _without_image(row: dict[str, Any]) -> dict[str, Any]:
    prompt = [
        {**turn, "content": [part for part in turn["content"] if part["type"] != "image"]} for turn in row["prompt"]
    ]
    return {**row, "id": f"{row['id']}-text", "images": [], "prompt": prompt}


def _several_a_prompt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One to three pairs of two or three answers for each row; every third prompt has no image."""
    found = []
    for number, row in enumerate(rows):
        row = row if number % 3 else _without_image(row)
        other = rows[number - 1]["rejected"]
        answers = [(row["chosen"], row["rejected"]), (row["chosen"], other), (row["rejected"], other)]
        different = [(one, two) for one, two in answers if one != two][: 1 + number % 3 + number % 2]
        found += [
            {**row, "id": f"{row['id']}-{place}", "chosen": one, "rejected": two}
            for place, (one, two) in enumerate(different)
        ]
    return sorted(found, key=lambda row: row["id"][::-1])  # those of a prompt do not lie side by side


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def torchrun(*command: str, processes: int = 2, limit: float = LIMIT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command under torchrun, with a hard end."""
    arguments = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return finish([*arguments, *command], limit=limit, **env)


def finish(command: Sequence[str], *, limit: float = LIMIT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command that starts processes; all of them are killed when it takes too long."""
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"not at its end after {limit} s: {out[-2000:]}\n{err[-4000:]}")
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def run_together(
    lines: Sequence[list[str]], folder: Path, *, limit: float = LIMIT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Several command lines one after another in the same two processes: most of the time is loading the libraries."""
    file = folder / "lines.json"
    file.write_text(json.dumps(lines), encoding="utf-8")
    done = torchrun(str(Path(__file__).with_name("worker.py")), str(file), limit=limit, **env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def pair_rows(run: Path, name: str = "pairs.parquet") -> dict[tuple[int, str], dict[str, Any]]:
    columns = read_pair_log(run / name)
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    found = {(row["step"], row["pair_id"]): row for row in rows}
    assert len(found) == len(rows)  # no pair twice in a step
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {
        name: value for file in sorted((run / "model").glob("*.safetensors")) for name, value in load_file(file).items()
    }


def assert_same_run(one: Path, other: Path, *, within: float = 1e-6) -> None:
    """Two runs told the same losses, pair by pair, and ended with the same weights, to rounding."""
    assert losses(one) == pytest.approx(losses(other), abs=within)
    rows, others = pair_rows(one), pair_rows(other)
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        assert row["logps/chosen"] == pytest.approx(others[key]["logps/chosen"], abs=1e-3), key
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], atol=1e-4), name
