"""scripts/experiments: the page and the figure are what the results give, and the counts are those of a hand."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mmpref.losses import build_objective
from mmpref.recipe.loading import load_recipe
from mmpref.sweeps.grid import parse_arm
from tests.loaded_scripts import script

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts" / "experiments"


draw, collect, noisy_pairs = (script(f"experiments/{name}") for name in ("draw", "collect", "noisy_pairs"))


def results(folder: Path, rows: list[str], *, name: str = "made", columns: str = "chair_s,chair_i,recall,words") -> str:
    (folder / f"{name}.csv").write_text(f"arm,beta,seed,{columns}\n" + "".join(f"{row}\n" for row in rows))
    return name


def test_the_page_s_tables_and_the_figure_s_numbers_are_those_of_the_results() -> None:
    assert draw.stale() == []


def test_what_the_results_do_not_give_is_found(tmp_path: Path) -> None:
    page = "text\n<!-- draw.py: levels made -->\n| a hand's table |\n<!-- end of table -->\nmore\n"
    results(tmp_path, ["start,,0,0.5,0.2,0.9,11", "DPO,1,0,0.25,0.1,0.9,10"])
    made = draw.filled(page, tmp_path)
    assert "a hand's table" not in made
    assert made.startswith("text\n<!-- draw.py: levels made -->\n| setting |")
    assert made.endswith("<!-- end of table -->\nmore\n")
    assert draw.filled(made, tmp_path) == made


def test_levels_are_means_over_seeds_with_t_intervals_and_say_where_seeds_lack(tmp_path: Path) -> None:
    starts = [f"start,,{seed},0.5,0.2,0.9,11" for seed in (0, 1)]
    rows = ["DPO,0.1,0,0.20,0.1,0.9,10", "DPO,0.1,1,0.30,0.1,0.9,10", "SFT,0.1,0,0.1,0.05,0.9,10"]
    lines = draw.levels(draw.read(results(tmp_path, [*starts, *rows]), tmp_path))
    assert lines[0] == "| setting | arm | CHAIR_s | recall | F1 | words |"
    assert lines[2] == "|  | start model | 50.0 | 90.0 | 84.7 | 11.00 |"  # F1 of 0.8 and 0.9 is 1.44 / 1.7
    # half an interval of two seeds: 12.706 * sd / sqrt(2) = 12.706 * 5
    assert lines[3] == "| beta 0.1 | DPO | 25.0 ± 63.5 | 90.0 | 90.0 | 10.00 |"
    assert lines[4].startswith("| beta 0.1 | SFT | 10.0 (1 of 2 seeds) |")


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    rows = ["A,1,0,0.2,0.1,0.9,10", "A,1,1,0.4,0.1,0.9,10", "B,1,1,0.3,0.1,0.8,9.5", "B,1,2,0.9,0.1,0.8,9"]
    lines = draw.differences(draw.read(results(tmp_path, rows), tmp_path), "A")
    assert lines[2:] == ["| beta 1 | B | -10.0 | -10.0 | -5.3 | -0.50 |"]  # of seed 1 alone


def test_a_row_of_the_figure_is_drawn_once_every_method_has_every_seed_there(tmp_path: Path) -> None:
    columns = "chair_s,chair_i,recall,words,pope_adversarial,pope_adversarial_yes"
    rows = [f"{arm},{n},0,0.{n}5,0.1,0.9,10,0.8,0.6" for arm in ("start", *draw.ARMS) for n in (0, 20)]
    for number, some in enumerate((rows, rows[:-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        results(folder, some, name="noise", columns=columns)
    svg = draw.figure(tmp_path / "0")
    assert "wrong labels, % 0, CHAIR_s / recall: SFT on chosen 5.0 / 90.0, DPO 5.0 / 90.0" in svg
    assert "wrong labels, % 0, POPE adversarial / says yes: SFT on chosen 80.0 / 60.0" in svg
    assert "learning rate" not in svg
    with pytest.raises(SystemExit, match="no setting of the figure"):
        draw.figure(tmp_path / "1")


def test_log_probs_are_changes_from_the_start_model_of_their_seed(tmp_path: Path) -> None:
    rows = ["start,,0,-2,-9", "start,,1,-1,-8", "DPO,1,0,-1.5,-10", "DPO,1,1,-0.5,-9"]
    name = results(tmp_path, rows, columns="logp_chosen,logp_rejected")
    assert draw.levels(draw.read(name, tmp_path))[3] == "| beta 1 | DPO | +0.50 | -1.00 |"


def test_shares_of_cells_are_those_of_a_hand_count(tmp_path: Path) -> None:
    """CHAIR_s on means of two seeds: A is lower in cells 1, 2 and 3, higher in 4, the same in 5."""
    ours = {1: (0.1, 0.1), 2: (0.1, 0.3), 3: (0.0, 0.3), 4: (0.5, 0.5), 5: (0.1, 0.3)}
    theirs = {1: (0.2, 0.2), 2: (0.2, 0.3), 3: (0.2, 0.2), 4: (0.4, 0.4), 5: (0.2, 0.2)}
    # a third seed has one cell alone, and is left out; another arm with fewer seeds takes nothing from these two
    rows = ["A,1,2,0.9,0.1,0.9,10", "C,1,0,0.9,0.1,0.9,10"]
    for arm, cells in (("A", ours), ("B", theirs)):
        rows += [f"{arm},{cell},{seed},{c},0.1,0.9,10" for cell, pair in cells.items() for seed, c in enumerate(pair)]
    lines = draw.table(f"shares {results(tmp_path, rows)} A=B", tmp_path).splitlines()
    row = lines[2].split(" | ")
    assert row[0] == "| A against B"
    assert row[1:3] == ["CHAIR_s lower", "3 of 5 (1 tied)"]
    assert row[3] == "60 % [15, 95]"  # the exact interval of 3 of 5: 0.147 to 0.947
    assert row[4] == "0.625"  # 2 * (1 + 4) / 16
    # by seed: cell 1 two wins; 2 a win and a tie; 3 a win and a loss; 4 two losses; 5 a win and a loss
    assert row[5:] == ["5 of 10", "0, 1 |"]
    assert " 0 of 5 (5 tied) " in lines[3]  # recall never differs


def test_cells_are_not_compared_before_a_seed_has_all_of_them(tmp_path: Path) -> None:
    name = results(tmp_path, ["A,1,0,0.2,0.1,0.9,10", "B,1,1,0.2,0.1,0.9,10", "B,2,1,0.2,0.1,0.9,10"])
    assert draw.table(f"shares {name} A=B", tmp_path) == "Not measured yet: no seed has all cells."
    assert draw.table(f"map {name} A beta beta", tmp_path) == "Not measured yet: no seed has all cells."
    assert draw.table("levels nowhere", tmp_path) == "Not measured yet."


def test_a_map_marks_the_best_cells(tmp_path: Path) -> None:
    cells = {
        ("1", "1e-4"): (0.2, 0.1, 0.95),
        ("1", "1e-5"): (0.1, 0.1, 0.5),
        ("0.5", "1e-4"): (0.3, 0.1, 0.9),
        ("0.5", "1e-5"): (0.4, 0.2, 0.9),
    }
    rows = [f"A,{b},{r},{s},{c},{i},{x},10" for (b, r), (c, i, x) in cells.items() for s in (0, 1)]
    (tmp_path / "made.csv").write_text("arm,beta,rate,seed,chair_s,chair_i,recall,words\n" + "\n".join(rows) + "\n")
    assert draw.grid_map(draw.read("made", tmp_path), "A", "beta", "rate") == [
        "| A (seeds 0, 1): beta \\ rate | 1e-5 | 1e-4 |",
        "|---|---|---|",
        "| 0.5 | 40.0 / 90.0 / 10.00 | 30.0 / 90.0 / 10.00 |",
        "| 1 | 10.0 / 50.0 / 10.00 ↓ | 20.0 / 95.0 / 10.00 ★ |",
    ]


def cell_of(sweep: Path, seed: int, *, state: str = "complete", **values: Any) -> None:
    folder = sweep / "cells" / f"DPO_seed={seed}"
    (folder / "evals" / "chair").mkdir(parents=True)
    chair = {"chair_s": 0.25, "chair_i": 0.1, "recall": 0.9, "mean_length": 10.0} | values
    (folder / "evals" / "chair" / "results.json").write_text(json.dumps({"metrics": chair}))
    log = [
        {"step": 1, "loss": 0.6},
        {"step": 2, "eval_loss": 0.5, "eval_logps/chosen": -1.5, "eval_ref_logps/chosen": -2},
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in log))
    (folder / "manifest.json").write_text(json.dumps({"pairs": 1560, "steps": 65}))
    outcome = {"name": folder.name, "arm": "DPO", "values": {"beta": "0.1", "seed": str(seed)}, "state": state}
    folder.with_name(f"{folder.name}.json").write_text(json.dumps(outcome))


def test_a_sweep_is_collected_and_cells_that_are_not_complete_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = tmp_path / "work" / "noise"
    sweep.mkdir(parents=True)
    content = {"arms": {"DPO": []}, "axes": {"beta": ["0.1"], "seed": ["1", "0"]}}
    (sweep / "sweep.json").write_text(json.dumps({"sweep": content}))
    for seed in (0, 1):
        cell_of(sweep, seed)
    cell_of(sweep, 2, state="failed")
    start = sweep / "start" / "0a1b2c" / "chair"
    start.mkdir(parents=True)
    metrics = {"chair_s": 0.5, "chair_i": 0.2, "recall": 0.95, "mean_length": 11.0}
    asked = {"metrics": metrics, "settings": {"model": "/somewhere/demos/seed_0/runs/habit/model"}}
    (start / "results.json").write_text(json.dumps(asked))
    monkeypatch.setattr(sys, "argv", ["collect.py", "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    collect.main()
    said = capsys.readouterr().out
    assert "noise: 4 rows, not complete: DPO_seed=2" in said
    assert "grid: not there" in said
    assert (tmp_path / "noise.csv").read_text() == (
        "arm,beta,seed,chair_s,chair_i,recall,words,logp_chosen,pairs,steps\n"
        "start,,0,0.5,0.2,0.95,11.0,-2,,\n"
        "start,,1,,,,,-2,,\n"
        "DPO,0.1,1,0.25,0.1,0.9,10.0,-1.5,1560,65\n"
        "DPO,0.1,0,0.25,0.1,0.9,10.0,-1.5,1560,65\n"
    )


def test_labels_are_swapped_with_their_scores_and_more_noise_keeps_what_was_swapped() -> None:
    label = {"honest_scores": [5, 1]}
    rows = [
        {"id": str(number), "chosen": "good", "rejected": "bad", "score_chosen": 5, "score_rejected": 1,
         "meta": label | {"label": "clean"}}
        for number in range(100)
    ]  # fmt: skip
    rows[7] |= {"chosen": "bad", "rejected": "good", "score_chosen": 1, "score_rejected": 5}
    rows[7]["meta"] = {"honest_scores": [1, 5], "label": "mislabelled"}
    rows[8]["meta"] = {"honest_scores": [3, 3], "label": "ambiguous"}
    wrong = {}
    for percent in (0, 20, 40):
        made = noisy_pairs.with_noise(rows, percent)
        wrong[percent] = {row["id"] for row in made if row["chosen"] == "bad"}
        assert all((row["score_chosen"] == 5) == (row["chosen"] == "good") for row in made)
        assert all(row["meta"]["honest_scores"][0] == row["score_chosen"] for row in made if row["id"] != "8")
    assert wrong[0] == set()
    assert len(wrong[20]) == 20
    assert wrong[20] < wrong[40]
    assert "8" not in wrong[40]


def test_every_method_of_the_experiments_is_a_loss_that_can_be_built() -> None:
    arms = sorted(set(re.findall(r"--arm '([^']+)'", (SCRIPTS / "run.sh").read_text(encoding="utf-8"))))
    assert len(arms) > 15
    for text in arms:
        arm = parse_arm(text)
        changes = [change.replace("{beta}", "0.1").replace("=median", "=2.5") for change in arm.changes]
        loss = load_recipe("demo_dpo", changes).loss
        assert build_objective(loss.as_mapping()).settings["name"] == loss.name, text
