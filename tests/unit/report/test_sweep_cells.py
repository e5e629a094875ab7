"""Sweeps as they are read, and arms compared against counts by hand."""

import json

import pytest

from mmpref.errors import ConfigError
from mmpref.report.sweep.cells import files_of_sweep, read_sweep
from mmpref.report.sweep.compare import best_of, change_at, paired_change, readings, same_questions, share_of_cells
from mmpref.report.sweep.findings import as_data, progress, sentence, share_text, summary_lines
from tests.unit.report.sweep_folders import make_sweep, write_result

BETAS, RATES, SEEDS = ["0.1", "1", "10"], ["1e-5", "1e-4"], ["0", "1", "2"]
AXES = {"loss.beta": BETAS, "train.learning_rate": RATES, "seed": SEEDS}


def chair_of(names):
    """A is 0.2 everywhere; B is 0.1 better at beta 0.1 and 1, equal at (10, 1e-5), worse at (10, 1e-4)."""
    value = 0.2
    if names["arm"] == "B":
        value += {"0.1": -0.1, "1": -0.05, "10": 0.0 if names["train.learning_rate"] == "1e-5" else 0.1}[
            names["loss.beta"]
        ]
    return {"chair_s": value, "recall": 0.9 - value, "mean_length": 10 + int(names["seed"]), "held_out": 0.5 + value}


@pytest.fixture
def sweep(tmp_path):
    return read_sweep(make_sweep(tmp_path / "s", ["A", "B"], AXES, chair_of))


def measure(sweep, key):
    return next(one for one in sweep.measures if one.key == key)


def test_counts_by_hand_on_means_over_seeds_and_over_every_cell(sweep):
    share, every = share_of_cells(sweep, measure(sweep, "chair/chair_s"), "B", "A")
    assert (share.wins, share.losses, share.ties, share.n, share.left_out) == (4, 1, 1, 6, 0)
    assert (every.wins, every.losses, every.ties, every.n) == (12, 3, 3, 18)
    assert share.interval == pytest.approx((0.2228, 0.9567), abs=1e-4)
    assert share.p == pytest.approx(2 * 6 / 32)


def test_the_other_way_round_wins_are_losses_and_the_direction_is_the_metric_s(sweep):
    share, _ = share_of_cells(sweep, measure(sweep, "chair/chair_s"), "A", "B")
    assert (share.wins, share.losses, share.ties) == (1, 4, 1)
    recall, _ = share_of_cells(sweep, measure(sweep, "chair/recall"), "B", "A")
    assert (recall.wins, recall.losses, recall.ties) == (4, 1, 1)
    with pytest.raises(ValueError, match="better direction"):
        share_of_cells(sweep, measure(sweep, "chair/mean_length"), "B", "A")


def test_a_cell_counts_by_its_mean_over_seeds(tmp_path):
    """B wins two of three seeds of the one cell by little and loses the third by much: the cell is lost."""
    values = {"A": [0.2, 0.2, 0.2], "B": [0.19, 0.19, 0.5]}
    folder = make_sweep(
        tmp_path / "s", ["A", "B"], {"seed": SEEDS}, lambda n: {"chair_s": values[n["arm"]][int(n["seed"])]}
    )
    found = read_sweep(folder)
    share, every = share_of_cells(found, measure(found, "chair/chair_s"), "B", "A")
    assert (share.wins, share.losses) == (0, 1)
    assert (every.wins, every.losses) == (2, 1)


def test_failed_and_missing_cells_are_in_the_table_and_in_no_comparison(tmp_path):
    states = {
        "A_loss.beta=0.1_train.learning_rate=1e-5_seed=0": None,
        "B_loss.beta=1_train.learning_rate=1e-5_seed=0": {"state": "failed", "error": "out of memory"},
        **{f"B_loss.beta=10_train.learning_rate=1e-4_seed={seed}": None for seed in SEEDS},
    }
    found = read_sweep(make_sweep(tmp_path / "s", ["A", "B"], AXES, chair_of, states=states))
    assert len(found.cells) == 36
    assert found.states() == {"complete": 31, "not run yet": 4, "failed": 1}
    share, every = share_of_cells(found, measure(found, "chair/chair_s"), "B", "A")
    assert (share.wins, share.losses, share.ties, share.left_out) == (4, 0, 1, 1)
    assert (every.n, every.left_out) == (13, 5)
    said = " ".join(progress(found))
    assert "31 of 36 cells are complete" in said
    assert "out of memory" in said
    change = paired_change(found, measure(found, "chair/chair_s"), "B", "A")
    assert change.num_places == 3  # those that both have with all seeds


def test_seeds_that_one_arm_lacks_are_left_out_of_the_pair(tmp_path):
    states = {"B_seed=2": None}
    values = {"A": [0.2, 0.2, 0.9], "B": [0.25, 0.25, None]}
    found = read_sweep(
        make_sweep(
            tmp_path / "s",
            ["A", "B"],
            {"seed": SEEDS},
            lambda n: {"chair_s": values[n["arm"]][int(n["seed"])]},
            states=states,
        )
    )
    share, every = share_of_cells(found, measure(found, "chair/chair_s"), "B", "A")
    assert (share.wins, share.losses, every.left_out) == (0, 1, 1)
    assert share.on_fewer_seeds == 1
    words = sentence(measure(found, "chair/chair_s"), share)
    assert "B beats A in 0 of 1 cell, 1 with fewer seeds than the sweep (" in words
    assert as_data(found)["comparisons"]["chair/chair_s"]["beats"][0]["over_seed_means"]["on_fewer_seeds"] == 1


def test_cells_with_all_seeds_say_nothing_of_seeds(sweep):
    share, _ = share_of_cells(sweep, measure(sweep, "chair/chair_s"), "B", "A")
    assert share.on_fewer_seeds == 0
    assert "seeds" not in share_text(share)
    assert any(line.endswith("(of 6 cells)") for line in summary_lines(sweep))


def test_cells_that_were_asked_other_questions_are_not_compared_and_it_is_said(tmp_path):
    def questions(names):
        other = names["arm"] == "B" and names["loss.beta"] == "10"
        return ("other" if other else "usual") + names["seed"]  # each seed draws its own world

    found = read_sweep(make_sweep(tmp_path / "s", ["A", "B"], AXES, chair_of, questions=questions))
    chair = measure(found, "chair/chair_s")
    share, _ = share_of_cells(found, chair, "B", "A")
    assert (share.wins, share.losses, share.ties, share.left_out) == (4, 0, 0, 2)
    kept, others = same_questions(readings(found, chair))
    assert others == 6
    assert ("B", ("10", "1e-4")) not in kept
    assert ("A", ("10", "1e-4")) in kept
    assert "6 cells were asked other questions" in " ".join(progress(found))


def test_an_incomplete_evaluation_is_no_number_and_a_cell_without_evaluations_says_so(tmp_path):
    folder = make_sweep(
        tmp_path / "s", ["A", "B"], {"seed": ["0"]}, lambda n: {"chair_s": 0.1} if n["arm"] == "A" else None
    )
    write_result(folder / "cells" / "A_seed=0" / "evals" / "more", {"chair_s": 0.5}, complete=False)
    found = read_sweep(folder)
    assert [one.key for one in found.measures] == ["chair/chair_s"]
    said = " ".join(progress(found))
    assert "more is not complete" in said
    assert "no evaluation is in its folder: B_seed=0" in said


def test_the_paired_change_is_a_mean_over_cells_with_the_interval_over_seeds(tmp_path):
    """Changes of the three seeds, mean over two cells: -0.1, -0.2, -0.3."""

    def metrics(names):
        shift = 0.0 if names["arm"] == "A" else -0.1 * (1 + int(names["seed"]))
        return {"chair_s": 0.5 + shift + (0.02 if names["x"] == "b" else 0)}

    found = read_sweep(make_sweep(tmp_path / "s", ["A", "B"], {"x": ["a", "b"], "seed": SEEDS}, metrics))
    chair = measure(found, "chair/chair_s")
    over = paired_change(found, chair, "B", "A").over_seeds
    half = 4.302653 * 0.1 / 3**0.5
    assert over.mean == pytest.approx(-0.2)
    assert over.interval == pytest.approx((-0.2 - half, -0.2 + half))
    assert change_at(found, chair, "B", "A", ("a",)).mean == pytest.approx(-0.2)


def test_the_best_cell_has_neighbours_and_choices_that_do_not_flatter(tmp_path):
    """Seed 0 has a lucky cell at x=3; without it x=2 is best, which held-out accuracy also says."""
    table = {"1": [0.3, 0.3, 0.3], "2": [0.2, 0.2, 0.2], "3": [-0.2, 0.3, 0.3], "4": [0.4, 0.4, 0.4]}

    def metrics(names):
        return {
            "chair_s": table[names["x"]][int(names["seed"])],
            "held_out": {"1": 0.5, "2": 0.9, "3": 0.6, "4": 0.7}[names["x"]],
        }

    found = read_sweep(make_sweep(tmp_path / "s", ["A"], {"x": list("1234"), "seed": SEEDS}, metrics))
    best = best_of(found, measure(found, "chair/chair_s"), "A", held_out=measure(found, "held-out pairs/accuracy"))
    assert (best.place, best.n) == (("3",), 4)
    assert best.value.mean == pytest.approx(0.4 / 3)
    assert best.beside == {("2",): pytest.approx(0.2), ("4",): pytest.approx(0.4)}
    # chosen without seed 0: x=2, 0.2 there; without seed 1 or 2: x=3 (mean 0.05), 0.3 on the seed left out
    assert best.on_other_seeds.mean == pytest.approx((0.2 + 0.3 + 0.3) / 3)
    assert best.by_held_out[0] == ("2",)
    assert best.by_held_out[1].mean == pytest.approx(0.2)


def test_a_cell_that_lacks_seeds_is_no_candidate_for_the_best(tmp_path):
    found = read_sweep(
        make_sweep(
            tmp_path / "s",
            ["A"],
            {"x": ["1", "2"], "seed": SEEDS},
            lambda n: {"chair_s": 0.1 if n["x"] == "1" else 0.2},
            states={"A_x=1_seed=2": None},
        )
    )
    assert best_of(found, measure(found, "chair/chair_s"), "A").place == ("2",)


def test_axes_of_numbers_are_in_order_and_words_as_given(tmp_path):
    found = read_sweep(
        make_sweep(tmp_path / "s", [], {"x": ["1e-4", "3e-5", "2"], "y": ["b", "a"]}, lambda n: {"chair_s": 0.1})
    )
    assert [axis.values for axis in found.axes] == [("3e-5", "1e-4", "2"), ("b", "a")]
    assert found.arms == ("",)
    assert len(found.cells) == 6


def test_damage_is_told_and_the_rest_is_read(tmp_path):
    folder = make_sweep(tmp_path / "s", ["A"], {"x": ["1", "2", "3"]}, lambda n: {"chair_s": 0.1})
    (folder / "cells" / "A_x=1.json").write_text("{")
    (folder / "cells" / "A_x=2" / "evals" / "chair" / "results.json").write_text("[]")
    (folder / "cells" / "old.json").write_text(json.dumps({"name": "old", "arm": "Z", "values": {"x": "1"}}))
    found = read_sweep(folder)
    said = " ".join(progress(found))
    assert "A_x=1.json cannot be used" in said
    assert "is damaged" in said
    assert "old.json belongs to no cell" in said
    assert [cell.state for cell in found.cells] == ["not run yet", "complete", "complete"]
    (folder / "sweep.json").write_text('{"sweep": {"arms": 3}}')
    with pytest.raises(ConfigError, match="is damaged"):
        read_sweep(folder)
    with pytest.raises(ConfigError, match="no folder of mmpref sweep"):
        read_sweep(tmp_path)


def test_the_sentence_has_everything(sweep):
    chair = measure(sweep, "chair/chair_s")
    words = sentence(chair, share_of_cells(sweep, chair, "B", "A")[0])
    assert words == (
        "chair_s (chair), lower is better: B beats A in 4 of 6 cells, 1 tied (67 % [22, 96], sign test p 0.375)."
    )
    assert words in summary_lines(sweep)
    assert files_of_sweep(sweep.path)[0] == sweep.path / "sweep.json"
