"""docs/gpu.md and the sentences about GPUs say what the newest results say, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_gpu_page.py"
TITLES = ("Are the kernels right", "A step against TRL's", "Pairs that share a prompt", "7B QLoRA on small cards",
          "The plan against measured peaks", "Output head and loss core", "Answers")  # fmt: skip
PLAN = {"status": "done", "rows": [{"case": "a run", "measured_gib": 10.0, "planned_gib": 9.31, "error": -0.069}]}


def make(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def results(root: Path, name: str, parts: dict[str, Any], *, day: int = 1, **facts: Any) -> Path:
    environment = {"card": f"NVIDIA Card {day}", "driver": "1.2.3", "libraries": {"torch": "2.99.0", "trl": None}}
    content = {
        "schema": 1, "date": f"2027-03-0{day}", "started": f"2027-03-0{day}T10:00:00+00:00", "commit": "c0ffee" * 7,
        "changed_since_commit": False, "source": "5" * 64, "dry_run": False, "environment": environment,
        "parts": parts, **facts,
    }  # fmt: skip
    path = root / "results" / "gpu" / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """README and docs as they are, and no results."""
    (tmp_path / "results" / "gpu").mkdir(parents=True)
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    return tmp_path


def section(root: Path, title: str) -> str:
    page = (root / "docs" / "gpu.md").read_text(encoding="utf-8")
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_what_is_committed_is_what_the_newest_results_give() -> None:
    done = make(ROOT, "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_results_everything_says_not_measured(checkout: Path) -> None:
    assert make(checkout).returncode == 0
    for title in TITLES:
        assert "Not measured." in section(checkout, title)
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    for said in ("speed not yet measured on a GPU", "not yet compared with a GPU", "not yet measured<"):
        assert said in readme
    assert make(checkout, "--check").returncode == 0


def test_each_part_is_shown_from_the_newest_file_that_has_figures_of_it(checkout: Path) -> None:
    tests = {"case": "tests/gpu", "passed": 41, "num_failed": 0, "not_run": {"no flash-attn": 2}}
    older = {"kernels": {"status": "done", "rows": [tests]}, "plan": PLAN}
    newer_rows = [{"case": "b", "measured_gib": 20.0, "planned_gib": 20.5, "error": 0.025}]
    newer = {
        "plan": {"status": "stopped", "why": "it was stopped after 70 s", "rows": newer_rows},
        "kernels": {"status": "done", "rows": [{"case": "tests/gpu", "skipped": "pytest is not installed"}]},
    }
    results(checkout, "z-older.json", older, day=1)  # sorted by when they began, not by name
    results(checkout, "a-newer.json", newer, day=2)
    assert make(checkout).returncode == 0
    kernels, plan = section(checkout, TITLES[0]), section(checkout, TITLES[4])
    assert "41 passed, 0 failed." in kernels
    assert "2 not run: no flash-attn" in kernels
    assert "NVIDIA Card 1 (driver 1.2.3), torch 2.99.0; commit c0ffeec0ff; 1 March 2027" in kernels
    assert "NVIDIA Card 2" in plan
    assert "| b | 20.00 | 20.50 | +2.5% | - |" in plan
    assert "a run" not in plan
    assert "it was stopped after 70 s" in plan
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert ">within 2.5 % of the peaks of 1 run on one Card 2<" in readme
    assert "41 passed on one Card 1" in (checkout / "docs" / "pair_forward.md").read_text(encoding="utf-8")


def test_a_changed_sentence_is_found_and_mended(checkout: Path) -> None:
    results(checkout, "one.json", {"plan": PLAN})
    assert make(checkout).returncode == 0
    readme = checkout / "README.md"
    as_written = readme.read_text(encoding="utf-8")
    readme.write_text(as_written.replace("within 6.9 % of the peaks", "within 1 % of the peaks"), encoding="utf-8")
    done = make(checkout, "--check")
    assert done.returncode == 1
    assert "README.md" in done.stdout
    assert make(checkout).returncode == 0
    assert readme.read_text(encoding="utf-8") == as_written


def test_sentences_are_english_and_parts_without_trl_a_driver_or_an_end_are_shown(checkout: Path) -> None:
    ours = {
        "ms": 100.0, "forward_ms": 40.0, "backward_ms": 60.0, "vision_ms": 5.0, "head_ms": 3.0,
        "pairs_per_second": 10.0, "peak_gib": 15.0, "over_rest_gib": 1.0, "share_of_bf16": 0.4,
    }  # fmt: skip
    step = {"model": "llava-hf/llava-1.5-7b-hf", "mode": "lora", "answers": [60, 250], "live": ours, "cached": ours}
    compared = {
        "case": "with TRL", **step, "trl": {**ours, "ms": 170.0}, "ratio": {"live": 1.7, "cached": 2.2},
        "ideal": {"live": 1.8, "cached": 2.3}, "memory_ratio": {"live": None, "cached": None},
    }  # fmt: skip
    behind = {
        **compared, "case": "slow", "batch": 4, "ratio": {"live": 1.1, "cached": 2.2},
        "profile": {"trl": [["gemm", 90.0, 200], ["softmax", 5.0, 60]], "live": [["flash", 40.0, 64]]},
        "idle": {"trl": 0.25, "live": None},
    }  # fmt: skip
    head = {"case": "a head", "tiled": {"ms": 1.0, "peak_mib": 9.0}, "full": {"ms": 1.2, "peak_mib": 90.0}}
    way = {"ms": 900.0, "over_rest_gib": 2.0, "share_of_bf16": 0.5}
    group = {
        "case": "six", "model": "llava-hf/llava-1.5-7b-hf", "separate": way, "grouped": {**way, "ms": 200.0},
        "one_pair": {"over_rest_gib": None}, "ratio": 4.5, "ideal": 4.35,
    }  # fmt: skip
    way = {"answers_per_second": 2.0, "tokens_per_second": 128.0}
    answers = {"case": "a", "model": "x/Model-3B", "batch": 16, "batched": way, "one_at_a_time": way, "ratio": 5.25}
    skipped = {"case": "more", "skipped": "the time of this part is up"}
    stopped = {"status": "stopped", "why": "its time was up after 90 s; what it had found until then is kept"}
    alone = {"case": "alone", "profiled_before": True, **step, "note": "TRL is not installed"}
    card = {"case": "b", "recipe": "r_uni_dpo_qlora", "cap_gib": 24, "trains": False, "why": "out of memory"}
    parts = {
        "pair_step": {**stopped, "rows": [compared, alone, behind, skipped]},
        "groups": {"status": "done", "rows": [group, skipped]},
        "small_cards": {"status": "done", "rows": [card, skipped]},
        "heads": {"status": "done", "rows": [{**head, "ratio": {"full": 1.2}, "without": {"trl": "not installed"}}]},
        "generation": {"status": "done", "rows": [answers]},
        "kernels": {"status": "done", "rows": [skipped]},
        "plan": {"status": "failed", "why": "its process was ended by SIGKILL", "rows": []},
    }  # fmt: skip
    environment = {"card": "CARD", "driver": None, "libraries": {"torch": "2.99.0"}}
    results(checkout, "one.json", parts, environment=environment, commit=None, changed_since_commit=None)
    done = make(checkout)
    assert done.returncode == 0, done.stderr
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert (
        ">on one CARD a LoRA step is 1.7 times as fast as TRL's for LLaVA-1.5-7B (2.2 times with a cached reference)<"
        in readme
    )
    assert "7B under the memory of a consumer card not yet measured" in readme
    losses = (checkout / "docs" / "losses.md").read_text(encoding="utf-8")
    assert "on one CARD a head with full logits takes 1.20 to 1.20 times as long as the tiled head" in losses
    evaluation = (checkout / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert "answers come, against one at a time, 5.2 times as fast in batches of 16 with Model-3B" in evaluation
    shown = section(checkout, TITLES[1])
    assert "*CARD, torch 2.99.0; code 5555555555; 1 March 2027.*" in shown
    assert "| alone (a) | - | 100.00 |" in shown
    assert "(a) After a profiler" in shown
    assert shown.count("less than its operations would allow") == 1
    assert "No kernel ran in 25 % of TRL's step." in shown
    assert "| `gemm` 90.0 (200) | `flash` 40.0 (64) |" in shown
    assert "The part was not finished: its time was up after 90 s" in shown
    assert "- more: skipped: the time of this part is up" in shown
    assert "| six | 900.00 | 200.00 | 4.50x | 4.35x | 2.00 | 2.00 | - | 50 % |" in section(checkout, TITLES[2])
    pair_forward = (checkout / "docs" / "pair_forward.md").read_text(encoding="utf-8")
    assert ">on one CARD the step of 4 answers in 6 pairs is 4.5 times as fast for LLaVA-1.5-7B<" in pair_forward
    for title in (TITLES[0], TITLES[4]):
        assert "Not measured." in section(checkout, title)


def test_figures_of_a_dry_run_are_refused(checkout: Path) -> None:
    path = results(checkout, "dry.json", {"plan": PLAN}, dry_run=True)
    done = make(checkout)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "dry run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema": 7, "parts": {}}', '{"schema": 1, "parts": {}}', "\xff\x00"]
)
def test_a_file_that_is_no_results_file_is_named(checkout: Path, content: str) -> None:
    path = checkout / "results" / "gpu" / "bad.json"
    path.write_bytes(content.encode("latin-1"))
    done = make(checkout)
    assert done.returncode == 2
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("<!-- gpu:nonsense -->x<!-- /gpu:nonsense -->", "no sentence is called 'nonsense'"),
     ("<!-- gpu:plan -->x", "has no end")],
)  # fmt: skip
def test_a_mark_that_cannot_be_written_is_named(checkout: Path, text: str, said: str) -> None:
    (checkout / "docs" / "other.md").write_text(text, encoding="utf-8")
    done = make(checkout)
    assert done.returncode == 2
    assert "other.md" in done.stderr
    assert said in done.stderr
