"""A newcomer's first day, from an empty environment: a LLaMA-Factory data set with six bad rows becomes a trained and
compared adapter by following nothing but the README's commands and what each command prints next.

The environment is a virtual environment of its own with mmpref installed as a package; its dependencies are those of
this interpreter, or, where the network may be used, installed by pip with the project's constraints.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.demo.world import WorldFiles, WorldSizes, make_world

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 200
SIZES = WorldSizes(
    see_images=20,
    see_captions=20,
    see_questions=20,
    habit_images=10,
    habit_captions=10,
    habit_questions=10,
    pairs=PAIRS,
    validation=12,
    heldout=12,
    pairs_heldout=10,
)
RECIPE = """\
model: {path: %s, dtype: float32}
data: {train: data:world_dpo}
loss: {name: dpo}
adapter: {kind: lora, rank: 4}
tune: {vision: freeze, projector: freeze, language: lora}
train: {learning_rate: 1e-4, num_train_epochs: 1, per_device_train_batch_size: 8, use_cpu: true, logging_steps: 5}
"""


@dataclass(frozen=True)
class Shell:
    """A terminal of a person who has only installed mmpref."""

    bin: Path
    folder: Path

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """One command line, as typed."""
        env = {
            "PATH": f"{self.bin}{os.pathsep}/usr/bin{os.pathsep}/bin",
            "HOME": str(self.folder / "home"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "LANG": "C.UTF-8",
        }
        (self.folder / "home").mkdir(exist_ok=True)
        return subprocess.run(
            ["/bin/sh", "-c", command], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )

    def ok(self, command: str, code: int = 0) -> str:
        """What it prints, once its exit code is the wanted one."""
        done = self.run(command)
        text = done.stderr + done.stdout  # the last line is that of the command, and no warning
        assert done.returncode == code, f"{command}: exit code {done.returncode}\n{text}"
        assert "Traceback" not in text, text
        return text


def commands(text: str) -> list[str]:
    """The commands that a message offers: each on a line of its own, indented."""
    return re.findall(r"^  (mmpref .+)$", text, re.MULTILINE)


@pytest.fixture(
    scope="module",
    params=[pytest.param("linked", marks=pytest.mark.slow), pytest.param("pip", marks=pytest.mark.network)],
)
def shell(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("new person")
    environment = folder / "venv"
    venv.create(environment, with_pip=request.param == "pip")
    python = environment / "bin" / "python"
    source = folder / "source"  # a build writes into what it builds
    source.mkdir()
    shutil.copytree(ROOT / "mmpref", source / "mmpref", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    install = ["install", "--quiet", "--disable-pip-version-check"]
    if request.param == "pip":
        constraints = ["--constraint", str(ROOT / "scripts" / "constraints.txt")]
        subprocess.run([python, "-m", "pip", *install, *constraints, f"{source}[report]"], check=True)
    else:
        inside = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
        (Path(inside) / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        offline = ["--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
        pip = [sys.executable, "-m", "pip", "--python", str(python)]
        subprocess.run([*pip, *install, *offline, str(source)], check=True)
    return Shell(python.parent, folder)


@pytest.fixture(scope="module")
def start(shell: Shell) -> Shell:
    """What this person has: a model, a LLaMA-Factory folder whose data they have not looked at, and a benchmark."""
    make_world(shell.folder / "world", seed=0, sizes=SIZES)
    build_tiny_llava(shell.folder / "tiny llava", seed=0)
    world = WorldFiles.under(shell.folder / "world")
    rows = [json.loads(line) for line in world.pairs.read_text().splitlines()]
    write_llama_factory(shell.folder / "data", rows, world.root)
    (shell.folder / "my recipe.yaml").write_text(RECIPE % json.dumps("tiny llava"))
    return shell


def write_llama_factory(folder: Path, rows: list[dict[str, Any]], images: Path) -> None:
    """Sharegpt ranking rows as LLaMA-Factory has them, with six that are broken in six ways."""
    folder.mkdir()
    written = []
    for number, row in enumerate(rows):
        text = "".join("<image>" if part["type"] == "image" else part["text"] for part in row["prompt"][-1]["content"])
        target = folder / "images" / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((images / row["images"][0]).read_bytes())
        written.append(
            {
                "conversations": [{"from": "human", "value": text}],
                "chosen": {"from": "gpt", "value": row["chosen"]},
                "rejected": {"from": "gpt", "value": row["rejected"]},
                "images": [f"images/{number}.png"],
            }
        )
    half = folder / "images" / "20.png"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    (folder / "images" / "40.png").unlink()
    written[60]["chosen"]["value"] = ""
    written[80]["rejected"] = dict(written[80]["chosen"], value=written[80]["chosen"]["value"])
    written[100]["conversations"][0]["value"] += "<image>"
    texts = [json.dumps(row, indent=2, ensure_ascii=False) for row in written]
    texts[120] = texts[120].replace("],\n", "]\n", 1)  # a comma that was lost
    (folder / "world_dpo.json").write_text("[\n" + ",\n".join(texts) + "\n]\n")
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    entry = {"file_name": "world_dpo.json", "ranking": True, "formatting": "sharegpt", "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"world_dpo": entry}))


def test_from_six_bad_rows_to_a_compared_adapter(start: Shell) -> None:
    told = start.ok("mmpref doctor")
    assert re.search(r"device: CPU", told)

    # the check names six rows in the right words and ends with the commands that go on
    told = start.ok("mmpref data check data:world_dpo", 3)
    assert "6 of 200 rows cannot be used" in told
    assert "data/world_dpo.json, row 61 (id 'world_dpo:61'): empty_response: 'chosen' is empty" in told
    assert "... and 1 more" in told
    aside = [json.loads(line) for line in (start.folder / "data_check/quarantine.jsonl").read_text().splitlines()]
    assert [row["row"] for row in aside] == [21, 41, 61, 81, 101, 121]
    reasons = ["image_decode", "image_missing", "empty_response", "identical_pair", "image_count", "json"]
    assert [row["reason"] for row in aside] == reasons
    assert re.search(r"broken JSON: Expecting ',' delimiter at line \d+ of the file", aside[-1]["detail"])
    train, fix, again = commands(told)
    assert train.startswith("mmpref train RECIPE ")
    assert "--fix" in fix
    assert again == "mmpref data check data:world_dpo"

    # training by itself says what is bad before it loads the model, and what to do
    recipe = shlex.quote("my recipe.yaml")
    told = start.ok(f"mmpref train {recipe} output=runs/first", 3)
    assert "6 of 200 rows cannot be used" in told
    assert "data.manifest=data_check" in told

    # the printed command, with a recipe in RECIPE's place
    told = start.ok(train.replace("RECIPE", recipe) + " output=runs/tuned")
    assert told.strip().splitlines()[-1] == "done: runs/tuned (model in runs/tuned/model)"
    manifest = json.loads((start.folder / "runs/tuned/manifest.json").read_text())
    assert (manifest["state"], manifest["pairs"], manifest["quarantined"]) == ("complete", 194, 6)

    # the other way that was printed: a clean file, trained by the command that it prints
    told = start.ok(fix)
    (clean,) = commands(told)
    assert "194 pairs" in told
    start.ok(clean.replace("RECIPE", recipe) + " output=runs/clean train.max_steps=1")
    told = start.ok("mmpref data check data/world_dpo.clean.jsonl --out clean_check")
    assert "quarantined" in told

    # before and after, on held-out pairs
    questions = WorldFiles.under(Path("world")).pairs_heldout
    for model, out in (("'tiny llava'", "evals/before"), ("runs/tuned", "runs/tuned/evals/held_out")):
        start.ok(
            f"mmpref eval --model {model} --benchmark preference --questions {questions} --image-root world --out {out}"
        )
    told = start.ok("mmpref report evals/before runs/tuned/evals/held_out --out compare.html --image-root world")
    assert told.strip().splitlines()[-1] == "wrote compare.html"
    page = (start.folder / "compare.html").read_text()
    assert "accuracy" in page
