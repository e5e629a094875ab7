"""``mmpref demo`` at a reduced size, through the command line, and the same steps by hand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.rundir.locking import writing_alone
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.test_docs import ROOT, commands
from tests.tiers import corners

RUNS = ("habit", "sft_chosen", "dpo", "uni_dpo", "adadpo")
SCALE = "0.02"
SEED = "3"  # so small a model with seed 0 names no object at all


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished small demo. So little training teaches nothing: only the road is tested here, not the skill."""
    out = tmp_path_factory.mktemp("demo") / "mmpref-demo"
    assert main(["demo", "--out", str(out), "--scale", SCALE, "--seed", SEED]) == 0
    return out


def results(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return content


def test_every_model_was_trained_and_asked(demo: Path) -> None:
    assert json.loads((demo / "demo.json").read_text())["state"] == "complete"
    for name in RUNS:
        assert RunDir(demo / "runs" / name).manifest()["state"] == "complete"
        assert results(demo / "runs" / name / "evals" / "chair")["n"] == 12
        assert results(demo / "runs" / name / "evals" / "pope")["benchmark"] == "pope"


def test_the_table_has_the_promised_rows_and_numbers_with_intervals(demo: Path) -> None:
    table = results(demo)
    runs = table["runs"]
    assert isinstance(runs, list)
    assert [run["label"] for run in runs] == ["SFT (start)", "SFT on chosen", "DPO", "Uni-DPO", "AdaDPO"]
    promised = {"chair_s", "chair_i", "recall", "mean_length", "logp_chosen", "logp_rejected"}
    promised |= {f"pope/{s}/{m}" for s in ("random", "popular", "adversarial") for m in ("accuracy", "f1", "yes_ratio")}
    for run in runs:
        assert promised <= run["cells"].keys()
        assert run["cells"]["chair_s"]["interval"] is not None
        difference = run["cells"]["chair_s"]["difference"]
        assert (difference is None) == run["is_baseline"]
        if difference == 0:  # models this small answer alike: no interval of no width is shown
            assert run["cells"]["chair_s"]["difference_interval"] is None


def test_the_report_stands_alone(demo: Path) -> None:
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert "data:image/png;base64," in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_all_preference_runs_start_from_the_same_model(demo: Path) -> None:
    first = {}
    for name in ("dpo", "uni_dpo", "adadpo", "sft_chosen"):
        log = read_pair_log(RunDir(demo / "runs" / name).eval_pairs_file)
        first[name] = [v for step, v in zip(log["step"], log["logps/chosen"], strict=True) if step == 0]
    assert first["dpo"]
    assert first["dpo"] == first["uni_dpo"] == first["adadpo"] == first["sft_chosen"]


def test_the_demo_page_s_steps_by_hand_work_on_a_demo(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo.parent)
    for words in commands(ROOT / "docs" / "demo.md"):
        if words[0] != "demo":
            said = main([*words, f"seed={SEED}"] if words[0] == "train" else words)  # the page's demo has seed 0
            err = capsys.readouterr().err
            # a model that was shown next to nothing describes nothing, and eval says so
            assert said == 0 or (said == 8 and "names a known object" in err), f"{words}: {err}"
    assert Path("by_hand.html").stat().st_size > 10_000
    made = Path("by_hand/model/model.safetensors").read_bytes()
    assert made == (demo / "runs" / "uni_dpo" / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", corners(["dpo", "uni_dpo", "adadpo", "sft_chosen"], "sft_chosen"))
def test_the_recipe_and_the_eval_command_give_the_numbers_of_the_demo(demo: Path, tmp_path: Path, name: str) -> None:
    world, run = demo / "world", tmp_path / "run"
    changes = [
        f"output={run}",
        f"seed={SEED}",
        f"model.path={demo / 'runs' / 'habit' / 'model'}",
        f"data.train={world / 'pairs.jsonl'}",
        f"data.eval={world / 'pairs_heldout.jsonl'}",
        f"data.root={world}",
    ]
    assert main(["train", f"demo_{name}", *changes]) == 0
    files = ("model/model.safetensors", "pairs.parquet")
    for file in files:
        assert (run / file).read_bytes() == (demo / "runs" / name / file).read_bytes()
    ask = ["--model", str(run), "--image-root", str(world), "--max-new-tokens", "48", "--cpu-threads", "1"]
    chair = ["--benchmark", "chair", "--questions", str(world / "chair_objects.json"), "--out", str(tmp_path / "chair")]
    options = [f"synonyms={world / 'synonyms.txt'}", f"prompts={world / 'chair_prompts.jsonl'}"]
    assert main(["eval", *ask, *chair, *options]) == 0
    splits = [a for s in ("random", "popular", "adversarial") for a in ("--questions", str(world / f"pope_{s}.jsonl"))]
    assert main(["eval", *ask, "--benchmark", "pope", *splits, "--out", str(tmp_path / "pope")]) == 0
    for benchmark in ("chair", "pope"):
        by_hand, by_demo = results(tmp_path / benchmark), results(demo / "runs" / name / "evals" / benchmark)
        assert by_hand["metrics"] == by_demo["metrics"]
        assert by_hand["intervals"] == by_demo["intervals"]


def test_saved_answers_score_to_the_same_numbers_without_a_model(demo: Path, tmp_path: Path) -> None:
    world, chair = demo / "world", demo / "runs" / "dpo" / "evals" / "chair"
    command = ["score", "--benchmark", "chair", "--questions", str(world / "chair_objects.json")]
    command += ["--answers", str(chair / "answers.jsonl"), "--out", str(tmp_path / "r.json")]
    assert main([*command, f"synonyms={world / 'synonyms.txt'}", f"prompts={world / 'chair_prompts.jsonl'}"]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["metrics"] == results(chair)["metrics"]


@pytest.mark.parametrize("until", ["world", pytest.param("start", marks=pytest.mark.slow)])
def test_a_demo_ends_where_it_is_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str], until: str) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--scale", SCALE, "--themes", "2", "--until", until]) == 0
    facts = json.loads((out / "demo.json").read_text())
    assert (facts["state"], facts["until"], facts["themes"], facts["model"]) == ("complete", until, 2, "llava")
    made = {"world": "world", "start": "runs/habit/model"}[until]
    assert (out / made).is_dir()
    assert f"{out / made}" in capsys.readouterr().out.replace("\n", "")
    runs = sorted(run.name for run in out.glob("runs/*"))
    assert runs == {"world": [], "start": ["habit", "see_1"]}[until]
    assert not (out / "report.html").exists()


@pytest.mark.slow
def test_the_same_story_on_a_qwen2_vl_that_says_more(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    asked = ["--model", "qwen2_vl", "--themes", "2"]
    assert main(["demo", "--out", str(out), "--scale", SCALE, "--seed", "3", *asked]) == 0
    assert json.loads((out / "demo.json").read_text())["model"] == "qwen2_vl"
    for name in RUNS:
        config = json.loads((out / "runs" / name / "model" / "config.json").read_text())
        assert config["model_type"] == "qwen2_vl"
        assert results(out / "runs" / name / "evals" / "chair")["n"] == 12
    table = results(out)
    assert isinstance(table["runs"], list)
    assert len(table["runs"]) == 5
    assert (out / "report.html").is_file()


def test_a_report_of_any_runs_can_be_made_again(demo: Path, tmp_path: Path) -> None:
    runs = [str(demo / "runs" / name) for name in ("dpo", "adadpo")]
    assert main(["report", *runs, "--out", str(tmp_path / "p.html"), "--image-root", str(demo / "world")]) == 0
    assert "AdaDPO".lower() in (tmp_path / "p.html").read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_the_demo_runs_again_over_an_earlier_one_and_refuses_any_other_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    assert main(["demo", "--out", str(tmp_path / "photos"), "--scale", SCALE]) == 2
    assert "holds no demo" in capsys.readouterr().err
    assert (tmp_path / "photos" / "me.jpg").exists()
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "demo.json").write_text("{}")
    (earlier / "report.html").write_text("old")
    process = start_demo(earlier)
    wait_for(earlier / "world" / "world.json", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # Python ends by the signal itself where an extension module was running code of its own: 130 for a shell as well
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert not (earlier / "report.html").exists()
    assert json.loads((earlier / "demo.json").read_text())["state"] == "running"


def test_a_place_that_cannot_be_written_ends_with_code_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--out", str(tmp_path / "file" / "demo"), "--scale", SCALE]) == 6
    assert "cannot write to" in capsys.readouterr().err


def start_demo(out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "mmpref", "demo", "--out", str(out), "--scale", SCALE]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
        # tests that run in the background of a shell inherit an ignored SIGINT, which a terminal's Ctrl-C never is
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(file: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not file.exists():
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            pytest.fail(f"the demo ended too early: {process.communicate()}")
        time.sleep(0.02)


def test_a_demo_never_clears_the_folder_that_another_one_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "demo")
    with writing_alone(tmp_path / "demo", print):
        (tmp_path / "demo" / "demo.json").write_text("{}")
        (tmp_path / "demo" / "world").mkdir()
        for name in ("demo", "link"):
            assert main(["demo", "--out", str(tmp_path / name), "--scale", SCALE]) == 2
            assert "is in use: process" in capsys.readouterr().err
        assert (tmp_path / "demo" / "world").is_dir()
